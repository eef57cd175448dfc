"""torch.compile and torch.export take the loss as it is, in one graph, with the same result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from measures import Result, relative_error, run
from on_device import DEVICE, DRY, FORMS, features, same, some
from torch import Tensor, nn

from amd_fused import AMDLoss

# The dry form has no minutes for a C++ compiler: it traces, and runs what was traced.
OPTIONS = {"fullgraph": True, "backend": "aot_eager" if DRY else "inductor"}
SHAPES = [(2, 6, 4, 7, 7), (2, 3, 5, 4, 6)]


@pytest.fixture(autouse=True)
def _compiles_anew() -> None:
    torch.compiler.reset()


def pairs(seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    made = [features(shape, seed=seed) for shape in SHAPES]
    return [s for s, _ in made], [t for _, t in made]


def assert_equal_up_to_rounding(traced: Result, expected: Result) -> None:
    """The kernels are the same, but the mean over the samples and its gradient are compiled."""
    torch.testing.assert_close(traced, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", some(["mean", "none"], "mean"))
@pytest.mark.parametrize("form", some(FORMS, "fused"))
def test_compiles_to_one_graph_with_the_same_result(
    backend: str, form: str, reduction: str
) -> None:
    loss = AMDLoss(backend=backend, reduction=reduction)
    compiled = torch.compile(loss, **OPTIONS)
    student, teacher = features(FORMS[form])
    expected, traced = run(loss, student, teacher), run(compiled, student, teacher)
    assert_equal_up_to_rounding(traced, expected)


def test_compiles_with_dynamic_shapes_and_changing_options(amd: Any) -> None:
    compiled = torch.compile(amd, dynamic=True, **OPTIONS)
    for batch, margin in ((2, 1.35), (3, 9.0)):
        pair = features((batch, 4, 6, 8, 6))
        traced, expected = run(compiled, *pair, margin=margin), run(amd, *pair, margin=margin)
        assert_equal_up_to_rounding(traced, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_replays_cuda_graphs_on_changing_inputs(amd: Any, mode: str) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    compiled = torch.compile(amd, fullgraph=True, mode=mode)
    for seed in range(4):
        students, teachers = pairs(seed)
        expected = run(amd, students, teachers)
        torch.compiler.cudagraph_mark_step_begin()
        traced = run(compiled, students, teachers)
        assert_equal_up_to_rounding(traced, expected)
    assert counters["inductor"]["cudagraph_skips"] == 0


def test_compiled_training_step_matches_eager(amd: Any) -> None:
    """The loss inside a compiled step with a network before it, whose gradients it feeds."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(DEVICE)
    x = torch.randn(2, 3, 12, 12, device=DEVICE)
    teacher = torch.randn(2, 6, 8, 8, device=DEVICE)

    def step(x: Tensor, teacher: Tensor) -> Tensor:
        return amd(net(x), teacher)

    grads = []
    for function in (step, torch.compile(step, **OPTIONS)):
        net.zero_grad()
        function(x, teacher).backward()
        grads.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert len(grads[0]) == 4
    # Inductor may order the sums of a convolution differently, or run them in TF32.
    assert all(relative_error(b, a.double()) < 1e-2 for a, b in zip(*grads, strict=True))


class LossOfFeatures(nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.loss = AMDLoss(backend=backend)

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        return self.loss(student, teacher)


@pytest.mark.parametrize("strict", [False, True])
def test_exports(backend: str, strict: bool) -> None:
    students, teachers = pairs()
    module = LossOfFeatures(backend)
    program = torch.export.export(module, (students, teachers), strict=strict)
    assert f"amd_fused.amd_fwd_{backend}" in str(program.graph)
    assert torch.equal(program.module()(students, teachers), module(students, teachers))


@pytest.mark.cuda
def test_compiled_and_plain_calls_may_alternate(amd: Any) -> None:
    compiled = torch.compile(amd, **OPTIONS)
    pair = features(SHAPES[0])
    first = run(compiled, *pair)
    plain = run(amd, *pair)
    assert same(run(compiled, *pair), first)
    assert same(run(amd, *pair), plain)
