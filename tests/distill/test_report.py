"""report.html needs nothing beside it, and report.json holds the numbers that it draws."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from amd_fused.distill.errors import UsageError
from amd_fused.distill.reports.report import write_report
from distill.run_folders import EDGES, student_run, teacher_run, write_weights

SECTIONS = ["Results", "Learning curves", "Parts of the loss", "Reliability"]
VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Reads a page; fails where tags do not close in order or something is fetched from outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.pictures = 0
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "iframe", "object"}
        for name, value in attrs:
            if name in {"src", "href"}:
                assert (value or "").startswith(("data:image/png;base64,", "#section-"))
            assert not name.startswith("on")
        self.pictures += tag == "img"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


def report(tmp_path: Path, *runs: Path) -> tuple[Outline, dict[str, Any]]:
    out = tmp_path / "report.html"
    write_report(runs, out)
    text = out.read_text(encoding="utf-8")
    assert "url(" not in text
    return Outline(text), json.loads((tmp_path / "report.json").read_text())


def test_many_runs_are_drawn_over_seeds_with_all_numbers_beside(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    teacher = teacher_run(runs / "t", 98, curve=[90, 98])
    write_weights(teacher)
    bins = {
        "edges": EDGES,
        "count": [0] * 14 + [5],
        "confidence": [0.0] * 14 + [0.94],
        "accuracy": [0.0] * 14 + [0.6],
    }
    student_run(runs / "g0", "amd-g", 95, teacher, seed=0, curve=[80, 95], amd_distance=0.25)
    student_run(
        runs / "g1", "amd-g", 97, teacher,
        seed=1, curve=[82, 97], amd_distance=0.125, reliability=bins,
    )  # fmt: skip
    student_run(runs / "k0", "kd", 94, teacher, curve=[70, 94], amd_distance=0.375)
    student_run(runs / "s0", "scratch", 93, curve=[60, 93])
    page, numbers = report(tmp_path, runs)
    assert page.headings == [
        *SECTIONS,
        *("AMD distance and accuracy", "Grad-CAM", "Configuration"),
    ]
    # Accuracy, loss, parts, reliability, distances, Grad-CAM of the teacher.
    assert page.pictures == 6
    # Only the teacher has weights.
    assert [text.split(":")[0] for text in page.text if text.startswith("No Grad-CAM")] == [
        f"No Grad-CAM of {name}" for name in ("Student", "KD", "AMD (g)")
    ]

    (setup,) = numbers["setups"]
    assert [group["name"] for group in setup["groups"]] == ["Teacher", "Student", "KD", "AMD (g)"]
    amd = setup["groups"][3]
    assert amd["seeds"] == [0, 1]
    assert amd["top1"]["values"] == [[80, 95], [82, 97]]
    assert (amd["top1"]["mean_epochs"], amd["top1"]["mean"]) == ([1, 2], [81, 96])
    assert amd["metrics"]["top1"] == {"n": 2, "mean": 96, "std": pytest.approx(math.sqrt(2))}
    # run_folders' log: part k of an epoch is (1 + k) / epoch.
    assert {name: curve["mean"] for name, curve in amd["parts"].items()} == {
        "ce": [1, 0.5],
        "kd": [2, 1],
        "amd": [3, 1.5],
    }
    assert amd["loss"]["mean"] == [3, 1.5]
    # 5 and 15 images of seed 0, 5 more of seed 1 in the last bin: (15 * 1.0 + 5 * 0.6) / 20 = 0.9.
    pooled = amd["reliability"]
    assert pooled["count"] == [0] * 13 + [5, 20]
    assert pooled["accuracy"][12:] == [0, 0.8, pytest.approx(0.9)]
    assert pooled["confidence"][14] == pytest.approx((15 * 0.98 + 5 * 0.94) / 20)
    assert amd["distances"] == [
        {"seed": 0, "amd_distance": 0.25, "top1": 95},
        {"seed": 1, "amd_distance": 0.125, "top1": 97},
    ]
    # Of (1/4, 95), (1/8, 97), (3/8, 94): deviations (0, -1/8, 1/8) and (-1/3, 5/3, -4/3), so
    # -3/8 / sqrt(1/32 * 14/3) = -3 sqrt(3) / (2 sqrt(7)).
    assert setup["correlation"] == pytest.approx(-3 * math.sqrt(3) / (2 * math.sqrt(7)))
    shown = setup["grad_cam"]
    assert [network["label"] for network in shown["networks"]] == ["Teacher"]
    assert len(shown["networks"][0]["maps"][0]) == len(shown["images"]) == 6
    assert len(numbers["runs"]) == 5


@pytest.mark.usefixtures("undrawn")
def test_one_run_shows_its_configuration_and_its_teacher(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 98)
    run = student_run(tmp_path / "s", "amd-gl", 95, teacher, amd_distance=0.5, recipe="mine")
    page, numbers = report(run, run)
    assert page.headings == [*SECTIONS, "Grad-CAM", "Configuration"]
    for text in (
        *("AMD (g+l)", "mine", "WRN16-3, top-1 98.00 %", str(teacher), "3 of 3", "0123abc", "cpu"),
        *("2026-01-02T03:04:05+00:00", "amd-fused distill --method amd-gl", "0.5", "1.35"),
        "amd_fused 0.1.0, torch 2.10.0, python 3.10.0",
    ):
        assert text in page.text, text
    assert [group["label"] for group in numbers["setups"][0]["groups"]] == ["Teacher", "AMD (g+l)"]
    assert numbers["setups"][0]["correlation"] is None
    # Neither of the two has weights: the report says so and goes on.
    assert str(teacher) in numbers["setups"][0]["grad_cam"]["missing"]


@pytest.mark.usefixtures("undrawn")
def test_an_early_stopped_teacher_is_shown_as_it_was_used(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path / "t", 98, curve=[80, 90, 98])
    run = student_run(tmp_path / "s", "kd", 95, teacher, teacher_epoch=2)
    page, numbers = report(tmp_path, run)
    assert "2 of 3" in page.text
    shown = numbers["setups"][0]["groups"][0]
    assert (shown["name"], shown["metrics"]["top1"]["mean"]) == ("Teacher", 90)
    # The curve, bins and weights of its last epoch are not those that the student learnt from.
    assert (shown["folders"], shown["reliability"]) == ([], None)


@pytest.mark.usefixtures("undrawn")
def test_a_teacher_alone_has_a_report(tmp_path: Path) -> None:
    page, numbers = report(tmp_path, teacher_run(tmp_path / "t", 98, curve=[98]))
    assert page.headings == [*SECTIONS, "Grad-CAM", "Configuration"]
    (setup,) = numbers["setups"]
    assert (setup["teacher"], setup["student"]) == ("WRN16-3", "")


@pytest.mark.usefixtures("undrawn")
def test_names_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "<b>&"
    for seed in (0, 1):
        path = folder / str(seed)
        teacher_run(path, 98, curve=[98], seed=seed, recipe="<script>alert(1)</script>")
    page, numbers = report(tmp_path, folder)
    # In the table of every run's results, and in that of what differs between the runs.
    assert page.text.count(str(folder / "0")) == 2
    assert "<script>alert(1)</script>" in page.text
    assert [run["folder"] for run in numbers["runs"]] == [str(folder / "0"), str(folder / "1")]


@pytest.mark.usefixtures("undrawn")
def test_two_setups_have_pictures_of_their_own(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for network in ("WRN16-3", "WRN28-1"):
        teacher = teacher_run(runs / network / "t", 99, network=network, curve=[99])
        student_run(runs / network / "s", "kd", 95, teacher, curve=[95])
    page, numbers = report(tmp_path, runs)
    assert [setup["name"] for setup in numbers["setups"]] == [
        "digits, WRN16-3 → WRN16-1",
        "digits, WRN28-1 → WRN16-1",
    ]
    assert page.pictures == 8


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    run = teacher_run(tmp_path / "t", 98, curve=[math.nan, 98], metrics={"nll": math.inf})
    page, numbers = report(tmp_path, run)
    teacher = numbers["setups"][0]["groups"][0]
    assert teacher["top1"]["epochs"] == [[2]]
    assert teacher["metrics"]["nll"] is None
    assert page.pictures == 4


@pytest.mark.usefixtures("undrawn")
def test_curves_of_runs_of_which_one_log_is_short_are_averaged_where_both_are(
    tmp_path: Path,
) -> None:
    runs = tmp_path / "runs"
    teacher_run(runs / "a", 98, seed=0, curve=[90, 98])
    short = teacher_run(runs / "b", 96, seed=1, curve=[92, 96])
    lines = (short / "log.jsonl").read_text().splitlines()
    (short / "log.jsonl").write_text(lines[0] + "\n" + lines[1][:20])
    _, numbers = report(tmp_path, runs)
    curve = numbers["setups"][0]["groups"][0]["top1"]
    assert curve["values"] == [[90, 98], [92]]
    assert (curve["mean_epochs"], curve["mean"]) == ([1], [91])


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must hold a finished run"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
