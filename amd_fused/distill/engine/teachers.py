"""What a student may learn from: a finished run, a file of weights, a module of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from amd_fused.distill import models
from amd_fused.distill.data import DataSet
from amd_fused.distill.engine import checkpoints
from amd_fused.distill.engine.networks import load_saved_network
from amd_fused.distill.engine.weight_files import load_into, read_weights
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import RunDir
from amd_fused.teacher_cache import fingerprint

WEIGHTS_OPTION = "--teacher-weights"


class Teacher(Protocol):
    """A network with its weights, in evaluation mode on the CPU."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def name(self) -> str: ...

    def layers(self, maps: tuple[str, ...] = (), embedding: str = "") -> models.Layers:
        """Those given, else the network's own.

        Raises:
            UsageError: as :func:`amd_fused.distill.models.layers`.
        """

    def identity(self) -> dict[str, Any]:
        """For config.json of what learns from it: "network", "weights_sha256", "top1", which is
        None where it is still to be measured, and where the weights come from: "run", "epoch" and
        "epochs" of a run, or "file"; nothing of a module."""


class TeacherSource(Protocol):
    """Where a teacher comes from."""

    @property
    def network_name(self) -> str:
        """The network's canonical name."""

    def load(self, data: DataSet) -> Teacher:
        """Raises:
        UsageError: there are no such weights, or they do not fit the network or the data.
        """

    def weights_hash(self) -> str:
        """SHA-256 of the weights; a UsageError if they are not there."""


@dataclass(frozen=True)
class TeacherChoice:
    """A teacher's run, and the epoch after which its weights are taken; None: the last."""

    run: Path
    epoch: int | None = None

    def __str__(self) -> str:
        return str(self.run)

    @property
    def network_name(self) -> str:
        return str(RunDir(self.run).config()["network"])

    def load(self, data: DataSet) -> Teacher:
        return load_saved_network(RunDir(self.run), data, self.epoch)

    def weights_hash(self) -> str:
        return checkpoints.weights_hash(checkpoints.weights_file(RunDir(self.run), self.epoch))


@dataclass(frozen=True)
class TeacherWeights:
    """A file of weights, as :func:`read_weights` takes it, and the name of their network."""

    file: Path
    network: str

    def __str__(self) -> str:
        return str(self.file)

    @property
    def network_name(self) -> str:
        return models.canonical(self.network)

    def load(self, data: DataSet) -> Teacher:
        weights = read_weights(WEIGHTS_OPTION, self.file)
        network = models.build(
            self.network,
            num_classes=data.num_classes,
            channels=data.channels,
            image_size=data.image_size,
            # Weights that are replaced need no seed of their own.
            seed=0,
        )
        origin = f"{WEIGHTS_OPTION} {self.file}"
        load_into(network, self.network_name, weights, origin, data.num_classes)
        return FileNetwork(network.eval(), self.network_name, self.file)

    def weights_hash(self) -> str:
        if not self.file.is_file():
            raise UsageError(f"{WEIGHTS_OPTION} must be a file of weights, got {self.file}")
        return checkpoints.weights_hash(self.file)


@dataclass(frozen=True)
class FileNetwork:
    """A :class:`Teacher` whose weights came from a file."""

    network: nn.Module
    name: str
    file: Path

    def layers(self, maps: tuple[str, ...] = (), embedding: str = "") -> models.Layers:
        return models.layers(self.name, self.network, maps, embedding)

    def identity(self) -> dict[str, Any]:
        digest = checkpoints.weights_hash(self.file)
        return {
            "file": str(self.file),
            "network": self.name,
            "weights_sha256": digest,
            "top1": None,
        }


@dataclass(frozen=True)
class TeacherModule:
    """A module with the weights that it has. Of the :class:`Teacher` it is its own source."""

    network: nn.Module

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return models.name_of(self.network)

    @property
    def network_name(self) -> str:
        return self.name

    def load(self, data: DataSet) -> Teacher:
        models.try_images(self.network, self.name, data.num_classes, data.channels, data.image_size)
        self.network.eval()
        return self

    def weights_hash(self) -> str:
        return fingerprint.of_teacher(self.network)["weights"]

    def layers(self, maps: tuple[str, ...] = (), embedding: str = "") -> models.Layers:
        return models.layers(self.name, self.network, maps, embedding)

    def identity(self) -> dict[str, Any]:
        return {"network": self.name, "weights_sha256": self.weights_hash(), "top1": None}


def source_of(identity: dict[str, Any]) -> TeacherSource:
    """Where the teacher of a config.json came from.

    Raises:
        UsageError: from a program.
    """
    if "run" in identity:
        return TeacherChoice(Path(identity["run"]), identity["epoch"])
    if "file" not in identity:
        raise UsageError(f"{identity['network']} was a module of the program that ran it")
    return TeacherWeights(Path(identity["file"]), identity["network"])


def described(identity: dict[str, Any]) -> str:
    """A teacher of a config.json as a message names it."""
    if "run" in identity:
        return f"{identity['run']} as it was after epoch {identity['epoch']}"
    return str(identity.get("file", identity["network"]))
