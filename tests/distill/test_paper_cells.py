"""Every number of Tables 3 to 9 has a recipe and a method that runs, or a reason why none does."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("accelerate")

from amd_fused.distill import models, paper_cells, recipes
from amd_fused.distill.cli import main
from amd_fused.distill.config import Settings
from amd_fused.distill.engine.objective import FrozenTeacher, Objective
from amd_fused.distill.methods import Shapes, parse
from amd_fused.distill.models import Layers
from amd_fused.distill.paper_cells import TABLES, cells
from amd_fused.distill.weights import SOURCES

CELLS = [cell for table in TABLES for cell in cells(table)]
CLASSES, BATCH = 10, 4
# Rows times columns; Table 8 has a row for the student, five for setup (a) and six for (b).
SIZES = {3: 4 * 11, 4: 4 * 10, 5: 4 * 9, 6: 2 * 12, 7: 7 * 16, 8: 12 * 4, 9: 9 * 4}


@cache
def network(name: str, size: int) -> tuple[nn.Module, Layers]:
    made = models.build(name, num_classes=CLASSES, channels=3, image_size=size, seed=0)
    return made, models.layers(models.canonical(name), made)


@cache
def shapes(name: str, size: int) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Of a network: those of its maps, as (C, H, W), and its embedding's width."""
    made, layers = network(name, size)
    maps = models.map_shapes(made, layers, 3, size)
    return tuple((c, h, w) for _, c, h, w in maps), models.embedding_width(made, layers, 3, size)


def loss(recipe: str, method_key: str) -> torch.Tensor:
    """Of a batch of small images, by the recipe's networks."""
    chosen = recipes.get(recipe)
    values: dict[str, Any] = {**chosen.settings, **chosen.method_settings.get(method_key, {})}
    settings = Settings(**values)
    # The least that leaves every map 2x2; channels, which losses depend on, are the same.
    size = 64 if settings.data == "imagenet" else 8
    return loss_of(settings.teacher, settings.student, size, method_key)


@cache
def loss_of(teacher_name: str, student_name: str, size: int, method_key: str) -> torch.Tensor:
    """Many recipes have one pair of networks; by other weights and temperatures it runs as well."""
    method, settings = parse(method_key), Settings()
    (teacher, layers_t), (student, layers_s) = (
        network(name, size) for name in (teacher_name, student_name)
    )
    labels = torch.arange(40) % CLASSES
    maps, widths = zip(*(shapes(n, size) for n in (student_name, teacher_name)), strict=True)
    taken = Shapes(*maps, *widths, labels)
    objective = Objective(student, layers_s, method.criterion(settings, None, taken), method)
    frozen = FrozenTeacher(teacher, layers_t, method, settings.backend)
    images = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        output = frozen(images) if method.distilled else None
        return objective(images, labels[:BATCH], output, torch.arange(BATCH))[0]
    finally:
        objective.remove_hooks()
        frozen.close()


@pytest.mark.parametrize("table", TABLES)
def test_tables_have_as_many_entries_as_the_papers(table: int) -> None:
    found = [cell for cell in CELLS if cell.table == table]
    assert len({(cell.row, cell.column) for cell in found}) == len(found) == SIZES[table]


@pytest.mark.parametrize("recipe", sorted({cell.recipe for cell in CELLS}))
def test_every_entry_is_of_a_method_that_its_recipe_runs_or_says_why_not(recipe: str) -> None:
    mine = {cell.method: cell for cell in CELLS if cell.recipe == recipe}
    for method, cell in mine.items():
        if method == paper_cells.TEACHER:
            continue
        if cell.reason:
            assert cell.printed == "-"
            assert method not in recipes.get(recipe).methods
            with pytest.raises(ValueError, match="take layers of equal shapes"):
                loss(recipe, method)
        else:
            assert method in recipes.get(recipe).methods
            assert torch.isfinite(loss(recipe, method)), method


def test_what_does_not_run_is_afds_on_layers_of_unequal_widths() -> None:
    left_out = Counter((cell.table, cell.row) for cell in CELLS if cell.reason)
    assert set(left_out) == {
        *((3, "(a)"), (3, "(c)"), (4, "(a)"), (4, "(ca)"), (5, "(a)"), (5, "(cb)"))
    }
    assert {cell.method for cell in CELLS if cell.reason} == {"afds"}
    # The paper's one other dash is of a method that runs.
    (other,) = (cell for cell in CELLS if cell.printed == "-" and not cell.reason)
    assert (other.table, other.row, other.column) == (6, "Top-5", "AFD")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_leave_out_afds_where_widths_differ_and_only_there(name: str) -> None:
    recipe = recipes.get(name)
    if "afds" not in {*recipe.left_out, *recipe.methods}:
        return
    size = 64 if recipe.settings["data"] == "imagenet" else 8
    channels = [
        [c for c, _, _ in shapes(recipe.settings[side], size)[0]] for side in ("teacher", "student")
    ]
    assert ("afds" in recipe.left_out) == (channels[0] != channels[1])
    assert recipe.left_out.keys().isdisjoint(recipe.methods)


