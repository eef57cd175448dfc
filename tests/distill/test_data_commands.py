"""An epoch on every data set in its published layout, through the command line, with its recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill import published_layouts as layouts

pytest.importorskip("accelerate")

from amd_fused.distill.cli import main
from amd_fused.distill.run_dir import RunDir

WNIDS = [f"n{number:08d}" for number in range(3)]
SHORT = ["--epochs=1", "--batch-size=4", "--quiet", "--no-report"]
SMALL = ["--teacher=wrn10-1", "--student=wrn10-1"]
SMALL_OF_224 = "torchvision/shufflenet_v2_x0_5"
BY_MAPS = ["--teacher-layers", "stage3", "stage4", "--student-layers", "stage3", "stage4"]


def cifar10_archive(base: Path) -> None:
    layouts.pack(layouts.write_cifar10(base), "cifar-10-python.tar.gz")


def image_folder(base: Path) -> None:
    for part in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            for number in range(4):
                pixels = layouts.random_pixels(20, 16, 10 * label + number)
                layouts.write_image(base / part / name / f"{number}.png", pixels)


# What writes the data, the recipe, networks, and how many classes and test images there are.
DATA: dict[str, tuple[Callable[[Path], object], list[str], list[str], int, int]] = {
    "mnist": (
        lambda base: layouts.write_mnist(base / "MNIST" / "raw"),
        ["--recipe=cifar10-a", "--data=mnist"],
        SMALL,
        10,
        10,
    ),
    "cifar10": (layouts.write_cifar10, ["--recipe=cifar10-a"], SMALL, 10, 4),
    "cifar10 archive": (cifar10_archive, ["--recipe=cifar10-a-mixup"], SMALL, 10, 4),
    "cifar100": (
        lambda base: layouts.write_cifar100(base, 8, 4),
        ["--recipe=cifar10-a", "--data=cifar100"],
        SMALL,
        100,
        4,
    ),
    "cinic10": (layouts.write_cinic10, ["--recipe=cinic10-a"], SMALL, 10, 20),
    "tiny-imagenet": (
        lambda base: layouts.write_tiny_imagenet(base, WNIDS),
        ["--recipe=tiny-imagenet-a"],
        SMALL,
        3,
        3,
    ),
    "imagenet": (
        lambda base: layouts.write_imagenet(base, WNIDS),
        ["--recipe=imagenet", "--workers=0"],
        [f"--teacher={SMALL_OF_224}", f"--student={SMALL_OF_224}", *BY_MAPS],
        3,
        6,
    ),
    "folder": (
        lambda base: image_folder(base),
        ["--recipe=cifar10-a", "--data=folder"],
        SMALL,
        2,
        8,
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_teacher_and_student_train_an_epoch(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write, recipe, networks, classes, test_images = DATA[name]
    data = tmp_path / "data"
    write(data)
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    common = [*recipe, *SHORT, "--data-dir", str(data)]
    of_teacher = [option for option in networks if not option.startswith("--student=")]
    if "--student-layers" in of_teacher:
        of_teacher = of_teacher[: of_teacher.index("--student-layers")]
    assert main(["train-teacher", *common, *of_teacher, "--output-dir", str(teacher)]) == 0
    of_student = [option for option in networks if not option.startswith("--teacher=")]
    arguments = [*common, *of_student, "--teacher-run", str(teacher)]
    assert main(["distill", *arguments, "--output-dir", str(student)]) == 0
    assert "Test: top-1" in capsys.readouterr().out
    run = RunDir(student)
    assert sum(run.result()["reliability"]["count"]) == test_images
    (epoch,) = run.epochs()
    assert set(epoch["parts"]) == {"ce", "kd", "amd"}
    assert epoch["parts"]["amd"] > 0
    assert run.config()["teacher"]["network"] == RunDir(teacher).config()["network"]
    weights = torch.load(run.weights_file(1), weights_only=True)
    assert weights["num_classes"] == classes
    assert len(weights["state_dict"]["fc.bias"]) == classes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data-dir", "nowhere"], "nowhere"),
        (["--data-dir", "empty"], "cifar-10-batches-py"),
        (["--data-dir", "truncated"], "data_batch_1"),
        (["--data=folder", "--data-dir", "empty"], "train"),
        (["--batch-size=64"], "--batch-size"),
        (["--train-size=21"], "--train-size"),
        (["--teacher-layers", "conv9"], "conv9"),
        (["--teacher=resnet21"], "resnet21"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_data_or_network_that_is_not_as_it_must_be_is_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    layouts.write_cifar10(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    broken = layouts.write_cifar10(tmp_path / "truncated") / "data_batch_1"
    broken.write_bytes(broken.read_bytes()[:1000])
    short = [*SHORT, "--recipe=cifar10-a", "--teacher=wrn10-1", "--data-dir=data"]
    with pytest.raises(SystemExit) as stopped:
        main(["train-teacher", *short, *options])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("amd-fused: ")
    assert message in line


def test_teacher_of_other_data_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layouts.write_cifar10(tmp_path)
    layouts.write_cifar100(tmp_path, 8, 4)
    common = ["--recipe=cifar10-a", *SHORT, "--data-dir", str(tmp_path)]
    teacher = tmp_path / "teacher"
    arguments = [*common, "--teacher=wrn10-1", "--output-dir", str(teacher)]
    assert main(["train-teacher", *arguments]) == 0
    other = ["--data=cifar100", "--student=wrn10-1", "--output-dir", str(tmp_path / "student")]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["distill", *common, *other, "--teacher-run", str(teacher)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "10 classes" in line
