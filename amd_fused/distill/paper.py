"""What the AMD paper reports, table by table: what to expect of a recipe.

From the text of the TMLR submission. Accuracy in percent, mean and standard deviation over five
runs; None where a table has a dash. Of figures there is what the text says of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Reported = tuple[float, float | None]
Values = dict[str, Reported | None]


@dataclass(frozen=True)
class Setup:
    """A pair of networks on a data set, as one table has it.

    Args:
        table, place: the table, and its row or column there.
        teacher, student: networks.
        values: top-1, of the teacher, of the student from scratch, and by method.
        top5: the same, where the table has it.
    """

    table: int
    place: str
    teacher: str
    student: str
    values: Values
    top5: Values = field(default_factory=dict)

    @property
    def source(self) -> str:
        return " ".join(["Table", str(self.table), self.place]).rstrip()

    @property
    def teacher_top1(self) -> float:
        return self._mean("teacher")

    @property
    def student_top1(self) -> float:
        return self._mean("scratch")

    @property
    def methods(self) -> dict[str, Reported]:
        """Top-1 of the distilled students, by method, without the table's dashes."""
        own = {key: v for key, v in self.values.items() if key not in ("teacher", "scratch")}
        return {key: value for key, value in own.items() if value is not None}

    @property
    def dashes(self) -> tuple[str, ...]:
        """Methods that have a column in the table, but no number in it."""
        return tuple(key for key, value in self.values.items() if value is None)

    def _mean(self, key: str) -> float:
        value = self.values[key]
        assert value is not None
        return value[0]


def _values(columns: str, text: str) -> Values:
    """`85.29±0.15 70.66 -`: one a column, - where the table has a dash."""
    found: Values = {}
    for key, entry in zip(columns.split(), text.split(), strict=True):
        mean, _, deviation = entry.partition("±")
        found[key] = None if entry == "-" else (float(mean), float(deviation or 0) or None)
    return found


def _setup(table: int, place: str, teacher: str, student: str, text: str) -> Setup:
    return Setup(table, place, teacher, student, _values(COLUMNS[table], text))


