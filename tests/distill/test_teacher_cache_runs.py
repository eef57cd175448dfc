"""A run with a cache of its teacher's outputs is, bit for bit, the run without one."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from forks import Forks

from distill.killed_trainer import KILLED
from distill.processes import said
from distill.tiny_runs import Crash, assert_same_run, crash, in_step, tiny

pytest.importorskip("accelerate")

from amd_fused.distill import engine, recipes, sweep
from amd_fused.distill.cli import main
from amd_fused.distill.config import Settings
from amd_fused.distill.engine import cached_teacher, objective
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import TERMS, parse
from amd_fused.distill.run_dir import RunDir

QUIET: dict[str, Any] = {"show_progress": False}
# Two forms of AMD, one of them in a sum, stand for the others, and so does a sum of losses with
# layers for the features' shapes.
METHODS = [
    term.key
    for term in TERMS
    if term.distilled and "amd-masked" not in term.key and term.layered_loss is None
]
SUMS = ["amd-gl+sp", "skd+amd-masked-g+at+sp+rkd+nd+lsh", "vid+cc+crd+afd"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    engine.train_teacher(tiny(), folder, **QUIET)
    return folder


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One list entry for every batch that a teacher with a cache was run on: its images."""
    found: list[int] = []
    before = objective.to_keep

    def counted(output: objective.Output) -> Any:
        found.append(len(output.logits))
        return before(output)

    monkeypatch.setattr(objective, "to_keep", counted)
    return found


def distill(teacher: Path, path: Path, settings: Settings, **options: Any) -> dict[str, Any]:
    return engine.distill(settings, path, engine.TeacherChoice(teacher), **(QUIET | options))


def record(path: Path) -> dict[str, Any]:
    return RunDir(path).config()["teacher_cache"]


# The sums have all losses; each alone is exhaustive, but for the one that needs no features, and so
# is bfloat16 but for the sum with most losses.
SHORT = {"no": (*SUMS, "kd"), "bf16": (SUMS[1],)}


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        pytest.param(m, p, marks=[] if m in SHORT[p] else pytest.mark.exhaustive)
        for m, p in product([*SUMS, *METHODS], SHORT)
    ],
)
def test_every_method_ends_in_the_same_bits(
    teacher: Path, tmp_path: Path, passes: list[int], method: str, precision: str
) -> None:
    settings = tiny(method=method, lsh_hashes=32, crd_negatives=20, train_size=30)
    settings = settings.changed(mixed_precision=precision)
    distill(teacher, tmp_path / "live", settings.changed(teacher_cache="off"))
    assert passes == []
    distill(teacher, tmp_path / "memory", settings)
    folder = str(tmp_path / "cache")
    distill(teacher, tmp_path / "files", settings.changed(teacher_cache=folder))
    # The three steps of the first epoch, twice.
    assert passes == [10] * 6
    distill(teacher, tmp_path / "again", settings.changed(teacher_cache=folder))
    assert passes == [10] * 6
    for name in ("memory", "files", "again"):
        assert_same_run(tmp_path / "live", tmp_path / name)
    assert record(tmp_path / "live") == {"kept": None, "reason": "--teacher-cache off"}
    assert record(tmp_path / "memory") == {"kept": "memory", "reason": None}
    assert record(tmp_path / "again") == {"kept": folder, "reason": None}


def test_images_that_an_epoch_left_out_are_run_later_in_whole_batches(
    teacher: Path, tmp_path: Path, passes: list[int]
) -> None:
    # 34 images: each epoch leaves out another four.
    settings = tiny(train_size=34, epochs=4)
    distill(teacher, tmp_path / "memory", settings)
    distill(teacher, tmp_path / "live", settings.changed(teacher_cache="off"))
    assert_same_run(tmp_path / "live", tmp_path / "memory", epoch=4)
    assert set(passes) == {10}
    assert 3 < len(passes) < 8


