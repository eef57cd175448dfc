"""`report.html`, which needs nothing beside it, and `report.json` with the numbers it draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from torch import Tensor

from amd_fused._files import write_atomically
from amd_fused.distill.reports import pictures
from amd_fused.distill.reports.cam_picture import cam_picture
from amd_fused.distill.reports.configuration import describe, describe_settings, split
from amd_fused.distill.reports.differences import comparisons
from amd_fused.distill.reports.gradcam import GradCam, setup_grad_cams
from amd_fused.distill.reports.groups import Setup, arrange, label
from amd_fused.distill.reports.numbers import SetupNumbers, numbers
from amd_fused.distill.reports.page import Page
from amd_fused.distill.reports.runs import Run, gather, tested_on
from amd_fused.distill.reports.style import png
from amd_fused.distill.reports.table import (
    BEST_EPOCH,
    DIFFERENCES_TEXT,
    DISTANCE,
    ECE,
    NLL,
    SPEED,
    TOP1,
    TOP5,
    Metric,
    difference_headings,
    difference_rows,
)
from amd_fused.distill.run_dir import write_json

if TYPE_CHECKING:
    from amd_fused.distill.data import DataSet

# Raised when keys of report.json change.
REPORT_SCHEMA = 2
_COLUMNS = (TOP1, TOP5, NLL, ECE, BEST_EPOCH, DISTANCE, SPEED)
_PICTURES: tuple[tuple[str, str, Callable[[SetupNumbers], Figure | None]], ...] = (
    (
        "Learning curves",
        "Accuracy on the test images by epoch, logarithmic in the error. Thin: each seed; thick: "
        "their mean, its last value above; grey: the means of the other methods.",
        pictures.accuracy_curves,
    ),
    (
        "Learning curves",
        "Training loss by epoch, as each method defines and weights it, so its height does not "
        "compare between methods.",
        pictures.loss_curves,
    ),
    (
        "Parts of the loss",
        "Each part before it is weighted, mean over an epoch's steps and over seeds.",
        pictures.loss_parts,
    ),
    (
        "Reliability",
        "Accuracy of the test images by confidence, 15 bins, those of all seeds together; dots "
        "are at a bin's mean confidence, pale bins hold few images. Above the diagonal the "
        "network is underconfident, below it overconfident. ECE: mean over seeds.",
        pictures.reliability,
    ),
    (
        "AMD distance and accuracy",
        "A point a run. The paper's Fig. 6 shows the higher accuracies at the smaller distances.",
        pictures.distance_and_accuracy,
    ),
)


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Everything there is to see of finished runs, as `out` and, beside it, the same name .json.

    `runs` are their folders, or folders above them.

    Raises:
        UsageError: no finished run was found, or two runs have the same settings and seed.
    """
    found = gather(runs)
    setups = arrange(found)
    drawn = [numbers(setup) for setup in setups]
    loaded: dict[tuple[Any, ...], DataSet] = {}
    cams = [setup_grad_cams(setup, loaded) for setup in setups]
    page = _page(found, setups, drawn, cams)
    content = {
        "schema": REPORT_SCHEMA,
        "runs": [_run_json(run) for run in found],
        "setups": [
            {**asdict(setup_drawn), "grad_cam": _cam_json(cam)}
            for setup_drawn, cam in zip(drawn, cams, strict=True)
        ],
    }
    write_atomically(out, lambda part: part.write_text(page.html(), encoding="utf-8"))
    write_json(out.with_suffix(".json"), _without_nan(content))


def _page(
    runs: Sequence[Run],
    setups: Sequence[Setup],
    drawn: Sequence[SetupNumbers],
    cams: Sequence[GradCam | str],
) -> Page:
    names = ", ".join(setup.name for setup in setups[:3]) + (", …" if len(setups) > 3 else "")
    method = f" by {runs[0].method.label}" if len(runs) == 1 and not runs[0].is_teacher else ""
    page = Page(f"{names}{method}")
    page.section("Results")
    _results(page, runs, setups)
    headings: list[str] = []
    for heading, caption, draw in _PICTURES:
        figures = [(setup, draw(setup)) for setup in drawn]
        for setup, figure in figures:
            if figure is None:
                continue
            if heading not in headings:
                page.section(heading)
                headings.append(heading)
            if len(setups) > 1:
                page.subsection(setup.name)
            page.picture(png(figure), caption)
    page.section("Grad-CAM")
    for setup_drawn, cam in zip(drawn, cams, strict=True):
        if len(setups) > 1:
            page.subsection(setup_drawn.name)
        _grad_cam(page, cam)
    page.section("Configuration")
    _configuration(page, runs)
    return page


