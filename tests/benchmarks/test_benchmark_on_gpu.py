"""The harness's GPU side: what it counts and reports. No GPU: events, graphs and launches are stood
in for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks import clock, environment, graphs, losses, parity, table, trace
from benchmarks.harness import Copy, Settings, measure
from benchmarks.shapes import IdealBytes
from benchmarks.subject import EAGER, Case, Inputs, Variant

CPU = torch.device("cpu")
SETS = 3


class FakeCuda:
    """A device whose clock the test turns: events and waits."""

    def __init__(self):
        self.now, self.waits = 0.0, 0

    def synchronize(self, device=None):
        self.waits += 1

    def Event(self, enable_timing):
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device):
        self.device = device

    def record(self):
        self.milliseconds = self.device.now

    def elapsed_time(self, later):
        return later.milliseconds - self.milliseconds


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(torch.cuda, "synchronize", fake.synchronize)
    monkeypatch.setattr(torch.cuda, "Event", fake.Event)
    return fake


def test_turn_on_a_gpu_waits_once_and_leaves_out_the_first_call(cuda):
    calls = []

    def step(mark):
        """The n-th call takes n ms, and as much again for its second stage."""
        calls.append(None)
        cuda.now += len(calls)
        mark()
        cuda.now += len(calls)
        mark()

    times = clock.CudaClock().turn(step, calls=2)
    assert times == [pytest.approx((2e-3, 4e-3)), pytest.approx((3e-3, 6e-3))]
    assert cuda.waits == 1


def test_host_clock_finds_the_device_idle_at_each_call(cuda):
    waits = []

    def step(mark):
        waits.append(cuda.waits)
        mark()

    assert len(clock.HostClock(torch.device("cuda")).turn(step, calls=2)) == 2
    assert waits == [1, 2, 3]
    assert len(clock.HostClock(CPU).turn(step, calls=1)) == 1
    assert cuda.waits == 3


def half_square(student, teacher):
    """The loss of these tests; its gradient by the student is the student itself."""
    return sum(a.square().sum() / 2 for a in student)


def wrong(student, teacher):
    return 2 * half_square(student, teacher)


class FakeReplay:
    """Replays take 30 ms; the answer is that of the loss given."""

    def __init__(self, case, loss, device):
        self.graph = SimpleNamespace(replay=lambda: None)
        self.answers = [parity.answer(loss, case, case.inputs[0])]
        self.device = device

    def step(self, mark):
        self.device.now += 30
        mark()


@pytest.fixture
def on_gpu(monkeypatch, cuda):
    """Makes `measure` take CPU tensors for a GPU's: its record for the variants given."""
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: 2**20)
    monkeypatch.setattr(Case, "device", property(lambda case: torch.device("cuda")))
    monkeypatch.setattr(trace, "peak_extra_bytes", lambda step, device: 1200)
    monkeypatch.setattr(trace, "kernels", lambda step, device: [{"name": "k", "us": 1.5}] * 7)

    def measured(*variants, graph_of=lambda variant: variant.loss):
        def capture(variant, case):
            return FakeReplay(case, graph_of(variant), cuda)

        monkeypatch.setattr(graphs, "capture", capture)
        inputs = [
            Inputs(
                [torch.full((2, 3, 4, 5), 0.5 + i, requires_grad=True)], [torch.ones(2, 6, 4, 5)]
            )
            for i in range(SETS)
        ]
        ideal = IdealBytes(forward=400_000, backward=100_000, gradient=480)
        copy = Copy(CPU)

        def ticking(loss, student, teacher):
            cuda.now += 4
            return loss(student, teacher)

        def two_ms(mark):
            cuda.now += 2
            mark()

        timed = [replace(v, loss=partial(ticking, v.loss)) for v in variants]
        case = Case("test", "s", "nchw", torch.float32, inputs, ideal, timed)

        monkeypatch.setattr(copy, "step", two_ms)
        return measure(case, copy, Settings(min_time=0.0, min_rounds=2, calls_per_turn=2))

    return measured