@pytest.mark.parametrize("kept", ["memory", "files"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    teacher: Path, tmp_path: Path, passes: list[int], kept: str
) -> None:
    where = kept if kept == "memory" else str(tmp_path / "cache")
    settings = tiny(method="amd-gl+sp", checkpoint_steps=4, train_size=30, teacher_cache=where)
    with pytest.raises(Crash), in_step(6, crash):
        distill(teacher, tmp_path / "run", settings)
    del passes[:]
    distill(teacher, tmp_path / "run", settings, resume=True)
    # From step 4 on: memory is gone, files are not.
    assert len(passes) == (2 if kept == "memory" else 0)
    distill(teacher, tmp_path / "live", settings.changed(teacher_cache="off"))
    assert_same_run(tmp_path / "live", tmp_path / "run")


def test_a_resumed_run_may_keep_outputs_elsewhere(teacher: Path, tmp_path: Path) -> None:
    settings = tiny(checkpoint_steps=4, train_size=30)
    with pytest.raises(Crash), in_step(6, crash):
        distill(teacher, tmp_path / "run", settings)
    moved = settings.changed(teacher_cache=str(tmp_path / "cache"))
    distill(teacher, tmp_path / "run", moved, resume=True)
    assert record(tmp_path / "run") == {"kept": str(tmp_path / "cache"), "reason": None}
    distill(teacher, tmp_path / "live", settings.changed(teacher_cache="off"))
    assert_same_run(tmp_path / "live", tmp_path / "run")


# test_teacher_cache_processes.py kills a process that fills a cache, without a trainer.
@pytest.mark.exhaustive
def test_runs_killed_while_they_fill_end_like_the_one_without_a_cache(
    with_torch: Forks, tmp_path: Path
) -> None:
    assert int(said(with_torch, KILLED, str(tmp_path), "5", "cache")) >= 4
    assert_same_run(tmp_path / "whole", tmp_path / "killed", epoch=3)
    assert record(tmp_path / "killed")["kept"] == str(tmp_path / "cache")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mixup": 0.2}, "--mixup 0.2: images differ from epoch to epoch"),
        ({"augment": "crop-flip"}, "--augment crop-flip: images differ from epoch to epoch"),
    ],
)
def test_auto_keeps_nothing_where_images_change(
    teacher: Path, tmp_path: Path, passes: list[int], changes: dict[str, Any], reason: str
) -> None:
    distill(teacher, tmp_path, tiny(epochs=1, milestones=(), **changes))
    assert passes == []
    assert record(tmp_path) == {"kept": None, "reason": reason}


def test_auto_takes_little_memory_and_says_so(
    teacher: Path,
    tmp_path: Path,
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = tiny(epochs=1, milestones=())
    # 60 images of ten logits and maps of 64, 16 and 4 positions.
    needed = 60 * 4 * (10 + 64 + 16 + 4)
    monkeypatch.setattr(cached_teacher, "AUTO_BYTES", needed)
    distill(teacher, tmp_path / "fits", settings)
    assert record(tmp_path / "fits")["kept"] == "memory"
    assert len(passes) == 6
    assert "not kept" not in capsys.readouterr().err
    monkeypatch.setattr(cached_teacher, "AUTO_BYTES", needed - 1)
    distill(teacher, tmp_path / "not", settings)
    assert record(tmp_path / "not")["kept"] is None
    assert len(passes) == 6
    assert "the teacher's outputs are not kept (0.0 GB, above the" in capsys.readouterr().err
    distill(teacher, tmp_path / "told", settings.changed(teacher_cache="memory"))
    assert record(tmp_path / "told")["kept"] == "memory"


@pytest.mark.parametrize("where", ["memory", "folder"])
@pytest.mark.parametrize(
    ("changes", "option"),
    [({"mixup": 0.2}, "--mixup 0.2"), ({"augment": "crop-flip"}, "--augment crop-flip")],
)
def test_asking_for_a_cache_of_changing_images_says_why_not(
    changes: dict[str, Any], option: str, where: str
) -> None:
    with pytest.raises(UsageError) as caught:
        tiny(teacher_cache=where, **changes)
    assert str(caught.value) == (
        f"--teacher-cache must be auto or off with {option}, by which images differ from epoch to "
        f"epoch and the teacher's outputs with them, got '{where}'"
    )


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UsageError, match="--teacher-cache must be auto, off, memory or a folder"):
        tiny(teacher_cache="")


