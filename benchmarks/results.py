"""Result files: JSON with the machine, the versions, the commit and the date in front."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment

# Raised when the keys of the result files or their meanings change.
SCHEMA = 2
FOLDER = Path(__file__).parent / "results"


def new(device: torch.device, **content: Any) -> dict[str, Any]:
    """A result to be filled; ``finished`` stays False in the file of a run that was stopped."""
    return {
        "schema": SCHEMA,
        "environment": environment.describe(device),
        "finished": False,
        **content,
    }


def write(result: dict[str, Any], path: Path) -> None:
    """In one stroke, so that a file is never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def path_of(name: str, result: dict[str, Any], chosen: Path | None) -> Path:
    """The file that the user chose, or one named by device and date in ``results/``."""
    return chosen or FOLDER / f"{environment.file_stem(result['environment'])}-{name}.json"


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