def test_record_of_a_gpu_has_graph_launches_and_host_time(on_gpu):
    record = on_gpu(Variant(EAGER, "eager", half_square, half_square))
    (variant,) = record["variants"]
    # 30 ms a replay of three calls, one on each set of inputs.
    assert variant["graph"]["total_ms"]["median"] == pytest.approx(10.0)
    assert variant["graph"]["total_ms"]["n"] == 4
    assert variant["graph"]["rounds_ms"] == pytest.approx([10.0, 10.0])
    # 128 MiB moved in 2 ms; 500,000 bytes take 7.45e-3 ms.
    assert record["floor_ms"]["total"] == pytest.approx(2 * 500_000 / (2 * 64 * 2**20))
    assert variant["graph"]["times_floor"] == pytest.approx(10.0 / record["floor_ms"]["total"])
    assert variant["forward_ms"]["median"] == variant["total_ms"]["median"] == pytest.approx(4.0)
    assert variant["launches"] == 7
    assert variant["kernels"] is None  # a peer's
    assert variant["host_ms"]["n"] == 10
    assert variant["peak_extra_bytes"] == 1200


def test_graph_with_a_wrong_answer_is_refused_and_its_variant_is_not(on_gpu):
    ours = Variant("ours", "ours", half_square, half_square, peer=False)
    record = on_gpu(ours, graph_of=lambda variant: wrong)
    (variant,) = record["variants"]
    assert variant["status"] == "ok"
    assert variant["total_ms"] is not None
    assert variant["graph"]["status"] == "refused"
    assert variant["graph"]["reason"].startswith("loss off by 1 and gradient off by 1")
    assert variant["graph"]["total_ms"] is None
    assert "ours, graph: refused, loss off by 1" in table.render_case(record)


def test_variant_that_cannot_be_captured_is_timed_without(on_gpu):
    def fails(variant):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    record = on_gpu(Variant(EAGER, "eager", half_square, half_square), graph_of=fails)
    (variant,) = record["variants"]
    assert variant["status"] == "ok"
    assert variant["graph"]["status"] == "failed"
    reason = "RuntimeError: operation not permitted when stream is capturing"
    assert variant["graph"]["reason"] == reason


@pytest.mark.parametrize(("graph_of", "status"), [(half_square, 0), (wrong, 1)])
def test_run_fails_when_the_graph_of_our_own_variant_is_wrong(on_gpu, graph_of, status):
    ours = Variant("ours", "ours", half_square, half_square, peer=False)
    record = on_gpu(ours, graph_of=lambda variant: graph_of)
    assert losses.status({"cases": [record]}) == status


def test_table_of_a_gpu_gives_the_share_of_copy_bandwidth(on_gpu):
    record = on_gpu(
        Variant("ours", "ours", half_square, half_square, peer=False),
        Variant(EAGER, "eager", half_square, half_square),
        Variant("wrong", "wrong", wrong, half_square),
    )
    for variant in record["variants"][:2]:
        variant["graph"]["times_floor"] = 1.25
    rows = [line.strip("| ").split("|") for line in table.render_case(record).splitlines()[4:9]]
    cells = [[cell.strip() for cell in row] for row in rows]
    column = cells[0].index("% of copy")
    assert [row[column] for row in cells[2:]] == ["80", "80", "-"]
    assert cells[4][:2] == ["wrong", "refused"]
    ours = table.render_ours([record, record]).splitlines()
    assert len(ours) == 4  # head, rule, and a row for each case
    assert ours[2].startswith("| s, nchw, float32: ours |")


def test_file_of_a_gpu_is_named_by_device_and_date():
    record = {"device": "NVIDIA H200", "device_type": "cuda", "date": "2026-11-21T03:04:05+00:00"}
    assert environment.file_stem(record) == "nvidia-h200-2026-11-21-0304"


def test_commit_is_taken_from_the_environment_where_there_is_no_repository(monkeypatch):
    monkeypatch.setattr(environment, "_output", lambda *command: "")
    assert environment.commit() is None
    monkeypatch.setenv(environment.COMMIT_VARIABLE, "0123456789ab")
    assert environment.commit() == "0123456789ab"


def test_variants_on_a_gpu_include_the_autotuned_compiler(monkeypatch):
    from benchmarks import amd

    monkeypatch.setattr(amd._backends, "choose", lambda *_: "triton")
    keys = [v.key for v in amd.variants(torch.device("cuda"))]
    assert keys[:5] == ["amd_fused", "eager", "compile", "max-autotune", "released"]
    assert keys[5:] == ["attention", "at"]
    assert [v.key for v in amd.variants(torch.device("cuda")) if v.compiles] == keys[2:4]
