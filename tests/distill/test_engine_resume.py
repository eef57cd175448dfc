"""A run that was stopped anywhere goes on to exactly what it would have become."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from forks import Forks
from torch import nn

from distill.killed_trainer import KILLED
from distill.processes import said
from distill.tiny_runs import Crash, assert_same_run, crash, in_step, send, tiny

pytest.importorskip("accelerate")

import amd_fused
from amd_fused.distill import engine, models
from amd_fused.distill.config import Settings
from amd_fused.distill.engine import loop
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import RunDir

# Mixup and two feature losses: all that has a state or takes random numbers.
SETTINGS = tiny(method="amd-gl+sp", mixup=0.2, checkpoint_steps=4, save_every=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a teacher, and the student that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs")
    engine.train_teacher(tiny(), folder / "teacher", show_progress=False)
    distill(folder, folder / "whole")
    return folder


def distill(
    folder: Path, path: Path, settings: Settings = SETTINGS, *, resume: bool = False
) -> dict[str, object]:
    return engine.distill(
        settings,
        path,
        engine.TeacherChoice(folder / "teacher"),
        resume=resume,
        show_progress=False,
    )


def interrupted(folder: Path, path: Path, step: int, settings: Settings = SETTINGS) -> None:
    with pytest.raises(Crash), in_step(step, crash):
        distill(folder, path, settings)


def test_two_runs_are_the_same_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    distill(folder, tmp_path / "again")
    assert_same_run(folder / "whole", tmp_path / "again")
    hashes = {
        RunDir(path).weights_file(2).read_bytes() for path in (folder / "whole", tmp_path / "again")
    }
    assert len(hashes) == 1


# Saved after steps 4 and 6, the end of the first epoch, and so on.
@pytest.mark.parametrize(("step", "saved"), [(3, 0), (7, 6), (10, 8)])
def test_an_error_in_a_step_loses_the_steps_since_the_last_save(
    folder: Path, tmp_path: Path, step: int, saved: int
) -> None:
    interrupted(folder, tmp_path / "run", step)
    with in_step(0, crash) as begun:
        distill(folder, tmp_path / "run", resume=True)
    assert begun == [12 - saved]
    assert_same_run(folder / "whole", tmp_path / "run")


# In an epoch, at its end, and at the run's.
@pytest.mark.parametrize(
    ("which", "raised", "step"),
    [
        (signal.SIGTERM, engine.Terminated, 5),
        (signal.SIGINT, KeyboardInterrupt, 6),
        (signal.SIGTERM, engine.Terminated, 12),
    ],
)
def test_a_signal_ends_the_run_after_the_step_and_loses_nothing(
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    which: signal.Signals,
    raised: type[BaseException],
    step: int,
) -> None:
    before = signal.getsignal(which)
    with pytest.raises(KeyboardInterrupt) as caught, in_step(step, send(which)) as begun:
        distill(folder, tmp_path / "run")
    assert type(caught.value) is raised
    assert begun == [step]
    assert signal.getsignal(which) is before
    last = capfd.readouterr().err.splitlines()[-1]
    assert f"stopped by {which.name} after step {step}" in last
    assert str(RunDir(tmp_path / "run").last_checkpoint) in last
    assert "--resume" in last
    with in_step(0, crash) as begun:
        distill(folder, tmp_path / "run", resume=True)
    assert begun == [12 - step]
    assert_same_run(folder / "whole", tmp_path / "run")


def test_reading_the_losses_now_and_then_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU. A signal is seen in the step in which it comes all the same.
    monkeypatch.setattr(loop, "sync_interval", lambda device: 5)
    with pytest.raises(engine.Terminated), in_step(3, send(signal.SIGTERM)) as begun:
        distill(folder, tmp_path / "run")
    assert begun == [3]
    distill(folder, tmp_path / "run", resume=True)
    assert_same_run(folder / "whole", tmp_path / "run")


def test_a_second_signal_stops_at_once(folder: Path, tmp_path: Path) -> None:
    def twice() -> None:
        send(signal.SIGTERM)()
        send(signal.SIGINT)()

    with pytest.raises(KeyboardInterrupt) as caught, in_step(2, twice):
        distill(folder, tmp_path / "run")
    assert type(caught.value) is KeyboardInterrupt
    assert not RunDir(tmp_path / "run").last_checkpoint.exists()


def test_a_signal_before_the_training_stops_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = models.build

    def slow(name: str, **options: object) -> nn.Module:
        send(signal.SIGTERM)()
        return build(name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(models, "build", slow)
    with pytest.raises(engine.Terminated):
        distill(folder, tmp_path / "run")
    assert not RunDir(tmp_path / "run").config_file.exists()


def test_class_means_and_adapters_come_with_the_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(method="nd+lsh", lsh_hashes=32, checkpoint_steps=4, train_size=30)
    distill(folder, tmp_path / "whole", settings)
    interrupted(folder, tmp_path / "run", 6, settings)
    monkeypatch.setattr(amd_fused, "class_means", None)
    distill(folder, tmp_path / "run", settings, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_trained_layers_of_losses_come_with_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    settings = tiny(method="vid+cc+crd+afd", crd_negatives=20, checkpoint_steps=4, train_size=30)
    distill(folder, tmp_path / "whole", settings)
    interrupted(folder, tmp_path / "run", 6, settings)
    distill(folder, tmp_path / "run", settings, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_dropout_draws_the_same_numbers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = models.build

    def with_dropout(name: str, **options: object) -> nn.Module:
        network = build(name, **options)  # type: ignore[arg-type]
        last, _ = list(network.named_children())[-1]
        setattr(network, last, nn.Sequential(nn.Dropout(0.5), getattr(network, last)))
        return network

    monkeypatch.setattr(models, "build", with_dropout)
    settings = tiny(method="scratch", checkpoint_steps=4, train_size=30)

    def scratch(path: Path, resume: bool = False) -> None:
        engine.distill(settings, path, None, resume=resume, show_progress=False)

    before = torch.get_rng_state()
    scratch(tmp_path / "whole")
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(Crash), in_step(6, crash):
        scratch(tmp_path / "run")
    torch.rand(5)
    scratch(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_lines_written_after_the_last_save_are_not_there_twice(
    folder: Path, tmp_path: Path
) -> None:
    interrupted(folder, tmp_path / "run", 8)
    log = RunDir(tmp_path / "run").log_file
    log.write_text(log.read_text() + '{"epoch": 2, "step": 12')
    distill(folder, tmp_path / "run", resume=True)
    assert_same_run(folder / "whole", tmp_path / "run")


def test_a_run_killed_before_its_result_gets_it_without_training(
    folder: Path, tmp_path: Path
) -> None:
    distill(folder, tmp_path / "run")
    RunDir(tmp_path / "run").result_file.unlink()
    with in_step(1, crash):
        distill(folder, tmp_path / "run", resume=True)
    assert_same_run(folder / "whole", tmp_path / "run")


def test_a_finished_run_gives_its_result_at_once(folder: Path) -> None:
    before = RunDir(folder / "whole").result()
    with in_step(1, crash):
        assert distill(folder, folder / "whole", resume=True) == before


def test_where_nothing_was_saved_resume_begins(folder: Path, tmp_path: Path) -> None:
    distill(folder, tmp_path / "run", resume=True)
    assert_same_run(folder / "whole", tmp_path / "run")


def test_a_run_is_not_begun_over_another(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--output-dir must be .*whole; --resume goes on"):
        distill(folder, folder / "whole")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, r"--epochs must be 2 as in .*config\.json, got 3"),
        ({"lr": 0.2, "seed": 1}, r"--lr must be 0\.1 as in .*, got 0\.2"),
    ],
)
def test_a_run_goes_on_with_its_own_settings_alone(
    folder: Path, tmp_path: Path, changes: dict[str, object], message: str, finished: bool
) -> None:
    path = folder / "whole"
    if not finished:
        path = tmp_path / "run"
        interrupted(folder, path, 6)
    with pytest.raises(UsageError, match=message):
        distill(folder, path, SETTINGS.changed(**changes), resume=True)


def test_where_the_data_lie_and_what_is_saved_may_change(folder: Path, tmp_path: Path) -> None:
    interrupted(folder, tmp_path / "run", 6)
    moved = SETTINGS.changed(data_dir="elsewhere", checkpoint_steps=4, report_images=2)
    distill(folder, tmp_path / "run", moved, resume=True)
    assert_same_run(folder / "whole", tmp_path / "run")
    assert RunDir(tmp_path / "run").settings() == moved


def test_another_teacher_is_refused(folder: Path, tmp_path: Path) -> None:
    interrupted(folder, tmp_path / "run", 6)
    other = tmp_path / "teacher"
    engine.train_teacher(tiny(seed=1, train_size=10), other, show_progress=False)
    with pytest.raises(UsageError, match=r"must go on with the teacher .*, got other weights"):
        distill(tmp_path, tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="must be a student's run, got a teacher's"):
        distill(folder, other, resume=True)


def test_a_broken_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    interrupted(folder, tmp_path / "run", 6)
    last = RunDir(tmp_path / "run").last_checkpoint
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"last\.pt cannot be read \("):
        distill(folder, tmp_path / "run", resume=True)


# test_engine_processes.py has the short form.
@pytest.mark.exhaustive
def test_runs_killed_at_many_random_points_end_like_the_undisturbed_one(
    with_torch: Forks, tmp_path: Path
) -> None:
    assert int(said(with_torch, KILLED, str(tmp_path), "5")) >= 4
    assert_same_run(tmp_path / "whole", tmp_path / "killed", epoch=3)
