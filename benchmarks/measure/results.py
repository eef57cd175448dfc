"""Result files: JSON with the machine, the versions, the commit and the date in front."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import environment
from benchmarks.show import schema

# Raised when the keys of the result files or their meanings change. Files of another schema are not
# read: what they lack cannot be made up, and a new file is one command away.
SCHEMA = 3
FOLDER = Path(__file__).parents[1] / "results"
# A list of numbers, an item a line.
_NUMBERS = re.compile(r"\[\n[\s\d.,e+-]+?\]")


def new(command: str, device: torch.device, **content: Any) -> dict[str, Any]:
    """The result of a command, to be filled; a run that was stopped leaves ``finished`` False."""
    return {
        "schema": SCHEMA,
        "command": command,
        "environment": environment.describe(device),
        "finished": False,
        **content,
    }


def write(result: dict[str, Any], path: Path) -> None:
    """In one stroke, so that a file is never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    text = json.dumps(result, indent=1, allow_nan=False)
    # The repetitions of a variant are read together, and would fill a page each.
    partial.write_text(_NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")
    partial.replace(path)


def read(path: Path) -> dict[str, Any]:
    """What a benchmark wrote.

    Raises:
        ValueError: it is no result file, or one of another schema; names the file and the field.
    """
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from None
    found = result.get("schema") if isinstance(result, dict) else None
    if found != SCHEMA:
        raise ValueError(
            f"{path}: schema must be {SCHEMA}, got {found}; "
            + ("measure again with this version" if isinstance(found, int) else "no result file")
        )
    command = result.get("command")
    if command not in schema.CASES:
        raise ValueError(f"{path}: command must be one of {', '.join(schema.CASES)}, got {command}")
    if wrong := schema.wrong(result, schema.result(command)):
        raise ValueError(f"{path}: {wrong}")
    return result


def path_of(name: str, result: dict[str, Any], chosen: Path | None) -> Path:
    """The file that the user chose, or one named by device and date in ``results/``."""
    return chosen or FOLDER / f"{environment.file_stem(result['environment'])}-{name}.json"
