"""Feature maps as timm gives them itself, by `forward_intermediates`.

That serves networks whose maps no module returns: tokens of a ViT, which it lays out as a map
without the class token, and the branches of an HRNet. A map goes by the path
`forward_intermediates[3]`, the fourth entry of the network's `feature_info`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amd_fused.distill.errors import UsageError
from amd_fused.distill.models.evaluating import evaluating, example

_PATH = re.compile(r"forward_intermediates\[(\d+)\]")
# As many maps as a ResNet has, the last ones, and none larger than its first.
_MAPS, _LEAST_REDUCTION = 4, 4


def path_of(index: int) -> str:
    return f"forward_intermediates[{index}]"


def indices_of(paths: Sequence[str]) -> tuple[int, ...]:
    """Of paths that are all such; empty where none is.

    Raises:
        UsageError: some are, or they do not increase.
    """
    matches = [_PATH.fullmatch(path) for path in paths]
    found = tuple(int(match[1]) for match in matches if match)
    if found and (len(found) < len(paths) or list(found) != sorted(set(found))):
        raise UsageError(
            "--teacher-layers and --student-layers must be all of forward_intermediates and in its "
            f"order, or all modules, got {list(paths)}"
        )
    return found


def offered_by(model: nn.Module) -> bool:
    """Whether a network is one of timm's that gives its maps, and logits from where they end."""
    return bool(entries(model)) and all(
        callable(getattr(model, name, None)) for name in ("forward_intermediates", "forward_head")
    )


def entries(model: nn.Module) -> list[dict[str, Any]]:
    """Of `feature_info`: by map its "module" and the "reduction" of the image; empty elsewhere."""
    info = getattr(model, "feature_info", None)
    return list(getattr(info, "info", info) or [])


def chosen(model: nn.Module) -> list[int]:
    """The entries that stand for a network: the last of each size of the map, and where all are of
    one size, as a ViT's are, the ends of its quarters."""
    reductions = [entry["reduction"] for entry in entries(model)]
    last = {reduction: index for index, reduction in enumerate(reductions)}
    if len(last) == 1:
        depth = len(reductions)
        return sorted({-(-depth * part // _MAPS) - 1 for part in range(1, _MAPS + 1)})
    small = [index for reduction, index in last.items() if reduction >= _LEAST_REDUCTION]
    return sorted(small)[-_MAPS:]


def check(model: nn.Module, indices: Sequence[int], channels: int, image_size: int) -> None:
    """Whether :func:`forward` gives what the network gives.

    Raises:
        UsageError: it has no such maps, or comes to other logits.
    """
    name, count = type(model).__name__, len(entries(model))
    if not offered_by(model) or max(indices) >= count:
        raise UsageError(
            f"forward_intermediates[{max(indices)}] must be one of the {count} maps that {name} "
            "gives by forward_intermediates"
        )
    images = example(model, channels, image_size)
    with evaluating(model):
        logits, _ = forward(model, images, indices)
        if not torch.allclose(logits, model(images), rtol=1e-3, atol=1e-5):
            raise UsageError(f"{name}: forward_intermediates must lead to the network's logits")


def forward(
    model: nn.Module, images: Tensor, indices: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Logits `[B, K]` and the maps `[B, C, H, W]`, in one pass."""
    timm: Any = model
    end, maps = timm.forward_intermediates(images, indices=list(indices), output_fmt="NCHW")
    return timm.forward_head(end), list(maps)
