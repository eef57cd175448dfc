"""Settings are chosen on held-out training images, by a rule, with as many trials a method."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("accelerate")

from amd_fused.distill import engine, recipes, sweep, trials
from amd_fused.distill.cli import main
from amd_fused.distill.config import Settings
from amd_fused.distill.errors import TrainingError
from amd_fused.distill.methods import TERMS, parse
from amd_fused.distill.run_dir import RunDir, find_runs
from amd_fused.distill.trials import Trials, best, tuned
from amd_fused.distill.tune import SEED
from distill.run_folders import teacher_run

TRIED = (
    Trials("scratch", ({"lr": 0.01}, {"lr": 0.1})),
    Trials("kd", ({"temperature": 2.0}, {"temperature": 8.0}), "scratch"),
    Trials("amd-g", ({"gamma": 1.0}, {"gamma": 100.0}), "kd"),
)
TINY = replace(
    recipes.get("digits"),
    name="tiny",
    settings={
        **recipes.get("digits").settings,
        "teacher": "wrn10-1",
        "student": "wrn10-1",
        "train_size": 60,
        "batch_size": 10,
        "epochs": 1,
        "test_size": 20,
    },
    teacher_settings={},
    trials=TRIED,
    validation_size=50,
)


@pytest.fixture(scope="module")
def tuned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, "tiny", TINY)
        assert main(["tune", "--recipe=tiny", "--quiet", "--output-dir", str(out)]) == 0
    return out


def test_the_choice_is_the_rules_of_what_was_tried(tuned_folder: Path) -> None:
    found = json.loads((tuned_folder / "tiny.json").read_text())
    assert [(t["method"], t["after"]) for t in found["trials"]] == [
        ("scratch", None),
        ("kd", "scratch"),
        ("amd-g", "kd"),
    ]
    chosen: dict[str, dict[str, float]] = {}
    for tried in found["trials"]:
        assert len(tried["trials"]) == 2
        first, second = tried["trials"]
        better = (second["top1"], -second["nll"]) > (first["top1"], -first["nll"])
        own = (second if better else first)["settings"]
        chosen[tried["method"]] = {**chosen.get(tried["after"], {}), **own}
    assert found["chosen"] == chosen
    assert set(chosen["amd-g"]) == {"lr", "temperature", "gamma"}


def test_trials_see_held_out_images_and_no_test_image(tuned_folder: Path) -> None:
    runs = list(find_runs(tuned_folder))
    assert len(runs) == 7
    chosen = json.loads((tuned_folder / "tiny.json").read_text())["chosen"]
    for run in runs:
        settings = run.settings()
        assert (settings.validation_size, settings.test_size, settings.seed) == (50, 0, SEED)
        assert sum(run.result()["reliability"]["count"]) == 50
    student = RunDir(tuned_folder / "amd-g" / "trial-1").settings()
    assert student.gamma == 100
    assert (student.lr, student.temperature) == (chosen["kd"]["lr"], chosen["kd"]["temperature"])


def test_a_second_start_trains_nothing(
    tuned_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    before = {run.path: run.result_file.stat().st_mtime_ns for run in find_runs(tuned_folder)}
    assert main(["tune", "--recipe=tiny", "--quiet", "--output-dir", str(tuned_folder)]) == 0
    after = {run.path: run.result_file.stat().st_mtime_ns for run in find_runs(tuned_folder)}
    assert after == before
    assert f"Written: {tuned_folder / 'tiny.json'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe=cifar10-a"], "--recipe must be one with trials, got 'cifar10-a'"),
        (["--recipe=fashion", "--gamma=3"], "--gamma must not be given, for it is to be chosen"),
        (["--recipe=fashion", "--validation-size=0"], "--validation-size must be at least 1, got"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["tune", *arguments, "--output-dir", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_of_equal_accuracies_the_lower_likelihood_decides_and_then_the_first() -> None:
    outcomes = [{"top1": 80.0, "nll": 0.5}, {"top1": 81.0, "nll": 0.9}, {"top1": 81.0, "nll": 0.7}]
    assert best(outcomes) == 2
    assert best([*outcomes, outcomes[2]]) == 2


def test_a_sweep_gives_each_method_what_was_chosen_for_it_and_the_command_line_wins() -> None:
    own = {"kd": {"temperature": 8.0}, "amd-g": {"gamma": 7.0}}
    methods = tuple(parse(key) for key in ("kd", "amd-g"))
    ((kd, amd),) = sweep.points(Settings(), methods, 1, {}, own)
    assert (kd.settings.temperature, kd.settings.gamma) == (8, Settings().gamma)
    assert (amd.settings.temperature, amd.settings.gamma) == (Settings().temperature, 7)
    (points,) = sweep.points(Settings(), methods, 1, {"gamma": (1.0, 2.0)}, own)
    assert [point.settings.gamma for point in points[1:]] == [1, 2]


OWN = replace(TINY, method_settings={"kd": {"temperature": 8.0, "lr": 0.3}})


def test_a_sweep_takes_them_from_its_recipe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[Settings] = []
    monkeypatch.setattr(engine, "train_teacher", lambda *_, **options: None)
    monkeypatch.setattr(engine, "distill", lambda settings, *_, **options: given.append(settings))
    monkeypatch.setattr(sweep, "finish", lambda *_: None)
    methods = (parse("scratch"), parse("kd"))
    sweep.run(OWN, {"lr": 0.7}, tmp_path, methods=methods, seeds=1, grid={})
    assert [(s.temperature, s.lr) for s in given] == [(Settings().temperature, 0.7), (8, 0.7)]


def test_a_single_student_takes_them_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Settings] = []

    def distill(settings: Settings, *_: object, **options: object) -> None:
        given.append(settings)
        raise TrainingError("far enough")

    monkeypatch.setitem(recipes.RECIPES, "tiny", OWN)
    monkeypatch.setattr(engine, "distill", distill)
    teacher = teacher_run(tmp_path / "teacher", 90)
    for options in ([], ["--lr=0.7"]):
        arguments = [*options, "--method=kd", "--teacher-run", str(teacher)]
        out = str(tmp_path / "out")
        assert main(["distill", "--recipe=tiny", *arguments, "--output-dir", out]) == 3
    assert [(s.temperature, s.lr) for s in given] == [(8, 0.3), (8, 0.7)]


def test_a_recipe_reads_what_was_committed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "_TUNED", tmp_path)
    assert tuned("mine") == {}
    (tmp_path / "mine.json").write_text(json.dumps({"chosen": {"kd": {"temperature": 2.0}}}))
    assert tuned("mine") == {"kd": {"temperature": 2.0}}


def test_all_methods_have_as_many_trials_each_after_what_it_starts_from() -> None:
    for recipe in recipes.RECIPES.values():
        if not recipe.trials:
            continue
        assert {len(t.tried) for t in recipe.trials} == {3}
        seen: list[str | None] = [None]
        for one in recipe.trials:
            assert one.after in seen
            seen.append(one.method)
            for tried in one.tried:
                Settings(**{**recipe.settings, **tried})
        assert seen[1:] == list(recipe.methods)
        known = {term.key for term in TERMS} - recipe.left_out.keys()
        assert set(recipe.methods) == known | {"amd-gl+sp"}


def test_what_is_committed_is_what_its_trials_say() -> None:
    for name, recipe in recipes.RECIPES.items():
        if not tuned(name):
            continue
        found = json.loads((trials._TUNED / f"{name}.json").read_text())
        assert found["rule"] == trials.RULE
        assert [t["method"] for t in found["trials"]] == [t.method for t in recipe.trials]
        chosen: dict[str, dict[str, float]] = {}
        for tried in found["trials"]:
            top = max(tried["trials"], key=lambda one: (one["top1"], -one["nll"]))
            chosen[tried["method"]] = {**chosen.get(tried["after"], {}), **top["settings"]}
        assert chosen == found["chosen"]


def test_weights_on_digits_are_tried_around_what_is_carried_over() -> None:
    """A 16th of the paper's for means over positions, of which maps of 8x8 images have a 16th."""
    tried = {one.method: one for one in recipes.get("digits").trials}
    expected = {
        "at": {"at_weight": 1000 / 16},
        "afd": {"afd_weight": 200 / 16},
        "amd-masked-gl": {"gamma": 5000 / 16},
        "vid": {"vid_weight": 1.0},
        "crd": {"crd_weight": 0.8},
        "cc": {"cc_weight": 0.02},
    }
    for method, weights in expected.items():
        low, middle, high = tried[method].tried
        assert middle == weights
        assert low == {name: value / 5 for name, value in weights.items()}
        assert high == {name: value * 5 for name, value in weights.items()}
        assert tried[method].after == "kd"
    assert [one["sp_weight"] for one in tried["amd-gl+sp"].tried] == [600, 3000, 15000]
    assert tried["amd-gl+sp"].after == "amd-gl"
    fashion = {one.method: one for one in recipes.get("fashion").trials}
    assert fashion["crd"].tried[1] == {"crd_negatives": 1024, "crd_weight": 0.8}
