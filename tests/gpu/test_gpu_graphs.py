"""A call can be captured in a CUDA graph after one warm-up, and replayed on other numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from measures import run
from on_device import FORMS, features
from torch import Tensor, nn

from amd_fused import AMDLoss, attention_map

pytestmark = [pytest.mark.core, pytest.mark.cuda]


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@pytest.mark.parametrize("form", FORMS)
def test_replay_on_new_inputs_gives_their_loss_and_gradients(
    amd: Any, form: str, layout: str
) -> None:
    student, teacher = features(FORMS[form], layout=layout)
    upstream = torch.ones((), device=student.device)
    leaves = (student.requires_grad_(), teacher.requires_grad_())
    _warm_up(lambda: torch.autograd.grad(amd(*leaves), leaves, upstream))

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = amd(*leaves)
        grads = torch.autograd.grad(loss, leaves, upstream)

    for seed, factor in ((1, 1.0), (2, -3.0)):
        fresh = features(FORMS[form], layout=layout, seed=seed)
        for leaf, values in zip(leaves, fresh, strict=True):
            leaf.detach().copy_(values)
        upstream.fill_(factor)
        graph.replay()
        expected = run(lambda s, t, factor=factor: amd(s, t) * factor, *fresh)
        assert torch.equal(loss * factor, expected.loss)
        assert all(map(torch.equal, grads, expected.grads))


@pytest.mark.parametrize("shape", [(300, 24, 1, 9, 7), (2, 512, 1, 7, 7)], ids=str)
def test_attention_maps_are_captured(backend: str, shape: Any) -> None:
    a, _ = features(shape)
    _warm_up(lambda: attention_map(a, backend=backend))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = attention_map(a, backend=backend)
    a.copy_(features(shape, seed=1)[0])
    graph.replay()
    assert torch.equal(found, attention_map(a, backend=backend))


def test_all_layers_of_a_call_are_captured_at_once(amd: Any) -> None:
    def inputs(seed: int) -> list[Tensor]:
        """Two students, then their teachers."""
        pairs = [features(shape, seed=seed) for shape in ((2, 6, 4, 7, 7), (2, 4, 4, 56, 56))]
        return [a for side in zip(*pairs, strict=True) for a in side]

    static = inputs(seed=0)
    students, teachers = [a.requires_grad_() for a in static[:2]], static[2:]
    _warm_up(lambda: torch.autograd.grad(amd(students, teachers), students))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = amd(students, teachers)
        grads = torch.autograd.grad(loss, students)
    for a, b in zip(static, inputs(seed=1), strict=True):
        a.detach().copy_(b)
    graph.replay()
    again = amd(students, teachers)
    assert torch.equal(loss, again)
    assert all(map(torch.equal, grads, torch.autograd.grad(again, students)))


def test_graphed_callable_of_the_module(amd: Any, backend: str) -> None:
    student, teacher = features((4, 12, 20, 14, 14))
    graphed = torch.cuda.make_graphed_callables(
        AMDLoss(backend=backend),
        (student.clone().requires_grad_(), teacher.clone().requires_grad_()),
    )
    for seed in (1, 2):
        student, teacher = features((4, 12, 20, 14, 14), seed=seed)
        expected = run(amd, student, teacher)
        leaves = (student.requires_grad_(), teacher.requires_grad_())
        loss = graphed(*leaves)
        grads = torch.autograd.grad(loss, leaves)
        assert torch.equal(loss, expected.loss)
        assert all(map(torch.equal, grads, expected.grads))


def test_captured_training_step_trains_as_the_plain_one_does(amd: Any) -> None:
    """Network, loss, backward and optimizer in one graph."""
    plain, captured = (_Step(amd) for _ in range(2))
    before = [p.detach().clone() for p in plain.net.parameters()]
    _warm_up(captured.run)
    for _ in range(_WARM_UPS):
        plain.run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.run()
    for _ in range(3):
        graph.replay()
        plain.run()
    after = list(plain.net.parameters())
    for a, b, c in zip(before, after, captured.net.parameters(), strict=True):
        assert not torch.equal(a, b)
        torch.testing.assert_close(b, c)


_WARM_UPS = 3


class _Step:
    def __init__(self, amd: Any) -> None:
        self.amd = amd
        torch.manual_seed(0)
        self.net = nn.Conv2d(3, 6, 3).cuda()
        self.images = torch.randn(4, 3, 16, 16, device="cuda")
        self.teacher = torch.randn(4, 5, 14, 14, device="cuda")
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=10.0)

    def run(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.amd(self.net(self.images), self.teacher).backward()
        self.optimizer.step()


def _warm_up(call: Callable[[], object]) -> None:
    """On a side stream, as the documentation of CUDA graphs has it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
