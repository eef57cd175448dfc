"""Fused Angular Margin based Distillation (AMD) loss for PyTorch. Not about AMD hardware."""

from amd_fused import _backends, compat, reference
from amd_fused._backends import backends
from amd_fused.hooks import FeatureHooks
from amd_fused.losses.afd import AFDLoss, afd_loss
from amd_fused.losses.afds import AFDSLoss, afds_loss
from amd_fused.losses.amd import AMDLoss, amd_loss
from amd_fused.losses.at import ATLoss, at_loss
from amd_fused.losses.attention_map import attention_map
from amd_fused.losses.cc import CCLoss, cc_loss
from amd_fused.losses.crd import CRDLoss, crd_loss
from amd_fused.losses.kd import KDLoss, SphericalKDLoss, kd_loss, spherical_kd_loss
from amd_fused.losses.lsh import LSHLoss, lsh_loss
from amd_fused.losses.nd import NDLoss, class_means, nd_loss
from amd_fused.losses.rkd import RKDLoss, rkd_loss
from amd_fused.losses.sp import SPLoss, sp_loss
from amd_fused.losses.vid import VIDLoss, vid_loss
from amd_fused.objective import DistillationLoss
from amd_fused.teacher_cache import IndexedDataset, TeacherCache, TeacherOutputs

__version__ = "0.1.0"

__all__ = [
    "AFDLoss",
    "AFDSLoss",
    "AMDLoss",
    "ATLoss",
    "CCLoss",
    "CRDLoss",
    "DistillationLoss",
    "FeatureHooks",
    "IndexedDataset",
    "KDLoss",
    "LSHLoss",
    "NDLoss",
    "RKDLoss",
    "SPLoss",
    "SphericalKDLoss",
    "TeacherCache",
    "TeacherOutputs",
    "VIDLoss",
    "afd_loss",
    "afds_loss",
    "amd_loss",
    "at_loss",
    "attention_map",
    "backends",
    "cc_loss",
    "class_means",
    "compat",
    "crd_loss",
    "kd_loss",
    "lsh_loss",
    "nd_loss",
    "reference",
    "rkd_loss",
    "sp_loss",
    "spherical_kd_loss",
    "vid_loss",
]

# The operators must be there for whatever names them, an exported program for one. Where they
# cannot be loaded the reference remains; `backends()` and the first call say why.
_backends.cpp_load_error()
