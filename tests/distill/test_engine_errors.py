"""What cannot be done as asked is refused in one line, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.tiny_runs import tiny

pytest.importorskip("accelerate")

from amd_fused.distill import data, engine
from amd_fused.distill.config import Settings
from amd_fused.distill.engine import launch
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import RunDir

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    engine.train_teacher(tiny(), folder, **QUIET)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 61}, "--batch-size must be at most the 60 training images, got 61"),
        ({"train_size": 1000}, "--train-size must be at most the 898 training images, got 1000"),
        ({"data": "cifar10", "data_dir": "nowhere"}, "nowhere"),
        ({"student": "wrn17-1"}, "wrn17-1"),
        ({"method": "amdgl"}, "amd-gl"),
        ({"student_layers": ("conv2", "conv9")}, "conv9"),
        ({"student_layers": ("conv2",)}, "must be equally many"),
        ({"teacher_embedding": "nowhere", "method": "nd"}, "nowhere"),
        (
            {"method": "nd", "mixup": 0.2},
            "--mixup must be 0 with nd, which needs one class an image, got 0.2",
        ),
        ({"method": "crd", "mixup": 0.2}, "--mixup must be 0 with crd, which needs one class"),
        ({"method": "nd", "train_size": 5, "batch_size": 5}, "a sample of every class"),
        (
            {"method": "afds"},
            "--method afds cannot be computed: AFDSLoss: student[0] and teacher[0]",
        ),
        (
            {"method": "vid", "student_layers": ("conv2",)},
            "--method vid: VIDLoss: teacher_channels must have one entry for each of the 1 layers",
        ),
        ({"backend": "cuda"}, "--method amd-gl cannot be computed: "),
        ({"mixed_precision": "fp16"}, "--mixed-precision fp16 needs a GPU, got cpu; use bf16"),
        ({"ce_weight": 0.0, "kd_weight": 0.0, "gamma": 0.0}, "must be > 0"),
    ],
    ids=str,
)
def test_what_does_not_go_is_refused(
    teacher: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        engine.distill(tiny(**changes), tmp_path / "run", engine.TeacherChoice(teacher), **QUIET)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def distill(choice: engine.TeacherChoice | None, path: Path, **changes: Any) -> None:
    engine.distill(tiny(**changes), path, choice, **QUIET)


def test_a_method_with_a_teacher_needs_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--teacher-weights must be given for --method kd"):
        distill(None, tmp_path, method="kd")


def test_a_folder_without_a_run_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be the folder of a finished run, but has no conf"):
        distill(engine.TeacherChoice(tmp_path), tmp_path / "run")


def test_an_epoch_that_was_not_kept_is_answered_with_those_that_were(
    teacher: Path, tmp_path: Path
) -> None:
    message = r"weights after epoch 7 must have been kept, got those after 2; --save-every keeps"
    with pytest.raises(UsageError, match=message):
        distill(engine.TeacherChoice(teacher, 7), tmp_path)
    with pytest.raises(UsageError, match=message):
        engine.evaluate(teacher, epoch=7)


def copied(teacher: Path, path: Path, **changes: Any) -> RunDir:
    """The run with another content of its last weights."""
    run = RunDir(path)
    run.checkpoints.mkdir(parents=True)
    run.config_file.write_text(RunDir(teacher).config_file.read_text())
    content = torch.load(RunDir(teacher).weights_file(2))
    torch.save(content | changes, run.weights_file(2))
    return run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 7}, "for 10 classes and 1x8x8 images .*, got one for 7 classes and 1x8x8"),
        ({"channels": 3, "image_size": 32}, "got one for 10 classes and 3x32x32 images"),
        ({"network": "WRN10-1"}, r"does not fit WRN10-1 of this version \("),
        ({"state_dict": {}}, r"does not fit WRN10-2 of this version \("),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_weights_that_do_not_fit_are_refused(
    teacher: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = copied(teacher, tmp_path / "teacher", **changes)
    with pytest.raises(UsageError, match=message):
        engine.load_saved_network(run, data.load(tiny()), None)
    with pytest.raises(UsageError, match=message):
        distill(engine.TeacherChoice(run.path), tmp_path / "run")


@pytest.mark.parametrize("content", [b"", b"not a file of weights", b"PK\x03\x04 cut short"])
def test_broken_weights_are_named(teacher: Path, tmp_path: Path, content: bytes) -> None:
    run = copied(teacher, tmp_path / "teacher")
    run.weights_file(2).write_bytes(content)
    with pytest.raises(UsageError, match=r"epoch-0002\.pt cannot be read \("):
        engine.evaluate(run.path)


def test_weights_of_something_else_are_refused(teacher: Path, tmp_path: Path) -> None:
    run = copied(teacher, tmp_path / "teacher")
    torch.save({"state_dict": {}}, run.weights_file(2))
    with pytest.raises(UsageError, match="must be weights of a run, but has no 'network'"):
        engine.evaluate(run.path)
    torch.save([1], run.weights_file(2))
    with pytest.raises(UsageError, match="must hold a dictionary, got list"):
        engine.evaluate(run.path)


def test_processes_that_did_not_find_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: Settings = tiny()
    launch.start(settings)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="WORLD_SIZE is 2, but 1 of these processes found"):
        launch.start(settings)


def test_a_precision_other_than_the_launchers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(UsageError, match=r"--mixed-precision must be .* told, bf16, got no"):
        distill(None, tmp_path / "run", method="scratch")
