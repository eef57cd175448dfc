"""The losses as functions, one file each: check, choose the backend, call the operator."""

from amd_fused.functional.amd import amd_loss

__all__ = ["amd_loss"]
