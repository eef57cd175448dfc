"""Variational information distillation."""

from amd_fused.losses.vid.function import vid_loss
from amd_fused.losses.vid.module import VIDLoss

__all__ = ["VIDLoss", "vid_loss"]
