"""A recipe of the user's in YAML is one like those that are built in; what is wrong is one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from amd_fused.distill import recipe_files, recipes
from amd_fused.distill.cli import main
from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError
from amd_fused.distill.options import Parser, add_run_options, folder, settings_of
from amd_fused.distill.recipe import Recipe

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return to_file


def read(path: Path) -> Recipe:
    return recipe_files.find(str(path))


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_built_in_recipe_is_the_same_once_printed_and_read(name: str, write: Write) -> None:
    built_in = recipes.get(name)
    path = write(recipe_files.to_yaml(built_in))
    assert read(path) == replace(built_in, name="mine", reported=None, expected=())


def test_what_the_command_prints_can_be_fed_back(
    capsys: pytest.CaptureFixture[str], write: Write
) -> None:
    main(["recipes", "--show", "digits"])
    shown = capsys.readouterr().out
    main(["recipes", "--show", str(write(shown))])
    assert capsys.readouterr().out == shown


def test_settings_may_be_written_with_dashes_and_take_the_defaults_of_all_others(
    write: Write,
) -> None:
    recipe = read(write("batch-size: 32\nmethod: SP+amd-gl\nteacher_layers: [a, b]\nlr: 1\n"))
    settings = Settings(**recipe.settings)
    assert settings.method.key == "amd-gl+sp"
    assert (settings.batch_size, settings.lr) == (32, 1)
    assert settings.teacher_layers == ("a", "b")
    assert (recipe.name, recipe.methods, recipe.seeds) == ("mine", ("scratch", "amd-gl+sp"), 5)


def test_words_and_numbers_that_yaml_1_1_takes_for_something_else(write: Write) -> None:
    recipe = read(
        write("mixed_precision: no\nteacher_cache: off\nweight_decay: 1e-4\nchannels_last: true\n")
    )
    assert recipe.settings == {
        "mixed_precision": "no",
        "teacher_cache": "off",
        "weight_decay": 1e-4,
        "channels_last": True,
    }


def test_a_base_keeps_what_the_file_does_not_change(write: Write) -> None:
    base = recipes.get("fashion")
    recipe = read(write("base: fashion\nepochs: 2\nlr: 0.3\nteacher_settings: {momentum: 0.5}\n"))
    assert recipe.settings == {**base.settings, "epochs": 2, "lr": 0.3}
    # As --epochs of a sweep, which leaves sizes alone that are the teacher's own.
    assert recipe.teacher_settings == {**base.teacher_settings, "momentum": 0.5}
    assert (recipe.methods, recipe.trials) == (base.methods, base.trials)
    assert base.method_settings["scratch"]["lr"] != 0.3
    assert all("lr" not in own for own in recipe.method_settings.values())


def test_what_a_sweep_runs_stands_as_in_the_built_in_recipes(write: Write) -> None:
    recipe = read(
        write(
            "base: demo\nmethods: [kd, sp+AMD-G]\nseeds: 2\ngrid: {margin: [1, 1.5]}\n"
            "method_settings:\n  sp + amd-g: {sp-weight: 7}\nleft_out: {afds: too wide}\n"
        )
    )
    assert (recipe.methods, recipe.seeds) == (("kd", "amd-g+sp"), 2)
    assert recipe.grid == {"margin": (1, 1.5)}
    assert recipe.method_settings == {"amd-g+sp": {"sp_weight": 7}}
    assert recipe.left_out == {"afds": "too wide"}


def test_the_command_line_changes_what_a_file_says(write: Write) -> None:
    path = write("base: demo\nlr: 0.3\nmethod_settings: {kd: {temperature: 8}}\n")
    parser = Parser()
    add_run_options(parser, "distill")
    given = parser.parse_args(["--recipe", str(path), "--epochs=3", "--method=kd"])
    settings = settings_of(given, "distill")
    assert (settings.lr, settings.epochs, settings.temperature) == (0.3, 3, 8)
    assert settings.recipe == "mine"
    assert folder(given, "kd-seed-0") == Path("runs/mine/kd-seed-0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1", "'learning_rate' is no key of a recipe; `amd-fused distill --"),
        ("epoch: 1", "'epoch' is no key of a recipe; perhaps epochs"),
        ("seed-s: 1", "'seed-s' is no key of a recipe; perhaps seeds"),
        ("recipe: digits", "'recipe' is no key of a recipe; "),
        ("epochs: ten", "epochs must be a whole number, got 'ten'"),
        ("epochs: true", "epochs must be a whole number, got True"),
        ("lr: fast", "lr must be a number, got 'fast'"),
        ("channels_last: yes", "channels_last must be true or false, got 'yes'"),
        ("data: 3", "data must be text, got 3"),
        ("student_layers: a", "student_layers must be a list, each text, got 'a'"),
        ("milestones: [a]", "milestones must be a list, each a whole number, got ['a']"),
        ("method: amd", "method: --method must be one of "),
        ("method: 3", "method must be the name of a method, got 3"),
        ("lr: -1", "--lr must be > 0, got -1"),
        ("teacher_settings: {lr: -1}", "--lr must be > 0, got -1"),
        ("method_settings: {kd: {temperature: 0}}", "--temperature must be > 0, got 0"),
        ("lr: 1\nlr: 2", "must be YAML, but the key 'lr' stands twice"),
        ("batch-size: 4\nbatch_size: 5", "batch_size must be given once, got it again"),
        ("lr: [", "must be YAML, but "),
        ("- lr", "must be keys with values, got ['lr']"),
        ("", "must be keys with values, got None"),
        ("base: digit", "base: --recipe must be one of "),
        ("methods: kd", "methods must be a list of methods, got 'kd'"),
        ("methods: [kt]", "methods: --method must be one of "),
        ("seeds: many", "seeds must be a whole number, got 'many'"),
        ("grid: {sigma: [1]}", "grid: 'sigma' is no key of a recipe; "),
        ("grid: {gamma: 1}", "grid, gamma must be a list, each a number, got 1"),
        ("method_settings: {kd: {tau: 1}}", "method_settings, kd: 'tau' is no key of a recipe"),
        ("teacher_settings: {lr: a}", "teacher_settings, lr must be a number, got 'a'"),
        ("tune: {trials: [{method: kd, after: at, tried: [{lr: 1}]}]}", "after must be a method"),
        ("tune: {trials: [{method: kd}]}", "tried must be a list of settings, got None"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file_the_key_and_the_value(
    text: str, message: str, write: Write
) -> None:
    path = write(text)
    with pytest.raises(UsageError) as error:
        read(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert message in line
    assert "\n" not in line


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"--recipe must be a file that can be read, got .*no\.yml"
    ):
        read(tmp_path / "no.yml")
