"""Paired differences to KD, against values worked out by hand and tables of Student's t."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from amd_fused.distill.errors import UsageError
from amd_fused.distill.reports.differences import Interval
from amd_fused.distill.reports.report import write_report
from amd_fused.distill.reports.table import write_comparison, write_table
from distill.run_folders import student_run, teacher_run

# The 97.5 % points of Student's t, as books print them, by degrees of freedom.
T = {1: 12.706, 2: 4.303, 4: 2.776}


def runs(base: Path, lifts: dict[str, tuple[float, ...]]) -> None:
    """KD at 90, 92, 91 and so on, and methods above it by `lifts`, a teacher a seed."""
    for seed in range(max(map(len, lifts.values()))):
        kd = 90 + (0, 2, 1)[seed % 3]
        teacher = teacher_run(base / f"t{seed}", 99, seed=seed)
        student_run(base / f"kd-{seed}", "kd", kd, teacher, seed=seed)
        for method, lift in lifts.items():
            under = None if method == "scratch" else teacher
            if seed < len(lift):
                path = base / f"{method}-{seed}"
                student_run(path, method, kd + lift[seed], under, seed=seed)


def line(markdown: str, method: str) -> list[str]:
    """The method's cells in the table of differences."""
    _, _, part = markdown.partition("Differences to KD")
    (found,) = [x for x in part.split("The same runs")[0].splitlines() if f"| {method} |" in x]
    return [cell.strip() for cell in found.strip("|").split("|")][2:]


