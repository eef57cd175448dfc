"""Checks of the options and the embeddings of CC."""

from __future__ import annotations

from typing import Any

from amd_fused.losses._common.embedding_checks import count, embedding, same_device
from amd_fused.losses._common.value_checks import choice, positive

FORMULAS = ("released", "paper")
# Past it no term of a useful gamma has a digit left.
LAST_ORDER = 100


def cc_options(owner: str, *, formula: Any, gamma: Any, order: Any) -> None:
    choice(owner, "formula", formula, FORMULAS)
    positive(owner, "gamma", gamma)
    count(owner, "order", order)
    if order > LAST_ORDER:
        raise ValueError(f"{owner}: order must be <= {LAST_ORDER}, got {order}")


def pair(owner: str, student: Any, teacher: Any) -> None:
    """Embeddings of one batch, of any two widths, of at least two samples."""
    embedding(owner, "student", student)
    embedding(owner, "teacher", teacher)
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"{owner}: teacher must have the batch size of student ({student.shape[0]}), got "
            f"{teacher.shape[0]}: shape {tuple(teacher.shape)}"
        )
    same_device(owner, "teacher", teacher, student)
    if student.shape[0] < 2:
        raise ValueError(
            f"{owner}: the batch must have at least 2 samples, for relations between them, got "
            "B = 1; leave such a batch out (drop_last=True in the DataLoader)"
        )
