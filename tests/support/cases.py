"""The inputs that backends are held against the oracle on, and why each is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# B, C_S, C_T, H, W
SHAPES = {
    "7x7": (2, 12, 20, 7, 7),  # ResNet's last maps: odd, so quadrants of 9, 12, 12 and 16 positions
    "3x5": (3, 5, 3, 3, 5),  # odd and unequal; quadrants narrower than any vector
    "9x4": (2, 9, 16, 9, 4),  # odd height, even width
    "2x2": (2, 6, 4, 2, 2),  # the smallest with a local part: quadrants of one position
    "56x56": (1, 10, 7, 56, 56),  # ResNet's first maps; one sample; rows longer than a page
    "67x131": (1, 3, 2, 67, 131),  # several chunks of one quadrant, all with a remainder
    "one channel": (2, 1, 1, 8, 8),  # C = 1 is channels_last and contiguous at once
    "many samples": (130, 4, 3, 8, 8),  # more than any thread count, not a multiple of one
    "many channels": (2, 150, 65, 4, 6),  # past a group of channels, one more than a vector
    "one large sample": (1, 300, 150, 9, 10),  # channels shared out over a GPU, the last part short
}

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "released": {"formula": "released"},
    "global": {"local_weight": 0.0},
    "local": {"local_weight": 1.0},
    "released global": {"formula": "released", "local_weight": 0.0},
    "masked": {"mask_threshold": 0.5},
    "masked released": {"mask_threshold": 0.8, "formula": "released"},
    "components": {"component_weights": (1.0, 0.0, 2.5)},
    "batchmean": {"reduction": "batchmean"},
    "none": {"reduction": "none"},
    "wide margin": {"margin": 3.7, "scale": 5.0},
    "margin past the polynomial": {"margin": 7.5, "local_weight": 0.5},
    "narrow margin": {"margin": 0.6, "scale": 120.0},
    "large eps": {"eps": 10.0},
}

DTYPES = {
    "float32": (torch.float32, torch.float32),
    "float64": (torch.float64, torch.float64),
    "float16": (torch.float16, torch.float16),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float32 and bfloat16": (torch.float32, torch.bfloat16),
    "float16 and float64": (torch.float16, torch.float64),
}


def _sliced(a: Tensor) -> Tensor:
    """A window of a larger map: no two rows follow each other in memory."""
    larger = a.new_full((a.shape[0] + 1, a.shape[1] + 2, a.shape[2] + 3, a.shape[3] + 4), torch.nan)
    window = larger[1:, 1:-1, 2:-1, 1:-3]
    return window.copy_(a)


def _every_second_channel(a: Tensor) -> Tensor:
    larger = a.new_full((a.shape[0], 2 * a.shape[1], *a.shape[2:]), torch.nan)
    return larger[:, ::2].copy_(a)


def _channels_of_a_larger_channels_last(a: Tensor) -> Tensor:
    larger = a.new_full((a.shape[0], a.shape[1] + 3, *a.shape[2:]), torch.nan)
    return larger.contiguous(memory_format=torch.channels_last)[:, 1:-2].copy_(a)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nchw": lambda a: a.contiguous(),
    "channels_last": lambda a: a.contiguous(memory_format=torch.channels_last),
    "window": _sliced,
    "every second channel": _every_second_channel,
    "channels of a larger channels_last": _channels_of_a_larger_channels_last,
    "height and width swapped": lambda a: a.mT.contiguous().mT,
    "batch innermost": lambda a: a.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "unaligned": lambda a: torch.cat([a.new_zeros(1), a.flatten()])[1:].view(a.shape),
}


def features(
    shape: tuple[int, int, int, int, int],
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32, torch.float32),
    layout: str = "nchw",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Student and teacher features: normal noise times a smooth bump, as trained networks have.

    The same numbers on every device.
    """
    made = [
        LAYOUTS[layout](a.to(device, dtype, copy=True))
        for a, dtype in zip(_drawn(shape, seed), dtypes, strict=True)
    ]
    return made[0], made[1]


@lru_cache(maxsize=16)
def _drawn(shape: tuple[int, int, int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    batch, c_s, c_t, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None]
    columns = torch.linspace(-1, 1, width, dtype=torch.float64)[None, :]
    bump = 0.2 + torch.exp(-2 * (rows - 0.2) ** 2 - 3 * (columns + 0.1) ** 2)
    student, teacher = (
        torch.randn(batch, channels, height, width, dtype=torch.float64, generator=generator) * bump
        for channels in (c_s, c_t)
    )
    return student, teacher