def _results(page: Page, runs: Sequence[Run], setups: Sequence[Setup]) -> None:
    head = ["Method", "Seeds", *(metric.heading for metric in _COLUMNS)]
    several = any(len(group.metrics) > 1 for setup in setups for group in setup.groups)
    over = "mean ± standard deviation (n - 1) over seeds" if several else "one seed each"
    page.text(
        f"On {tested_on(runs)} after the last epoch, {over}. AMD distance: the global AMD loss "
        "between student and teacher on the test images. Student: trained from scratch."
    )
    for setup in setups:
        if len(setups) > 1:
            page.subsection(setup.name)
        lines = []
        for group in setup.groups:
            found = [(group.statistic(metric.key), metric) for metric in _COLUMNS]
            cells = [
                "-" if one is None else one.text(metric.form) if several else _one(metric, one.mean)
                for one, metric in found
            ]
            lines.append([group.name, str(len(group.metrics)), *cells])
        page.table(head, lines, texts=1)
        differing, verdict = difference_rows(comparisons(setup))
        if differing:
            page.text(DIFFERENCES_TEXT)
            page.table(["Method", "Seeds", *difference_headings()], differing, texts=1)
            page.text(verdict)
    if several:
        page.open_details("Every run")
        page.table(
            ["Folder", "Method", "Seed", *(metric.heading for metric in _COLUMNS)],
            [_run_cells(run) for run in runs],
            texts=2,
        )
        page.close_details()


def _run_cells(run: Run) -> list[str]:
    values = [(run.metrics.get(metric.key), metric) for metric in _COLUMNS]
    cells = ["-" if value is None else _one(metric, value) for value, metric in values]
    return [str(run.path), label(run), str(run.settings.seed), *cells]


def _one(metric: Metric, value: float) -> str:
    """A single run's, whose best epoch is a whole number."""
    return f"{value:.0f}" if metric is BEST_EPOCH else f"{value:{metric.form}}"


def _grad_cam(page: Page, cam: GradCam | str) -> None:
    if isinstance(cam, str):
        page.note(f"No Grad-CAM: {cam}")
        return
    by_network = {network.label: ", ".join(network.layers) for network in cam.networks}
    layers = "; ".join(f"{label}: {names}" for label, names in by_network.items())
    if len(set(by_network.values())) == 1:
        layers = f"{next(iter(by_network.values()))} of each"
    page.picture(
        png(cam_picture(cam)),
        "Where each network looks to find the label of a test image: red counts most, blue not "
        "at all, each map scaled to its own maximum. Of several seeds the lowest. Layers: "
        f"{layers}.",
    )
    for note in cam.notes:
        page.note(f"No Grad-CAM of {note}")


def _configuration(page: Page, runs: Sequence[Run]) -> None:
    for heading, facts, show in (
        ("Run" if len(runs) == 1 else "Runs", [describe(run) for run in runs], page.pairs),
        ("Settings", [describe_settings(run) for run in runs], page.columns),
    ):
        page.subsection(heading)
        same, differing = split(facts)
        show(same)
        if differing:
            page.open_details(f"What differs between the {len(runs)} runs")
            # The folder names a run in both tables.
            names = list(dict.fromkeys(["Folder", *differing]))
            table = [
                {"Folder": str(run.path), **fact} for run, fact in zip(runs, facts, strict=True)
            ]
            page.table(names, [[row[name] for name in names] for row in table], texts=len(names))
            page.close_details()


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.path),
        "config": run.config,
        "metrics": run.metrics,
    }


def _cam_json(cam: GradCam | str) -> dict[str, Any]:
    """Maps at the layers' own resolution, to four digits."""
    if isinstance(cam, str):
        return {"missing": cam}
    return {
        "images": cam.indices,
        "labels": cam.labels,
        "classes": cam.class_names,
        "notes": cam.notes,
        "networks": [
            {
                "label": network.label,
                "folder": network.folder,
                "network": network.network,
                "predicted": network.predicted,
                "layers": network.layers,
                "maps": [_rounded(maps) for maps in network.maps],
            }
            for network in cam.networks
        ],
    }


def _rounded(maps: Tensor) -> list[list[list[float]]]:
    return [[[float(f"{x:.4g}") for x in row] for row in one] for one in maps.tolist()]


def _without_nan(value: Any) -> Any:
    """NaN and infinities are no JSON: null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
