"""A sweep trains each run once, goes on where it was stopped, and ends in a table and a report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate")

from amd_fused.distill import engine, recipes, sweep
from amd_fused.distill.cli import main
from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import Method, parse
from amd_fused.distill.run_dir import RunDir, find_runs

TINY = ["--train-size=40", "--batch-size=20", "--epochs=1", "--quiet"]
RECIPE = """
data: digits
methods: [kd]
seeds: 5
teacher: wrn10-1
student: wrn10-1
test_size: 100
report_images: 1
teacher_settings: {epochs: 2, train_size: 60}
"""


def methods(*keys: str) -> tuple[Method, ...]:
    return tuple(map(parse, keys))


def test_every_method_once_and_amd_at_every_point_of_the_grid() -> None:
    grid = {"gamma": (10.0, 2.5), "margin": (1.35,)}
    points = sweep.points(Settings(), methods("scratch", "amd-g", "amd-gl+sp"), 2, grid, {})
    assert [str(point.folder) for point in points[1]] == [
        "scratch/seed-1",
        "amd-g_gamma-10_margin-1.35/seed-1",
        "amd-g_gamma-2.5_margin-1.35/seed-1",
        "amd-gl+sp_gamma-10_margin-1.35/seed-1",
        "amd-gl+sp_gamma-2.5_margin-1.35/seed-1",
    ]
    last = points[1][-1].settings
    assert (last.method.key, last.seed, last.gamma, last.margin) == ("amd-gl+sp", 1, 2.5, 1.35)
    assert len(points) == 2
    assert str(points[0][0].folder) == "scratch/seed-0"


def test_the_components_of_fig_5_are_swept_as_numbers_are() -> None:
    recipe = recipes.get("fashion-components")
    (points,) = sweep.points(
        Settings(**recipe.settings), methods("kd", "amd-g"), 1, recipe.grid, {}
    )
    assert [str(point.folder) for point in points] == [
        "kd/seed-0",
        *(f"amd-g_components-{of}/seed-0" for of in ("a", "p", "n", "apn")),
    ]
    assert [point.settings.components for point in points] == ["apn", "a", "p", "n", "apn"]
    with pytest.raises(UsageError, match="--components must differ, got a a"):
        sweep.points(Settings(), methods("amd-g"), 1, {"components": ("a", "a")}, {})


def test_a_method_that_does_not_go_with_the_settings_is_refused_before_any_training() -> None:
    with pytest.raises(UsageError, match="--mixup must be 0 with nd"):
        sweep.points(Settings(mixup=0.2), methods("kd", "nd"), 1, {}, {})


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep")
    (out / "small.yaml").write_text(RECIPE)
    assert run(out, "--methods", "scratch", "kd", "amd-g", "--gamma", "10", "300") == 0
    return out


def run(out: Path, *options: str) -> int:
    of_recipe = ["--recipe", str(out / "small.yaml"), "--seeds=1", "--output-dir", str(out)]
    return main(["sweep", *of_recipe, *TINY, *options])


def test_all_runs_end_in_one_table_and_one_report(swept: Path) -> None:
    names = {str(run.path.relative_to(swept)) for run in find_runs(swept)}
    points = {"amd-g_gamma-10", "amd-g_gamma-300"}
    assert names == {f"{name}/seed-0" for name in {"teacher", "scratch", "kd", *points}}
    with (swept / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5
    for name in ("table.md", "report.html", "report.json", "gamma.png"):
        assert (swept / name).stat().st_size > 0


def test_teacher_has_the_recipes_own_size_and_students_name_it(swept: Path) -> None:
    teacher = RunDir(swept / "teacher" / "seed-0").config()
    assert teacher["settings"]["train_size"] == 60
    assert teacher["settings"]["epochs"] == 2
    student = RunDir(swept / "kd" / "seed-0").config()
    assert student["settings"]["train_size"] == 40
    assert Path(student["teacher"]["run"]).resolve() == (swept / "teacher" / "seed-0").resolve()
    assert student["teacher"]["epoch"] == 2
    assert RunDir(swept / "scratch" / "seed-0").config()["teacher"] is None


@pytest.mark.parametrize(
    ("recipe", "epochs", "train_size"), [("digits", 10, 0), ("cifar10-a", 3, 40)]
)
def test_sizes_that_the_recipe_does_not_set_apart_are_the_teachers_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recipe: str, epochs: int, train_size: int
) -> None:
    taught: list[Settings] = []

    def train_teacher(settings: Settings, *_: Any, **options: Any) -> None:
        taught.append(settings)

    monkeypatch.setattr(engine, "train_teacher", train_teacher)
    monkeypatch.setattr(engine, "distill", lambda *_, **options: None)
    monkeypatch.setattr(sweep, "finish", lambda *_: None)
    changes = {"epochs": 3, "train_size": 40, "lr": 0.3}
    sweep.run(recipes.get(recipe), changes, tmp_path, methods=methods("kd"), seeds=2, grid={})
    assert [(s.epochs, s.train_size, s.lr, s.seed) for s in taught] == [
        (epochs, train_size, 0.3, seed) for seed in (0, 1)
    ]


def test_second_start_trains_only_what_is_missing(
    swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "finish", lambda *_: None)
    marked = {run.path: {**run.result(), "seconds": -1.0} for run in find_runs(swept)}
    for path, result in marked.items():
        RunDir(path).result_file.write_text(json.dumps(result))
    assert run(swept, "--methods", "kd", "at") == 0
    after = {run.path: run.result() for run in find_runs(swept)}
    assert set(after) - set(marked) == {swept / "at" / "seed-0"}
    assert all(after[path] == result for path, result in marked.items())


def test_other_settings_in_the_same_folder_are_refused(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(swept, "--lr=0.01", "--methods", "kd")
    assert stopped.value.code == 2
    assert "lr" in capsys.readouterr().err
