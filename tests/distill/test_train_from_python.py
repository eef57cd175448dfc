"""`amd_fused.distill.train`: what the command does, for modules and images of a program's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from distill.tiny_runs import Crash, assert_same_run, crash, in_step, tiny, weights

pytest.importorskip("accelerate")

from amd_fused.distill import ImageData, UsageError, data, engine, models, train
from amd_fused.distill.cli import main
from amd_fused.distill.run_dir import RunDir

# Those of `tiny`, but for networks and method.
TINY: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 10,
    "train_size": 60,
    "test_size": 101,
    "milestones": (1,),
    "gamma": 100.0,
    "sp_weight": 10.0,
}


class Net(nn.Module):
    """Maps 4x4 and 2x2 of `stem` and `body`, and a classifier behind `pool`."""

    def __init__(self, width: int, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width))
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.body(self.stem(images))))


LAYERS = {
    f"{side}_{kind}": value
    for side in ("teacher", "student")
    for kind, value in (("layers", ("stem", "body")), ("embedding", "pool"))
}


def net(width: int, seed: int = 0, **options: int) -> Net:
    torch.manual_seed(seed)
    return Net(width, **options)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    engine.train_teacher(tiny(), folder, show_progress=False)
    return folder


def test_modules_are_trained_as_networks_by_their_names_are(teacher: Path, tmp_path: Path) -> None:
    def wrn(name: str) -> nn.Module:
        return models.build(name, num_classes=10, channels=1, image_size=8, seed=0)

    common = {**TINY, "method": "amd-gl+sp"}
    named = train("wrn10-1", teacher=teacher, output_dir=tmp_path / "named", **common)
    engine.distill(
        tiny(method="amd-gl+sp"),
        tmp_path / "command",
        engine.TeacherChoice(teacher),
        show_progress=False,
    )
    assert_same_run(tmp_path / "command", tmp_path / "named")
    big, small = wrn("wrn10-2"), wrn("wrn10-1")
    big.load_state_dict(weights(teacher))
    result = train(small, teacher=big, output_dir=tmp_path / "modules", **common)
    assert_same_run(tmp_path / "named", tmp_path / "modules")
    assert result.student is small
    assert result.metrics == named.metrics
    assert result.record == RunDir(tmp_path / "modules").result()
    for trained in (result.student, named.student):
        assert not trained.training
        for key, value in weights(tmp_path / "named").items():
            assert torch.equal(trained.state_dict()[key], value)


def test_a_pair_of_modules_of_ones_own_learns_digits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fast: dict[str, Any] = {"epochs": 1, "batch_size": 50, "lr": 0.05}
    big = train(net(16), output_dir=tmp_path / "teacher", **fast)
    assert RunDir(tmp_path / "teacher").settings().method.key == "scratch"
    # One that the program goes on training.
    teacher = big.student.train()
    teacher.stem.eval()
    teacher.head.bias.requires_grad_(False)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    capfd.readouterr()
    small = net(4, seed=1)
    start = small.head.weight.detach().clone()
    result = train(
        small,
        teacher=teacher,
        output_dir=tmp_path / "student",
        method="amd-g+at+sp+nd",
        **fast,
        **LAYERS,
    )
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert (teacher.training, teacher.stem.training, teacher.head.training) == (True, False, True)
    frozen = [name for name, p in teacher.named_parameters() if not p.requires_grad]
    assert frozen == ["head.bias"]
    assert not any(module._forward_hooks for module in (*teacher.modules(), *small.modules()))

    assert result.student is small
    assert not torch.equal(small.head.weight, start)
    test = data.load(tiny(test_size=0)).test
    with torch.no_grad():
        right = small(test.batch(range(len(test)), None)).argmax(1) == test.labels
    assert result.metrics["top1"] == pytest.approx(100 * right.double().mean().item(), abs=1e-4)
    assert result.record["amd_distance"] > 0
    (line,) = RunDir(tmp_path / "student").epochs()
    assert line["parts"].keys() == {"ce", "kd", "amd", "at", "sp", "nd"}
    config = RunDir(tmp_path / "student").config()
    assert (config["network"], config["teacher"]["network"]) == ("module/Net", "module/Net")
    assert config["teacher"]["top1"] == big.metrics["top1"]
    assert f"the teacher module/Net: top-1 {big.metrics['top1']:.2f} %" in capfd.readouterr().err
    card = RunDir(tmp_path / "student").model_card.read_text()
    assert f"from {Net.__module__} import Net\n" in card


class Stripes(Dataset[tuple[Tensor, int]]):
    """Images 3x8x8 with one bright row, which is their class."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(self.first + index))
        label = (self.first + index) % 4
        noise[:, 2 * label] += 3
        return noise / 4, label