@pytest.mark.parametrize(
    ("table", "column", "expected"),
    [
        (3, "VID", "85.40 ± 0.14, 84.92 ± 0.13, 86.64 ± 0.24, 85.17 ± 0.11"),
        (3, "AFDS", "-, 85.53 ± 0.13, -, 85.14 ± 0.13"),
        (3, "AFD", "86.23 ± 0.13, 85.84 ± 0.11, 87.24 ± 0.03, 85.78 ± 0.09"),
        (4, "VID", "74.35 ± 0.05, 73.85 ± 0.08, 74.06 ± 0.15, 74.43 ± 0.10"),
        (4, "AFDS", "-, 74.54 ± 0.08, -, 74.64 ± 0.12"),
        (4, "AFD", "74.13 ± 0.12, 74.36 ± 0.04, 74.20 ± 0.12, 73.31 ± 0.13"),
        (5, "AFDS", "-, 49.46 ± 0.28, -, 49.55 ± 0.13"),
        (5, "AFD", "50.00 ± 0.23, 50.04 ± 0.27, 49.78 ± 0.24, 49.44 ± 0.27"),
        (6, "CC", "69.96, 89.17"),
        (6, "AFD", "71.38, -"),
        (6, "CRD", "71.17, 90.13"),
        (6, "CRD (+KD)", "71.38, 90.49"),
        (6, "AMD (g)", "71.58, 90.50"),
        (8, "w/ Mixup NLL", "90.58, 55.62, 50.84, 50.22, 50.33, 49.68, 58.81, 56.51, 58.86, 57.68, "
         "56.05, 55.15"),
        (9, "w/o SP ECE", "1.978, 1.890, 1.933, 1.895, 2.156, 2.197, 2.143, 2.117, 2.123"),
        (9, "w/ SP ECE", "1.861, 1.881, 1.808, 1.803, 2.095, 2.128, 2.118, 2.058, 2.043"),
    ],
)  # fmt: skip
def test_columns_are_the_papers(table: int, column: str, expected: str) -> None:
    found = [cell.printed for cell in cells(table) if cell.column == column]
    assert ", ".join(found) == expected


def test_imagenets_baselines_go_without_kd() -> None:
    """Section 5.2: "standard KD is not applied to baselines"; CRD's second number is with it."""
    own = recipes.get("imagenet").method_settings
    assert own == {key: {"kd_weight": 0.0} for key in ("at", "rkd", "sp", "cc", "afd", "crd")}
    with_kd = recipes.get("imagenet-crd-kd")
    assert (with_kd.method_settings, with_kd.settings["kd_weight"]) == ({}, 1.0)


def test_weights_are_those_of_their_sources() -> None:
    """RepDistiller's script, the README of AFD's authors, the Zoo's AFDS, the AMD paper."""
    weights = {
        "gamma": 5000,
        "at_weight": 1000,
        "sp_weight": 3000,
        "rkd_weight": 1,
        "vid_weight": 1,
        "cc_weight": 0.02,
        "crd_weight": 0.8,
        "afd_weight": 200,
        "afds_weight": 500,
    }
    assert set(SOURCES) == set(weights)
    for recipe, method in {(cell.recipe, cell.method) for cell in CELLS}:
        if method == paper_cells.TEACHER:
            continue
        chosen = recipes.get(recipe)
        settings = Settings(**{**chosen.settings, **chosen.method_settings.get(method, {})})
        for term in parse(method).terms:
            if term.weight:
                assert getattr(settings, term.weight) == weights[term.weight]


def test_a_table_is_listed_and_another_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--table", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + SIZES[3]
    assert lines[8].endswith("85.40 ± 0.14  distill --recipe cifar10-a --method vid")
    assert lines[9].split()[:3] == ["(a)", "AFDS", "-"]
    assert "does not run: AFDS compares" in lines[9]
    for arguments, message in (
        (["--table", "2"], "--table must be one of 3, 4, 5, 6, 7, 8, 9, got 2"),
        (["--table", "3", "demo"], "--table must not be given with a recipe's name, got demo"),
    ):
        with pytest.raises(SystemExit):
            main(["recipes", *arguments])
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