def test_from_scratch_there_is_nothing_to_keep(tmp_path: Path) -> None:
    settings = tiny(method="scratch", teacher_cache="memory", epochs=1, milestones=())
    engine.distill(settings, tmp_path, None, **QUIET)
    assert record(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"train_size": 50}, "size (60 there, 50 here)"),
        ({"mixed_precision": "bf16"}, "autocast (no there, bf16 here)"),
        ({"method": "kd"}, "outputs (logits, map of conv2, "),
        ({"teacher_layers": ("conv2", "conv3")}, "outputs (logits, map of conv2, "),
    ],
)
def test_a_folder_of_other_outputs_is_refused_before_anything_is_written(
    teacher: Path, tmp_path: Path, changes: dict[str, Any], differs: str
) -> None:
    settings = tiny(epochs=1, milestones=(), teacher_cache=str(tmp_path / "cache"))
    distill(teacher, tmp_path / "first", settings)
    if "teacher_layers" in changes:
        changes["student_layers"] = changes["teacher_layers"]
    if "method" in changes:
        changes["method"] = parse(changes["method"])
    with pytest.raises(UsageError) as caught:
        distill(teacher, tmp_path / "other", settings.changed(**changes))
    assert str(caught.value).startswith(f"--teacher-cache {tmp_path / 'cache'}: ")
    assert f"which differs in {differs}" in str(caught.value)
    assert not (tmp_path / "other").exists()


def test_another_teachers_folder_is_refused(teacher: Path, tmp_path: Path) -> None:
    settings = tiny(epochs=1, milestones=(), teacher_cache=str(tmp_path / "cache"))
    distill(teacher, tmp_path / "first", settings)
    engine.train_teacher(tiny(seed=1, train_size=10), tmp_path / "teacher", **QUIET)
    with pytest.raises(UsageError, match=r"which differs in weights \([0-9a-f]{12} there, "):
        distill(tmp_path / "teacher", tmp_path / "other", settings)


def test_a_full_disk_is_said_before_the_training(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UsageError) as caught:
        distill(teacher, tmp_path / "run", tiny(teacher_cache=str(tmp_path / "cache")))
    assert "folder must have room for 23,260 bytes, got " in str(caught.value)
    assert "(No space left on device)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_sweep_has_a_cache_for_each_teacher_and_what_is_taken_of_it() -> None:
    keys = ("scratch", "kd", "skd", "amd-g", "at", "amd-gl+sp", "rkd")
    methods = tuple(map(parse, keys))
    points = sweep.points(Settings(teacher_cache="/c"), methods, 2, {}, {})
    assert [point.settings.teacher_cache for point in points[1]] == [
        f"/c/seed-1{name}"
        for name in [
            *("", "/logits", "/logits"),
            *("/logits+attention", "/logits+attention"),
            *("/logits+attention+last-map", "/logits+embedding"),
        ]
    ]
    for where in ("auto", "off", "memory"):
        points = sweep.points(Settings(teacher_cache=where), methods, 1, {}, {})
        assert {point.settings.teacher_cache for point in points[0]} == {where}


def test_students_of_a_sweep_share_what_the_teacher_gave(
    tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "finish", lambda *_: None)
    tiny_sizes = {"train_size": 40, "test_size": 100, "batch_size": 20, "epochs": 1}
    networks = {"teacher": "wrn10-1", "student": "wrn10-1"}
    recipe = replace(recipes.get("digits"), teacher_settings=tiny_sizes)
    overrides = {**tiny_sizes, **networks, "teacher_cache": str(tmp_path / "cache")}
    methods = tuple(map(parse, ("amd-g", "at", "kd", "skd")))
    sweep.run(recipe, overrides, tmp_path / "out", methods=methods, seeds=1, grid={}, **QUIET)
    # Two steps for the first of each pair.
    assert passes == [20] * 4
    caches = {path.name for path in (tmp_path / "cache" / "seed-0").iterdir()}
    assert caches == {"logits", "logits+attention"}


def test_a_teacher_has_no_such_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train-teacher", "--teacher-cache", "memory"])
    assert "--teacher-cache" in capsys.readouterr().err
