"""What a run leaves can be used without this package: weights, source, and a card that says how."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from safetensors.torch import load_file
from torch import nn

from distill.tiny_runs import Crash, crash, in_step, tiny, weights

pytest.importorskip("accelerate")

from huggingface_hub import ModelCard

from amd_fused.distill import data, engine, models
from amd_fused.distill.config import Settings
from amd_fused.distill.data import DataSet
from amd_fused.distill.engine import records
from amd_fused.distill.engine.export import write_model
from amd_fused.distill.run_dir import RunDir

QUIET: dict[str, Any] = {"show_progress": False}
METRICS = {"top1": 91.25, "top5": 99.5, "nll": 0.3125, "ece": 2.5}
OWN = ("WRN10-1", "ResNet8", "MobileNetV2")
# Loads every folder's network as its card says, in a process to which this package does not exist.
ELSEWHERE = """
import os, re, sys
from pathlib import Path
sys.modules["amd_fused"] = None
import torch
torch.set_num_threads(1)
sys.path.insert(0, "")
for folder in sys.argv[1:]:
    os.chdir(folder)
    sys.modules.pop("model", None)
    names = {}
    exec(re.search("```python\\n(.*?)```", Path("README.md").read_text(), re.S)[1], names)
    with torch.no_grad():
        torch.save(names["network"](torch.load("images.pt")), "logits.pt")
assert not any(name.startswith("amd_fused.") for name in sys.modules)
"""


def trained(name: str, channels: int, size: int) -> nn.Module:
    """A network whose running statistics are not those that it begins with."""
    model = models.build(name, num_classes=4, channels=channels, image_size=size, seed=1)
    with torch.no_grad():
        model(torch.randn(8, channels, size, size))
    return model.eval()


def exported(path: Path, name: str, channels: int, size: int) -> torch.Tensor:
    """Writes the network and images; returns its logits."""
    model = trained(name, channels, size)
    code = models.plain_code(name, model, num_classes=4, channels=channels)
    split = data.load(tiny()).train
    shown = DataSet("toys", tuple("abcd"), split, split, channels, size, (0.5,), (0.25,))
    config = records.describe("teacher", Settings(), name, 7, None, torch.device("cpu"), 1)
    write_model(RunDir(path), model, code, config, shown, METRICS)
    images = torch.randn(2, channels, size, size)
    torch.save(images, path / "images.pt")
    with torch.no_grad():
        return model(images)


def test_the_trainers_own_networks_load_where_this_package_is_not(
    with_torch: Forks, tmp_path: Path
) -> None:
    logits = {name: exported(tmp_path / name, name, 2, 12) for name in OWN}
    done = with_torch.run(ELSEWHERE, *(str(tmp_path / name) for name in OWN))
    assert done.returncode == 0, done.stderr[-2000:]
    for name, expected in logits.items():
        assert torch.equal(torch.load(tmp_path / name / "logits.pt"), expected), name


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("torchvision/resnet18", 3),
        ("torchvision/mobilenet_v3_small", 1),
        ("torchvision/googlenet", 3),
        ("timm/resnet10t", 2),
    ],
)
def test_networks_of_libraries_load_by_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, channels: int
) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    expected = exported(tmp_path, name, channels, 64)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    code = re.search("```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    assert code is not None
    assert "amd_fused" not in code[1]
    assert len([line for line in code[1].splitlines() if "network" in line]) <= 5
    exec(code[1], names)
    with torch.no_grad():
        assert torch.equal(names["network"](torch.load("images.pt")), expected)
    assert not (tmp_path / "model.py").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    engine.train_teacher(tiny(), folder / "teacher", **QUIET)
    teacher = engine.TeacherChoice(folder / "teacher")
    engine.distill(tiny(method="amd-gl+sp"), folder / "student", teacher, **QUIET)
    return folder


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_run_ends_with_its_last_weights_and_their_card(runs: Path, role: str) -> None:
    run = RunDir(runs / role)
    last, kept = weights(run.path), load_file(run.model_file)
    assert last.keys() == kept.keys()
    assert all(torch.equal(last[name], kept[name]) for name in last)
    card = ModelCard.load(run.model_card)
    test = run.result()["test"]
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found == {
        "top-1 (%)": test["top1"],
        "top-5 (%)": test["top5"],
        "NLL": test["nll"],
        "ECE (%)": test["ece"],
    }
    assert card.data.license is None
    assert "digits" in card.data.model_name
    assert ("knowledge-distillation" in card.data.tags) == (role == "student")
    assert "60 training images of digits" in card.text
    assert f"| {test['top1']:.4g} |" in card.text
    # Whoever publishes the card publishes no path of their machine.
    assert str(runs) not in card.content


def test_a_students_card_says_what_it_learned_from(runs: Path) -> None:
    text = RunDir(runs / "student").model_card.read_text()
    teacher = RunDir(runs / "student").config()["teacher"]
    assert "distilled by AMD (g+l) + SP from" in text
    assert f"WRN10-2, top-1 {teacher['top1']:.2f} %" in text
    assert teacher["weights_sha256"] in text
    assert "gamma 100," in text
    assert "sp_weight 10," in text
    assert "afd_weight" not in text
    assert "It learned from the labels alone." in RunDir(runs / "teacher").model_card.read_text()


def test_tied_weights_and_channels_last_are_kept_as_they_load(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
            self.again = self.conv

    model = Tied()
    code = models.PlainCode("import torch", ("network = ...",))
    config = records.describe("teacher", Settings(), "Tied", 7, None, torch.device("cpu"), 1)
    write_model(RunDir(tmp_path), model, code, config, data.load(tiny()), METRICS)
    kept = load_file(tmp_path / "model.safetensors")
    assert kept.keys() == model.state_dict().keys()
    assert torch.equal(kept["again.weight"], model.conv.weight)


def test_a_run_that_was_stopped_has_its_weights_when_it_is_finished(
    runs: Path, tmp_path: Path
) -> None:
    settings, teacher = tiny(method="amd-gl+sp"), engine.TeacherChoice(runs / "teacher")
    with pytest.raises(Crash), in_step(8, crash):
        engine.distill(settings, tmp_path, teacher, **QUIET)
    assert not RunDir(tmp_path).model_file.exists()
    engine.distill(settings, tmp_path, teacher, resume=True, **QUIET)
    whole = RunDir(runs / "student")
    assert RunDir(tmp_path).model_file.read_bytes() == whole.model_file.read_bytes()
    assert RunDir(tmp_path).model_card.read_text() == whole.model_card.read_text()
