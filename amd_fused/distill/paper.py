"""The accuracies that the AMD paper reports, by data set, setup and method: what to expect.

Top-1 in percent, (mean, standard deviation over five runs); from the text of the TMLR submission,
Tables 3 to 7. Methods that this package does not have (VID, AFDS, AFD, CC, CRD) are left out.
Of figures there is what the text says of them; Tables 8 and 9 report calibration in their place.
"""

from __future__ import annotations

from dataclasses import dataclass

Reported = tuple[float, float | None]


@dataclass(frozen=True)
class Setup:
    """A pair of networks on a data set.

    Args:
        source: the table, and its row or column.
        teacher, student: networks.
        teacher_top1, student_top1: of the teacher, and of the student trained from scratch.
        methods: of the student under the teacher, by method.
    """

    source: str
    teacher: str
    student: str
    teacher_top1: float
    student_top1: float
    methods: dict[str, Reported]


_KEYS = ("kd", "at", "sp", "rkd", "amd-g", "amd-gl")


def _methods(text: str, keys: tuple[str, ...] = _KEYS) -> dict[str, Reported]:
    """`85.29±0.15 85.79±0.14 -`: one a method, - where the table has none."""
    found: dict[str, Reported] = {}
    for key, entry in zip(keys, text.split(), strict=True):
        if entry != "-":
            mean, _, deviation = entry.partition("±")
            found[key] = (float(mean), float(deviation) if deviation else None)
    return found


CIFAR10 = {
    "a": Setup(
        "Table 3 (a)",
        *("wrn16-3", "wrn16-1", 87.76, 84.11),
        _methods("85.29±0.15 85.79±0.14 85.69±0.11 85.45±0.09 86.28±0.06 86.36±0.10"),
    ),
    "b": Setup(
        "Table 3 (b)",
        *("wrn28-1", "wrn16-1", 85.59, 84.11),
        _methods("85.48±0.12 85.79±0.12 85.77±0.07 85.47±0.12 86.04±0.12 86.10±0.10"),
    ),
    "c": Setup(
        "Table 3 (c)",
        *("wrn16-3", "wrn28-1", 87.76, 85.59),
        _methods("86.57±0.16 86.77±0.11 86.56±0.09 86.38±0.22 87.13±0.14 87.35±0.10"),
    ),
    "d": Setup(
        "Table 3 (d)",
        *("resnet44", "wrn16-1", 86.41, 84.11),
        _methods("85.44±0.06 85.95±0.05 85.41±0.12 85.50±0.06 86.22±0.07 86.34±0.05"),
    ),
    "wrn40-1": Setup(
        "Table 7",
        *("wrn40-1", "wrn16-1", 86.39, 84.11),
        _methods("85.42±0.11 85.79±0.11 85.90±0.11 - 86.03±0.09 86.15±0.06"),
    ),
    "wrn16-8": Setup(
        "Table 7",
        *("wrn16-8", "wrn28-1", 89.50, 85.59),
        _methods("86.68±0.08 87.00±0.05 86.94±0.08 - 87.22±0.17 87.31±0.15"),
    ),
}
CINIC10 = {
    "a": Setup(
        "Table 4 (a)",
        *("wrn16-3", "wrn16-1", 75.40, 72.05),
        _methods("74.31±0.10 74.63±0.13 74.43±0.14 - 75.04±0.11 75.18±0.09"),
    ),
    "b": Setup(
        "Table 4 (b)",
        *("wrn28-1", "wrn16-1", 75.59, 72.05),
        _methods("74.66±0.08 74.73±0.02 74.94±0.11 - 75.14±0.06 75.21±0.04"),
    ),
    "ca": Setup(
        "Table 4 (ca)",
        *("wrn28-3", "wrn16-1", 76.97, 72.05),
        _methods("74.26±0.06 74.19±0.11 75.05±0.10 - 74.72±0.07 75.17±0.07"),
    ),
    "d": Setup(
        "Table 4 (d)",
        *("resnet44", "wrn16-1", 74.30, 72.05),
        _methods("74.47±0.09 74.67±0.05 74.46±0.17 - 74.93±0.07 75.10±0.10"),
    ),
    "wrn16-8": Setup(
        "Table 7",
        *("wrn16-8", "wrn16-1", 77.97, 72.05),
        _methods("74.17±0.16 74.23±0.14 74.34±0.13 - 74.93±0.09 75.20±0.05"),
    ),
    "wrn40-1": Setup(
        "Table 7",
        *("wrn40-1", "wrn16-1", 74.49, 72.05),
        _methods("74.45±0.03 74.55±0.06 74.86±0.07 - 75.12±0.07 75.10±0.04"),
    ),
    "wrn40-2": Setup(
        "Table 7",
        *("wrn40-2", "wrn16-1", 76.66, 72.05),
        _methods("74.29±0.09 74.48±0.08 74.81±0.09 - 74.95±0.20 75.04±0.06"),
    ),
    "wrn16-3-resnet20": Setup(
        "Table 7",
        *("wrn16-3", "resnet20", 75.65, 72.74),
        _methods("75.12±0.11 75.33±0.11 75.29±0.10 - 75.66±0.08 75.75±0.08"),
    ),
    "wrn28-3-resnet20": Setup(
        "Table 7",
        *("wrn28-3", "resnet20", 77.14, 72.74),
        _methods("74.97±0.07 75.18±0.09 75.50±0.09 - 75.61±0.06 75.76±0.11"),
    ),
    "mobilenetv2-resnet20": Setup(
        "Table 7",
        *("mobilenetv2", "resnet20", 80.98, 72.74),
        _methods("76.69±0.06 77.34±0.10 73.71±0.10 - 78.45±0.03 78.62±0.04"),
    ),
}
TINY_IMAGENET = {
    "a": Setup(
        "Table 5 (a)",
        *("wrn16-3", "wrn16-1", 58.16, 49.45),
        _methods("49.99±0.15 49.72±0.15 49.27±0.19 - 50.32±0.07 49.92±0.04"),
    ),
    "bb": Setup(
        "Table 5 (bb)",
        *("wrn40-1", "wrn16-1", 54.74, 49.45),
        _methods("49.56±0.17 49.79±0.22 49.89±0.20 - 50.15±0.10 49.97±0.18"),
    ),
    "cb": Setup(
        "Table 5 (cb)",
        *("wrn40-2", "wrn16-1", 59.92, 49.45),
        _methods("49.67±0.13 49.62±0.16 49.59±0.25 - 49.88±0.20 50.07±0.10"),
    ),
    "d": Setup(
        "Table 5 (d)",
        *("resnet44", "wrn16-1", 54.66, 49.45),
        _methods("49.52±0.16 49.45±0.28 49.13±0.20 - 49.92±0.09 50.08±0.16"),
    ),
    "wrn16-3-resnet20": Setup(
        "Table 7",
        *("wrn16-3", "resnet20", 58.78, 51.75),
        _methods("51.72±0.13 51.65±0.05 51.87±0.09 - 51.89±0.25 52.12±0.15"),
    ),
}
IMAGENET = Setup(
    "Table 6",
    *("resnet34", "resnet18", 73.31, 69.75),
    _methods("70.66 70.70 70.79 70.59 71.58 71.47"),
)