# By the keys of the methods, in the order of the tables.
COLUMNS = {
    3: "teacher scratch kd at sp rkd vid afds afd amd-g amd-gl",
    4: "teacher scratch kd at sp vid afds afd amd-g amd-gl",
    5: "teacher scratch kd at sp afds afd amd-g amd-gl",
    6: "teacher scratch kd at rkd sp cc afd crd amd-g amd-gl",
    7: "teacher scratch kd at sp amd-g amd-gl",
}
_CIFAR10 = {
    "a": (
        *("wrn16-3", "wrn16-1"),
        "87.76±0.12 84.11±0.12 85.29±0.15 85.79±0.14 85.69±0.11 85.45±0.09 85.40±0.14 - "
        "86.23±0.13 86.28±0.06 86.36±0.10",
    ),
    "b": (
        *("wrn28-1", "wrn16-1"),
        "85.59±0.13 84.11±0.12 85.48±0.12 85.79±0.12 85.77±0.07 85.47±0.12 84.92±0.13 85.53±0.13 "
        "85.84±0.11 86.04±0.12 86.10±0.10",
    ),
    "c": (
        *("wrn16-3", "wrn28-1"),
        "87.76±0.12 85.59±0.12 86.57±0.16 86.77±0.11 86.56±0.09 86.38±0.22 86.64±0.24 - "
        "87.24±0.03 87.13±0.14 87.35±0.10",
    ),
    "d": (
        *("resnet44", "wrn16-1"),
        "86.41±0.20 84.11±0.21 85.44±0.06 85.95±0.05 85.41±0.12 85.50±0.06 85.17±0.11 85.14±0.13 "
        "85.78±0.09 86.22±0.07 86.34±0.05",
    ),
}
# Tables 4 and 5 print the student's once for all setups.
_CINIC10 = {
    "a": (
        *("wrn16-3", "wrn16-1"),
        "75.40±0.12 72.05±0.12 74.31±0.10 74.63±0.13 74.43±0.14 74.35±0.05 - 74.13±0.12 "
        "75.04±0.11 75.18±0.09",
    ),
    "b": (
        *("wrn28-1", "wrn16-1"),
        "75.59±0.15 72.05±0.12 74.66±0.08 74.73±0.02 74.94±0.11 73.85±0.08 74.54±0.08 74.36±0.04 "
        "75.14±0.06 75.21±0.04",
    ),
    "ca": (
        *("wrn28-3", "wrn16-1"),
        "76.97±0.05 72.05±0.12 74.26±0.06 74.19±0.11 75.05±0.10 74.06±0.15 - 74.20±0.12 "
        "74.72±0.07 75.17±0.07",
    ),
    "d": (
        *("resnet44", "wrn16-1"),
        "74.30±0.15 72.05±0.12 74.47±0.09 74.67±0.05 74.46±0.17 74.43±0.10 74.64±0.12 73.31±0.13 "
        "74.93±0.07 75.10±0.10",
    ),
}
_TINY_IMAGENET = {
    "a": (
        *("wrn16-3", "wrn16-1"),
        "58.16±0.30 49.45±0.20 49.99±0.15 49.72±0.15 49.27±0.19 - 50.00±0.23 50.32±0.07 49.92±0.04",
    ),
    "bb": (
        *("wrn40-1", "wrn16-1"),
        "54.74±0.24 49.45±0.20 49.56±0.17 49.79±0.22 49.89±0.20 49.46±0.28 50.04±0.27 50.15±0.10 "
        "49.97±0.18",
    ),
    "cb": (
        *("wrn40-2", "wrn16-1"),
        "59.92±0.15 49.45±0.20 49.67±0.13 49.62±0.16 49.59±0.25 - 49.78±0.24 49.88±0.20 50.07±0.10",
    ),
    "d": (
        *("resnet44", "wrn16-1"),
        "54.66±0.14 49.45±0.20 49.52±0.16 49.45±0.28 49.13±0.20 49.55±0.13 49.44±0.27 49.92±0.09 "
        "50.08±0.16",
    ),
}
# Its columns, in order. Those of pairs that other tables have go by their setups' names there.
_TABLE_7_PAIRS = (
    ("cifar10", "b", "wrn28-1", "wrn16-1"),
    ("cifar10", "wrn40-1", "wrn40-1", "wrn16-1"),
    ("cifar10", "c", "wrn16-3", "wrn28-1"),
    ("cifar10", "wrn16-8", "wrn16-8", "wrn28-1"),
    ("cinic10", "a", "wrn16-3", "wrn16-1"),
    ("cinic10", "wrn16-8", "wrn16-8", "wrn16-1"),
    ("cinic10", "b", "wrn28-1", "wrn16-1"),
    ("cinic10", "wrn40-1", "wrn40-1", "wrn16-1"),
    ("cinic10", "ca", "wrn28-3", "wrn16-1"),
    ("cinic10", "wrn40-2", "wrn40-2", "wrn16-1"),
    ("cinic10", "wrn16-3-resnet20", "wrn16-3", "resnet20"),
    ("cinic10", "wrn28-3-resnet20", "wrn28-3", "resnet20"),
    ("cinic10", "mobilenetv2-resnet20", "mobilenetv2", "resnet20"),
    ("tiny-imagenet", "bb", "wrn40-1", "wrn16-1"),
    ("tiny-imagenet", "cb", "wrn40-2", "wrn16-1"),
    ("tiny-imagenet", "wrn16-3-resnet20", "wrn16-3", "resnet20"),
)
# Its rows, without deviations of teachers, which it has not.
_TABLE_7_ROWS = (
    "85.84 86.39 88.15 89.50 75.65 77.97 73.91 74.49 77.14 76.66 75.65 77.14 80.98 55.28 60.18 "
    "58.78",
    "84.11±0.21 84.11±0.21 85.59±0.13 85.59±0.13 72.05±0.12 72.05±0.12 72.05±0.12 72.05±0.12 "
    "72.05±0.12 72.05±0.12 72.74±0.09 72.74±0.09 72.74±0.09 49.45±0.20 49.45±0.20 51.75±0.19",
    "85.48±0.12 85.42±0.11 86.57±0.16 86.68±0.08 74.31±0.10 74.17±0.16 74.66±0.08 74.45±0.03 "
    "74.26±0.06 74.29±0.09 75.12±0.11 74.97±0.07 76.69±0.06 49.56±0.17 49.67±0.13 51.72±0.13",
    "85.79±0.12 85.79±0.11 86.77±0.11 87.00±0.05 74.63±0.13 74.23±0.14 74.73±0.02 74.55±0.06 "
    "74.19±0.11 74.48±0.08 75.33±0.11 75.18±0.09 77.34±0.10 49.79±0.22 49.62±0.16 51.65±0.05",
    "85.77±0.07 85.90±0.11 86.56±0.09 86.94±0.08 74.43±0.11 74.34±0.13 74.94±0.11 74.86±0.07 "
    "75.04±0.10 74.81±0.09 75.29±0.10 75.50±0.09 73.71±0.10 49.89±0.20 49.59±0.25 51.87±0.09",
    "86.04±0.12 86.03±0.09 87.13±0.14 87.22±0.17 75.04±0.11 74.93±0.09 75.14±0.06 75.12±0.07 "
    "74.72±0.07 74.95±0.20 75.66±0.08 75.61±0.06 78.45±0.03 50.15±0.11 49.88±0.20 51.89±0.25",
    "86.10±0.10 86.15±0.06 87.35±0.10 87.31±0.15 75.18±0.09 75.20±0.05 75.21±0.04 75.10±0.04 "
    "75.22±0.07 75.04±0.06 75.75±0.08 75.76±0.11 78.62±0.04 49.97±0.18 50.07±0.10 52.12±0.15",
)
# By (data, setup).
TABLE_7: dict[tuple[str, str], Setup] = {
    (data, key): _setup(7, "", teacher, student, " ".join(column))
    for (data, key, teacher, student), column in zip(
        _TABLE_7_PAIRS, zip(*(row.split() for row in _TABLE_7_ROWS), strict=True), strict=True
    )
}


