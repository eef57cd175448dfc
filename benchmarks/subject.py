"""What a subject hands to the harness: inputs, ideal bytes, and variants of one computation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks import environment
from benchmarks.shapes import IdealBytes

Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]

# What most variants compute, and what one term of it, attention transfer, computes alone.
WHOLE, ATTENTION = "whole", "attention"
# Keys of the variants that the others of their case are compared with.
EAGER, COMPILED, AUTOTUNED = "eager", "compile", "max-autotune"


@dataclass(frozen=True)
class Inputs:
    """Features of one step. The student's require a gradient, the teacher's do not."""

    student: list[Tensor]
    teacher: list[Tensor]


@dataclass(frozen=True)
class Variant:
    """One way of computing the loss.

    Args:
        key: short name, unique in its case.
        title: for the table.
        loss: ``loss(student, teacher)``, differentiable by the student's features.
        oracle: gives the right answer when called with float64 features.
        peer: not ours; that it fails is no failure of the run.
        compiles: its first call takes many seconds.
        part: of the loss; only variants of one part are compared with each other.
    """

    key: str
    title: str
    loss: Loss
    oracle: Loss
    peer: bool = True
    compiles: bool = False
    part: str = WHOLE


@dataclass(frozen=True)
class Case:
    """A subject at one shape, layout and dtype.

    Args:
        subject, shape, layout: names, for the record.
        dtype: of all features.
        inputs: sets that the calls take in turn; :func:`input_sets` says how many.
        ideal: bytes moved by an ideal implementation.
        variants: in the order in which they take their turns.
        upstream: gradient that reaches the loss, as its weight in the objective would make it.
    """

    subject: str
    shape: str
    layout: str
    dtype: torch.dtype
    inputs: list[Inputs]
    ideal: IdealBytes
    variants: list[Variant]
    upstream: float = 1.0
    _upstreams: dict[torch.dtype, Tensor] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        return self.inputs[0].student[0].device

    def upstream_of(self, value: Tensor) -> Tensor:
        """``upstream`` as a gradient of the loss ``value``, made once: not part of a call."""
        if value.dtype not in self._upstreams:
            self._upstreams[value.dtype] = torch.full_like(value.detach(), self.upstream)
        return self._upstreams[value.dtype]


def input_sets(bytes_of_one: int, device: torch.device) -> int:
    """How many sets of inputs to rotate through.

    Together at least four times the last-level cache, so that no call finds its inputs there
    because an earlier one read them, as far as 2 GiB and 128 sets suffice; two sets in any case.
    """
    wanted = -(-4 * environment.last_level_cache_bytes(device) // bytes_of_one)
    affordable = 2 * 2**30 // bytes_of_one
    return max(2, min(wanted, affordable, 128))
