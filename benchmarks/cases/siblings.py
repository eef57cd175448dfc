"""Time the losses beside AMD, forward and backward, against their peers and a plain copy.

Each at the sizes that training has: KD, spherical KD, ND, LSH, AT, SP and RKD.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import amd_fused
from amd_fused.distill.clock import Settings
from benchmarks.cases import amd, common, released
from benchmarks.cases.shapes import SHAPES, Pair, Rows, Shape
from benchmarks.measure.budget import Guess
from benchmarks.measure.runner import DTYPES, Command, Entry, add_choices, entry
from benchmarks.measure.subject import Case, Flops, IdealBytes, Inputs, Loss, Variant, input_sets

# Draws normal numbers of a shape.
Normal = Callable[..., Tensor]
# Of one layout: logits and embeddings, feature maps.
ROWS, MAPS = "rows", "nchw"
# Their spread; logits of trained networks are about so far apart.
_LOGITS = 3.0
# In units of the hash values' spread; rounding in float32 is a tenth of it.
_CLEAR = 5e-6

COMMAND = Command(
    "siblings",
    __doc__,
    # Most calls are short. compare wants five rounds.
    settings={
        "cpu": Settings(min_time=2.0),
        "cuda": Settings(min_time=1.0, min_rounds=5, calls_per_turn=10),
    },
    # Small graphs: 2 to 10 seconds each at the first run.
    guess=Guess(compile=5.0, case=1.5),
)


@dataclass(frozen=True)
class Subject:
    """A loss and what it is measured with.

    Args:
        loss: names it in ``amd_fused`` and ``amd_fused.reference``.
        shapes, tiny: in order of size, and one for the tests.
        dtypes: by default.
        layout: ROWS, whose losses take a tensor a side, or MAPS.
        backends: with kernels of this loss; none if ours is torch's operators on any device.
        draw: of ROWS, ``draw(normal, shape, dtype)``: (student, teacher, *constants).
        ideal: of ROWS, the bytes of a shape and dtype.
        flops: of a shape, where products count.
        released: the released code's lines, a peer, or the only ones where there are no backends.
        weight: in the objective.
        scale: with which the peer's float16 loss can still carry the weight.
    """

    loss: str
    shapes: Sequence[Any]
    tiny: Any
    dtypes: Sequence[str] = ("float32",)
    layout: str = ROWS
    backends: tuple[str, ...] = ("triton", "cpp")
    draw: Callable[[Normal, Rows, torch.dtype], tuple[Tensor, ...]] | None = None
    ideal: Callable[[Rows, torch.dtype], IdealBytes] | None = None
    flops: Callable[[Any, torch.device], Flops] | None = None
    released: Loss | None = None
    weight: float = 1.0
    scale: float | None = None
    note: str = ""

    @property
    def middle(self) -> Any:
        """The shape that stands for all where there is little time."""
        return self.shapes[len(self.shapes) // 2]

    def case(self, name: str, shape: Any, dtype: torch.dtype, device: torch.device) -> Case:
        """The loss with its default options."""
        if self.draw and self.ideal:
            ideal = self.ideal(shape, dtype)
            inputs = _rows(partial(self.draw, shape=shape, dtype=dtype), ideal, dtype, device)
        else:
            ideal = shape.ideal_bytes(dtype, device)
            inputs = amd.feature_sets(shape, self.layout, dtype, device)
        named = (name, shape.name, self.layout, dtype)
        flops = self.flops(shape, device) if self.flops else None
        made = Case(*named, inputs, ideal, self.variants(device), self.weight, flops, self.note)
        return made if self.scale is None else replace(made, scale=self.scale)

    def variants(self, device: torch.device) -> list[Variant]:
        function = getattr(amd_fused, self.loss)
        oracle = getattr(amd_fused.reference, self.loss)
        if self.released and not self.backends:
            return common.beside_released(function, self.released, oracle)
        call = common.of_tensors if self.layout == ROWS else lambda loss: loss
        made = common.variants(function, oracle, device, self.backends, call)
        if self.released:
            made.append(Variant("released", "released style", self.released, oracle))
        return made


def _rows(
    draw: Callable[[Normal], tuple[Tensor, ...]],
    ideal: IdealBytes,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Inputs]:
    made = []
    for seed in range(input_sets(ideal.forward, device)):
        generator = torch.Generator(device).manual_seed(seed)
        student, teacher, *constants = draw(
            partial(torch.randn, generator=generator, device=device)
        )
        sides = [student.to(dtype).requires_grad_()], [teacher.to(dtype)]
        made.append(Inputs(*sides, tuple(constants)))
    return made


def reads_twice(
    shape: Rows, dtype: torch.dtype, constants: int = 0, teacher_again: bool = True
) -> IdealBytes:
    """Forward reads both sides, backward reads them again and writes the student's gradient.

    And so many bytes of float32 ``constants`` each time. Not ``teacher_again``: backward needs the
    student alone.
    """
    size = shape.batch * shape.width * dtype.itemsize
    return IdealBytes(2 * size + constants, (2 + teacher_again) * size + constants, size)


def nd_bytes(shape: Rows, dtype: torch.dtype) -> IdealBytes:
    """Of the class means the rows that the labels name, each once."""
    assert shape.count is not None
    return reads_twice(shape, dtype, 4 * min(shape.batch, shape.count) * shape.width)


def lsh_bytes(shape: Rows, dtype: torch.dtype) -> IdealBytes:
    """Hyperplanes and their biases."""
    assert shape.count is not None
    return reads_twice(shape, dtype, 4 * shape.count * (shape.width + 1))


def lsh_flops(shape: Rows, device: torch.device) -> Flops:
    """Both sides' hash values forward; backward one product, from these to the embeddings."""
    assert shape.count is not None
    once = 2 * shape.batch * shape.width * shape.count
    return Flops(2 * once, once, product=(shape.batch, shape.width, shape.count))


