"""From scratch: the labels alone."""

from __future__ import annotations

from amd_fused.distill.methods.term import GREY, Look, Term

TERM = Term(
    key="scratch",
    label="Scratch",
    help="the labels alone",
    look=Look(GREY, "-", "x"),
    rank=0,
    distilled=False,
    alone="leave scratch out of a sum, which has a teacher",
)
