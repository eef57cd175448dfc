"""An epoch's numbers go to the trackers that were asked for, each step once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.tiny_runs import Crash, crash, in_step, tiny

pytest.importorskip("accelerate")

from accelerate import tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

from amd_fused.distill import engine
from amd_fused.distill.cli import main
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import RunDir

QUIET: dict[str, Any] = {"show_progress": False}


class Info:
    run_id = "a-run-of-mlflow"


class Recording(GeneralTracker):
    """What Accelerate hands on, by tracker."""

    requires_logging_directory = False
    calls: list[tuple[Any, ...]]

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.calls.append(("begin", project, options))

    @property
    def tracker(self) -> Any:
        self.info = Info()
        return self

    def start(self) -> None:
        self.calls.append(("start",))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.calls.append(("config", values))

    def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
        self.calls.append(("log", step, values))

    def finish(self) -> None:
        self.calls.append(("finish",))

    @classmethod
    def steps(cls) -> list[int]:
        return [call[1] for call in cls.calls if call[0] == "log"]

    @classmethod
    def begun(cls) -> list[dict[str, Any]]:
        return [call[2] for call in cls.calls if call[0] == "begin"]


class Wandb(Recording):
    name = "wandb"
    calls: list[tuple[Any, ...]] = []  # noqa: RUF012 - emptied by the fixture


class Mlflow(Recording):
    name = "mlflow"
    calls: list[tuple[Any, ...]] = []  # noqa: RUF012


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for W&B and MLflow, as if their packages were there."""
    for kind in (Wandb, Mlflow):
        kind.calls.clear()
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, kind.name, kind)
    names = [LoggerType.TENSORBOARD, LoggerType.WANDB, LoggerType.MLFLOW]
    monkeypatch.setattr(tracking, "_available_trackers", names)


def train(path: Path, *log_with: str, resume: bool = False, **changes: Any) -> RunDir:
    settings = tiny(log_with=log_with, **changes)
    engine.train_teacher(settings, path, resume=resume, **QUIET)
    return RunDir(path)


def scalars(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's, as they lie in its files."""
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    found = event_accumulator.EventAccumulator(str(run.tensorboard)).Reload()
    names = found.Tags()["scalars"]
    return {n: [(event.step, event.value) for event in found.Scalars(n)] for n in names}


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """What a tracker is given of a line of log.jsonl."""
    return {
        "loss/total": line["loss"],
        **{f"loss/{name}": value for name, value in line["parts"].items()},
        **{f"test/{name}": value for name, value in line["test"].items()},
        "lr": line["lr"],
        "images_per_second": line["images_per_second"],
    }


def test_several_trackers_are_given_each_epochs_numbers(tmp_path: Path) -> None:
    run = train(tmp_path, "tensorboard", "wandb", "mlflow")
    lines = run.epochs()
    for kind in (Wandb, Mlflow):
        logged = [call[1:] for call in kind.calls if call[0] == "log"]
        assert logged == [(line["step"], numbers(line)) for line in lines]
        (config,) = [call[1] for call in kind.calls if call[0] == "config"]
        assert (config["batch_size"], config["method"]) == (10, "scratch")
        assert [kind.calls[0][:2], kind.calls[-1]] == [("begin", "amd_fused"), ("finish",)]
    found = scalars(run)
    assert found.keys() == numbers(lines[0]).keys()
    for name, values in found.items():
        expected = [(line["step"], pytest.approx(numbers(line)[name])) for line in lines]
        assert values == expected


def test_a_resumed_run_goes_on_in_the_same_run_of_a_tracker(tmp_path: Path) -> None:
    names = ("tensorboard", "wandb", "mlflow")
    with pytest.raises(Crash), in_step(14, crash):
        train(tmp_path, *names, epochs=3)
    assert Wandb.steps() == Mlflow.steps() == [6, 12]
    run = train(tmp_path, *names, epochs=3, resume=True)
    assert Wandb.steps() == Mlflow.steps() == [6, 12, 18]
    assert [step for step, _ in scalars(run)["lr"]] == [6, 12, 18]
    first, second = Wandb.begun()
    assert first == second
    assert first["resume"] == "allow"
    assert [options["run_id"] for options in Mlflow.begun()] == [None, Info.run_id]
    assert len([call for call in Wandb.calls if call[0] == "config"]) == 1
    assert [call for call in Wandb.calls if call[0] == "finish"] == [("finish",)] * 2


def test_a_step_that_a_tracker_has_beyond_the_last_checkpoint_is_not_given_twice(
    tmp_path: Path,
) -> None:
    names = ("tensorboard", "wandb")
    with pytest.raises(Crash), in_step(8, crash):
        train(tmp_path, *names, epochs=3)
    run = RunDir(tmp_path)
    # As if the second epoch were lost with a disk that forgot it.
    first = run.last_checkpoint.read_bytes()
    with pytest.raises(Crash), in_step(8, crash):
        train(tmp_path, *names, epochs=3, resume=True)
    assert Wandb.steps() == [6, 12]
    run.last_checkpoint.write_bytes(first)
    train(tmp_path, *names, epochs=3, resume=True)
    assert Wandb.steps() == [6, 12, 18]
    assert [step for step, _ in scalars(run)["loss/total"]] == [6, 12, 18]


def test_a_tracker_that_joins_late_is_given_what_came_before(tmp_path: Path) -> None:
    with pytest.raises(Crash), in_step(8, crash):
        train(tmp_path, "none")
    run = RunDir(tmp_path)
    assert not run.tracker_files.exists()
    train(tmp_path, "tensorboard", "mlflow", resume=True)
    assert Mlflow.steps() == [6, 12]
    assert [step for step, _ in scalars(run)["loss/total"]] == [6, 12]


def test_without_trackers_nothing_but_the_log_is_written(tmp_path: Path) -> None:
    run = train(tmp_path, "none", epochs=1)
    assert len(run.epochs()) == 1
    assert not run.tracker_files.exists()
    assert not run.trackers_file.exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["aim"], "--log-with aim needs its package, which is not installed; pip install aim"),
        (["tensorbord"], "--log-with: Unsupported logging capability: tensorbord. Choose between"),
        (["none", "wandb"], "--log-with must be none alone or names of trackers, got ('none', 'wa"),
    ],
)
def test_a_tracker_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], message: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit):
        main(["train-teacher", "--output-dir", str(out), "--log-with", *names])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()
    if "none" not in names:
        with pytest.raises(UsageError):
            engine.train_teacher(tiny(log_with=tuple(names)), out, **QUIET)
