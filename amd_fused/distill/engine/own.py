"""What a program gives to a run itself, in place of names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from amd_fused.distill.data_sets import ImageData


@dataclass(frozen=True)
class Own:
    """Each None where the settings name it.

    Args:
        network: what is trained, in place; its weights are those that it has.
        data: the images.
    """

    network: nn.Module | None = None
    data: ImageData | None = None
