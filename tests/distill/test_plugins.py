"""A method and a data set of the user's are like the built-in ones; what is wrong is one line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from distill.plugged import MINE, forget

pytest.importorskip("accelerate")

from amd_fused.distill import (
    ImageData,
    data,
    option,
    plugins,
    recipe_files,
    register_dataset,
    register_method,
)
from amd_fused.distill.cli import main
from amd_fused.distill.config import Settings, all_settings
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import BUILT_IN, TERMS, Features, Shapes, parse
from amd_fused.distill.options import Parser, add_run_options, settings_of
from amd_fused.distill.run_dir import RunDir


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "my_distillation.py"
    path.write_text(MINE)
    return path


def test_a_method_of_the_users_has_a_name_a_weight_and_options(mine: Path) -> None:
    before = Settings()
    plugins.load(str(mine))
    settings = Settings(method=parse("sp + MINE"), mine_power=3.0)
    assert (settings.method.key, settings.method.label) == ("sp+mine", "SP + Mine")
    assert (settings.mine_weight, settings.mine_power, settings.mine_form) == (0.5, 3.0, "a")
    assert settings.changed(mine_weight=2.0).mine_weight == 2.0
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    names = [one.name for one in all_settings()]
    assert names.index("mine_weight") > names.index("backend")
    assert settings.method.depends_on("mine_power", "objective")
    assert not parse("sp").depends_on("mine_power", "objective")
    with pytest.raises(UsageError, match="--mine-power must be > 0, got 0"):
        settings.changed(mine_power=0)
    with pytest.raises(UsageError, match="--mine-form must be one of a, b, got 'c'"):
        Settings(mine_form="c")
    # Settings from before have it once they are changed, and are worth what they were.
    assert before.changed(lr=0.3).mine_power == 2.0
    assert [term.key for term in TERMS] == [term.key for term in BUILT_IN] + ["mine", "logit-mse"]


def test_its_loss_is_part_of_the_objective_by_its_weight(mine: Path) -> None:
    plugins.load(str(mine))
    method = parse("mine")
    shapes = Shapes(student_maps=((2, 4, 4),), teacher_maps=((3, 4, 4),))
    settings = Settings(method=method, mine_weight=7.0, kd_weight=0.0, ce_weight=0.0)
    criterion = method.criterion(settings, None, shapes)
    student, teacher = torch.randn(5, 2, 4, 4), torch.randn(5, 3, 4, 4)
    value = criterion(None, None, None, {"mine": [student]}, {"mine": [teacher]})
    loss = criterion.feature_loss["mine"]
    torch.testing.assert_close(value, 7 * (loss.map(student) - teacher).square().mean())
    assert len(list(criterion.parameters())) == 2


def test_the_example_of_the_docs_is_a_method_and_a_data_set(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text()
    (example,) = re.findall(r"```python\n(# mine\.py\n.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(example)
    plugins.load(str(tmp_path / "mine.py"))
    dataset = data.load(Settings(data="stripes"))
    assert (dataset.num_classes, len(dataset.train), dataset.image_size) == (2, 512, 16)
    method = parse("gram+sp")
    features = Features([torch.randn(3, 2, 4, 4)], None)
    inputs = method.feature_inputs(features, features)
    settings = Settings(method=method, kd_weight=0.0, ce_weight=0.0, gram_power=1.0)
    criterion = method.criterion(settings, None, Shapes())
    assert criterion(None, None, None, *inputs).item() == pytest.approx(0.0, abs=1e-6)
    assert settings.gram_weight == 10


def test_a_loss_of_logits_stands_in_the_place_of_kd(mine: Path) -> None:
    plugins.load(str(mine))
    assert parse("at+logit-mse").key == "logit-mse+at"
    method = parse("logit-mse")
    criterion = method.criterion(Settings(method=method, kd_weight=2.0))
    z_s, z_t = torch.randn(2, 6, 10)
    criterion(z_s, z_t, torch.arange(6))
    torch.testing.assert_close(criterion.parts["kd"], (z_s - z_t).square().mean())


@pytest.mark.usefixtures("undrawn")
def test_a_run_goes_on_is_tested_and_tabled_with_the_plugin_that_it_names(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plugin and a recipe, through the commands; each finds the plugin by itself."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "plugins: [my_distillation.py]\ndata: squares\nmethods: [mine, amd-gl+mine]\nseeds: 1\n"
        "teacher: wrn10-1\nstudent: wrn10-1\nepochs: 1\nbatch_size: 10\nmine-power: 3\n"
        "gamma: 1\nreport-images: 1\n"
        "method_settings: {mine: {mine_weight: 0.25}}\n"
    )
    out = tmp_path / "out"
    assert main(["sweep", "--recipe", str(recipe), "--quiet", "--output-dir", str(out)]) == 0
    run = out / "mine" / "seed-0"
    config = json.loads((run / "config.json").read_text())
    assert [one["plugin"] for one in config["plugins"]] == [str(mine)]
    settings = RunDir(run).settings()
    assert (settings.mine_power, settings.mine_weight, settings.recipe) == (3, 0.25, "small")
    assert RunDir(run).epochs()[0]["parts"]["mine"] > 0
    shown = capsys.readouterr().out
    assert "| Mine |" in shown
    with (out / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3

    for command in (
        ["table", str(out)],
        ["evaluate", str(run)],
        ["distill", "--resume", "--quiet", "--no-report", "--output-dir", str(run)],
    ):
        forget()
        assert main(command) == 0, command
    forget()
    moved = tmp_path / "moved"
    moved.mkdir()
    mine.rename(moved / mine.name)
    with pytest.raises(SystemExit):
        main(["evaluate", str(run)])
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"its plugin must be there, but there is no {mine}; --plugin says where" in line
    assert main(["evaluate", "--plugin", str(moved / mine.name), str(run)]) == 0


def test_options_of_a_plugin_are_those_of_the_command_line(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["distill", "--plugin", str(mine), "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--mine-power X" in shown
    assert "squares" in shown
    parser = Parser()
    add_run_options(parser, "distill")
    given = parser.parse_args(["--plugin", str(mine), "--mine-power=1.5", "--method=mine+at"])
    settings = settings_of(given, "distill")
    assert (settings.mine_power, settings.method.key) == (1.5, "at+mine")


def test_a_recipe_with_a_plugin_can_be_printed_and_fed_back(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first.yaml"
    first.write_text("plugins: [my_distillation.py]\nmine_power: 4\nmethod: mine\n")
    main(["recipes", "--show", str(first)])
    second = tmp_path / "folder"
    second.mkdir()
    (second / "first.yaml").write_text(capsys.readouterr().out)
    forget()
    assert recipe_files.find(str(second / "first.yaml")) == recipe_files.find(str(first))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "must be importable, got {file}: ZeroDivisionError: division by zero ({file}, l"),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_mod"),
        ("def f(:", "SyntaxError: "),
        ("from amd_fused.distill import *; register_method('kd', compares='maps')", "got 'kd'"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "broken_plugin.py"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        plugins.load(str(file))
    line = str(error.value)
    assert line.startswith("--plugin ")
    assert message.format(file=file) in line
    assert "\n" not in line


def test_plugins_that_are_not_there_or_mean_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be a file or a module, but there is no /"):
        plugins.load(str(tmp_path / "none.py"))
    with pytest.raises(UsageError, match="must be importable, got no_such_module: ModuleNotFound"):
        plugins.load("no_such_module")
    for name in ("json", "amd_fused", "this"):
        file = tmp_path / f"{name}.py"
        file.write_text("")
        with pytest.raises(UsageError, match="--plugin must have a name that no other module has"):
            plugins.load(str(file))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice.py").write_text("")
    plugins.load(str(tmp_path / "a" / "twice.py"))
    plugins.load(str(tmp_path / "a" / "twice.py"))
    with pytest.raises(UsageError, match=r"got .*/b/twice.py; twice is .*/a/twice.py"):
        plugins.load(str(tmp_path / "b" / "twice.py"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("kd", {}, "name must be none that there is already, got 'kd'"),
        ("amd", {}, "name must not mean something else, got 'amd'"),
        ("keys", {}, "name must not mean something else, got 'keys'"),
        ("My_Loss", {}, "name must be lower-case words and digits joined by dashes, got 'My_Loss'"),
        ("mine", {"compares": "pixels"}, "compares must be one of maps, last-map, embedding, log"),
        ("mine", {"weight": -1}, "'mine': weight must be finite and >= 0, got -1"),
        ("mine", {"weight": True}, "weight must be finite and >= 0, got True"),
        ("mine", {"compares": "logits", "weight": 1.0}, "weight must be left out with logits, got"),
        ("mine", {"options": [1]}, "options must be a dict of options, got [1]"),
        ("mine", {"options": {"Power": option(1, "")}}, "an option must be a name in lower case"),
        ("mine", {"options": {"power": 2.0}}, "options, power must be what option() makes of a b"),
        ("mine", {"options": {"power": option(None, "")}}, "options, power must be what option()"),
        ("at", {}, "name must be none that there is already, got 'at'"),
        ("crd-negatives", {"options": {}}, None),
        ("lsh-x", {"options": {"weight": option(1.0, "")}}, "options must not have a weight"),
        (
            "report",
            {"options": {"images": option(1, "")}},
            "not be one already, got --report-images",
        ),
        ("teacher-run", {}, None),
    ],
)
def test_a_method_that_cannot_be_registered_is_one_line(
    name: str, arguments: dict[str, object], message: str | None
) -> None:
    def call() -> None:
        register_method(name, **{"compares": "maps", **arguments})(lambda *_: nn.Identity())

    if message is None:
        call()
        assert parse(name).key == name
        return
    with pytest.raises(UsageError) as error:
        call()
    assert str(error.value).startswith("register_method")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_method_makes_must_be_a_module() -> None:
    register_method("mine", compares="maps")(lambda settings, shapes: 3.0)
    method = parse("mine")
    with pytest.raises(UsageError, match=r"must return a torch\.nn\.Module, got float"):
        method.criterion(Settings(method=method), None, Shapes())


IMAGES, LABELS = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2


class Set(torch.utils.data.Dataset):
    """Images as ToTensor gives them, of which each differs from the next."""

    def __init__(self, count: int, jitter: float = 0.0) -> None:
        self.count, self.jitter = count, jitter

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, 4, 4), index / 10) + self.jitter * torch.rand(1), index % 2


def loaded(found: object, **changes: object) -> data.DataSet:
    register_dataset("own")(lambda settings: found)
    return data.load(Settings(data="own", **changes))


def test_arrays_are_a_data_set_normalised_by_their_own_mean_and_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3000, 2, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.arange(3000) % 3
    found = ImageData((images.numpy(), labels.numpy()), (images[:5], labels[:5]), 3)
    dataset = loaded(found, train_size=2997)
    every = images.double() / 255
    mean, std = every.mean((0, 2, 3)), every.std((0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(dataset.mean, dtype=torch.float64), mean)
    torch.testing.assert_close(torch.tensor(dataset.std, dtype=torch.float64), std)
    assert (len(dataset.train), dataset.class_names) == (2997, ("0", "1", "2"))
    assert (dataset.channels, dataset.image_size, dataset.num_classes) == (2, 4, 3)
    expected = (every[:2] - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(dataset.test.batch([0, 1], None), expected.float())


def test_a_dataset_of_torchs_is_read_image_by_image() -> None:
    dataset = loaded(ImageData(Set(10), Set(4), 2, ["no", "yes"]), train_size=6)
    assert dataset.class_names == ("no", "yes")
    # Classes take turns, and they do so already.
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    batch = dataset.train.batch([1, 3], None)
    torch.testing.assert_close(
        batch, torch.tensor([0.1, 0.3])[:, None, None, None].expand_as(batch)
    )
    forget()
    changed = loaded(ImageData(Set(10), Set(4), 2), augment="crop-flip").train.batch([9], 1)
    assert set(changed.unique().tolist()) <= {0.0, changed.max().item()}
    assert changed.max().item() == pytest.approx(0.9)
    forget()
    halved = loaded(ImageData(Set(10), Set(4), 2, mean=[0.5] * 3, std=[0.5] * 3))
    torch.testing.assert_close(halved.test.batch([3], None), torch.full((1, 3, 4, 4), -0.4))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"train": 1}, "what register_dataset decorates must return an ImageData, got dict"),
        (ImageData((IMAGES, LABELS), (IMAGES, LABELS), 1), "num_classes must be at least 2, got 1"),
        (ImageData((IMAGES, LABELS), (IMAGES, LABELS), 3, ["a"]), "class_names must be 3 names"),
        (ImageData((IMAGES, LABELS + 1), (IMAGES, LABELS), 2), "labels must be from 0 to 1, got 2"),
        (ImageData((IMAGES, LABELS[:3]), (IMAGES, LABELS), 2), "train: labels must be whole num"),
        (ImageData((IMAGES, LABELS / 2), (IMAGES, LABELS), 2), "labels must be whole numbers"),
        (ImageData((IMAGES[0], LABELS), (IMAGES, LABELS), 2), "images must be [N, C, H, W], got"),
        (ImageData((IMAGES.int(), LABELS), (IMAGES, LABELS), 2), "images must be uint8 or float"),
        (ImageData((IMAGES[..., 1:], LABELS), (IMAGES, LABELS), 2), "must be square, [C, H, H]"),
        (ImageData((IMAGES, LABELS), (IMAGES.float(), LABELS), 2), "test must have images like"),
        (ImageData(("a", LABELS), (IMAGES, LABELS), 2), "train must hold arrays of numbers"),
        (ImageData(3, (IMAGES, LABELS), 2), "train must be a pair of images and labels, or a D"),
        (ImageData((IMAGES, LABELS), Set(0), 2), "test must have at least 1 image, got none"),
        (
            ImageData([1, 2, 3], Set(1), 2),
            "train[0] must be an image, a tensor, and a label, got 1",
        ),
        (ImageData(Set(4, jitter=1.0), Set(2), 2), "must give the same image for an index each"),
        (ImageData(Set(4), Set(2), 2, mean=[0.5] * 3), "mean and std must be given together"),
        (ImageData(Set(4), Set(2), 2, mean=[0.5], std=[1.0]), "must be 3 numbers each"),
        (ImageData((IMAGES, LABELS), (IMAGES, LABELS), 2), "std > 0, got [0.0] and [0.0]"),
    ],
)
def test_a_data_set_that_breaks_a_rule_is_one_line(found: object, message: str) -> None:
    with pytest.raises(UsageError) as error:
        loaded(found)
    assert str(error.value).startswith("--data own")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_data_set_has_a_name_of_its_own_and_no_random_resized_crop() -> None:
    with pytest.raises(UsageError, match=r"register_dataset: name must be none .*, got 'digits'"):
        register_dataset("digits")
    with pytest.raises(UsageError, match="--augment must be none or crop-flip for own"):
        loaded(ImageData(Set(4), Set(2), 2), augment="imagenet")