def sp_flops(shape: Shape, device: torch.device) -> Flops:
    """A Gram matrix is symmetric: half of it need not be computed. Backward one product."""
    (pair,), batch = shape.pairs, shape.batch_on(device)
    of_s, of_t = (c * pair.height * pair.width for c in (pair.c_student, pair.c_teacher))
    return Flops(
        forward=batch * (batch + 1) * (of_s + of_t),
        backward=2 * batch * batch * of_s,
        product=(batch, of_t, batch),
    )


def _draw_rows(normal: Normal, shape: Rows, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return normal(shape.batch, shape.width), normal(shape.batch, shape.width)


def _draw_logits(normal: Normal, shape: Rows, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(_LOGITS * side for side in _draw_rows(normal, shape, dtype))


def _draw_classes(normal: Normal, shape: Rows, dtype: torch.dtype) -> tuple[Tensor, ...]:
    # Not negative, as behind a ReLU.
    student, teacher = (side.relu() for side in _draw_rows(normal, shape, dtype))
    means = normal(shape.count, shape.width).abs()
    # As many different classes as there can be, in no order.
    labels = normal(shape.batch).argsort() % shape.count
    return student, teacher, labels, means


def _draw_hashed(normal: Normal, shape: Rows, dtype: torch.dtype) -> tuple[Tensor, ...]:
    student, teacher = (side.relu().to(dtype) for side in _draw_rows(normal, shape, dtype))
    weight, bias = normal(shape.count, shape.width), normal(shape.count)
    # A hash whose side rounding decides is no error: such rows are drawn again.
    while (rows := undecided(teacher, weight, bias)).any():
        teacher[rows] = normal(int(rows.sum()), shape.width).relu().to(dtype)
    return student, teacher, weight, bias


def undecided(teacher: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Which rows have a hash that is almost zero."""
    hashes = F.linear(teacher.to(weight.dtype), weight, bias)
    return (hashes.abs() < _CLEAR * hashes.std()).any(1)


# Batches of logits: CIFAR-100, ImageNet, ImageNet-21k.
_KD: dict[str, Any] = {
    "shapes": (Rows(128, 100), Rows(256, 1000), Rows(256, 21841)),
    "tiny": Rows(4, 5),
    "dtypes": ("float32", "bfloat16"),
    "draw": _draw_logits,
    "ideal": reads_twice,
}
SUBJECTS = {
    "kd": Subject("kd_loss", **_KD),
    "skd": Subject("spherical_kd_loss", **_KD),
    # Batch, width of the embeddings, number of classes.
    "nd": Subject(
        "nd_loss",
        (Rows(128, 256, 100), Rows(256, 512, 1000), Rows(256, 2048, 1000), Rows(4096, 2048, 1000)),
        Rows(4, 5, 3),
        draw=_draw_classes,
        ideal=nd_bytes,
    ),
    # The same of hyperplanes. The products take far longer than the bytes, so the floor is theirs.
    "lsh": Subject(
        "lsh_loss",
        (Rows(128, 64, 2048), Rows(256, 512, 2048), Rows(256, 2048, 8192)),
        Rows(4, 5, 6),
        draw=_draw_hashed,
        ideal=lsh_bytes,
        flops=lsh_flops,
    ),
    # All maps of a step. The weight is RepDistiller's beta.
    "at": Subject(
        "at_loss",
        (SHAPES["cifar-wrn"],),
        SHAPES["tiny"],
        layout=MAPS,
        backends=("triton", "cuda", "cpp"),
        released=released.at,
        weight=1000.0,
    ),
    # Of each network the last map, as the released code. In a large batch the products count.
    "sp": Subject(
        "sp_loss",
        (
            Shape("cifar-wrn-last", 128, (Pair(64, 192, 8, 8),), "WRN16-3 to WRN16-1"),
            Shape("imagenet-resnet-last", 32, (Pair(512, 512, 7, 7),), "ResNet34 to ResNet18"),
        ),
        Shape("tiny", 3, (Pair(2, 4, 3, 3),), "for the tests"),
        dtypes=("float32", "float16"),
        layout=MAPS,
        backends=(),
        flops=sp_flops,
        released=released.sp,
        weight=3000.0,
        scale=16.0,
    ),
    "rkd": Subject(
        "rkd_loss",
        (Rows(64, 64), Rows(128, 512), Rows(256, 512)),
        Rows(5, 4),
        backends=(),
        draw=_draw_rows,
        ideal=partial(reads_twice, teacher_again=False),
        released=released.rkd,
        note="All triplets of the batch are what takes time: this floor of bytes says little.",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for."""
    options = parser().parse_args(arguments)
    return COMMAND.run(entries(options), options)


def entries(options: argparse.Namespace) -> list[Entry]:
    """Subject by subject, in order of size; with --seconds the middle sizes come first.

    So that each subject has its compiled peer once before time runs out.
    """
    grid = []
    for name in options.subjects:
        subject = SUBJECTS[name]
        shapes = {"all": subject.shapes, "middle": [subject.middle], "tiny": [subject.tiny]}
        dtypes = options.dtypes or subject.dtypes
        grid += [(name, shape, dtype) for shape in shapes[options.shapes] for dtype in dtypes]
    if options.seconds is not None:
        grid.sort(key=lambda chosen: chosen[1] is not SUBJECTS[chosen[0]].middle)
    return [
        entry(
            f"{name}: {shape.name}, {SUBJECTS[name].layout}, {dtype}",
            partial(SUBJECTS[name].case, name, shape, getattr(torch, dtype), options.device),
            options.variants,
        )
        for name, shape, dtype in grid
    ]


def parser() -> argparse.ArgumentParser:
    made = COMMAND.parser()
    made.add_argument(
        "--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all"
    )
    made.add_argument(
        "--shapes",
        choices=("all", "middle", "tiny"),
        default="all",
        help="of each subject; middle is one that stands for all, tiny is for the tests",
    )
    defaults = "; ".join(f"{name}: {' '.join(s.dtypes)}" for name, s in SUBJECTS.items())
    made.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, help=f"of all subjects (default: {defaults})"
    )
    add_choices(made)
    return made
