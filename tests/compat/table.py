"""The matrix that was run as docs/versions.md, and a line of it for the terminal."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_set import CHECKS, PACKAGES

if TYPE_CHECKING:
    from matrix import Outcome, Row

ROOT = Path(__file__).parents[2]
TITLES = {"python": "Python", "torch": "torch", "triton": "Triton", "numpy": "NumPy"}
PAGE = """\
# Versions

Python >= 3.10, torch >= 2.10, Triton >= 3.4. `make compat` makes a fresh environment for each row,
installs into it what pip or uv finds for this Python and torch, with one wheel of this package for
all, and runs `tests/compat/core_set.py`: import; which backends are usable; value and gradient of
every loss on every backend against float64 formulas (AMD (g), (g+l), masked and released, AT, SP,
RKD, KD, spherical KD, ND, LSH, CC, VID, CRD, AFD, AFDS); `FeatureHooks`;
`torch.compile(fullgraph=True)` of `amd_loss`; the trainer's demo, one epoch. A row is what ran;
what is missing did not.

Run on {date}, {system}, without a GPU: Triton's kernels in its interpreter. The one `_cpp.so` was
built with torch {built_with}: LibTorch's stable ABI lets torch 2.10 and all later versions load it.

{table}

"losses" has the largest relative error in float32 on {backends}; 2e-6 is allowed.

The interpreters (`TRITON_INTERPRET=1`) of Triton 3.4 and 3.6 do not work with the newest NumPy:
those rows have an older one. Kernels on a GPU do not meet NumPy.

## setuptools

torch 2.11 and 2.12 want setuptools < 82, torch >= 2.13 and building this package >= 77.0.3:
`pip install 'setuptools>=77.0.3,<82'` suits all of them.
"""


def page(outcomes: Sequence[Outcome], not_run: Sequence[Row], built_with: str) -> str:
    """The Markdown of docs/versions.md."""
    header = [TITLES.get(name, name) for name in ("python", *PACKAGES)]
    header += [_title(check) for check in CHECKS]
    lines = [_line(header), _line(["---"] * len(header))]
    for outcome in sorted(outcomes, key=lambda outcome: _order(outcome)):
        lines.append(_line(_cells(outcome)))
    if not_run:
        missing = sorted({row.python for row in not_run}, key=_numbers)
        lines += ["", f"Not run, for it was not installed: Python {', '.join(missing)}."]
    backends = next((o.checks["losses"] for o in outcomes if "losses" in o.checks and o.passed), {})
    return PAGE.format(
        date=datetime.date.today().isoformat(),
        system=f"{platform.system()} {platform.machine()}",
        built_with=built_with,
        table="\n".join(lines),
        backends=", ".join(backends),
    )


def said(outcome: Outcome) -> str:
    """One line for the terminal."""
    failures = [f"{name}: {outcome.checks[name]}" for name in outcome.failed]
    result = "passed" if outcome.passed else "FAILED, " + "; ".join([outcome.error, *failures])
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    return f"compat: {outcome.row.name}: {result} ({versions})"


def _cells(outcome: Outcome) -> list[str]:
    row = outcome.row
    known = {"python": row.python, "torch": row.torch.strip("=") or "newest"} | outcome.versions
    cells = [known.get(name) or "-" for name in ("python", *PACKAGES)]
    if outcome.error:
        return [*cells, _failed(outcome.error), *["-"] * (len(CHECKS) - 1)]
    return cells + [
        _failed(found) if name in outcome.failed else _found(name, found)
        for name, found in outcome.checks.items()
    ]


def _found(check: str, found: Any) -> str:
    if check == "losses":
        return ", ".join(f"{error:.1e}" for error in found.values())
    if check == "backends":
        return ", ".join(name for name, state in found.items() if state == "usable")
    return "yes"


def _failed(message: str) -> str:
    shown = message.replace(f"{ROOT}/", "").replace("|", "\\|")
    return f"**failed**: {shown[:300]}"


def _title(check: str) -> str:
    return f"`{check}`" if "." in check else check


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _order(outcome: Outcome) -> tuple[list[int], list[int]]:
    torch = outcome.versions.get("torch") or outcome.row.torch.strip("=")
    return _numbers(outcome.row.python), _numbers(torch)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.partition("+")[0].split(".") if part.isdigit()]
