"""The notebook runs as it is, and what it has stored is what it says and draws."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

NOTEBOOK = Path(__file__).parents[2] / "examples" / "attention_maps.ipynb"


def without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "#", text)


def test_every_cell_runs_and_says_and_draws_what_is_stored() -> None:
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    names: dict[str, object] = {"__name__": "__main__"}
    drawn = 0
    with mpl.rc_context({"backend": "Agg"}):
        for cell in cells:
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec("".join(cell["source"]), names)
            stored = cell["outputs"]
            assert [o["output_type"] for o in stored if o["output_type"] == "error"] == []
            text = "".join("".join(o["text"]) for o in stored if o["output_type"] == "stream")
            assert without_numbers(said.getvalue()) == without_numbers(text)
            pictures = [o for o in stored if "image/png" in o.get("data", {})]
            assert len(pictures) == len(plt.get_fignums())
            drawn += len(pictures)
            plt.close("all")
    assert drawn == 4


def test_the_pictures_of_the_docs_are_the_notebook_s() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    stored = [o.get("data", {}) for c in cells for o in c.get("outputs", [])]
    drawn = [base64.b64decode(data["image/png"]) for data in stored if "image/png" in data]
    shown = list((NOTEBOOK.parents[1] / "docs" / "images").glob("*.png"))
    assert {path.stem for path in shown} == {"margin", "attention-maps"}
    assert all(path.read_bytes() in drawn for path in shown)
