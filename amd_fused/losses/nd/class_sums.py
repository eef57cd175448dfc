"""Sums of embeddings by class, over batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.processes import common_width, total


class ClassSums:
    """Sums and counts of embeddings by label, in float64."""

    def __init__(self, owner: str, classes: int) -> None:
        self._owner, self._classes = owner, classes
        self._sums: Tensor | None = None
        self._dtype = torch.float32
        # The last row is of the labels out of range: looked at once, at the end.
        self._counts = torch.zeros(classes + 1, dtype=torch.int64)
        self._device = torch.device("cpu")

    def add(self, features: Tensor, labels: Tensor) -> None:
        self._device, self._dtype = features.device, compute_dtype([features])
        if features.device.type == "mps":  # has no float64
            features = features.cpu()
        if self._sums is None:
            shape = (self._classes + 1, features.shape[1])
            self._sums = features.new_zeros(shape, dtype=torch.float64)
            self._counts = self._counts.to(features.device)
        if features.shape[1] != self._sums.shape[1]:
            raise ValueError(
                f"{self._owner}: embeddings must have one width in all batches, got "
                f"{self._sums.shape[1]} and {features.shape[1]}"
            )
        labels = labels.to(features.device, torch.int64)
        known = (labels >= 0) & (labels < self._classes)
        rows = (torch.where(known, labels, self._classes),)
        # Not index_add_, whose order of additions on a GPU changes from run to run.
        self._sums.index_put_(rows, features.detach().double(), accumulate=True)
        self._counts.index_put_(rows, torch.ones_like(labels), accumulate=True)

    def means(self) -> Tensor:
        """[K, D], over all processes."""
        owner = self._owner
        width = common_width(owner, None if self._sums is None else self._sums.shape[1])
        sums = self._sums
        if sums is None:
            sums = torch.zeros(self._classes + 1, width, dtype=torch.float64)
        counts = total(self._counts)
        if counts[-1] > 0:
            raise ValueError(
                f"{owner}: labels must be between 0 and num_classes - 1 = {self._classes - 1}, got "
                f"{int(counts[-1])} outside"
            )
        missing = (counts[:-1] == 0).nonzero().flatten().tolist()
        if missing:
            raise ValueError(
                f"{owner}: loader must give a sample of every class, got none of {_some(missing)}"
            )
        means = (total(sums)[:-1] / counts[:-1, None]).to(self._device, self._dtype)
        broken = (~means.isfinite().all(1)).nonzero().flatten().tolist()
        if broken:
            raise ValueError(
                f"{owner}: embeddings must be finite, got NaN or Inf of {_some(broken)}"
            )
        return means


def _some(classes: list[int]) -> str:
    """ "class 3", or "5 classes: 0, 1, ..." without a line of thousands."""
    if len(classes) == 1:
        return f"class {classes[0]}"
    shown = ", ".join(map(str, classes[:20]))
    return f"{len(classes)} classes: {shown}{', ...' if len(classes) > 20 else ''}"
