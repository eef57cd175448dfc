"""Relational distillation: distances and angles between samples."""

from amd_fused.losses.rkd.function import rkd_loss
from amd_fused.losses.rkd.module import RKDLoss

__all__ = ["RKDLoss", "rkd_loss"]