def test_an_interval_is_that_of_the_book() -> None:
    # Mean 2, deviation 1, so an error of 1 / sqrt(3).
    found = Interval.of([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.n, found.mean) == (3, 2)
    assert found.high - 2 == pytest.approx(T[2] / 3**0.5, rel=2e-4)
    assert 2 - found.low == pytest.approx(T[2] / 3**0.5, rel=2e-4)
    assert not found.distinguishable
    # Mean 0.9, deviation 0.1 sqrt(1 / 2), an error of 0.05.
    two = Interval.of([0.85, 0.95])
    assert two is not None
    assert two.high - two.mean == pytest.approx(T[1] * 0.05, rel=2e-4)
    assert two.distinguishable
    assert Interval.of([1.0]) is None


def test_pairs_are_runs_of_one_seed_so_that_what_seeds_share_drops_out(tmp_path: Path) -> None:
    # KD itself varies by 2; the differences do not.
    runs(
        tmp_path, {"amd-g": (0.4, 0.5, 0.6), "at": (-0.5, 0.5, 0.3), "scratch": (-3.0, -3.1, -2.9)}
    )
    found = write_table([tmp_path], tmp_path)
    # Deviation 0.1: 4.303 * 0.1 / sqrt(3) = 0.248.
    assert line(found, "AMD (g)")[:3] == ["AMD (g)", "3", "+0.50 [+0.25, +0.75]"]
    # Deviation sqrt(0.28): 4.303 * 0.5292 / sqrt(3) = 1.315.
    assert line(found, "AT")[:3] == ["AT", "3", "+0.10 [-1.21, +1.41]"]
    assert line(found, "Student")[:3] == ["Student", "3", "-3.00 [-3.25, -2.75]"]
    assert "Top-1 above KD: AMD (g). Top-1 below KD: Student." in found
    assert "Top-1 not distinguishable from KD: AT." in found
    assert "of 3 methods equal to KD, 0.15 would be taken" in found


def test_only_seeds_of_both_count_and_one_is_not_enough(tmp_path: Path) -> None:
    runs(tmp_path, {"amd-g": (0.4, 0.6), "at": (0.5,), "sp": (0.1, 0.2, 0.3)})
    found = write_table([tmp_path], tmp_path)
    # Deviation 0.1 sqrt(2), so an error of 0.1: 12.706 * 0.1 = 1.27.
    assert line(found, "AMD (g)")[:3] == ["AMD (g)", "2", "+0.50 [-0.77, +1.77]"]
    assert line(found, "SP")[1] == "3"
    differences = found.partition("Differences to KD")[2].partition("The same runs")[0]
    assert "AT" not in differences
    with (tmp_path / "table.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert float(rows["amd-g"]["top1_to_kd_mean"]) == pytest.approx(0.5)
    assert float(rows["amd-g"]["top1_to_kd_high"]) == pytest.approx(0.5 + T[1] * 0.1, rel=2e-4)
    assert [rows["at"][f"top1_to_kd_{part}"] for part in ("n", "mean")] == ["0", ""]
    assert rows["kd"]["top1_to_kd_n"] == "0"


def test_students_of_other_teachers_are_no_pairs(tmp_path: Path) -> None:
    for seed in range(2):
        teachers = [teacher_run(tmp_path / f"t{k}{seed}", 99, seed=seed) for k in range(2)]
        student_run(tmp_path / f"k{seed}", "kd", 90, teachers[0], seed=seed)
        student_run(tmp_path / f"a{seed}", "at", 91, teachers[1], seed=seed)
    assert "Differences to KD" not in write_table([tmp_path], tmp_path)


def test_one_seed_has_no_differences(tmp_path: Path) -> None:
    runs(tmp_path, {"at": (0.5,)})
    assert "Differences to KD" not in write_table([tmp_path], tmp_path)


def test_settings_are_compared_with_the_kd_of_their_row(tmp_path: Path) -> None:
    for seed in range(2):
        teacher = teacher_run(tmp_path / f"t{seed}", 99, seed=seed)
        for mixup, kd in ((0.0, 90), (0.2, 80)):
            path = tmp_path / f"{seed}-{mixup}"
            student_run(path / "kd", "kd", kd, teacher, seed=seed, mixup=mixup)
            student_run(path / "at", "at", kd + 1 + mixup, teacher, seed=seed, mixup=mixup)
    found = write_table([tmp_path], tmp_path)
    assert line(found, "AT, mixup 0 (to KD, mixup 0)")[2] == "+1.00 [+1.00, +1.00]"
    assert line(found, "AT, mixup 0.2 (to KD, mixup 0.2)")[2] == "+1.20 [+1.20, +1.20]"


@pytest.mark.usefixtures("undrawn")
def test_the_report_has_them_too(tmp_path: Path) -> None:
    runs(tmp_path / "runs", {"amd-g": (0.4, 0.5, 0.6)})
    write_report([tmp_path / "runs"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "+0.50 [+0.25, +0.75]" in page
    assert "Top-1 above KD: AMD (g)." in page
    (setup,) = json.loads((tmp_path / "report.json").read_text())["setups"]
    by_name = {group["name"]: group["differences"] for group in setup["groups"]}
    (difference,) = by_name["AMD (g)"]
    assert difference["to"] == "KD"
    assert difference["metrics"]["top1"]["mean"] == pytest.approx(0.5)
    assert by_name["KD"] == by_name["Teacher"] == []


def test_values_of_a_setting_are_compared_method_by_method(tmp_path: Path) -> None:
    for seed, lift in enumerate((0.4, 0.5, 0.6)):
        teacher = teacher_run(tmp_path / f"t{seed}", 99, seed=seed)
        for backend, more in (("cpp", 0.0), ("reference", lift)):
            for method, top1 in (("at", 90 + seed), ("amd-g", 92)):
                path = tmp_path / f"{method}-{backend}-{seed}"
                student_run(path, method, top1 + more, teacher, seed=seed, backend=backend)
    found = write_comparison([tmp_path], "backend", tmp_path)
    assert found == (tmp_path / "compared-backend.md").read_text()
    rows = [row for row in found.splitlines() if " minus " in row]
    assert [row.strip("|").split("|")[2:5] for row in rows] == [
        [f" {name}, backend reference minus {name}, backend cpp ", " 3 ", " +0.50 [+0.25, +0.75] "]
        for name in ("AT", "AMD (g)")
    ]


def test_a_setting_in_which_nothing_differs_is_refused(tmp_path: Path) -> None:
    runs(tmp_path, {"at": (0.5, 0.6)})
    with pytest.raises(UsageError, match=r"--compare must be an option in which .*, got 'gamma'"):
        write_comparison([tmp_path], "gamma", tmp_path)
