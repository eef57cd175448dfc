"""What is saved of a run: the weights of some epochs, and all that --resume needs."""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from amd_fused._files import write_atomically
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import SCHEMA, RunDir


@dataclass
class Progress:
    """How far a run has come; with weights and optimizer state, all that it goes on from.

    Args:
        epoch: how many are complete, with their test.
        step: how many of the next epoch's are done.
        sums: of the loss and its parts over these steps.
        epoch_seconds: spent in these steps.
        training_seconds: spent in the steps of the complete epochs.
        seconds: spent altogether, with tests.
        best_epoch, best_top1: the first of the epochs with the highest test accuracy.
        lines: those of log.jsonl.
        reliability: of the last complete epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    epoch_seconds: float = 0.0
    training_seconds: float = 0.0
    seconds: float = 0.0
    best_epoch: int = 0
    best_top1: float = 0.0
    lines: list[dict[str, Any]] = field(default_factory=list)
    reliability: dict[str, list[float]] = field(default_factory=dict)


def save_checkpoint(run: RunDir, state: dict[str, Any], progress: Progress) -> None:
    """last.pt: state_dicts by name, and the progress."""
    _save(run.last_checkpoint, {"schema": SCHEMA, **state, "progress": asdict(progress)})


def load_checkpoint(run: RunDir) -> tuple[dict[str, Any], Progress] | None:
    """What :func:`save_checkpoint` was given, tensors on the CPU; None where nothing was saved.

    Raises:
        UsageError: the file is broken or of another schema.
    """
    if not run.last_checkpoint.exists():
        return None
    state = _load(run.last_checkpoint)
    if state.pop("schema", None) != SCHEMA:
        raise UsageError(
            f"--resume: {run.last_checkpoint} was written by another version; train again"
        )
    return state, Progress(**state.pop("progress"))


def save_weights(run: RunDir, epoch: int, content: dict[str, Any]) -> None:
    """An epoch's weights. The bytes depend on the content alone, so that a hash names it."""
    _save(run.weights_file(epoch), content)


def delete_weights(run: RunDir, keep: set[int]) -> None:
    """Deletes the weights of all epochs but those to keep."""
    for epoch in set(run.saved_epochs()) - keep:
        run.weights_file(epoch).unlink(missing_ok=True)


def weights_file(run: RunDir, epoch: int | None) -> Path:
    """Where the weights of an epoch lie; None: of the run's last.

    Raises:
        UsageError: they were not kept; the message lists the epochs that were.
    """
    wanted = run.settings().epochs if epoch is None else epoch
    kept = run.saved_epochs()
    if wanted not in kept:
        there = ", ".join(map(str, kept)) if kept else "none"
        remedy = "has it come to its end?" if epoch is None else "--save-every keeps more"
        raise UsageError(
            f"{run.path}: the weights after epoch {wanted} must have been kept, got those after "
            f"{there}; {remedy}"
        )
    return run.weights_file(wanted)


def weights_hash(file: Path) -> str:
    """SHA-256 of a file of weights, which names them: its bytes depend on the weights alone."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load_weights(file: Path) -> dict[str, Any]:
    """What :func:`save_weights` was given, tensors on the CPU; a UsageError if it is broken."""
    return _load(file)


def _save(path: Path, content: dict[str, Any]) -> None:
    # By way of memory: torch.save names the records of a file after the file's name.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, lambda part: part.write_bytes(buffer.getbuffer()))


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path} cannot be read ({reason})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a dictionary, got {type(content).__name__}")
    return content
