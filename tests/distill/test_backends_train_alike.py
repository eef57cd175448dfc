"""Fused losses change no result: students take the same course as with the references."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("accelerate")

from amd_fused.distill import engine
from amd_fused.distill.run_dir import RunDir
from distill.tiny_runs import tiny

# Losses with a C++ kernel; skd and amd-g run on those of others.
METHODS = ("kd", "nd", "lsh", "at", "amd-gl", "amd-masked-gl")
METHODS += tuple(pytest.param(method, marks=pytest.mark.exhaustive) for method in ("skd", "amd-g"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> engine.TeacherChoice:
    path = tmp_path_factory.mktemp("backends") / "teacher"
    engine.train_teacher(tiny(), path, show_progress=False)
    return engine.TeacherChoice(path)


def course(path: Path, teacher: engine.TeacherChoice, **options) -> list[float]:
    """The loss and its parts in each of three steps, one an epoch."""
    settings = tiny(epochs=3, train_size=10, test_size=11, milestones=(), at_weight=10.0, **options)
    engine.distill(settings, path, teacher, show_progress=False)
    return [x for line in RunDir(path).epochs() for x in (line["loss"], *line["parts"].values())]


@pytest.mark.parametrize("method", METHODS)
def test_losses_of_the_first_steps_differ_by_rounding(
    tmp_path: Path, teacher: engine.TeacherChoice, method: str
) -> None:
    plain = course(tmp_path / "reference", teacher, method=method, backend="reference")
    fused = course(tmp_path / "cpp", teacher, method=method, backend="cpp")
    # 2^-24 = 6e-8, which the steps before have made larger.
    assert fused == pytest.approx(plain, rel=2e-5)
    if method == METHODS[0]:
        # A weight that is 1 % larger is not taken for rounding.
        moved = course(tmp_path / "moved", teacher, method=method, backend="cpp", ce_weight=0.101)
        assert moved != pytest.approx(plain, rel=2e-4)
