"""Result files: JSON with the machine, the versions, the commit and the date in front."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment, schema

# Raised when the keys of the result files or their meanings change. Files of another schema are not
# read: what they lack cannot be made up, and a new file is one command away.
SCHEMA = 3
FOLDER = Path(__file__).parent / "results"
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


def beside(prefix: Path, what: str) -> Path:
    """The file ``<device>-<date>-<what>`` of a run of several commands."""
    return prefix.with_name(f"{prefix.name}-{what}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all commands share."""
    parser.add_argument(
        "--device",
        type=device,
        default=default_device(),
        help="cpu or cuda (default: cuda where torch has it, else cpu)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="default: <device>-<date>-<command>.json in benchmarks/results",
    )


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch sees no CUDA device here; use cpu")
    return torch.device(name)
