"""Rules and messages of what a cache is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from amd_fused.losses._common import teacher_pass
from amd_fused.teacher_cache.outputs import OWNER, Wanted


def rows_of(indices: Tensor | Sequence[int], size: int) -> Tensor:
    """Indices as int64 [B] on the CPU."""
    rows = torch.as_tensor(indices)
    if rows.ndim != 1 or rows.dtype.is_floating_point or rows.dtype == torch.bool:
        raise ValueError(
            f"{OWNER}: indices must be integers [B], got {rows.dtype} of shape {list(rows.shape)}"
        )
    rows = rows.to("cpu", torch.int64)
    if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < size):
        raise ValueError(
            f"{OWNER}: indices must be at least 0 and below the number of samples, "
            f"{size}, got {int(rows.min())} to {int(rows.max())}"
        )
    return rows


def narrowed(name: str, a: Tensor, dtype: torch.dtype) -> Tensor:
    """An output in the dtype in which it is kept."""
    if not a.is_floating_point():
        raise TypeError(f"{OWNER}: {name} must have a floating dtype, got {a.dtype}")
    narrow = a.detach().to(dtype)
    if dtype == torch.float16 and not torch.equal(narrow.isfinite(), a.isfinite()):
        raise ValueError(
            f"{OWNER}: {name} must be at most 65504 in float16, got "
            f"{float(a[a.isfinite()].abs().max()):g}; say dtype=torch.float32"
        )
    return narrow


def layers(name: str, paths: Any) -> tuple[str, ...]:
    if isinstance(paths, str):
        raise TypeError(f"{OWNER}: {name} must be a list of module paths, got {paths!r}")
    return tuple(paths)


def count(dataset: Any, size: int | None) -> int:
    if isinstance(dataset, str):
        if size is None:
            raise ValueError(f"{OWNER}: size must be given where dataset is a text, got None")
    else:
        size = len(dataset) if size is None else size
        if size != len(dataset):
            raise ValueError(
                f"{OWNER}: size must be that of dataset, {len(dataset)}, or left out, got {size}"
            )
    if size < 1:
        raise ValueError(f"{OWNER}: there must be at least one sample, got {size}")
    return size


def listed(wanted: Wanted, layout: str) -> str:
    parts = [
        *(["logits"] if wanted.logits else []),
        *(f"map of {path}" for path in wanted.maps),
        *(f"features of {path}" for path in wanted.features),
        *([f"embedding of {wanted.embedding}"] if wanted.embedding else []),
    ]
    return ", ".join(parts) + ("" if layout == "NCHW" else f" ({layout})")


def batch(batch: Any) -> tuple[Any, Any]:
    """The teacher's inputs and the indices."""
    if isinstance(batch, Mapping) and "index" in batch:
        left_out = ("index", *teacher_pass.LABELS)
        return {name: a for name, a in batch.items() if name not in left_out}, batch["index"]
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        return batch[0], batch[-1]
    raise TypeError(
        f'{OWNER}: a batch must be (inputs, ..., indices) or a dict with "index", got '
        f"{type(batch).__name__}; IndexedDataset(dataset) adds the indices"
    )


def device_of(inputs: Tensor | Mapping[str, Any]) -> torch.device | None:
    values = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return next((a.device for a in values if isinstance(a, Tensor)), None)


def moved(inputs: Any, device: torch.device | None) -> Any:
    if isinstance(inputs, Mapping):
        return {name: moved(a, device) for name, a in inputs.items()}
    if device is None or not isinstance(inputs, Tensor):
        return inputs
    return inputs.to(device, non_blocking=True)
