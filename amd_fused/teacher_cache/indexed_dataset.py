"""A data set whose samples say which ones they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset


class IndexedDataset(Dataset[Any]):
    """``dataset`` with each sample's index: ``(image, label, index)``, ``{..., "index": index}``.

    A loader collates these to batches as :meth:`TeacherCache.fill` takes them, in whatever order.

    Args:
        dataset: has ``len()`` and gives tuples, lists, dicts or single tensors.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        if isinstance(sample, Mapping):
            return {**sample, "index": index}
        return (*sample, index) if isinstance(sample, (tuple, list)) else (sample, index)
