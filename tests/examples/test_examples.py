"""The examples run as they are, and what they minimise falls."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
KINDS = (".ipynb", ".py", ".yaml")
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))
# They import torchvision where it is installed.
WITH_TORCHVISION = {"lightning_module.py", "timm_vit_tokens.py"}


# Lightning asks torch's trees what torch deprecates.
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")
@pytest.mark.parametrize("name", SCRIPTS)
def test_runs_and_the_loss_falls(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name in WITH_TORCHVISION:
        # torchvision's wheel for CUDA beside a torch without, as CI has them.
        from amd_fused.distill.vision import load_torchvision

        load_torchvision()
    main = runpy.run_path(str(FOLDER / name))["main"]
    losses = main()
    assert all(map(math.isfinite, losses))
    third = len(losses) // 3
    assert sum(losses[-third:]) < 0.9 * sum(losses[:third])
    said = capsys.readouterr().out
    printed = re.findall(r"^(?:epoch|step) \d+: loss ([\d.]+)$", said, re.MULTILINE)
    assert printed[-len(losses) :] == [f"{loss:.3f}" for loss in losses]
    if name == "cached_teacher.py":
        assert said.endswith("24 steps, the teacher ran 8 times\n")


def test_the_readme_names_every_example() -> None:
    text = (FOLDER / "README.md").read_text()
    named = set(re.findall(r"^\| \[([\w.]+)\]\(\1\)", text, re.MULTILINE))
    assert named == {path.name for path in FOLDER.iterdir() if path.suffix in KINDS}
