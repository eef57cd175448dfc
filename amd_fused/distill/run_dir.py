"""A run's folder: what lies in it, and how it is read. Everything written is written in one stroke.

config.json         settings, role, plugins, the teacher's identity, versions, commit, command, date
log.jsonl           a line an epoch: losses by part, learning rate, speed, test metrics
tensorboard/        the same for TensorBoard; trackers.json: what trackers were given
checkpoints/        last.pt for --resume, epoch-0010.pt: weights kept for students and later looks
model.safetensors   weights after the last epoch; README.md, their model card; and for networks of
                    this package model.py, their source: they load where it is not installed
result.json         metrics after the last epoch, the best epoch, calibration bins, time
report.html         the pictures; report.json holds their numbers
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amd_fused._files import write_atomically
from amd_fused.distill import plugins
from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError

# Raised when keys of the files change. Runs of another schema are refused by name.
SCHEMA = 1
# What trackers call the project that all runs are of.
TRACKER_PROJECT = "amd_fused"
TEACHER, STUDENT = "teacher", "student"
_EPOCH = re.compile(r"epoch-(\d+)\.pt")


@dataclass(frozen=True)
class RunDir:
    """The folder of one run, which need not exist yet."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def log_file(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def tracker_files(self) -> Path:
        """Where trackers keep files, each below a folder of the project's name."""
        return self.path / "tensorboard"

    @property
    def tensorboard(self) -> Path:
        return self.tracker_files / TRACKER_PROJECT

    @property
    def trackers_file(self) -> Path:
        return self.path / "trackers.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.pt"

    def weights_file(self, epoch: int) -> Path:
        """The network's weights after an epoch, counted from 1."""
        return self.checkpoints / f"epoch-{epoch:04d}.pt"

    @property
    def model_file(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def model_card(self) -> Path:
        return self.path / "README.md"

    @property
    def model_source(self) -> Path:
        return self.path / "model.py"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    def config(self) -> dict[str, Any]:
        """`config.json`, once the plugins that it names are imported.

        Raises:
            UsageError: there is none, it is not of this schema, or a plugin cannot be imported.
        """
        config = self._read(self.config_file)
        if config.get("schema") != SCHEMA:
            raise UsageError(
                f"{self.config_file}: schema must be {SCHEMA}, got {config.get('schema')!r}; "
                "train again with this version"
            )
        plugins.restore(config.get("plugins", ()), self.config_file)
        return config

    def settings(self) -> Settings:
        return Settings.from_json(self.config()["settings"])

    def result(self) -> dict[str, Any]:
        """`result.json`; a UsageError where the run has not come to its end."""
        return self._read(self.result_file)

    def epochs(self) -> list[dict[str, Any]]:
        """The lines of `log.jsonl`, one an epoch; a last line cut short by a kill is left out."""
        if not self.log_file.exists():
            return []
        lines = []
        for line in self.log_file.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines

    def saved_epochs(self) -> list[int]:
        """Epochs whose weights are kept, in order."""
        found = (_EPOCH.fullmatch(path.name) for path in self.checkpoints.glob("epoch-*.pt"))
        return sorted(int(match[1]) for match in found if match)

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            content = json.loads(file.read_text())
        except FileNotFoundError:
            raise UsageError(
                f"{self.path} must be the folder of a finished run, but has no {file.name}"
            ) from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} cannot be read ({error})") from None
        if not isinstance(content, dict):
            raise UsageError(f"{file} must hold a JSON object")
        return content


def find_runs(folder: Path) -> Iterator[RunDir]:
    """Finished runs at or below a folder, by path."""
    for file in sorted(folder.rglob("result.json")):
        if (file.parent / "config.json").exists():
            yield RunDir(file.parent)


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all, also when the process is killed in between."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda part: part.write_text(text))
