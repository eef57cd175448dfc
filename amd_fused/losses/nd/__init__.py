"""Distillation of norm and direction of an embedding."""

from amd_fused.losses.nd.function import class_means, nd_loss
from amd_fused.losses.nd.module import NDLoss

__all__ = ["NDLoss", "class_means", "nd_loss"]
