"""Kernels run on the tensors' device and the current stream, whatever else is going on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from measures import run
from on_device import FORMS, features, same

pytestmark = [pytest.mark.core, pytest.mark.cuda]

SLEEP_CYCLES = 200_000_000  # a tenth of a second or so


@pytest.mark.parametrize("form", FORMS)
def test_call_waits_for_what_is_before_it_on_the_current_stream(amd: Any, form: str) -> None:
    """On any other stream, the kernels would read before the copy that they have to wait for."""
    values, teacher = features(FORMS[form])
    expected = run(amd, values, teacher)
    student = torch.full_like(values, torch.nan)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(SLEEP_CYCLES)
        student.copy_(values)
        result = run(amd, student, teacher)
    stream.synchronize()
    assert same(result, expected)


@pytest.mark.parametrize("form", FORMS)
def test_two_streams_at_once_do_not_disturb_each_other(amd: Any, form: str) -> None:
    pairs = [features((8, *FORMS[form][1:]), seed=seed) for seed in range(2)]
    expected = [run(amd, *pair) for pair in pairs]
    streams = [torch.cuda.Stream() for _ in pairs]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    results = []
    for _ in range(10):
        for k, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results.append((k, run(amd, *pairs[k])))
    torch.cuda.synchronize()
    assert all(same(result, expected[k]) for k, result in results)


def test_threads_with_a_stream_each(amd: Any) -> None:
    pairs = [features((16, 20, 16, 28, 28), seed=seed) for seed in range(4)]
    expected = [run(amd, *pair) for pair in pairs]
    torch.cuda.synchronize()

    def several(k: int) -> bool:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            results = [run(amd, *pairs[k]) for _ in range(5)]
        stream.synchronize()
        return all(same(result, expected[k]) for result in results)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(several, range(4)))


def test_backward_runs_on_the_stream_of_forward(amd: Any) -> None:
    """Autograd's rule; here backward is asked for from the default stream."""
    student, teacher = features((8, 20, 16, 28, 28))
    expected = run(amd, student, teacher)
    leaves = (student.requires_grad_(), teacher.requires_grad_())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        loss = amd(*leaves)
    torch.cuda.current_stream().wait_stream(stream)
    grads = torch.autograd.grad(loss, leaves)
    torch.cuda.synchronize()
    assert all(map(torch.equal, grads, expected.grads))


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs"
)
@pytest.mark.parametrize("form", FORMS)
def test_tensors_of_a_device_that_is_not_the_current_one(amd: Any, form: str) -> None:
    student, teacher = features(FORMS[form])
    expected = run(amd, student, teacher)
    other = torch.device("cuda", 1)
    result = run(amd, student.to(other), teacher.to(other))
    assert torch.cuda.current_device() == 0
    assert result.loss.device == other
    assert torch.equal(result.loss.cpu(), expected.loss.cpu())
    for a, b in zip(result.grads, expected.grads, strict=True):
        assert a.device == other
        assert torch.equal(a.cpu(), b.cpu())
