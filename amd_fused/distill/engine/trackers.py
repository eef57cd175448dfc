"""A run's lines for the trackers that Accelerate knows: TensorBoard, W&B, MLflow and others."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers

from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import TRACKER_PROJECT, RunDir, write_json

_NONE = ("none",)


def usable(names: tuple[str, ...], run: RunDir) -> list[str]:
    """The names of trackers as `Accelerator(log_with=...)` takes them; empty for none.

    Raises:
        UsageError: Accelerate knows no such tracker, or its package is not installed.
    """
    if not names or names == _NONE:
        return []
    try:
        found = list(map(str, filter_trackers(list(names), run.tracker_files)))
    except ValueError as error:
        raise UsageError(f"--log-with: {error}, or none") from None
    for name in names:
        if name != "all" and name not in found:
            raise UsageError(
                f"--log-with {name} needs its package, which is not installed; pip install {name}"
            )
    return found


class Trackers:
    """Starts a run's trackers, or goes on in what they have of it, in the main process.

    trackers.json has, by name, the last step that each was given and what it calls the run. So a
    run that is resumed gives no step twice, and a tracker that joins it late gets all before.

    Args:
        lines: of log.jsonl, as far as the run has come.
        config: the settings, as JSON values.
    """

    def __init__(
        self,
        run: RunDir,
        accelerator: Accelerator,
        lines: Sequence[Mapping[str, Any]],
        config: Mapping[str, Any],
    ) -> None:
        self._file, self._accelerator = run.trackers_file, accelerator
        done = lines[-1]["step"] if lines else 0
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        names = list(map(str, accelerator.log_with))
        self._known: dict[str, dict[str, Any]] = {
            name: known.get(name, {"step": 0, "run": None}) for name in names
        }
        new = {name for name in names if name not in known}
        options: dict[str, dict[str, Any]] = {}
        if tensorboard := self._known.get("tensorboard"):
            # What was written after the last checkpoint is told to be forgotten, and comes again.
            tensorboard["step"] = min(tensorboard["step"], done)
            options["tensorboard"] = {"purge_step": done + 1}
        if wandb := self._known.get("wandb"):
            wandb["run"] = wandb["run"] or uuid.uuid4().hex
            options["wandb"] = {
                "id": wandb["run"],
                "name": str(run.path),
                "dir": str(run.path),
                "resume": "allow",
            }
        if mlflow := self._known.get("mlflow"):
            options["mlflow"] = {"run_id": mlflow["run"], "run_name": str(run.path)}
        accelerator.init_trackers(TRACKER_PROJECT, init_kwargs=options)
        for tracker in accelerator.trackers:
            if tracker.name == "mlflow":
                self._known["mlflow"]["run"] = tracker.tracker.info.run_id
            # TensorBoard would show its hyperparameters as another run beside this one.
            if tracker.name in new and tracker.name != "tensorboard":
                tracker.store_init_configuration({k: _plain(v) for k, v in config.items()})
        for line in lines:
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """An epoch's line, for those that were not given it."""
        scalars = {"loss/total": line["loss"]}
        scalars |= {f"loss/{name}": value for name, value in line["parts"].items()}
        scalars |= {f"test/{name}": value for name, value in line["test"].items()}
        scalars |= {name: line[name] for name in ("lr", "images_per_second")}
        step = line["step"]
        for tracker in self._accelerator.trackers:
            known = self._known[tracker.name]
            if step > known["step"]:
                tracker.log(scalars, step=step)
                known["step"] = step
        if self._known:
            write_json(self._file, self._known)

    def close(self) -> None:
        """Not `end_training`, which ends the processes' group too: a sweep goes on with it."""
        for tracker in self._accelerator.trackers:
            tracker.finish()


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