def _setups(table: int, data: str, rows: dict[str, tuple[str, str, str]]) -> dict[str, Setup]:
    """A table's rows, then what only Table 7 has of the data."""
    own = {key: _setup(table, f"({key})", *row) for key, row in rows.items()}
    others = {key: s for (d, key), s in TABLE_7.items() if d == data and key not in own}
    return own | others


CIFAR10 = _setups(3, "cifar10", _CIFAR10)
CINIC10 = _setups(4, "cinic10", _CINIC10)
TINY_IMAGENET = _setups(5, "tiny-imagenet", _TINY_IMAGENET)
IMAGENET = Setup(
    *(6, "", "resnet34", "resnet18"),
    _values(COLUMNS[6], "73.31 69.75 70.66 70.70 70.59 70.79 69.96 71.38 71.17 71.58 71.47"),
    _values(COLUMNS[6], "91.42 89.07 89.88 90.00 89.68 89.80 89.17 - 90.13 90.50 90.49"),
)
# In brackets in the column of CRD: "(+KD)".
IMAGENET_CRD_KD = Setup(
    *(6, "CRD (+KD)", "resnet34", "resnet18"),
    _values("teacher scratch crd", "73.31 69.75 71.38"),
    _values("teacher scratch crd", "91.42 89.07 90.49"),
)

# Section 5.4.2: top-1 of AMD (g) by margin, beside 1.35, which is that of Tables 3 and 4.
MARGINS: dict[tuple[str, str], dict[float, float]] = {
    ("cifar10", "a"): {},
    ("cifar10", "b"): {1.0: 85.81, 2.0: 85.31},
    ("cinic10", "a"): {1.5: 75.13},
    ("cinic10", "b"): {1.0: 74.83, 2.0: 74.75},
}
# (ECE, NLL) in percent, on CIFAR-10 by setup and method; 100 times the NLL in nats. Of Table 8 the
# student from scratch is one for both setups.
Calibration = dict[str, tuple[float, float]]
PLAIN: dict[str, Calibration] = {  # Tables 8 and 9, without Mixup and SP
    "a": {
        "scratch": (2.273, 70.49),
        "kd": (2.065, 63.34),
        "at": (1.978, 60.48),
        "afd": (1.890, 56.71),
        "amd-g": (1.933, 59.67),
        "amd-gl": (1.895, 57.60),
    },
    "b": {
        "scratch": (2.273, 70.49),
        "kd": (2.201, 68.75),
        "at": (2.156, 67.14),
        "afds": (2.197, 68.53),
        "afd": (2.143, 66.05),
        "amd-g": (2.117, 66.47),
        "amd-gl": (2.123, 67.51),
    },
}
MIXUP: dict[str, Calibration] = {  # Table 8
    "a": {
        "scratch": (7.374, 90.58),
        "kd": (1.818, 55.62),
        "at": (1.652, 50.84),
        "afd": (1.651, 50.22),
        "amd-g": (1.645, 50.33),
        "amd-gl": (1.592, 49.68),
    },
    "b": {
        "scratch": (7.374, 90.58),
        "kd": (1.953, 58.81),
        "at": (1.895, 56.51),
        "afds": (1.978, 58.86),
        "afd": (1.900, 57.68),
        "amd-g": (1.869, 56.05),
        "amd-gl": (1.853, 55.15),
    },
}
WITH_SP: dict[str, Calibration] = {  # Table 9
    "a": {
        "at+sp": (1.861, 56.22),
        "sp+afd": (1.881, 56.73),
        "amd-g+sp": (1.808, 54.74),
        "amd-gl+sp": (1.803, 53.80),
    },
    "b": {
        "at+sp": (2.095, 65.38),
        "sp+afds": (2.128, 66.61),
        "sp+afd": (2.118, 65.39),
        "amd-g+sp": (2.058, 63.37),
        "amd-gl+sp": (2.043, 63.23),
    },
}