# Section 5.4.2: top-1 of AMD (g) by margin, beside 1.35, which is that of Tables 3 and 4.
MARGINS: dict[tuple[str, str], dict[float, float]] = {
    ("cifar10", "a"): {},
    ("cifar10", "b"): {1.0: 85.81, 2.0: 85.31},
    ("cinic10", "a"): {1.5: 75.13},
    ("cinic10", "b"): {1.0: 74.83, 2.0: 74.75},
}
# (ECE, NLL) in percent, on CIFAR-10 by setup and method; 100 times the NLL in nats.
Calibration = dict[str, tuple[float, float]]
MIXUP: dict[str, Calibration] = {  # Table 8
    "a": {
        "scratch": (7.374, 90.58),
        "kd": (1.818, 55.62),
        "at": (1.652, 50.84),
        "amd-g": (1.645, 50.33),
        "amd-gl": (1.592, 49.68),
    },
    "b": {
        "scratch": (7.374, 90.58),
        "kd": (1.953, 58.81),
        "at": (1.895, 56.51),
        "amd-g": (1.869, 56.05),
        "amd-gl": (1.853, 55.15),
    },
}
WITH_SP: dict[str, Calibration] = {  # Table 9
    "a": {
        "at+sp": (1.861, 56.22),
        "amd-g+sp": (1.808, 54.74),
        "amd-gl+sp": (1.803, 53.80),
    },
    "b": {
        "at+sp": (2.095, 65.38),
        "amd-g+sp": (2.058, 63.37),
        "amd-gl+sp": (2.043, 63.23),
    },
}
