"""What a case hands to the harness: inputs, ideal bytes, and variants of one computation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import environment

# Of a student's and a teacher's tensors, a list each, and of the constants of Inputs.
Loss = Callable[..., Tensor]

# What most variants compute, and what one term of it, attention transfer, computes alone.
WHOLE, ATTENTION = "whole", "attention"
# Keys of the variants that the others of their case are compared with.
EAGER, COMPILED, AUTOTUNED = "eager", "compile", "max-autotune"
# A scale that a GradScaler might settle on: without it gradients underflow in float16.
GRAD_SCALE = 2.0**13


@dataclass(frozen=True)
class IdealBytes:
    """Memory traffic that no implementation can avoid, and the size of what it must allocate."""

    forward: int
    backward: int
    gradient: int

    @property
    def total(self) -> int:
        return self.forward + self.backward


@dataclass(frozen=True)
class Flops:
    """Operations of matrix products, two a multiplication and addition.

    Args:
        forward, backward: of all products that no implementation can avoid.
        product: (m, k, n) of a plain product [m, k] x [k, n] like theirs, whose speed is their
            limit.
    """

    forward: int
    backward: int
    product: tuple[int, int, int]


@dataclass(frozen=True)
class Inputs:
    """Features of one step. The student's require a gradient, the teacher's do not.

    ``constants`` is what the loss takes besides, such as labels; nothing of it has a gradient.
    """

    student: list[Tensor]
    teacher: list[Tensor]
    constants: tuple[Tensor, ...] = ()

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Of a :data:`Loss`."""
        return self.student, self.teacher, *self.constants

    def in_float64(self) -> Inputs:
        """The same numbers, for an oracle; whole ones stay as they are."""
        return Inputs(
            [a.detach().double().requires_grad_() for a in self.student],
            [a.double() for a in self.teacher],
            tuple(c.double() if c.is_floating_point() else c for c in self.constants),
        )


@dataclass(frozen=True)
class Variant:
    """One way of computing the loss.

    Args:
        key: short name, unique in its case.
        title: for the table.
        loss: ``loss(student, teacher, *constants)``, differentiable by the student's features.
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
        weight: of the loss in its objective; for float16 a GradScaler's factor comes on top.
        flops: of the matrix products that no implementation can avoid, where these count.
        note: for the table, where figures might mislead.
        scale: that factor, where the usual one is too much.
    """

    subject: str
    shape: str
    layout: str
    dtype: torch.dtype
    inputs: list[Inputs]
    ideal: IdealBytes
    variants: list[Variant]
    weight: float = 1.0
    flops: Flops | None = None
    note: str = ""
    scale: float = GRAD_SCALE
    _upstreams: dict[torch.dtype, Tensor] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        return self.inputs[0].student[0].device

    @property
    def upstream(self) -> float:
        """The gradient that reaches the loss."""
        return self.weight * (self.scale if self.dtype == torch.float16 else 1.0)

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
