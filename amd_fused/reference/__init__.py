"""Plain PyTorch, equation by equation: the meaning of every loss in this package.

Readable first; every other backend is checked against these files, run in float64. Imports torch
only.
"""

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.pooling import pool_to_common_size
from amd_fused.losses._common.saving import kept_by_autograd
from amd_fused.losses.afd.reference import afd_loss
from amd_fused.losses.afds.reference import afds_loss
from amd_fused.losses.amd.reference import amd_loss, cos_margin
from amd_fused.losses.at.reference import at_loss
from amd_fused.losses.attention_map.reference import attention_map
from amd_fused.losses.cc.reference import cc_loss
from amd_fused.losses.crd.reference import crd_loss
from amd_fused.losses.kd.reference import kd_loss, spherical_kd_loss, spherical_logits
from amd_fused.losses.lsh.reference import lsh_loss
from amd_fused.losses.nd.reference import nd_loss
from amd_fused.losses.rkd.reference import rkd_loss
from amd_fused.losses.sp.reference import similarity_distance, sp_loss
from amd_fused.losses.vid.reference import vid_loss

__all__ = [
    "afd_loss",
    "afds_loss",
    "amd_loss",
    "at_loss",
    "attention_map",
    "cc_loss",
    "compute_dtype",
    "cos_margin",
    "crd_loss",
    "kd_loss",
    "kept_by_autograd",
    "lsh_loss",
    "nd_loss",
    "pool_to_common_size",
    "rkd_loss",
    "similarity_distance",
    "sp_loss",
    "spherical_kd_loss",
    "spherical_logits",
    "vid_loss",
]
