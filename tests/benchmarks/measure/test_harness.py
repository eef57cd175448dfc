"""The benchmark's harness: what it counts, what it refuses. No test asserts a time."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from amd_fused.distill.clock import Settings
from benchmarks.measure import environment, graphs, harness, parity, runner, trace
from benchmarks.measure.harness import Copy, by_round, measure, spread
from benchmarks.measure.subject import (
    COMPILED,
    EAGER,
    Case,
    Flops,
    IdealBytes,
    Inputs,
    Variant,
)
from benchmarks.show import table

CPU = torch.device("cpu")
ONCE = Settings(min_time=0.0, min_rounds=2, calls_per_turn=2)
MIB = 2**20


def half_square(student, teacher):
    """The loss of these tests; its gradient by the student is the student itself."""
    return sum(a.square().sum() / 2 for a in student)


def doubled(student, teacher):
    return 2 * half_square(student, teacher)


def wrong_gradient(student, teacher):
    """The right value, with a gradient that is half of the right one."""
    return sum((a.detach() * a).sum() / 2 for a in student)


def wrong_loss(student, teacher):
    """The right gradient, with a value that is off by one in a thousand."""
    value = half_square(student, teacher)
    return value + 1e-3 * value.detach()


def not_finite(student, teacher):
    return half_square(student, teacher) * math.nan


def raises(student, teacher):
    raise RuntimeError("no compiler\nand a long story")


def variant(key, loss=half_square, **options):
    return Variant(key, key, loss, half_square, **options)


OURS = variant("ours", peer=False)


@pytest.fixture(autouse=True)
def small_cache(monkeypatch):
    """A last-level cache of 1 MiB, for small buffers whatever machine this is."""
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: MIB)


def case_of(*variants, sets=2, ideal=(4000, 1000), **options):
    inputs = [
        Inputs(
            student=[torch.full((2, 3, 4, 5), 0.5 + i, requires_grad=True)],
            teacher=[torch.ones(2, 6, 4, 5)],
        )
        for i in range(sets)
    ]
    named = ("test", "2x3x4x5", "nchw", torch.float32)
    return Case(*named, inputs, IdealBytes(*ideal, 480), list(variants), **options)


def measured(*variants):
    record = measure(case_of(*variants), Copy(CPU), ONCE)
    return record, {v["key"]: v for v in record["variants"]}


@pytest.mark.parametrize(
    ("wrong", "status", "reason"),
    [
        (wrong_gradient, "refused", "gradient off by 0.5 against float64"),
        (wrong_loss, "refused", "loss off by 0.001 against float64"),
        (not_finite, "refused", "loss off by inf and gradient off by inf against float64"),
        (raises, "failed", "RuntimeError: no compiler"),
    ],
)
def test_wrong_variant_is_called_once_gets_no_time_and_stops_no_other(wrong, status, reason):
    calls = []

    def counted(student, teacher):
        calls.append(1)
        return wrong(student, teacher)

    _, variants = measured(variant("wrong", counted), variant(EAGER))
    refused = variants["wrong"]
    assert refused["status"] == status
    assert refused["reason"].startswith(reason)
    assert "\n" not in refused["reason"]
    for key in ("forward_ms", "backward_ms", "total_ms", "peak_extra_bytes", "ratios"):
        assert refused[key] is None, key
    assert len(calls) == 1
    assert variants[EAGER]["status"] == "ok"
    assert variants[EAGER]["total_ms"]["n"] == 4  # 2 rounds of 2 calls


def test_ratios_are_those_of_the_medians_and_of_the_floor():
    part = variant("part", part="attention")
    record, variants = measured(variant(EAGER), variant(COMPILED), variant("ours"), part)
    copy = record["copy"]
    bandwidth = 2 * copy["buffer_bytes"] / (copy["ms"]["median"] / 1e3)
    assert copy["bytes_per_second"] == pytest.approx(bandwidth)
    assert record["floor_ms"]["forward"] == pytest.approx(1e3 * 4000 / bandwidth)
    assert record["floor_ms"]["total"] == pytest.approx(1e3 * 5000 / bandwidth)

    medians = {key: v["total_ms"]["median"] for key, v in variants.items()}
    ratios = variants["ours"]["ratios"]
    assert ratios["speedup_over_eager"] == pytest.approx(medians[EAGER] / medians["ours"])
    assert ratios["speedup_over_compile"] == pytest.approx(medians[COMPILED] / medians["ours"])
    assert ratios["times_floor"] == pytest.approx(medians["ours"] / record["floor_ms"]["total"])
    assert variants[EAGER]["ratios"]["speedup_over_eager"] == 1.0
    # A part is not compared with the whole, and nothing with what is not there.
    assert variants["part"]["ratios"]["speedup_over_eager"] is None
    assert variants["part"]["ratios"]["times_floor"] > 0
    assert measured(OURS)[1]["ours"]["ratios"]["speedup_over_compile"] is None


def test_floor_is_the_longer_of_the_bytes_and_the_products(monkeypatch):
    speed = {"flops_per_second": 1e9, "ms": spread([1.0, 1.0]), "rounds_ms": [1.0, 1.0]}
    monkeypatch.setattr(harness.Product, "record", lambda *_: speed)
    monkeypatch.setattr(Copy, "record", lambda *_: {"bytes_per_second": 1e9})
    # Forward 4000 bytes and 9000 operations, backward 1000 bytes and 500 operations.
    case = case_of(variant(EAGER), flops=Flops(9000, 500, (2, 3, 2)))
    record = measure(case, Copy(CPU), ONCE)
    floor = {"forward": 9e-3, "backward": 1e-3, "total": 10e-3}
    assert record["floor_ms"] == pytest.approx(floor)
    assert record["flops"] == {"forward": 9000, "backward": 500, "total": 9500}


def test_calls_go_through_all_sets_of_inputs_in_turn():
    seen = []

    def record_set(student, teacher):
        seen.append(float(student[0].detach().flatten()[0]) - 0.5)
        return half_square(student, teacher)

    measure(case_of(variant(EAGER, record_set), sets=3), Copy(CPU), ONCE)
    # First the parity check and the memory trace, both on set 0; then two turns of three calls.
    assert seen == [0, 0, 0, 1, 2, 0, 1, 2]


def test_copy_buffers_are_well_beyond_the_cache(monkeypatch):
    assert Copy(CPU).buffer_bytes == 64 * MIB
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: 20 * MIB)
    assert Copy(CPU).buffer_bytes == 80 * MIB


def test_spread_and_rounds_are_medians_in_milliseconds():
    assert spread([0.005, 0.001, 0.002, 0.004, 0.003]) == pytest.approx(
        {"median": 3.0, "q1": 2.0, "q3": 4.0, "min": 1.0, "n": 5}
    )
    # Of each round's calls, to five digits.
    assert by_round([0.001, 0.003, 0.002, 0.004, 0.0050001234], 2) == [2.0, 3.0, 5.0001]


def test_rounds_are_kept_of_each_stage_and_of_the_copy():
    record, variants = measured(variant(EAGER))
    rounds = variants[EAGER]["rounds_ms"]
    assert {stage: len(values) for stage, values in rounds.items()} == {
        "forward": 2,
        "backward": 2,
        "total": 2,
    }
    for total, *parts in zip(*(rounds[s] for s in ("total", "forward", "backward")), strict=True):
        assert total == pytest.approx(sum(parts), rel=1e-3)
    assert len(record["copy"]["rounds_ms"]) == 2
    assert variants[EAGER]["peak_extra_bytes"] >= 4 * 2 * 3 * 4 * 5  # its gradient's


def test_peak_counts_what_lives_at_once_and_the_result():
    existing = torch.zeros(MIB)  # 4 MiB that were there before

    def step():
        first = existing.clone()  # 4 MiB live
        second = first.clone()  # 8
        del first  # 4
        small = second[: MIB // 4].clone()  # 5
        return second, small

    assert trace.peak_extra_bytes(step, CPU) == 8 * MIB


class FakeClock:
    """Of a GPU: calls take 4 ms, replays of three sets 30, the copy 2."""

    def __init__(self, copy, replay):
        self.milliseconds = {copy: 2, replay: 30}

    def turn(self, step, calls):
        took = self.milliseconds.get(step, 4)
        return [(1e-3 * took,) * (2 if took == 4 else 1)] * calls


@pytest.fixture
def on_gpu(monkeypatch):
    """Makes `measure` take CPU tensors for a GPU's: its record for the variants given."""
    monkeypatch.setattr(Case, "device", property(lambda case: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(trace, "peak_extra_bytes", lambda step, device: 1200)
    monkeypatch.setattr(trace, "kernels", lambda step, device: [{"name": "k", "us": 1.5}] * 7)

    def measured(*variants, graph_of=lambda variant: variant.loss):
        def replay(mark):
            raise AssertionError("the clock stands for it")

        def capture(variant, case):
            answers = [parity.answer(graph_of(variant), case, case.inputs[0])]
            graph = SimpleNamespace(replay=lambda: None)
            return SimpleNamespace(graph=graph, answers=answers, step=replay)

        copy = Copy(CPU)
        monkeypatch.setattr(graphs, "capture", capture)
        monkeypatch.setattr(harness, "clock_of", lambda device: FakeClock(copy.step, replay))
        return measure(case_of(*variants, sets=3, ideal=(400_000, 100_000)), copy, ONCE)

    return measured


def test_record_of_a_gpu_has_graph_launches_and_host_time(on_gpu):
    record = on_gpu(variant(EAGER))
    (timed,) = record["variants"]
    # 30 ms a replay of three calls, one on each set of inputs.
    assert timed["graph"]["total_ms"]["median"] == pytest.approx(10.0)
    assert timed["graph"]["total_ms"]["n"] == 4
    assert timed["graph"]["rounds_ms"] == pytest.approx([10.0, 10.0])
    # 128 MiB moved in 2 ms; 500,000 bytes take 7.45e-3 ms.
    assert record["floor_ms"]["total"] == pytest.approx(2 * 500_000 / (2 * 64 * MIB))
    assert timed["graph"]["times_floor"] == pytest.approx(10.0 / record["floor_ms"]["total"])
    assert timed["forward_ms"]["median"] == timed["total_ms"]["median"] == pytest.approx(4.0)
    assert timed["launches"] == 7
    assert timed["kernels"] is None  # a peer's
    assert timed["host_ms"]["n"] == 10
    assert timed["peak_extra_bytes"] == 1200


@pytest.mark.parametrize(
    ("graph_of", "status", "reason"),
    [
        (lambda variant: doubled, "refused", "loss off by 1 and gradient off by 1"),
        (lambda variant: raises, "failed", "RuntimeError: no compiler"),
    ],
)
def test_graph_that_is_wrong_or_impossible_gets_no_time_and_fails_the_run(
    on_gpu, graph_of, status, reason
):
    record = on_gpu(OURS, graph_of=graph_of)
    (timed,) = record["variants"]
    assert timed["status"] == "ok"
    assert timed["total_ms"] is not None
    assert timed["graph"]["status"] == status
    assert timed["graph"]["reason"].startswith(reason)
    assert timed["graph"]["total_ms"] is None
    assert f"ours, graph: {status}, {reason}" in table.render_case(record)
    assert runner.status({"cases": [record]}) == 1
    # A peer's does not.
    assert runner.status({"cases": [on_gpu(variant(EAGER), graph_of=graph_of)]}) == 0
    assert runner.status({"cases": [on_gpu(OURS)]}) == 0


def test_table_of_a_gpu_gives_the_share_of_copy_bandwidth(on_gpu):
    record = on_gpu(OURS, variant(EAGER), variant("wrong", doubled))
    for timed in record["variants"][:2]:
        timed["graph"]["times_floor"] = 1.25
    rows = [line.strip("| ").split("|") for line in table.render_case(record).splitlines()[4:9]]
    cells = [[cell.strip() for cell in row] for row in rows]
    column = cells[0].index("% of copy")
    assert [row[column] for row in cells[2:]] == ["80", "80", "-"]
    assert cells[4][:2] == ["wrong", "refused"]
    ours = table.render_ours([record, record]).splitlines()
    assert len(ours) == 4  # head, rule, and a row for each case
    assert ours[2].startswith("| 2x3x4x5, nchw, float32: ours |")
