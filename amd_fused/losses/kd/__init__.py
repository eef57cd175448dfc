"""Distillation of logits, plain and on the sphere."""

from amd_fused.losses.kd.function import kd_loss, spherical_kd_loss
from amd_fused.losses.kd.module import KDLoss, SphericalKDLoss

__all__ = ["KDLoss", "SphericalKDLoss", "kd_loss", "spherical_kd_loss"]
