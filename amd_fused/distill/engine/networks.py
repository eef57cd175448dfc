"""Networks of finished runs: as teachers, for tests of kept weights, and for pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from amd_fused.distill import models
from amd_fused.distill.data import DataSet
from amd_fused.distill.engine import checkpoints
from amd_fused.distill.engine.weight_files import load_into, read_weights
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import TEACHER, RunDir


@dataclass(frozen=True)
class SavedNetwork:
    """A network with the weights that a run saved after an epoch, in evaluation mode on the CPU."""

    run: RunDir
    network: nn.Module
    name: str
    epoch: int
    file: Path

    def layers(self, maps: tuple[str, ...] = (), embedding: str = "") -> models.Layers:
        """The network's layers: those given, else those of its run's settings, else its own.

        Raises:
            UsageError: as :func:`amd_fused.distill.models.layers`.
        """
        own = layer_options(self.run.config())
        return models.layers(self.name, self.network, maps or own[0], embedding or own[1])

    def identity(self) -> dict[str, Any]:
        """For config.json of what learns from it."""
        lines = {line["epoch"]: line for line in self.run.epochs()}
        return {
            "run": str(self.run.path),
            "network": self.name,
            "epoch": self.epoch,
            "epochs": self.run.settings().epochs,
            "weights_sha256": checkpoints.weights_hash(self.file),
            "top1": lines[self.epoch]["test"]["top1"] if self.epoch in lines else None,
        }


def load_saved_network(run: RunDir, data: DataSet | None, epoch: int | None) -> SavedNetwork:
    """The network of a run as it was after an epoch, by default the last.

    Args:
        data: None for whatever the network was trained with.

    Raises:
        UsageError: there is no such run or epoch, its files are broken, or the network is for other
            images or classes than those of `data`.
    """
    file = checkpoints.weights_file(run, epoch)
    content = checkpoints.load_weights(file)
    try:
        name, weights = content["network"], content["state_dict"]
        made_for = {key: content[key] for key in ("num_classes", "channels", "image_size")}
        epoch = int(content["epoch"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file} must be weights of a run, but has no {error}") from None
    given = made_for if data is None else {key: getattr(data, key) for key in made_for}
    if data is not None and made_for != given:
        raise UsageError(
            f"{file} must be a network for {_shown(given)} ({data.name}), got one for "
            f"{_shown(made_for)}"
        )
    # Weights that are replaced need no seed of their own.
    network = models.build(name, **made_for, seed=0)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{file} does not fit {name} of this version ({reason})") from None
    return SavedNetwork(run, network.eval(), name, epoch, file)


def load_trained(run: RunDir, network: nn.Module | None) -> nn.Module:
    """What a finished run trained, in evaluation mode: into `network`, or made by its name.

    Raises:
        UsageError: the run's files are not those of such a network.
    """
    if network is None:
        return load_saved_network(run, None, None).network
    file = run.model_file
    weights = read_weights("--resume", file)
    load_into(network, type(network).__name__, weights, f"--resume: {file}")
    return network.eval()


def layer_options(config: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """The maps and the embedding that a run's settings name for its own network."""
    side = "teacher" if config["role"] == TEACHER else "student"
    settings = config["settings"]
    return tuple(settings[f"{side}_layers"]), settings[f"{side}_embedding"]


def _shown(made_for: dict[str, int]) -> str:
    size = made_for["image_size"]
    return f"{made_for['num_classes']} classes and {made_for['channels']}x{size}x{size} images"
