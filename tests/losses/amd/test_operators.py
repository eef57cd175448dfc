"""The operators behave as PyTorch's own do: checks, compile, export, autocast, autograd."""

from __future__ import annotations

import functools
import warnings
from itertools import product
from typing import Any

import cases
import pytest
import torch
from exhaustive import every_compiler
from measures import relative_error, run
from operator_checks import every_part, passes
from torch import Tensor, nn

from amd_fused import AMDLoss, amd_loss, reference
from amd_fused.losses.amd.margin import margin_polynomial

cpp = functools.partial(amd_loss, backend="cpp")
# The fixture `backend` loads it, or skips where it cannot run.
FUSED = ["cpp", "cuda", "triton"]
PAIRS = [(2, 6, 4, 7, 7), (2, 3, 5, 4, 6)]


def pairs(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    made = [cases.features(shape, (dtype, dtype)) for shape in PAIRS]
    return [s for s, _ in made], [t for _, t in made]


def forward_arguments(
    dtype: torch.dtype, needs_grad: list[bool], **changes: Any
) -> tuple[Any, ...]:
    students, teachers = pairs(dtype)
    options = {
        "margin_polynomial": margin_polynomial(1.35, dtype == torch.float64),
        "margin": 1.35,
        "scale": 64.0,
        "local_weight": 0.2,
        "released": False,
        "component_weights": [1.0, 1.0, 1.0],
        "mask_threshold": None,
        "layer_weights": [0.5, 0.5],
        "eps": 1e-6,
        "position_mean": True,
    }
    return students, teachers, *(options | changes).values(), needs_grad


FORWARD_CASES = {
    "student": forward_arguments(torch.float32, [True, True, False, False]),
    "both in float64": forward_arguments(torch.float64, [True] * 4),
    "one layer of the teacher": forward_arguments(torch.float32, [False, False, False, True]),
    "none": forward_arguments(torch.bfloat16, [False] * 4),
    "masked, direct form": forward_arguments(
        torch.float32, [True] * 4, margin_polynomial=None, mask_threshold=0.5, released=True
    ),
}


@every_part(("backend", "case"), product(FUSED, FORWARD_CASES))
def test_opcheck_passes_for_forward(backend: str, case: str, part: str) -> None:
    arguments = FORWARD_CASES[case]
    operator = getattr(torch.ops.amd_fused, f"amd_fwd_{backend}").default
    assert passes(operator, arguments, part)


@every_part(("backend", "layout"), product(["cpp", "cuda"], ["nchw", "channels_last", "window"]))
def test_opcheck_passes_for_backward(backend: str, layout: str, part: str) -> None:
    student, teacher = cases.features(PAIRS[0], layout=layout)
    d_f = [torch.randn(2, 49), torch.randn(2, 49)]
    operator = getattr(torch.ops.amd_fused, f"amd_bwd_{backend}").default
    assert passes(operator, (torch.randn(2), [student, teacher], d_f), part)


@pytest.mark.parametrize(
    ("backend", "reduction"),
    [
        ("cpp", "mean"),
        ("cpp", "none"),
        ("triton", "mean"),
        pytest.param("triton", "none", marks=pytest.mark.exhaustive),
    ],
    indirect=["backend"],
)
@every_compiler
def test_compiles_to_one_graph_with_the_same_result(
    backend: str, reduction: str, compiler: str
) -> None:
    students, teachers = pairs()
    loss = AMDLoss(backend=backend, reduction=reduction)
    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    eager, traced = run(loss, students, teachers), run(compiled, students, teachers)
    assert torch.equal(eager.loss, traced.loss)
    assert all(torch.equal(a, b) for a, b in zip(eager.grads, traced.grads, strict=True))


@every_compiler
def test_compiles_with_dynamic_shapes_and_changing_options(compiler: str) -> None:
    compiled = torch.compile(cpp, fullgraph=True, dynamic=True, backend=compiler)
    for batch, margin in ((2, 1.35), (3, 2.5), (5, 9.0)):
        student, teacher = cases.features((batch, 4, 6, 8, 6))
        traced = run(compiled, student, teacher, margin=margin)
        eager = run(cpp, student, teacher, margin=margin)
        assert torch.equal(traced.loss, eager.loss)
        assert all(torch.equal(a, b) for a, b in zip(traced.grads, eager.grads, strict=True))


def test_compiled_training_step_matches_eager() -> None:
    """The loss inside a compiled step with a network before it, whose gradients it feeds."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x, teacher = torch.randn(2, 3, 12, 12), torch.randn(2, 6, 8, 8)

    def step(x: Tensor, teacher: Tensor) -> Tensor:
        return cpp(net(x), teacher)

    grads = []
    for function in (step, torch.compile(step, fullgraph=True)):
        net.zero_grad()
        function(x, teacher).backward()
        grads.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert len(grads[0]) == 4
    assert all(relative_error(b, a.double()) < 1e-5 for a, b in zip(*grads, strict=True))


class LossOfFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loss = AMDLoss(backend="cpp")

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        return self.loss(student, teacher)


@pytest.mark.parametrize("strict", [False, True])
def test_exports(strict: bool) -> None:
    students, teachers = pairs()
    module = LossOfFeatures()
    program = torch.export.export(module, (students, teachers), strict=strict)
    assert "amd_fused.amd_fwd_cpp" in str(program.graph)
    assert torch.equal(program.module()(students, teachers), module(students, teachers))


def test_autocast_needs_no_cast_by_the_caller() -> None:
    torch.manual_seed(0)
    student_net, teacher_net = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 8, 3)
    x = torch.randn(2, 3, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        student = student_net(x)
        with torch.no_grad():
            teacher = teacher_net(x)
        loss = amd_loss(student, teacher, backend="cpp")
    assert student.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    exact = reference.amd_loss(student.detach().double(), teacher.double())
    assert relative_error(loss.detach(), exact) < 2e-6
    assert student_net.weight.grad is not None
    assert student_net.weight.grad.norm() > 0


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_gradients_flow_to_whichever_input_requires_one(side: str) -> None:
    student, teacher = cases.features(PAIRS[0])
    all_grads = run(cpp, student, teacher).grads
    student.requires_grad_(side != "teacher")
    teacher.requires_grad_(side != "student")
    cpp(student, teacher).backward()
    for leaf, expected in zip((student, teacher), all_grads, strict=True):
        if leaf.requires_grad:
            assert leaf.grad is not None
            assert torch.equal(leaf.grad, expected)
        else:
            assert leaf.grad is None


def test_some_layers_may_be_frozen() -> None:
    students, teachers = pairs()
    students[1].requires_grad_()
    loss = cpp(students, teachers)
    (grad,) = torch.autograd.grad(loss, students[1])
    assert torch.equal(grad, run(cpp, *pairs()).grads[1])


def test_no_grad_leaves_no_graph() -> None:
    student, teacher = cases.features(PAIRS[0])
    student.requires_grad_()
    with torch.no_grad():
        assert not cpp(student, teacher).requires_grad


UPSTREAM = {
    "contiguous": lambda: torch.tensor([0.5, -2.0]),
    "one number expanded": lambda: torch.tensor(3.0).expand(2),
    "every other of four": lambda: torch.tensor([0.5, torch.nan, -2.0, torch.nan])[::2],
}


@pytest.mark.parametrize("upstream", UPSTREAM.values(), ids=UPSTREAM.keys())
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_per_sample_upstream_gradients_of_any_stride(backend: str, upstream: Any) -> None:
    student, teacher = cases.features(PAIRS[0])
    student.requires_grad_()
    fused_loss = amd_loss(student, teacher, reduction="none", backend=backend)
    (fused,) = torch.autograd.grad(fused_loss, student, upstream())
    loss = reference.amd_loss(student.double(), teacher.double(), reduction="none")
    (exact,) = torch.autograd.grad(loss, student, upstream().double())
    assert relative_error(fused, exact.double()) < 5e-6


@pytest.mark.parametrize("backend", ["cpp", "cuda"], indirect=True)
def test_gradient_scaling_happens_before_the_cast_to_half(backend: str) -> None:
    """Gradients of 1e-9 underflow in float16; scaled upstream, as by a GradScaler, they do not."""
    student, teacher = cases.features((2, 8, 8, 16, 16), (torch.float16, torch.float16))
    student.requires_grad_()
    (fused,) = torch.autograd.grad(amd_loss(student, teacher, backend=backend) * 2.0**20, student)
    exact = student.detach().double().requires_grad_()
    loss = reference.amd_loss(exact, teacher.double()) * 2.0**20
    (truth,) = torch.autograd.grad(loss, exact)
    assert relative_error(fused, truth) < 1e-3


def test_second_derivative_raises_and_names_the_remedy() -> None:
    student, teacher = cases.features(PAIRS[0])
    student.requires_grad_()
    (grad,) = torch.autograd.grad(cpp(student, teacher), student, create_graph=True)
    with pytest.raises(RuntimeError, match=r'second derivatives; use backend="reference"'):
        grad.square().sum().backward()


def test_inputs_changed_before_backward_are_noticed() -> None:
    student, teacher = cases.features(PAIRS[0])
    student.requires_grad_()
    feature = student * 2
    loss = cpp(feature, teacher)
    feature.mul_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_runs_from_several_threads() -> None:
    """Autograd runs backward in its own threads; DataParallel calls forward from several."""
    from concurrent.futures import ThreadPoolExecutor

    expected = run(cpp, *pairs())
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: run(cpp, *pairs()), range(8)))
    for result in results:
        assert torch.equal(result.loss, expected.loss)
        assert all(torch.equal(a, b) for a, b in zip(result.grads, expected.grads, strict=True))


def test_auto_is_the_fused_kernel_on_cpu_without_a_warning() -> None:
    student, teacher = cases.features(PAIRS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(amd_loss(student, teacher), cpp(student, teacher))
