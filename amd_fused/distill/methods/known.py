"""The list of methods. One that is added stands here and in a file of its own, and nowhere else;
`plugins.py` adds the user's."""

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
from amd_fused.distill.methods.term import Term

# In the order of tables and pictures.
BUILT_IN = (
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
# Those that --method takes, the user's after the built-in ones, and the options of the user's.
TERMS: list[Term] = []
OPTIONS: list[type] = []


def register(term: Term, options: type | None = None) -> None:
    """Makes a term known, with a frozen dataclass of its options, which settings get beside those
    of `MethodSettings`."""
    TERMS.append(term)
    if options is not None:
        OPTIONS.append(options)


for _term in BUILT_IN:
    register(_term)


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
    """The options of all built-in methods, which are settings of every run."""
