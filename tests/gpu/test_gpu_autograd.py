"""Gradients on the device: exact, to whichever input wants one, from any thread."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from measures import relative_error, run
from on_device import DEVICE, DRY, FORMS, KERNELS, features, forward_kernels, same, sized, some

from amd_fused import reference

pytestmark = pytest.mark.core

# Small enough to take derivatives by differences, each in one form of the kernels. The second has
# few positions but channels enough that one program should not read them alone.
GRADCHECK = {
    "fused": sized((2, 3, 2, 4, 5), (1, 2, 1, 3, 4)),
    "split": (1, 700, 700, 4, 4),
    "chunked": (1, 1, 1, 65, 64),
}


@pytest.mark.parametrize("formula", some(["paper", "released"], "paper"))
@pytest.mark.parametrize("form", some(GRADCHECK, "fused"))
def test_gradcheck_in_float64(amd: Any, form: str, formula: str) -> None:
    """Of the larger inputs, the derivatives along random directions."""
    student, teacher = features(GRADCHECK[form], (torch.float64, torch.float64))
    assert forward_kernels(student, teacher) == KERNELS[form]
    assert torch.autograd.gradcheck(
        lambda s, t: amd(s, t, formula=formula, reduction="none"),
        (student.requires_grad_(), teacher.requires_grad_()),
        fast_mode=DRY or form != "fused",
    )


@pytest.mark.parametrize("side", some(["student", "teacher", "both"], "teacher"))
@pytest.mark.parametrize("form", some(FORMS, "fused"))
def test_gradients_flow_to_whichever_input_requires_one(amd: Any, form: str, side: str) -> None:
    student, teacher = features(FORMS[form])
    both = run(amd, student, teacher).grads
    student.requires_grad_(side != "teacher")
    teacher.requires_grad_(side != "student")
    amd(student, teacher).backward()
    for leaf, expected in zip((student, teacher), both, strict=True):
        if leaf.requires_grad:
            assert leaf.grad is not None
            # A kernel for one side contracts its products otherwise than one for both.
            assert relative_error(leaf.grad, expected.double()) < 1e-6
        else:
            assert leaf.grad is None


UPSTREAM = {
    "contiguous": lambda: torch.tensor([0.5, -2.0], device=DEVICE),
    "one number expanded": lambda: torch.tensor(3.0, device=DEVICE).expand(2),
    "every other of four": lambda: torch.tensor([0.5, torch.nan, -2.0, torch.nan], device=DEVICE)[
        ::2
    ],
}


@pytest.mark.parametrize("upstream", UPSTREAM.values(), ids=UPSTREAM.keys())
def test_per_sample_upstream_gradients_of_any_stride(amd: Any, upstream: Any) -> None:
    student, teacher = features((2, 6, 4, 7, 7))
    student.requires_grad_()
    loss = amd(student, teacher, reduction="none")
    (fused,) = torch.autograd.grad(loss, student, upstream())
    loss = reference.amd_loss(student.double(), teacher.double(), reduction="none")
    (exact,) = torch.autograd.grad(loss, student, upstream().double())
    assert relative_error(fused, exact.double()) < 5e-6


def test_gradient_scaling_happens_before_the_cast_to_half(amd: Any) -> None:
    """Gradients of 1e-9 underflow in float16; scaled upstream, as by a GradScaler, they do not."""
    student, teacher = features((2, 8, 8, 16, 16), (torch.float16, torch.float16))
    student.requires_grad_()
    (fused,) = torch.autograd.grad(amd(student, teacher) * 2.0**20, student)
    exact = student.detach().double().requires_grad_()
    loss = reference.amd_loss(exact, teacher.double()) * 2.0**20
    (truth,) = torch.autograd.grad(loss, exact)
    assert relative_error(fused, truth) < 1e-3


def test_second_derivative_raises_and_names_the_remedy(amd: Any) -> None:
    student, teacher = features((2, 6, 4, 7, 7))
    student.requires_grad_()
    (grad,) = torch.autograd.grad(amd(student, teacher), student, create_graph=True)
    with pytest.raises(RuntimeError, match=r'second derivatives; use backend="reference"'):
        grad.square().sum().backward()


@pytest.mark.cuda  # Triton's interpreter keeps its state in global variables
def test_runs_from_several_threads(amd: Any) -> None:
    """DataParallel calls forward from several; their backwards meet in autograd's own."""
    pairs = [features((2, 6, 4, 7, 7), seed=seed) for seed in range(4)]
    expected = [run(amd, *pair) for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda k: run(amd, *pairs[k % 4]), range(8)))
    assert all(same(result, expected[k % 4]) for k, result in enumerate(results))


@pytest.mark.parametrize("form", some(FORMS, "fused"))
def test_backward_runs_in_another_thread_than_forward(amd: Any, form: str) -> None:
    student, teacher = features(FORMS[form])
    expected = run(amd, student, teacher)
    leaves = (student.requires_grad_(), teacher.requires_grad_())
    loss = amd(*leaves)
    with ThreadPoolExecutor(1) as pool:
        grads = pool.submit(functools.partial(torch.autograd.grad, loss, leaves)).result()
    assert all(map(torch.equal, grads, expected.grads))
