"""Tables of runs over seeds, against values worked out by hand."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from amd_fused.distill.errors import UsageError
from amd_fused.distill.reports.groups import arrange
from amd_fused.distill.reports.runs import gather
from amd_fused.distill.reports.sweep_picture import (
    sweep_figure,
    sweep_levels,
    sweep_lines,
    write_sweep_picture,
)
from amd_fused.distill.reports.table import write_table
from distill.run_folders import student_run, teacher_run

# Their mean is 86.36, and their deviation sqrt((0.1^2 + 0^2 + 0.1^2) / 2) = 0.1.
AROUND_86_36 = (86.26, 86.36, 86.46)


def cells(markdown: str, table: int = 0) -> list[list[str]]:
    """The rows of a Markdown's table, its heading first."""
    tables = [part for part in markdown.split("\n\n") if part.startswith("|")]
    lines = [line.strip("|").split(" | ") for line in tables[table].splitlines()]
    return [[cell.strip() for cell in line] for k, line in enumerate(lines) if k != 1]


def csv_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_cell_is_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 87.76)
    for seed, top1 in enumerate(AROUND_86_36):
        student_run(tmp_path / f"amd-{seed}", "amd-gl", top1, teacher, seed=seed)
    found = cells(write_table([tmp_path], tmp_path))
    assert found[0] == ["Data", "Teacher → student", "Teacher", "AMD (g+l)"]
    assert found[1] == ["digits", "WRN16-3 → WRN16-1", "87.76 ± -", "**86.36 ± 0.10**"]
    assert (tmp_path / "table.md").read_text().splitlines()[2].startswith("| Data |")


def test_columns_are_in_the_papers_order_whatever_the_folders_names(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "z", 97)
    methods = ["amd-gl+sp", "amd-gl", "amd-g", "rkd", "sp", "at", "kd"]
    for index, method in enumerate(methods):
        student_run(tmp_path / f"{index}", method, 90 + index, teacher)
    student_run(tmp_path / "9", "scratch", 89)
    heading = cells(write_table([tmp_path], tmp_path))[0]
    assert heading[2:9] == ["Teacher", "Student", "KD", "AT", "SP", "RKD", "AMD (g)"]
    assert heading[9:] == ["AMD (g+l)", "AMD (g+l) + SP"]


