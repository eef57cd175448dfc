"""A teacher may be a file of weights of a named network, as anybody else's training left it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from distill.tiny_runs import Crash, assert_same_run, crash, in_step, tiny, weights

pytest.importorskip("accelerate")

from amd_fused.distill import data, engine, models
from amd_fused.distill.cli import main
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import RunDir

QUIET: dict[str, Any] = {"show_progress": False}
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    engine.train_teacher(tiny(), folder, **QUIET)
    return folder


@pytest.fixture(scope="module")
def state(teacher: Path) -> State:
    return weights(teacher)


@pytest.fixture(scope="module")
def file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "wrn.safetensors"
    save_file(state, path)
    return path


def load(file: Path, network: str = "wrn10-2") -> torch.nn.Module:
    return engine.TeacherWeights(file, network).load(data.load(tiny())).network


def test_a_student_of_the_file_is_a_student_of_the_run(
    teacher: Path, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = tiny(method="amd-g", train_size=20)
    engine.distill(settings, tmp_path / "run", engine.TeacherChoice(teacher), **QUIET)
    assert capfd.readouterr().err == ""
    source = engine.TeacherWeights(file, "WRN-10-2")
    engine.distill(settings, tmp_path / "file", source, **QUIET)
    assert_same_run(tmp_path / "run", tmp_path / "file")
    top1 = RunDir(teacher).result()["test"]["top1"]
    assert RunDir(tmp_path / "file").config()["teacher"] == {
        "file": str(file),
        "network": "WRN10-2",
        "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "top1": top1,
    }
    assert capfd.readouterr().err.startswith(
        f"the teacher WRN10-2: top-1 {top1:.2f} % of the test images of digits, normalised by mean"
    )


WRAPPED: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "accuracy": 0.5},
    "nested": lambda state: {"model": {"state_dict": state}},
    "DataParallel": lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
    "compiled": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    "uncounted": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_weights_are_found_as_training_scripts_save_them(
    state: State, tmp_path: Path, form: str
) -> None:
    torch.save(WRAPPED[form](state), tmp_path / "teacher.pth")
    found = load(tmp_path / "teacher.pth").state_dict()
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(found[key], value) or (form == "uncounted" and "num_batches" in key)


def test_a_network_of_timm_takes_weights_from_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    published = timm.create_model("resnet10t", num_classes=10, in_chans=1).eval()
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        own = load(tmp_path / "model.safetensors", "timm/resnet10t")(images)
        assert torch.equal(own, published(images))


def cut(state: State, *keys: str, **more: torch.Tensor) -> State:
    return {key: value for key, value in state.items() if key not in keys} | more


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: cut(s, **{"fc.weight": torch.zeros(7, 128), "fc.bias": torch.zeros(7)}),
            r"must be for 10 classes as the data, got 7 \(fc\.weight of shape \[7, 128\]\)",
        ),
        (
            lambda s: cut(s, **{"conv1.weight": torch.zeros(16, 3, 3, 3)}),
            r"must have the shapes of WRN10-2, got conv1\.weight \[16, 3, 3, 3\], not \[16, 1, 3,",
        ),
        (
            lambda s: cut(s, "fc.bias", extra=torch.zeros(1)),
            r"must have the weights of WRN10-2, got missing: fc\.bias; unexpected: extra$",
        ),
        (
            lambda s: {f"net.{key}": value for key, value in s.items()},
            r"missing: conv1\.weight, .* and \d+ more; unexpected: net\.conv1\.weight, .* more$",
        ),
        (
            lambda s: {"optimizer": {}, "epoch": 3},
            "must hold a state_dict, .* optimizer, ep",
        ),
        (lambda s: {}, "must hold a state_dict"),
        (lambda s: [1], "must hold a state_dict, .*, got list"),
        (lambda s: torch.nn.Linear(2, 2), r"must hold tensors alone, .*save the network's state_d"),
    ],
)
def test_weights_of_another_network_are_refused_in_one_line(
    state: State, tmp_path: Path, change: Callable[[State], Any], message: str
) -> None:
    torch.save(change(state), tmp_path / "teacher.pth")
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path / "teacher.pth")
    text = str(caught.value)
    assert text.startswith("--teacher-weights")
    assert str(tmp_path / "teacher.pth") in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["teacher.pth", "teacher.safetensors"])
def test_broken_and_missing_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"must be a file of weights, got .*{name}"):
        load(tmp_path / name)
    (tmp_path / name).write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UsageError, match=rf"{name} cannot be read \("):
        load(tmp_path / name)


def test_a_teacher_near_chance_is_doubted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = models.build("wrn10-2", num_classes=10, channels=1, image_size=8, seed=3)
    save_file(network.state_dict(), tmp_path / "drawn.safetensors")
    source = engine.TeacherWeights(tmp_path / "drawn.safetensors", "wrn10-2")
    engine.distill(tiny(method="kd", epochs=1, train_size=10), tmp_path / "run", source, **QUIET)
    assert "near chance: was it trained on images normalised so?" in capfd.readouterr().err


def test_a_run_goes_on_with_the_same_weights_alone(
    file: Path, state: State, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings, source = tiny(method="kd", train_size=30), engine.TeacherWeights(file, "wrn10-2")
    engine.distill(settings, tmp_path / "whole", source, **QUIET)
    with pytest.raises(Crash), in_step(5, crash):
        engine.distill(settings, tmp_path / "run", source, **QUIET)
    other = tmp_path / "other.safetensors"
    save_file(cut(state, **{"fc.bias": torch.ones(10)}), other)
    with pytest.raises(UsageError, match=r"with the teacher .*wrn\.safetensors, got other w.*, th"):
        engine.distill(
            settings,
            tmp_path / "run",
            engine.TeacherWeights(other, "wrn10-2"),
            resume=True,
            **QUIET,
        )
    capfd.readouterr()
    engine.distill(settings, tmp_path / "run", source, resume=True, **QUIET)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    # It was tested when the run began.
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("undrawn")
def test_commands_take_a_file_for_a_teacher(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--train-size=40", "--batch-size=20", "--epochs=1", "--student=wrn10-1", "--quiet"]
    arguments = ["distill", *common, "--method=kd", "--output-dir", str(tmp_path / "run")]
    named = [*arguments, "--teacher=wrn10-2", "--teacher-weights", str(file)]
    assert main(named) == 0
    assert RunDir(tmp_path / "run").settings().teacher == "wrn10-2"
    # The report names the file and draws the teacher's Grad-CAM.
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert str(file) in json.dumps(report)
    # Resumed, it knows its teacher.
    assert main(["distill", "--resume", "--quiet", "--output-dir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    for more, message in [
        (["--teacher-run", str(tmp_path)], "--teacher-weights must not be given together, got "),
        (["--teacher-epoch", "3"], "--teacher-epoch needs --teacher-run"),
    ]:
        with pytest.raises(SystemExit):
            main([*named, *more])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--teacher-run", str(tmp_path), "--teacher=wrn10-2"])
    assert "which says what network it is, got 'wrn10-2'" in capsys.readouterr().err
