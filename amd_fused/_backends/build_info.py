"""What setup.py built and, for what it did not build, why. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]
_IN_SOURCE_TREE = (_PACKAGE.parent / "setup.py").exists()

# Builds the extensions with the torch that is installed. To be run in the source folder.
REBUILD = "pip install --no-build-isolation --no-deps " + (
    "-e ." if _IN_SOURCE_TREE else "--force-reinstall ."
)


def build_record(library: str) -> dict[str, Any]:
    """What setup.py recorded of one library ("cpp", "cuda"), as in amd_fused/_build.json.

    Returns:
        {"built": True, "torch": its version}, for "cuda" with nvcc's version under that name too;
        or {"built": False, "why": ..., "remedy": ...};
        {} where nothing was ever built, because the package runs from its source tree.
    """
    try:
        record = json.loads((_PACKAGE / "_build.json").read_text())
    except FileNotFoundError:
        return {}
    entry: dict[str, Any] = record.get(library, {})
    return entry


def why_not_built(library: str) -> str:
    """Why a library's file is missing and what to do, for a sentence after "was not built: "."""
    entry = build_record(library)
    if not entry:
        return f"the package was never installed from this source tree; run `{REBUILD}` in it"
    if entry["built"]:
        return f"its file was removed after the build; run `{REBUILD}` in the source folder"
    return f"{entry['why']}; {entry['remedy']}, then run `{REBUILD}` in the source folder"