def test_the_best_distilled_students_are_bold_and_ties_share(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    student_run(tmp_path / "s", "scratch", 98)
    # 95.001 and 95.004 are printed alike.
    for method, top1 in (("kd", 95.001), ("at", 94.99), ("amd-g", 95.004)):
        student_run(tmp_path / method, method, top1, teacher)
    row = cells(write_table([tmp_path], tmp_path))[1]
    assert row[2:] == ["99.00 ± -", "98.00 ± -", "**95.00 ± -**", "94.99 ± -", "**95.00 ± -**"]


def test_settings_that_differ_make_rows_and_repeat_what_they_do_not_concern(
    tmp_path: Path,
) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    student_run(tmp_path / "kd", "kd", 94, teacher)
    for gamma, top1 in ((3000.0, 95), (10000.0, 96)):
        student_run(tmp_path / f"g-{gamma}", "amd-g", top1, teacher, gamma=gamma)
    found = cells(write_table([tmp_path], tmp_path))
    assert found[0][2:] == ["Settings", "Teacher", "KD", "AMD (g)"]
    assert found[1][2:] == ["gamma 3000", "99.00 ± -", "94.00 ± -", "**95.00 ± -**"]
    assert found[2][2:] == ["gamma 10000", "99.00 ± -", "94.00 ± -", "**96.00 ± -**"]
    assert [row["settings"] for row in csv_rows(tmp_path)][-2:] == ["gamma=3000.0", "gamma=10000.0"]


def test_mixup_makes_a_row_for_every_student(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    for mixup in (0.0, 0.2):
        student_run(tmp_path / f"s{mixup}", "scratch", 90 + mixup, mixup=mixup)
        student_run(tmp_path / f"k{mixup}", "kd", 92 + mixup, teacher, mixup=mixup)
    found = cells(write_table([tmp_path], tmp_path))
    assert found[1][2:] == ["mixup 0", "99.00 ± -", "90.00 ± -", "**92.00 ± -**"]
    assert found[2][2:] == ["mixup 0.2", "99.00 ± -", "90.20 ± -", "**92.20 ± -**"]


def test_methods_with_weights_of_their_own_share_a_row(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    student_run(tmp_path / "g", "amd-g", 94, teacher, gamma=5000.0, at_weight=1.0)
    student_run(tmp_path / "m", "amd-masked-g", 95, teacher, gamma=3000.0)
    found = cells(write_table([tmp_path], tmp_path))
    assert len(found) == 2
    assert found[0][2:] == ["Teacher", "AMD (g)", "masked AMD (g)"]


def test_methods_trained_differently_do_not_share_a_row(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    student_run(tmp_path / "k", "kd", 94, teacher, lr=0.1)
    student_run(tmp_path / "a", "at", 95, teacher, lr=0.05)
    found = cells(write_table([tmp_path], tmp_path))
    assert [row[2:] for row in found[1:]] == [
        ["lr 0.05", "99.00 ± -", "-", "**95.00 ± -**"],
        ["lr 0.1", "99.00 ± -", "**94.00 ± -**", "-"],
    ]


def test_students_from_scratch_stand_beside_every_teacher(tmp_path: Path) -> None:
    student_run(tmp_path / "s", "scratch", 90)
    for network in ("WRN16-3", "WRN28-1"):
        teacher = teacher_run(tmp_path / network, 99, network=network)
        student_run(tmp_path / f"kd-{network}", "kd", 94, teacher)
    found = cells(write_table([tmp_path], tmp_path))
    assert [row[1] for row in found[1:]] == ["WRN16-3 → WRN16-1", "WRN28-1 → WRN16-1"]
    assert [row[3] for row in found[1:]] == ["90.00 ± -", "90.00 ± -"]


def test_each_sweep_has_its_own_students_from_scratch(tmp_path: Path) -> None:
    for network, top1 in (("WRN16-3", 90), ("WRN28-1", 91)):
        teacher = teacher_run(tmp_path / network / "t", 99, network=network)
        student_run(tmp_path / network / "kd" / "0", "kd", 94, teacher)
        student_run(tmp_path / network / "scratch" / "0", "scratch", top1)
    found = cells(write_table([tmp_path], tmp_path))
    assert [row[3] for row in found[1:]] == ["90.00 ± -", "91.00 ± -"]
    student_run(tmp_path / "WRN16-3" / "scratch" / "again", "scratch", 92)
    with pytest.raises(UsageError, match="are both scratch with seed 0"):
        write_table([tmp_path], tmp_path)


def test_teachers_are_in_the_order_of_their_seeds_whatever_the_students_folders(
    tmp_path: Path,
) -> None:
    for seed in (0, 1):
        teacher = teacher_run(tmp_path / f"t{seed}", 99, seed=seed)
        student_run(tmp_path / f"k{9 - seed}", "kd", 94, teacher, seed=seed)
    (setup,) = arrange(gather([tmp_path]))
    assert [run.settings.seed for run in setup.groups[0].runs] == [0, 1]


def test_an_early_stopped_teacher_is_named_with_its_epoch_and_its_accuracy_then(
    tmp_path: Path,
) -> None:
    teacher = teacher_run(tmp_path / "t", 99, curve=[80, 97, 99])
    student_run(tmp_path / "k", "kd", 94, teacher, teacher_epoch=2)
    found = write_table([tmp_path / "k"], tmp_path)
    row = cells(found)[1]
    assert row[1:3] == ["WRN16-3 (epoch 2 of 3) → WRN16-1", "97.00 ± -"]
    # Epoch 2 of run_folders' log: ECE 3 / 2, NLL 2 / 2.
    assert cells(found, 1)[1][3:] == ["99.50 ± -", "1.500 ± -", "1.0000 ± -"]


def test_a_teacher_whose_folder_is_gone_keeps_its_accuracy(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 98.5)
    student_run(tmp_path / "k", "kd", 94, teacher)
    shutil.rmtree(teacher)
    found = write_table([tmp_path], tmp_path)
    assert cells(found)[1][2] == "98.50 ± -"
    assert cells(found, 1)[1][3:] == ["-", "-", "-"]


def test_a_teacher_is_found_again_when_all_folders_were_moved(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "old" / "t", 98.5)
    student_run(tmp_path / "old" / "k", "kd", 94, teacher)
    (tmp_path / "old").rename(tmp_path / "new")
    found = write_table([tmp_path], tmp_path)
    assert len(cells(found)) == 2
    # Epoch 3 of run_folders' log: ECE 3 / 3, NLL 2 / 3.
    assert cells(found, 1)[1][3:] == ["99.50 ± -", "1.000 ± -", "0.6667 ± -"]


def test_a_teacher_without_students_has_a_row_of_its_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        teacher_run(tmp_path / f"{seed}", 98 + seed, seed=seed)
    found = cells(write_table([tmp_path], tmp_path))
    # sqrt(2 * 0.5^2 / 1) = 0.7071.
    assert found == [
        ["Data", "Teacher → student", "Teacher"],
        ["digits", "WRN16-3", "98.50 ± 0.71"],
    ]


def test_one_seed_twice_is_refused_with_both_folders(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    student_run(tmp_path / "one", "kd", 94, teacher, seed=3)
    # Neither the recipe's name nor another method's weight makes it another run.
    student_run(tmp_path / "two", "kd", 95, teacher, seed=3, recipe="x", gamma=1.0)
    with pytest.raises(UsageError, match=r"one and .*two are both kd with seed 3"):
        write_table([tmp_path], tmp_path)


def test_overlapping_folders_count_a_run_once(tmp_path: Path) -> None:
    teacher_run(tmp_path / "a" / "t", 98)
    write_table([tmp_path, tmp_path / "a", tmp_path / "a" / "t"], tmp_path)
    assert [row["n"] for row in csv_rows(tmp_path)] == ["1"]


def test_the_csv_has_number_mean_and_deviation_of_each_metric(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    for seed, (ece, distance) in enumerate(((1.0, 0.25), (2.0, None), (3.0, 0.75))):
        student_run(
            tmp_path / f"k{seed}", "kd", 94, teacher,
            seed=seed, metrics={"ece": ece, "nll": None}, amd_distance=distance,
        )  # fmt: skip
    write_table([tmp_path], tmp_path)
    row = csv_rows(tmp_path)[1]
    assert (row["data"], row["teacher"], row["student"]) == ("digits", "WRN16-3", "WRN16-1")
    assert (row["method"], row["label"], row["settings"], row["n"]) == ("kd", "KD", "", "3")
    assert [float(row[f"ece_{part}"]) for part in ("n", "mean", "std")] == [3, 2, 1]
    # sqrt(2 * 0.25^2 / 1)
    assert [float(row[f"amd_distance_{part}"]) for part in ("n", "mean", "std")] == [
        *(2, 0.5),
        pytest.approx(0.35355339),
    ]
    assert [row[f"nll_{part}"] for part in ("n", "mean", "std")] == ["0", "", ""]


def test_calibration_prints_a_dash_for_what_is_missing_and_the_lowest_bold(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    student_run(tmp_path / "k", "kd", 94, teacher, metrics={"ece": 2.0, "nll": None})
    student_run(tmp_path / "a", "at", 94, teacher, metrics={"ece": 1.5, "nll": 0.5})
    found = cells(write_table([tmp_path], tmp_path), 1)
    assert found[0] == [
        *("Data", "Teacher → student", "Method"),
        *("Top-5 (%)", "ECE (%)", "NLL (nats)"),
    ]
    assert found[2][2:] == ["KD", "**99.50 ± -**", "2.000 ± -", "-"]
    assert found[3][2:] == ["AT", "**99.50 ± -**", "**1.500 ± -**", "**0.5000 ± -**"]


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ([{}, {}], "all test images"),
        ([{"test_size": 5000}, {"test_size": 5000}], "5,000 of the test images"),
        ([{"test_size": 5000}, {}], "test images"),
        ([{"validation_size": 10}, {"validation_size": 10}], "held-out training images"),
        ([{"validation_size": 10}, {}], "test or held-out training images"),
    ],
)
def test_the_heading_says_which_images_accuracy_is_of(
    tmp_path: Path, options: list[dict[str, int]], images: str
) -> None:
    for seed, sizes in enumerate(options):
        teacher_run(tmp_path / f"{seed}", 99, seed=seed, **sizes)
    assert write_table([tmp_path], tmp_path).startswith(f"Top-1 accuracy (%) of {images} after")


def test_unfinished_runs_are_named(tmp_path: Path) -> None:
    teacher_run(tmp_path / "whole", 99)
    (teacher_run(tmp_path / "half", 98, seed=1) / "result.json").unlink()
    found = write_table([tmp_path], tmp_path)
    assert f"Not finished, so left out: {tmp_path / 'half'}." in found
    assert cells(found)[1][2] == "99.00 ± -"


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must hold a finished run"):
        write_table([tmp_path], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_do_not_break_the_table(tmp_path: Path) -> None:
    teacher_run(tmp_path / "t", 99, data="folder", data_dir="a|b")
    assert "| folder a\\|b |" in write_table([tmp_path], tmp_path)


def test_a_sweep_has_a_line_a_method_and_teacher_and_levels_for_teacher_and_kd(
    tmp_path: Path,
) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    student_run(tmp_path / "k", "kd", 93, teacher)
    for seed, lift in enumerate((0.0, 1.0)):
        for gamma, top1 in ((1000.0, 94), (5000.0, 96)):
            student_run(
                tmp_path / f"{gamma}-{seed}", "amd-g", top1 + lift, teacher, gamma=gamma, seed=seed
            )
    (setup,) = arrange(gather([tmp_path]))
    (line,) = sweep_lines(setup, "gamma")
    assert (line.name, line.teacher) == ("AMD (g)", "WRN16-3")
    assert {gamma: (top1.n, top1.mean) for gamma, top1 in line.points.items()} == {
        1000.0: (2, 94.5),
        5000.0: (2, 96.5),
    }
    assert line.points[1000.0].std == pytest.approx(0.70710678)
    assert [(level.name, level.top1.mean) for level in sweep_levels(setup)] == [
        ("Teacher", 99),
        ("KD", 93),
    ]
    path = write_sweep_picture([tmp_path], tmp_path / "gamma.png", "gamma")
    assert path == tmp_path / "gamma.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_by_words_has_them_side_by_side(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    for components, top1 in (("apn", 96), ("n", 94), ("a", 95)):
        student_run(tmp_path / components, "amd-g", top1, teacher, components=components)
    (setup,) = arrange(gather([tmp_path]))
    (line,) = sweep_lines(setup, "components")
    assert {word: top1.mean for word, top1 in line.points.items()} == {"apn": 96, "n": 94, "a": 95}
    (axes,) = sweep_figure({"panel": ([line], [])}, "components").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "n", "apn"]
    ((_, bars),) = [(c, c.lines[0]) for c in axes.containers]
    assert list(bars.get_xydata()[:, 1]) == [95, 94, 96]


def test_a_sweep_over_two_settings_has_a_line_for_each_choice_of_the_other(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 99)
    for gamma in (1000.0, 5000.0):
        for margin in (1.2, 1.5):
            path = tmp_path / f"{gamma}-{margin}"
            student_run(path, "amd-g", 95, teacher, gamma=gamma, margin=margin)
    (setup,) = arrange(gather([tmp_path]))
    assert [line.name for line in sweep_lines(setup, "margin")] == [
        "AMD (g), gamma 1000",
        "AMD (g), gamma 5000",
    ]


def test_a_sweep_picture_needs_a_method_that_depends_on_it(tmp_path: Path) -> None:
    student_run(tmp_path / "k", "kd", 93, teacher_run(tmp_path / "t", 99))
    with pytest.raises(UsageError, match="picture by margin needs a student whose method"):
        write_sweep_picture([tmp_path], tmp_path, "margin")


def test_runs_of_another_schema_are_refused(tmp_path: Path) -> None:
    file = teacher_run(tmp_path / "t", 99) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 0}))
    with pytest.raises(UsageError, match="schema must be"):
        write_table([tmp_path], tmp_path)
