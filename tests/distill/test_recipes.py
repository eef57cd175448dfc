"""Recipes hold the paper's numbers (section 5.1.2, Tables 2 to 7) and valid settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from amd_fused.distill import paper, recipes
from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError

# Not the paper's data, with settings of their own.
OWN = ("demo", "digits", "fashion", "fashion-gamma", "fashion-margin")
# Section 5.1.2, "(lambda_1, lambda_2, tau)".
WEIGHTS = {
    "cifar10": (0.1, 0.9, 4),
    # As CIFAR-10.
    "fashion-mnist": (0.1, 0.9, 4),
    "cinic10": (0.4, 0.6, 16),
    "tiny-imagenet": (0.7, 0.3, 16),
    "imagenet": (1.0, 1.0, 4),
}
# Table 2, and the setups that Tables 4 and 5 add.
NETWORKS = {
    "a": ("wrn16-3", "wrn16-1"),
    "b": ("wrn28-1", "wrn16-1"),
    "c": ("wrn16-3", "wrn28-1"),
    "d": ("resnet44", "wrn16-1"),
    "ca": ("wrn28-3", "wrn16-1"),
    "bb": ("wrn40-1", "wrn16-1"),
    "cb": ("wrn40-2", "wrn16-1"),
}


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_a_run_of_both_roles(name: str) -> None:
    recipe = recipes.get(name)
    for values in (recipe.settings, {**recipe.settings, **recipe.teacher_settings}):
        settings = Settings(**values)
        if name not in OWN:
            weights = (settings.ce_weight, settings.kd_weight, settings.temperature)
            assert weights == WEIGHTS[settings.data]
            on_imagenet = settings.data == "imagenet"
            assert settings.epochs == (100 if on_imagenet else 200)
            assert settings.batch_size == (256 if on_imagenet else 128)
            milestones = (30, 60, 90) if on_imagenet else (40, 80, 120, 160)
            assert settings.milestones == milestones
            assert settings.lr_decay == (0.1 if on_imagenet else 0.2)
            assert (settings.lr, settings.momentum, settings.weight_decay) == (0.1, 0.9, 1e-4)
            assert (settings.margin, settings.scale, settings.local_weight) == (1.35, 64, 0.2)
            augment = {"tiny-imagenet": "crop-flip", "imagenet": "imagenet"}
            assert settings.augment == augment.get(settings.data, "none")
    assert recipe.reported is not None or settings.data in ("digits", "fashion-mnist")


@pytest.mark.parametrize(
    ("data", "setups"),
    [
        ("cifar10", "a b c d"),
        ("fashion", "a b c d"),
        ("cinic10", "a b ca d"),
        ("tiny-imagenet", "a bb cb d"),
    ],
)
def test_setups_are_the_tables_networks(data: str, setups: str) -> None:
    for setup in setups.split():
        settings = recipes.get(f"{data}-{setup}").settings
        assert (settings["teacher"], settings["student"]) == NETWORKS[setup]


def test_reported_accuracies_are_the_tables() -> None:
    cifar = paper.CIFAR10["a"]
    assert (cifar.teacher_top1, cifar.student_top1) == (87.76, 84.11)
    assert cifar.methods["amd-gl"] == (86.36, 0.10)
    assert cifar.methods["rkd"] == (85.45, 0.09)
    # Table 4 has no RKD.
    assert "rkd" not in paper.CINIC10["a"].methods
    assert paper.CINIC10["mobilenetv2-resnet20"].methods["sp"] == (73.71, 0.10)
    assert paper.TINY_IMAGENET["bb"].methods["amd-g"] == (50.15, 0.10)
    assert paper.IMAGENET.methods["amd-g"] == (71.58, None)


def test_table_7_repeats_what_tables_3_and_4_report() -> None:
    """Its columns of the same pairs: WRN16-3 to WRN28-1, and three of CINIC-10."""
    expected = {
        ("CIFAR10", "c"): (86.57, 86.77, 86.56, 87.13, 87.35),
        ("CIFAR10", "b"): (85.48, 85.79, 85.77, 86.04, 86.10),
        ("CINIC10", "a"): (74.31, 74.63, 74.43, 75.04, 75.18),
        ("CINIC10", "b"): (74.66, 74.73, 74.94, 75.14, 75.21),
    }
    for (data, setup), values in expected.items():
        methods = getattr(paper, data)[setup].methods
        found = tuple(methods[key][0] for key in ("kd", "at", "sp", "amd-g", "amd-gl"))
        assert found == values


def test_deviations_are_those_of_table_7() -> None:
    """Of its columns for pairs that are in no other table, a row a method."""
    pairs = {
        "CIFAR10": ("wrn40-1", "wrn16-8"),
        "CINIC10": (
            *("wrn16-8", "wrn40-1", "wrn40-2"),
            *("wrn16-3-resnet20", "wrn28-3-resnet20", "mobilenetv2-resnet20"),
        ),
        "TINY_IMAGENET": ("wrn16-3-resnet20",),
    }
    expected = {
        "kd": ".11 .08 .16 .03 .09 .11 .07 .06 .13",
        "at": ".11 .05 .14 .06 .08 .11 .09 .10 .05",
        "sp": ".11 .08 .13 .07 .09 .10 .09 .10 .09",
        "amd-g": ".09 .17 .09 .07 .20 .08 .06 .03 .25",
        "amd-gl": ".06 .15 .05 .04 .06 .08 .11 .04 .15",
    }
    for key, row in expected.items():
        setups = [getattr(paper, data)[pair] for data in pairs for pair in pairs[data]]
        assert [setup.methods[key][1] for setup in setups] == [float(x) for x in row.split()], key


def test_what_a_recipe_reports_is_of_its_own_methods_and_grid() -> None:
    for setup, changed in paper.MIXUP.items():
        assert set(changed) == set(recipes.get(f"cifar10-{setup}-mixup").methods)
    for setup, changed in paper.WITH_SP.items():
        assert set(changed) == set(recipes.get(f"cifar10-{setup}-sp").methods)
    for (data, setup), margins in paper.MARGINS.items():
        assert set(margins) <= set(recipes.get(f"{data}-{setup}-margin").grid["margin"])
    margin = recipes.get("cinic10-a-margin")
    assert margin.expected == ("top-1: AMD (g) 75.04 (1.35), 75.13 (1.5)",)


def test_gamma_is_5000_but_where_masks_call_for_3000() -> None:
    """Section 5.6.1: setup (b) on CIFAR-10, (ca) on CINIC-10, all on Tiny-ImageNet."""
    smaller = {"cifar10-b", "cinic10-ca"}
    smaller |= {f"tiny-imagenet-{setup}" for setup in ("a", "bb", "cb", "d")}
    for name, recipe in recipes.RECIPES.items():
        settings = Settings(**recipe.settings)
        if settings.data == "digits":
            assert settings.gamma == 5000 / 16
            continue
        masked = name.endswith("-masked")
        low = masked and name.removesuffix("-masked") in smaller
        assert settings.gamma == (3000 if low else 5000), name
        assert masked == all("masked" in method for method in recipe.methods)
        assert settings.mixup == (0.2 if name.endswith("-mixup") else 0)


def test_grids_are_those_of_the_figures() -> None:
    assert recipes.get("cinic10-b-margin").grid == {"margin": (1.0, 1.1, 1.35, 1.5, 2.0)}
    assert 5000 in recipes.get("cifar10-a-gamma").grid["gamma"]


def test_settings_survive_a_file_and_refuse_what_is_not_theirs() -> None:
    settings = replace(Settings(), milestones=(3, 5), channels_last=True)
    assert Settings.from_json(settings.to_json()) == settings
    with pytest.raises(UsageError, match="'lambda' is no option of this version"):
        Settings.from_json({"lambda": 1})
    with pytest.raises(UsageError, match="epochs must be a whole number, got 'ten'"):
        Settings.from_json({"epochs": "ten"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"milestones": (5, 3)}, "--milestones must be increasing epochs from 1 on"),
        ({"momentum": 1.0}, "--momentum must be at least 0 and below 1"),
        ({"local_weight": 0.0}, "--local-weight must be above 0 and at most 1"),
        ({"gamma": -1.0}, "--gamma must be >= 0, got -1.0"),
        ({"temperature": float("inf")}, "--temperature must be finite"),
        (
            {"teacher_layers": ("a",), "student_layers": ("a", "b")},
            "must be equally many, got 1 and 2",
        ),
    ],
)
def test_setting_that_breaks_its_rule_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Settings(**values)
    assert message in str(error.value)
