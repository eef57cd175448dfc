"""A student whose maps are [B, H, W, C] learns from a teacher whose maps are [B, C, H, W]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.tiny_runs import tiny

pytest.importorskip("accelerate")
pytest.importorskip("torchvision")

from amd_fused import FeatureHooks, reference
from amd_fused.distill import data, engine
from amd_fused.distill.errors import UsageError
from amd_fused.distill.reports.gradcam import GradCam, setup_grad_cams
from amd_fused.distill.reports.groups import arrange
from amd_fused.distill.reports.runs import gather
from amd_fused.distill.run_dir import RunDir

QUIET: dict[str, Any] = {"show_progress": False}
# Of 8x8 digits, Swin's first stage and the WideResNet's last group both give 2x2.
SETTINGS = tiny(
    method="amd-gl+sp",
    student="torchvision/swin_t",
    student_layers=("features.1",),
    teacher_layers=("conv4",),
    train_size=10,
    epochs=1,
)


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
    for network, layer, layout in zip(
        networks, ("features.1", "conv4"), ("NHWC", "NCHW"), strict=True
    ):
        with torch.no_grad(), FeatureHooks(network, [layer], layout=layout) as hooks:
            network(images)
            maps.append(hooks.features[0].double())
    assert [a.shape[1:] for a in maps] == [(96, 2, 2), (128, 2, 2)]
    expected = reference.amd_loss(*maps, local_weight=0.0)
    assert RunDir(student).result()["amd_distance"] == pytest.approx(float(expected), rel=1e-4)


def test_it_is_said_which_maps_are_permuted(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.distill(SETTINGS, tmp_path, engine.TeacherChoice(student.parent / "teacher"), **QUIET)
    said = capsys.readouterr().err
    assert said == "the student's features.1: maps [B, H, W, C], compared as [B, C, H, W]\n"


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
    with pytest.raises(
        UsageError, match=r"must name layers of maps .* got \[B, 768\] of 'flatten'"
    ):
        engine.distill(
            tiny(student="torchvision/swin_t", **changes),
            tmp_path / "run",
            engine.TeacherChoice(student.parent / "teacher"),
            **QUIET,
        )
    assert not (tmp_path / "run").exists()
