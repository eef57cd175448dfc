"""Distillation of an embedding by locality sensitive hashing."""

from amd_fused.losses.lsh.function import lsh_loss
from amd_fused.losses.lsh.module import LSHLoss

__all__ = ["LSHLoss", "lsh_loss"]
