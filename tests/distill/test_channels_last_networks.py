"""A student whose maps are [B, H, W, C] learns from a teacher whose maps are [B, C, H, W]."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.tiny_runs import tiny

pytest.importorskip("accelerate")

from amd_fused import FeatureHooks, reference
from amd_fused.distill import data, engine
from amd_fused.distill.errors import UsageError
from amd_fused.distill.reports.gradcam import GradCam, setup_grad_cams
from amd_fused.distill.reports.groups import arrange
from amd_fused.distill.reports.runs import gather
from amd_fused.distill.run_dir import RunDir
from amd_fused.distill.vision import load_torchvision

QUIET: dict[str, Any] = {"show_progress": False}
# Of 8x8 digits, both stages of the Swin below and two groups of the WideResNet give 4x4 and 2x2.
SETTINGS = tiny(
    method="amd-gl+sp",
    student="torchvision/swin_t",
    student_layers=("features.1", "features.3"),
    teacher_layers=("conv3", "conv4"),
    epochs=1,
)


def small_swin(*, weights: None, num_classes: int) -> torch.nn.Module:
    """torchvision's Swin with two stages of one block, patches of 2x2 and 16 channels."""
    models = load_torchvision().models
    return models.SwinTransformer([2, 2], 16, [1, 1], [1, 2], [2, 2], num_classes=num_classes)


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        known = load_torchvision().models._api.BUILTIN_MODELS
        # Those of other modules are no classification networks of torchvision's.
        small_swin.__module__ = known["swin_t"].__module__
        patched.setitem(known, "swin_t", small_swin)
        yield


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    engine.train_teacher(tiny(epochs=1), folder / "teacher", **QUIET)
    engine.distill(SETTINGS, folder / "student", engine.TeacherChoice(folder / "teacher"), **QUIET)
    return folder / "student"


def test_the_distance_is_one_of_permuted_maps(student: Path) -> None:
    dataset = data.load(SETTINGS)
    images = dataset.test.batch(range(len(dataset.test)), None)
    networks = [
        engine.load_saved_network(RunDir(path), dataset, None).network
        for path in (student, student.parent / "teacher")
    ]
    maps = []
    for network, layers, layout in zip(
        networks,
        (SETTINGS.student_layers, SETTINGS.teacher_layers),
        ("NHWC", "NCHW"),
        strict=True,
    ):
        with torch.no_grad(), FeatureHooks(network, layers, layout=layout) as hooks:
            network(images)
            maps.append([a.double() for a in hooks.features])
    assert [[a.shape[1:] for a in side] for side in maps] == [
        [(16, 4, 4), (32, 2, 2)],
        [(64, 4, 4), (128, 2, 2)],
    ]
    expected = reference.amd_loss(*maps, local_weight=0.0)
    assert RunDir(student).result()["amd_distance"] == pytest.approx(float(expected), rel=1e-4)


def test_it_is_said_which_maps_are_permuted(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.distill(SETTINGS, tmp_path, engine.TeacherChoice(student.parent / "teacher"), **QUIET)
    said = capsys.readouterr().err
    maps = "maps [B, H, W, C] of features.1, features.3"
    assert said == f"the student's {maps} are permuted to [B, C, H, W]\n"


def test_grad_cam_has_the_maps_height_and_width(student: Path) -> None:
    (setup,) = arrange(gather([student]))
    found = setup_grad_cams(setup, {})
    assert isinstance(found, GradCam)
    assert not found.notes
    shapes = {network.label: network.maps[-1].shape for network in found.networks}
    assert shapes == {"Teacher": (6, 2, 2), "AMD (g+l) + SP": (6, 2, 2)}


@pytest.mark.parametrize("method", ["amd-g", "sp"])
def test_tokens_are_no_maps(student: Path, tmp_path: Path, method: str) -> None:
    changes = {"method": method, "student_layers": ("flatten",)}
    message = r"must name layers of maps .* got \[B, 32\] of 'flatten'"
    with pytest.raises(UsageError, match=message):
        engine.distill(
            tiny(student="torchvision/swin_t", **changes),
            tmp_path / "run",
            engine.TeacherChoice(student.parent / "teacher"),
            **QUIET,
        )
    assert not (tmp_path / "run").exists()
