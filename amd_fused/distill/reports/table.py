"""Tables in the paper's form: a row a setup, a column a method (Tables 3 to 7), and calibration
beside them (Tables 8 and 9); as Markdown, and all of it as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from amd_fused._files import write_atomically
from amd_fused.distill.errors import UsageError
from amd_fused.distill.reports.differences import (
    Comparison,
    by_setting,
    comparisons,
    names,
    verdict,
)
from amd_fused.distill.reports.groups import (
    TEACHER_KEY,
    Group,
    Setup,
    arrange,
    order,
    rows,
)
from amd_fused.distill.reports.runs import gather, tested_on, unfinished
from amd_fused.distill.reports.variants import variant_texts


@dataclass(frozen=True)
class Metric:
    """A number of a run: its heading, how it is printed, and which direction is better."""

    key: str
    heading: str
    form: str
    better: Callable[[Sequence[float]], float] | None = None


TOP1 = Metric("top1", "Top-1 (%)", ".2f", max)
TOP5 = Metric("top5", "Top-5 (%)", ".2f", max)
ECE = Metric("ece", "ECE (%)", ".3f", min)
NLL = Metric("nll", "NLL (nats)", ".4f", min)
DISTANCE = Metric("amd_distance", "AMD distance", ".3g")
BEST_EPOCH = Metric("best_epoch", "Best epoch", ".1f")
SPEED = Metric("images_per_second", "Images/s", ".0f")
# What is compared with KD's, seed by seed.
COMPARED = (TOP1, ECE, NLL)
_PAIRED = "{}, seed by seed and under the same teacher: mean and 95 % interval by a paired t-test."
DIFFERENCES_TEXT = (
    f"{_PAIRED.format('Differences to KD')} Where the interval holds 0, these seeds do not tell "
    "the method from KD."
)
_REPEATED = " A method that a setting does not concern stands in every row of its setup."
METRICS = (
    *(TOP1, TOP5, ECE, NLL, DISTANCE, BEST_EPOCH),
    Metric("best_top1", "Best top-1 (%)", ".2f", max),
    Metric("seconds", "Seconds", ".1f"),
    SPEED,
    Metric("parameters", "Parameters", ".0f"),
)


def write_table(folders: Sequence[Path], out: Path) -> str:
    """The finished runs at or below `folders`, over seeds, as table.md and table.csv in `out`.

    Returns the Markdown.

    Raises:
        UsageError: no finished run was found, or two runs have the same settings and seed.
    """
    setups = arrange(gather(folders))
    text = markdown(setups, unfinished(folders))
    _write(out / "table.md", text)
    _write(out / "table.csv", table_csv(setups))
    return text


def write_comparison(folders: Sequence[Path], setting: str, out: Path) -> str:
    """What a setting's values differ by, method by method, as compared-<setting>.md in `out`.

    Returns the Markdown.

    Raises:
        UsageError: no two finished runs of a method differ in it.
    """
    name = setting.removeprefix("--").replace("-", "_")
    table = []
    for setup in arrange(gather(folders)):
        for one in by_setting(setup, name):
            cells = _interval_cells(one)
            named = f"{one.group.name} minus {one.reference.name}"
            table.append([setup.data, setup.networks, named, *(cells or ["1", "-", "-", "-"])])
    if not table:
        raise UsageError(
            f"--compare must be an option in which runs of one method differ, got {setting!r}"
        )
    head = ["Data", "Teacher → student", "Difference", "Seeds", *(m.heading for m in COMPARED)]
    lines = [_PAIRED.format("Differences"), "", *_lines(head, table, numbers=len(COMPARED) + 1)]
    text = "\n".join(lines) + "\n"
    _write(out / f"compared-{name}.md", text)
    return text


def markdown(setups: Sequence[Setup], left_out: Sequence[Path] = ()) -> str:
    """Accuracy by setup and method, then the other metrics by method."""
    groups = [group for setup in setups for group in setup.groups]
    students = [group for group in groups if group.key != TEACHER_KEY]
    counts = sorted({len(group.metrics) for group in students or groups})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    over = f"mean ± standard deviation (n - 1) over {seeds} seeds"
    over = "one seed each" if counts[-1] == 1 else over
    images = tested_on([run for group in groups for run in group.runs])
    lines = [
        f"Top-1 accuracy (%) of {images} after the last epoch, {over}. Student: trained "
        "from scratch. Bold: the best distilled student of a row."
        f"{_REPEATED if any(len(rows(setup)) > 1 for setup in setups) else ''}",
        "",
        *_accuracy(setups),
        "",
        *_differences(setups),
        "The same runs: top-5 accuracy, expected calibration error in 15 bins and negative log "
        "likelihood (the paper prints 100 times it). Bold: the best distilled student of a setup.",
        "",
        *_calibration(setups),
    ]
    if left_out:
        lines += ["", f"Not finished, so left out: {', '.join(map(str, left_out))}."]
    return "\n".join(lines) + "\n"


def table_csv(setups: Sequence[Setup]) -> str:
    """A line a group: n, then number, mean and standard deviation of each metric, unrounded; then
    number, mean and 95 % interval of the paired differences to KD, where one KD stands beside it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{metric.key}_{part}" for metric in METRICS for part in ("n", "mean", "std")]
    columns += [
        f"{metric.key}_to_kd_{part}" for metric in COMPARED for part in ("n", "mean", "low", "high")
    ]
    writer.writerow(["data", "teacher", "student", "method", "label", "settings", "n", *columns])
    for setup in setups:
        beside = comparisons(setup)
        for group in setup.groups:
            settings = "; ".join(f"{name}={value}" for name, value in group.variant)
            row: list[object] = [setup.data, setup.teacher, setup.student, group.key]
            row += [group.label, settings, len(group.metrics)]
            for metric in METRICS:
                found = group.statistic(metric.key)
                if found is None:
                    row += [0, "", ""]
                else:
                    row += [found.n, found.mean, "" if found.std is None else found.std]
            mine = [comparison for comparison in beside if comparison.group is group]
            for metric in COMPARED:
                interval = mine[0].interval(metric.key) if len(mine) == 1 else None
                row += ["0", "", "", ""] if interval is None else list(astuple(interval))
            writer.writerow(row)
    return text.getvalue()


