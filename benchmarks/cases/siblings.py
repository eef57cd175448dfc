"""Time the losses beside AMD, forward and backward, against their peers and a plain copy.

Each at the sizes that training has: KD, spherical KD, ND, LSH, AT, VID, CC, CRD, AFD, AFDS, SP and
RKD.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import amd_fused
from amd_fused.distill.clock import Settings
from benchmarks.cases import amd, common, released, rows
from benchmarks.cases.shapes import SHAPES, Pair, Rows, Shape
from benchmarks.measure.budget import Guess
from benchmarks.measure.runner import DTYPES, Command, Entry, add_choices, entry
from benchmarks.measure.subject import (
    GRAD_SCALE,
    Case,
    Flops,
    IdealBytes,
    Inputs,
    Loss,
    Variant,
)

# Of one layout: logits and embeddings, feature maps.
ROWS, MAPS = "rows", "nchw"

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
        backends: with kernels of this loss; none if ours is torch's operators on any device, or
            shapes decide.
        runs_on: ours without backends, for the title.
        draw: of ROWS, ``draw(normal, shape, dtype)``: (student, teacher, *constants).
        ideal: of ROWS, the bytes of a shape and dtype.
        constants: of MAPS, ``constants(normal, shape, batch)``: what the loss takes besides
            features.
        by_layer: they are a tensor a layer, which the loss takes as a list.
        teacher_again: of MAPS, backward reads the teacher's features too.
        flops: of a shape, where products count.
        released: the released code's lines, a peer, or the only ones where there are no backends.
        weight: in the objective.
        scale: in float16, one with which the released lines can still carry the weight.
    """

    loss: str
    shapes: Sequence[Any]
    tiny: Any
    dtypes: Sequence[str] = ("float32",)
    layout: str = ROWS
    backends: tuple[str, ...] = ("triton", "cpp")
    runs_on: str = "torch"
    draw: Callable[..., tuple[Tensor, ...]] | None = None
    ideal: Callable[[Rows, torch.dtype], IdealBytes] | None = None
    constants: Callable[..., tuple[Tensor, ...]] | None = None
    by_layer: bool = False
    teacher_again: bool = False
    flops: Callable[[Any, torch.device], Flops] | None = None
    released: Loss | None = None
    weight: float = 1.0
    scale: float = GRAD_SCALE
    note: str = ""

    @property
    def middle(self) -> Any:
        """The shape that stands for all where there is little time."""
        return self.shapes[len(self.shapes) // 2]

    def case(self, name: str, shape: Any, dtype: torch.dtype, device: torch.device) -> Case:
        """The loss with its default options."""
        if self.draw and self.ideal:
            ideal = self.ideal(shape, dtype)
            inputs = rows.drawn(partial(self.draw, shape=shape, dtype=dtype), ideal, dtype, device)
        else:
            ideal = shape.ideal_bytes(dtype, device, self.teacher_again)
            inputs = amd.feature_sets(shape, self.layout, dtype, device)
            if self.constants:
                inputs = [self.with_constants(i, shape, seed) for seed, i in enumerate(inputs)]
        named = (name, shape.name, self.layout, dtype)
        flops = self.flops(shape, device) if self.flops else None
        more = (self.weight, flops, self.note, self.scale)
        return Case(*named, inputs, ideal, self.variants(device), *more)

    def with_constants(self, inputs: Inputs, shape: Shape, seed: int) -> Inputs:
        assert self.constants is not None
        student = inputs.student[0]
        generator = torch.Generator(student.device).manual_seed(seed)
        normal = partial(torch.randn, generator=generator, device=student.device)
        return replace(inputs, constants=self.constants(normal, shape, len(student)))

    def variants(self, device: torch.device) -> list[Variant]:
        function = getattr(amd_fused, self.loss)
        oracle = getattr(amd_fused.reference, self.loss)
        call = common.of_tensors if self.layout == ROWS else lambda loss: loss
        if self.released and not self.backends:
            return common.beside_released(call(function), self.released, call(oracle), self.runs_on)
        if self.by_layer:
            call = common.of_layers
        made = common.variants(function, oracle, device, self.backends, call)
        if self.released:
            made.append(Variant("released", "released style", self.released, oracle))
        return made


_EQUAL = Shape("tiny-equal", 2, (Pair(3, 3, 7, 7), Pair(4, 4, 4, 5)), "for the tests")
# Batches of logits: CIFAR-100, ImageNet, ImageNet-21k.
_KD: dict[str, Any] = {
    "shapes": (Rows(128, 100), Rows(256, 1000), Rows(256, 21841)),
    "tiny": Rows(4, 5),
    "dtypes": ("float32", "bfloat16"),
    "draw": rows.draw_logits,
    "ideal": rows.reads_twice,
}
SUBJECTS = {
    "kd": Subject("kd_loss", **_KD),
    "skd": Subject("spherical_kd_loss", **_KD),
    # Batch, width of the embeddings, number of classes.
    "nd": Subject(
        "nd_loss",
        (Rows(128, 256, 100), Rows(256, 512, 1000), Rows(256, 2048, 1000), Rows(4096, 2048, 1000)),
        Rows(4, 5, 3),
        draw=rows.draw_classes,
        ideal=rows.nd_bytes,
    ),
    # The same of hyperplanes. The products take far longer than the bytes, so the floor is theirs.
    "lsh": Subject(
        "lsh_loss",
        (Rows(128, 64, 2048), Rows(256, 512, 2048), Rows(256, 2048, 8192)),
        Rows(4, 5, 6),
        draw=rows.draw_hashed,
        ideal=rows.lsh_bytes,
        flops=rows.lsh_flops,
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
    # What a regressor predicts, beside the teacher's maps.
    "vid": Subject(
        "vid_loss",
        (SHAPES["imagenet-resnet"],),
        _EQUAL,
        layout=MAPS,
        backends=("triton", "cuda", "cpp"),
        constants=rows.draw_variances,
        by_layer=True,
        teacher_again=True,
    ),
    # Embeddings of both sides, mapped to 128 numbers. The weight is RepDistiller's, as CRD's.
    "cc": Subject(
        "cc_loss",
        (Rows(128, 128),),
        Rows(4, 5),
        backends=(),
        draw=rows.draw_rows,
        ideal=rows.reads_twice,
        released=released.cc,
        weight=0.02,
    ),
    # Batch, width, rows of a bank: CIFAR, ImageNet.
    "crd": Subject(
        "crd_loss",
        (Rows(64, 128, 50000), Rows(16, 128, 1281167)),
        Rows(4, 5, 30),
        backends=(),
        runs_on="by its shape",
        draw=rows.draw_contrasted,
        ideal=rows.crd_bytes,
        released=released.crd,
        weight=0.8,
    ),
    # All pairs of maps. The weight is the authors'.
    "afd": Subject(
        "afd_loss",
        (SHAPES["imagenet-resnet"],),
        SHAPES["tiny"],
        layout=MAPS,
        constants=rows.draw_attention,
        released=released.afd,
        weight=200.0,
    ),
    # Layers of equal shapes. The weight is AberHu/Knowledge-Distillation-Zoo's.
    "afds": Subject(
        "afds_loss",
        (SHAPES["imagenet-resnet"],),
        _EQUAL,
        layout=MAPS,
        backends=("triton", "cuda", "cpp"),
        constants=rows.draw_importance,
        by_layer=True,
        teacher_again=True,
        weight=500.0,
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
        runs_on="by its device",
        flops=rows.sp_flops,
        released=released.sp,
        weight=3000.0,
        scale=16.0,
    ),
    "rkd": Subject(
        "rkd_loss",
        (Rows(64, 64), Rows(128, 512), Rows(256, 512)),
        Rows(5, 4),
        backends=(),
        draw=rows.draw_rows,
        ideal=partial(rows.reads_twice, teacher_again=False),
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
