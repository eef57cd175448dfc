"""Contrastive representation distillation."""

from amd_fused.losses.crd.function import crd_loss
from amd_fused.losses.crd.module import CRDLoss

__all__ = ["CRDLoss", "crd_loss"]