def _accuracy(setups: Sequence[Setup]) -> list[str]:
    all_rows = [(setup, *row) for setup in setups for row in rows(setup)]
    columns = {group.key: group.label for setup in setups for group in setup.groups}
    keys = sorted(columns, key=order)
    with_settings = any(variant for _, variant, _ in all_rows)
    head = ["Data", "Teacher → student", *(["Settings"] if with_settings else [])]
    table = []
    for setup, variant, groups in all_rows:
        best = _best(groups, TOP1)
        cells = {group.key: _cell(group, TOP1, best) for group in groups}
        settings = [", ".join(variant_texts(variant))] if with_settings else []
        named = [setup.data, setup.networks, *settings]
        table.append([*named, *(cells.get(key, "-") for key in keys)])
    return _lines([*head, *(columns[key] for key in keys)], table, numbers=len(keys))


def _differences(setups: Sequence[Setup]) -> list[str]:
    """Nothing where no method has two seeds in common with KD."""
    table, verdicts = [], []
    for setup in setups:
        lines, text = difference_rows(comparisons(setup))
        table += [[setup.data, setup.networks, *line] for line in lines]
        if text:
            verdicts.append(f"{setup.name}: {text}" if len(setups) > 1 else text)
    if not table:
        return []
    head = ["Data", "Teacher → student", "Method", "Seeds", *difference_headings()]
    return [
        DIFFERENCES_TEXT,
        "",
        *_lines(head, table, numbers=len(COMPARED) + 1),
        "",
        *(line for text in verdicts for line in (text, "")),
    ]


def difference_headings() -> list[str]:
    return [f"{metric.heading} minus KD's" for metric in COMPARED]


def difference_rows(compared: Sequence[Comparison]) -> tuple[list[list[str]], str]:
    """Name, number of pairs and an interval a metric of each comparison; and what top-1's say.

    Comparisons with fewer than two pairs are left out.
    """
    rows, verdicts = [], []
    for name, one in zip(names(compared), compared, strict=True):
        verdicts.append((name, one.interval(TOP1.key)))
        if cells := _interval_cells(one):
            rows.append([name, *cells])
    return rows, verdict(verdicts)


def _interval_cells(one: Comparison) -> list[str]:
    """Number of pairs and an interval a metric; nothing for fewer than two pairs."""
    found = [(one.interval(metric.key), metric) for metric in COMPARED]
    count = max((interval.n for interval, _ in found if interval is not None), default=0)
    cells = ["-" if x is None else x.text(metric.form) for x, metric in found]
    return [str(count), *cells] if count else []


def _calibration(setups: Sequence[Setup]) -> list[str]:
    metrics = (TOP5, ECE, NLL)
    table = []
    for setup in setups:
        best = {metric.key: _best(setup.groups, metric) for metric in metrics}
        for group in setup.groups:
            cells = [_cell(group, metric, best[metric.key]) for metric in metrics]
            table.append([setup.data, setup.networks, group.name, *cells])
    head = ["Data", "Teacher → student", "Method", *(metric.heading for metric in metrics)]
    return _lines(head, table, numbers=len(metrics))


def _best(groups: Sequence[Group], metric: Metric) -> str | None:
    """The best mean of the distilled students as it is printed: equal prints share the place."""
    found = [group.statistic(metric.key) for group in groups if group.distilled]
    means = [statistic.mean for statistic in found if statistic is not None]
    if not means or metric.better is None:
        return None
    return format(metric.better(means), metric.form)


def _cell(group: Group, metric: Metric, best: str | None) -> str:
    found = group.statistic(metric.key)
    if found is None:
        return "-"
    text = found.text(metric.form)
    return f"**{text}**" if group.distilled and format(found.mean, metric.form) == best else text


def _lines(head: Sequence[str], table: Sequence[Sequence[str]], *, numbers: int) -> list[str]:
    """A Markdown table whose last columns are numbers, set to the right."""
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return ["| " + " | ".join(map(_escape, row)) + " |" for row in (head, rule, *table)]


def _escape(cell: str) -> str:
    return cell.replace("|", r"\|").replace("\n", " ")


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
