"""The list of methods. One that is added stands here and in a file of its own, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from amd_fused.distill.methods import (
    afd,
    afds,
    amd,
    at,
    cc,
    crd,
    kd,
    lsh,
    nd,
    rkd,
    scratch,
    skd,
    sp,
    vid,
)

# In the order of tables and pictures.
TERMS = (
    scratch.TERM,
    kd.TERM,
    skd.TERM,
    nd.TERM,
    lsh.TERM,
    at.TERM,
    sp.TERM,
    rkd.TERM,
    cc.TERM,
    crd.TERM,
    vid.TERM,
    afd.TERM,
    afds.TERM,
    amd.G,
    amd.GL,
    amd.MASKED_G,
    amd.MASKED_GL,
)


# --help shows the last one's options first.
@dataclass(frozen=True)
class MethodSettings(
    afds.Options,
    afd.Options,
    vid.Options,
    cc.Options,
    crd.Options,
    lsh.Options,
    nd.Options,
    rkd.Options,
    sp.Options,
    at.Options,
    amd.Options,
    kd.Options,
):
    """The options of all methods, which are settings of every run."""
