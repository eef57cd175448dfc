"""Tensors [N, ...] by name, a row a sample, and which rows are filled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Rows:
    """In this process's memory.

    Args:
        tensors: by name, [N, ...] each.
        filled: bool [N].
    """

    def __init__(self, tensors: Mapping[str, Tensor], filled: Tensor) -> None:
        self.tensors = dict(tensors)
        self._filled = filled

    @classmethod
    def in_memory(
        cls, shapes: Mapping[str, tuple[int, ...]], size: int, dtype: torch.dtype
    ) -> Rows:
        """All rows empty; pages are taken as rows are written."""
        tensors = {name: torch.empty(size, *shape, dtype=dtype) for name, shape in shapes.items()}
        return cls(tensors, torch.zeros(size, dtype=torch.bool))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one sample, by name."""
        return {name: tuple(a.shape[1:]) for name, a in self.tensors.items()}

    def has(self, rows: Tensor) -> bool:
        return bool(self._filled[rows].all())

    def missing(self) -> int:
        return int((~self._filled).sum())

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: a.index_select(0, rows) for name, a in self.tensors.items()}

    def write(self, rows: Tensor, values: Mapping[str, Tensor]) -> None:
        """Rows that are filled stay as they are."""
        new = ~self._filled[rows]
        if not new.any():
            return
        for name, value in values.items():
            self.tensors[name][rows[new]] = value[new]
        self._fill(rows[new])

    def flush(self) -> None:
        """Puts what was written where other processes and later ones find it."""

    def _fill(self, rows: Tensor) -> None:
        self._filled[rows] = True