def test_images_of_ones_own_are_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = ImageData(Stripes(0, 80), Stripes(80, 120), num_classes=4, class_names="abcd")
    result = train(
        net(4, classes=4, channels=3),
        output_dir=tmp_path / "run",
        data=images,
        epochs=3,
        batch_size=10,
        lr=0.05,
        test_size=20,
    )
    assert result.metrics["top1"] > 50
    run = RunDir(tmp_path / "run")
    assert run.settings().data == "given"
    assert "On 20 test images of given" in run.model_card.read_text()
    # Others read what it reached, and say why they cannot repeat it.
    assert main(["table", str(tmp_path), "--output-dir", str(tmp_path / "table")]) == 0
    assert f"{result.metrics['top1']:.2f}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "run")])
    assert "--data given stands for the data that a program gave to" in capsys.readouterr().err


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text()
    (example,) = [
        code
        for code in re.findall("```python\n(.*?)```", text, re.DOTALL)
        if "import ImageData, train" in code
    ]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["result"].metrics["top1"] > 75


def test_a_run_of_a_module_is_known_to_need_its_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(net(4), output_dir=tmp_path, epochs=1, train_size=20, batch_size=10)
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path)])
    assert "module/Net is a class of the program that trained it" in capsys.readouterr().err


def test_a_stopped_run_goes_on_in_a_module_of_any_weights(teacher: Path, tmp_path: Path) -> None:
    def run(path: Path, student: nn.Module, resume: bool = False) -> nn.Module:
        options = {**TINY, "method": "kd", "resume": resume}
        return train(student, teacher=teacher, output_dir=path, **options).student

    run(tmp_path / "whole", net(4))
    with pytest.raises(Crash), in_step(8, crash):
        run(tmp_path / "run", net(4))
    with pytest.raises(UsageError, match=r"last\.pt does not fit module/Net \(.*size mismatch"):
        run(tmp_path / "run", net(5), resume=True)
    other = run(tmp_path / "run", net(4, seed=9), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    # What is finished is loaded.
    with in_step(1, crash):
        again = run(tmp_path / "run", net(4, seed=8), resume=True)
    for key, value in other.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    with pytest.raises(UsageError, match=r"model\.safetensors must have the shapes of Net, got"):
        run(tmp_path / "run", net(5), resume=True)


def test_another_teachers_weights_are_refused(tmp_path: Path) -> None:
    options = {**TINY, "method": "kd", "output_dir": tmp_path / "run"}
    train(net(4), teacher=net(6), **options)
    with pytest.raises(UsageError, match="with the teacher module/Net, got other weights, those"):
        train(net(4), teacher=net(6, seed=1), resume=True, **options)


class NoLogits(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


SAME = net(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epoch": 3}, r"there is no setting 'epoch'; near matches: epochs"),
        ({"student_layer": ("a",)}, r"no setting 'student_layer'; near matches: student_layers"),
        (
            {"student": "wrn10-1", "teacher_layers": ["x"], "teacher": net(8), "method": "at"},
            "got 'x'",
        ),
        ({"epochs": "two"}, "train: epochs must be .*, got 'two'"),
        ({"batch_size": 0}, "--batch-size must be at least 2, got 0"),
        ({"student": 3}, "student must be a name or a module, got int"),
        ({"student": "wrn17-1"}, "wrn17-1"),
        ({"student": NoLogits()}, r"module/NoLogits does not give logits \[B, 10\]"),
        ({"student": net(4, classes=7)}, r"module/Net does not give logits \[B, 10\]"),
        ({"student": net(4, channels=3)}, "module/Net cannot take images of 8x8 with 1 channels"),
        ({"data": [1]}, "data must be a name or an ImageData, got list"),
        ({"data": "svhn"}, "--data must be one of digits, "),
        (
            {"teacher": "missing"},
            "teacher must be a module, the folder of a run, or with teacher_w",
        ),
        ({"teacher": net(4), "teacher_weights": "x.pt"}, "teacher must be a network's name with "),
        (
            {"teacher": "wrn10-1", "teacher_weights": "x.pt", "method": "kd"},
            "must be a file of weights, got x.pt",
        ),
        ({"student": SAME, "teacher": SAME}, "student must not be the teacher itself"),
        ({"method": "kd"}, "--teacher-weights must be given for --method kd, got no teacher"),
        ({"teacher": net(8), "method": "amd-g"}, r"which of its layers are feature maps must be"),
        ({"recipe": "cifar"}, "got 'cifar'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        train(**{"student": net(4), "output_dir": tmp_path / "run", **arguments})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_settings_start_from_a_recipe(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []

    def seen(settings: Any, *_: Any, **__: Any) -> Any:
        taken.append(settings)
        raise Crash

    monkeypatch.setattr(engine, "distill", seen)

    def settings(**given: Any) -> Any:
        with pytest.raises(Crash):
            train("wrn10-1", output_dir=tmp_path, **given)
        return taken.pop()

    assert settings().recipe == "none"
    made = settings(recipe="imagenet", teacher=teacher, method="at", lr=0.5)
    # The recipe's own for that method, and what is said here.
    assert (made.recipe, made.kd_weight, made.lr, made.student) == ("imagenet", 0.0, 0.5, "wrn10-1")
