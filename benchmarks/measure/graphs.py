"""A variant's calls in a CUDA graph: the GPU's time alone, without that of Python and launches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from amd_fused.distill.clock import Mark
from benchmarks.measure import parity
from benchmarks.measure.parity import Answer, Verdict
from benchmarks.measure.subject import Case, Variant

WARM_UP_CALLS = 3


@dataclass(frozen=True)
class Replay:
    """One graph of as many calls as the case has sets of inputs, each call on its own set.

    The gradients of all calls are kept apart, as the inputs are: written over one another, they
    would stay in the cache.
    """

    graph: torch.cuda.CUDAGraph
    answers: list[Answer]

    def step(self, mark: Mark) -> None:
        self.graph.replay()
        mark()


def capture(variant: Variant, case: Case) -> Replay:
    stream = torch.cuda.Stream(case.device)
    stream.wait_stream(torch.cuda.current_stream(case.device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            parity.answer(variant.loss, case, case.inputs[0])
    torch.cuda.current_stream(case.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = [parity.answer(variant.loss, case, inputs) for inputs in case.inputs]
    return Replay(graph, answers)


def captured(variant: Variant, case: Case, right: Answer) -> tuple[Verdict, Replay | None]:
    """The variant's graph, if it can be captured and its replay gives the right answer."""
    try:
        replay = capture(variant, case)
        replay.graph.replay()
        torch.cuda.synchronize(case.device)
    except Exception as error:  # any: a peer may not be capturable, and the others still count
        return Verdict("failed", parity.first_line(error)), None
    verdict = parity.compare(replay.answers[0], right, parity.TOLERANCE[case.dtype])
    return verdict, replay if verdict.status == "ok" else None
