"""A small teacher and its data set, the same in every process, and what its outputs should be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from amd_fused import IndexedDataset, TeacherCache

SAMPLES, CLASSES, BATCH = 50, 5, 8
OUTPUTS: dict[str, Any] = {"maps": ["0", "2"], "features": ["2"], "embedding": "3"}


def teacher(seed: int = 0) -> nn.Sequential:
    """Logits [B, 5]; maps of "0" [B, 6, 8, 8] and "2" [B, 4, 4, 4]; an embedding [B, 4, 1, 1]."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 4, 3, stride=2, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(4, CLASSES),
        )


def dataset(seed: int = 0, size: int = SAMPLES) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(size, 3, 8, 8, generator=generator), torch.arange(size) % 5)


def loader(seed: int | None = None, images: Any = None) -> DataLoader[Any]:
    """Batches of 8, and a last one of 2; shuffled by the seed, None: in order."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(
        IndexedDataset(images or dataset()),
        BATCH,
        shuffle=seed is not None,
        generator=generator,
    )


def cache(folder: Any = None, **changes: Any) -> TeacherCache:
    options = {"teacher": teacher(), "dataset": dataset(), **OUTPUTS, **changes}
    return TeacherCache(folder, **options)


def expected(images: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Every output in float64, layer by layer, in evaluation mode."""
    conv, norm, second, _, _, _, linear = teacher(seed).double().eval()
    with torch.no_grad():
        first = conv(images.double())
        last = second(norm(first))
        embedding = last.mean((2, 3))
        return {
            "logits": linear(embedding),
            "map-0": first.square().sum(1, keepdim=True).sqrt(),
            "map-1": last.square().sum(1, keepdim=True).sqrt(),
            "features-0": last,
            "embedding": embedding,
        }


def by_name(outputs: Any) -> dict[str, Tensor]:
    """What the cache gave, under the names of its files."""
    found = {f"map-{number}": a for number, a in enumerate(outputs.maps)}
    found |= {f"features-{number}": a for number, a in enumerate(outputs.features)}
    return {"logits": outputs.logits, **found, "embedding": outputs.embedding}
