"""What a first minute on a GPU has to show: every form, dtype and loss gives the right number.

The layers of the benchmarks are taken as the benchmarks take them, gradients to the student alone:
the kernels are then compiled, by several processes at once, before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from measures import relative_error, run
from on_device import (
    BACKENDS,
    DEVICE,
    FORMS,
    TOLERANCE,
    benchmark_features,
    features,
    sized,
    some,
)
from torch import Tensor

import amd_fused
from amd_fused import attention_map, reference
from amd_fused._backends.kernels import KERNELS

pytestmark = pytest.mark.smoke

SCALE = 2.0**20
HALVES = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "dtype", some([torch.float32, torch.float64, *HALVES], torch.float32), ids=str
)
@pytest.mark.parametrize("form", some(FORMS, "fused"))
def test_every_form_and_dtype(amd: Any, form: str, dtype: torch.dtype, batch: int) -> None:
    student, teacher = features((batch, *FORMS[form][1:]), (dtype, dtype))
    # Scaled, as training in float16 has it: gradients of 1e-9 are none there.
    got = run(lambda s, t: amd(s, t) * SCALE, student, teacher)
    exact = run(lambda s, t: reference.amd_loss(s, t) * SCALE, student.double(), teacher.double())
    loss_tolerance, grad_tolerance = TOLERANCE[got.loss.dtype]
    assert relative_error(got.loss, exact.loss) <= 4 * loss_tolerance
    for ours, truth in zip(got.grads, exact.grads, strict=True):
        assert relative_error(ours, truth) <= 4 * grad_tolerance + HALVES.get(dtype, 0.0)


@pytest.mark.parametrize("layout", some(["nchw", "channels_last"], "nchw"))
@pytest.mark.parametrize("dtype", some([torch.float32, torch.bfloat16], torch.float32), ids=str)
@pytest.mark.parametrize("shape", some(["cifar-wrn", "imagenet-resnet", "detection"], "tiny"))
def test_layers_of_the_benchmarks(amd: Any, shape: str, dtype: torch.dtype, layout: str) -> None:
    student, teacher = benchmark_features(shape, layout, dtype)
    for a in student:
        a.requires_grad_()
    loss = amd(student, teacher)
    grads = torch.autograd.grad(loss, student)
    loss_tolerance, grad_tolerance = TOLERANCE[torch.float32]
    total = torch.zeros((), dtype=torch.float64, device=DEVICE)
    # Layer by layer, for float64 takes the memory of four.
    for a_s, a_t, ours in zip(student, teacher, grads, strict=True):
        wide = a_s.detach().double().requires_grad_()
        exact = reference.amd_loss(wide, a_t.double()) / len(student)
        (truth,) = torch.autograd.grad(exact, wide)
        total += exact.detach()
        assert relative_error(ours, truth) <= 4 * grad_tolerance + HALVES.get(dtype, 0.0)
    assert relative_error(loss.detach(), total) <= 4 * loss_tolerance


def drawn(seed: int, *sizes: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


# B, C, H, W of maps; draws of CRD's banks, a sample.
MAP = sized((6, 40, 37, 31), (2, 5, 9, 7))
DRAWS = sized(2000, 100)

# What the sibling losses take: the student's input, then all others.
SIBLINGS: dict[str, Callable[[], list[Tensor]]] = {
    "kd_loss": lambda: [drawn(0, 6, 100), drawn(1, 6, 100)],
    "spherical_kd_loss": lambda: [drawn(0, 6, 1000), drawn(1, 6, 1000)],
    "nd_loss": lambda: [
        *(drawn(0, 6, 640), drawn(1, 6, 640)),
        *(torch.arange(6, device=DEVICE) % 3, drawn(2, 3, 640)),
    ],
    "lsh_loss": lambda: [drawn(0, 6, 640), drawn(1, 6, 640), drawn(2, 64, 640), drawn(3, 64)],
    "at_loss": lambda: [drawn(0, 2, 9, 7, 7), drawn(1, 2, 6, 7, 7)],
    "afd_loss": lambda: [
        *(drawn(0, *MAP), drawn(1, MAP[0], sized(300, 9), *MAP[2:])),
        torch.ones(MAP[0], 1, 1, device=DEVICE),
    ],
    "afds_loss": lambda: [
        *(drawn(0, *MAP), drawn(1, *MAP)),
        drawn(2, *MAP[:2]).softmax(1),
    ],
    "crd_loss": lambda: [
        *(F.normalize(drawn(seed, 6, 40)) for seed in (0, 1)),
        *(F.normalize(drawn(seed, 90, 40)) for seed in (2, 3)),
        *(torch.arange(6 * DRAWS, device=DEVICE).view(6, DRAWS) * 7 % 90, drawn(4, 2)),
    ],
    "vid_loss": lambda: [drawn(0, *MAP), drawn(1, *MAP), drawn(2, MAP[1])],
}

# Whose kernels they run.
FAMILY = {
    "kd_loss": "kd",
    "spherical_kd_loss": "kd",
    "nd_loss": "nd",
    "lsh_loss": "lsh",
    "at_loss": "amd",
    "afd_loss": "afd",
    "afds_loss": "afds",
    "vid_loss": "vid",
    "crd_loss": "crd",
}


@pytest.mark.parametrize(
    ("backend", "loss"),
    [(name, loss) for loss in SIBLINGS for name in BACKENDS if name in KERNELS[FAMILY[loss]]],
    indirect=["backend"],
)
def test_sibling_losses(backend: str, loss: str) -> None:
    student, *others = SIBLINGS[loss]()
    student.requires_grad_()
    got = getattr(amd_fused, loss)(student, *others, backend=backend)
    (grad,) = torch.autograd.grad(got, student)
    wide = student.detach().double().requires_grad_()
    exact = getattr(reference, loss)(
        wide, *(a.double() if a.is_floating_point() else a for a in others)
    )
    (truth,) = torch.autograd.grad(exact, wide)
    assert relative_error(got.detach(), exact.detach()) < 1e-5
    assert relative_error(grad, truth) < 1e-5


# B, C, H, W: channels of one program, and shared out over several.
MAPS = {"one group": (300, 24, 9, 7), "groups": (2, 512, 7, 7), "large": (1, 20, 130, 131)}


@pytest.mark.parametrize("layout", some(["nchw", "channels_last", "window"], "channels_last"))
@pytest.mark.parametrize(
    "dtype", some([torch.float32, torch.float64, *HALVES], torch.float32), ids=str
)
@pytest.mark.parametrize("form", some(MAPS, "groups"))
def test_attention_map(backend: str, form: str, dtype: torch.dtype, layout: str) -> None:
    batch, channels, height, width = MAPS[form]
    a, _ = features((batch, channels, 1, height, width), (dtype, dtype), layout)
    found = attention_map(a.requires_grad_(), backend=backend)
    upstream = drawn(1, *found.shape)
    (grad,) = torch.autograd.grad(found, a, upstream.to(found.dtype))
    wide = a.detach().double().requires_grad_()
    exact = wide.square().sum(1, keepdim=True).sqrt()
    (truth,) = torch.autograd.grad(exact, wide, upstream.double())
    tolerance = 4 * torch.finfo(found.dtype).eps
    assert relative_error(found.detach(), exact.detach()) <= tolerance
    assert relative_error(grad, truth) <= tolerance + HALVES.get(dtype, 0.0)
