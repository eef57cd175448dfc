"""Every number of the paper's Tables 3 to 9, with the recipe and the method that it is of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from amd_fused.distill import paper
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import parse
from amd_fused.distill.models.names import canonical
from amd_fused.distill.recipes import RECIPES

TABLES = (3, 4, 5, 6, 7, 8, 9)
TEACHER = "teacher"
_DATA = {"cifar10": "CIFAR-10", "cinic10": "CINIC-10", "tiny-imagenet": "Tiny-ImageNet"}
_NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Args:
        table, row, column: where it is.
        printed: what stands there; "-" for a dash.
        recipe: the recipe of its experiment.
        method: that of the student, or `teacher`.
        reason: why it does not run; empty where it does.
    """

    table: int
    row: str
    column: str
    printed: str
    recipe: str
    method: str
    reason: str

    @property
    def command(self) -> str:
        """What trains it, without the options that every run takes."""
        if self.method == TEACHER:
            return f"train-teacher --recipe {self.recipe}"
        return f"distill --recipe {self.recipe} --method {self.method}"


def cells(table: int) -> tuple[Cell, ...]:
    """Of a table, row by row.

    Raises:
        UsageError: the table has no results of networks.
    """
    if table not in TABLES:
        raise UsageError(f"--table must be one of {', '.join(map(str, TABLES))}, got {table}")
    return tuple(_READERS[table](table))


def listing(table: int) -> str:
    """A line a cell: row, column, what is printed there, and what runs or why nothing does."""
    found = [
        (c.row, c.column, c.printed, c.command if not c.reason else f"does not run: {c.reason}")
        for c in cells(table)
    ]
    head = ("row", "column", "in the paper", "amd-fused ...")
    widths = [max(len(row[i]) for row in (head, *found)) for i in range(3)]
    lines = [f"Table {table}"]
    for row in (head, *found):
        named = (text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True))
        lines.append("  ".join(named).rstrip())
    return "\n".join(lines)


def _setups(table: int) -> Iterator[Cell]:
    """Tables 3 to 5: a row a setup, a column a method."""
    data, setups = {
        3: ("cifar10", paper.CIFAR10),
        4: ("cinic10", paper.CINIC10),
        5: ("tiny-imagenet", paper.TINY_IMAGENET),
    }[table]
    for key, setup in setups.items():
        if setup.table == table:
            for method, value in setup.values.items():
                yield _cell(table, setup.place, _label(method), value, f"{data}-{key}", method)


def _imagenet(table: int) -> Iterator[Cell]:
    """Table 6: a column a method; top-1 and top-5."""
    with_kd = paper.IMAGENET_CRD_KD
    for row, values, more in (
        ("Top-1", paper.IMAGENET.values, with_kd.values),
        ("Top-5", paper.IMAGENET.top5, with_kd.top5),
    ):
        for method, value in values.items():
            yield _cell(table, row, _label(method), value, "imagenet", method)
            if method == "crd":
                yield _cell(table, row, "CRD (+KD)", more["crd"], "imagenet-crd-kd", "crd")


def _capacities(table: int) -> Iterator[Cell]:
    """Table 7: a row a method, a column a pair of networks."""
    for method in paper.COLUMNS[table].split():
        for (data, key), setup in paper.TABLE_7.items():
            networks = " → ".join(map(canonical, (setup.teacher, setup.student)))
            column = f"{_DATA[data]}, {networks}"
            value = setup.values[method]
            yield _cell(table, _label(method), column, value, f"{data}-{key}", method)


def _calibration(table: int) -> Iterator[Cell]:
    """Tables 8 and 9: a row a setup and method, calibration without and with Mixup or SP."""
    change, name, tables = {8: ("Mixup", "mixup", paper.MIXUP), 9: ("SP", "sp", paper.WITH_SP)}[
        table
    ]
    scratch_seen = False
    for setup, changed in tables.items():
        recipe = f"cifar10-{setup}"
        for method, with_change in changed.items():
            plain = "+".join(key for key in method.split("+") if change == "Mixup" or key != "sp")
            row = f"({setup}) {_label(plain)}"
            if plain == "scratch":
                # One row for both setups.
                if scratch_seen:
                    continue
                scratch_seen, row = True, _label(plain)
            without = paper.PLAIN[setup][plain]
            for column, (ece, nll), of, key in (
                (f"w/o {change}", without, recipe, plain),
                (f"w/ {change}", with_change, f"{recipe}-{name}", method),
            ):
                yield Cell(table, row, f"{column} ECE", f"{ece:.3f}", of, key, "")
                yield Cell(table, row, f"{column} NLL", f"{nll:.2f}", of, key, "")


def _cell(
    table: int, row: str, column: str, value: paper.Reported | None, recipe: str, method: str
) -> Cell:
    reason = RECIPES[recipe].left_out.get(method, "")
    printed = _NOTHING
    if value is not None:
        mean, deviation = value
        printed = f"{mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")
    return Cell(table, row, column, printed, recipe, method, reason)


def _label(method: str) -> str:
    if method in (TEACHER, "scratch"):
        return {TEACHER: "Teacher", "scratch": "Student"}[method]
    return parse(method).label


_READERS = {
    **dict.fromkeys((3, 4, 5), _setups),
    6: _imagenet,
    7: _capacities,
    **dict.fromkeys((8, 9), _calibration),
}
