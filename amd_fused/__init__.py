"""Fused Angular Margin based Distillation (AMD) loss for PyTorch. Not about AMD hardware."""

from amd_fused import _backends, compat, reference
from amd_fused._backends import backends
from amd_fused.functional import amd_loss
from amd_fused.hooks import FeatureHooks
from amd_fused.modules import AMDLoss, DistillationLoss

__version__ = "0.1.0"

__all__ = [
    "AMDLoss",
    "DistillationLoss",
    "FeatureHooks",
    "amd_loss",
    "backends",
    "compat",
    "reference",
]

# The operators must be there for whatever names them, an exported program for one. Where they
# cannot be loaded the reference remains; `backends()` and the first call say why.
_backends.cpp_load_error()
