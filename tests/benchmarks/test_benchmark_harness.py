"""The benchmark's harness: what it counts, what it refuses. No test asserts a time."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks import clock, environment
from benchmarks.harness import Copy, Settings, by_round, interleave, measure, spread
from benchmarks.shapes import SHAPES, IdealBytes
from benchmarks.subject import COMPILED, EAGER, Case, Inputs, Variant, input_sets
from benchmarks.trace import peak_extra_bytes

CPU = torch.device("cpu")
ONCE = Settings(min_time=0.0, min_rounds=2, calls_per_turn=2)
MIB = 2**20


def half_square(student, teacher):
    """The loss of these tests; its gradient by the student is the student itself."""
    return sum(a.square().sum() / 2 for a in student)


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


@pytest.fixture
def small_cache(monkeypatch):
    """A last-level cache of 1 MiB, for small buffers whatever machine this is."""
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: MIB)


def case_of(*variants, sets=2):
    inputs = [
        Inputs(
            student=[torch.full((2, 3, 4, 5), 0.5 + i, requires_grad=True)],
            teacher=[torch.ones(2, 6, 4, 5)],
        )
        for i in range(sets)
    ]
    ideal = IdealBytes(forward=4000, backward=1000, gradient=480)
    return Case("test", "2x3x4x5", "nchw", torch.float32, inputs, ideal, list(variants))


def measured(*variants):
    record = measure(case_of(*variants), Copy(CPU), ONCE)
    return record, {v["key"]: v for v in record["variants"]}


def test_ideal_bytes_of_cifar_wrn_are_those_counted_by_hand():
    # Elements a sample, student: 16*32*32 + 32*16*16 + 64*8*8 = 16384 + 8192 + 4096 = 28672;
    # 128 samples: 3,670,016. The teacher has three times the channels: 11,010,048.
    ideal = SHAPES["cifar-wrn"].ideal_bytes(torch.float32, CPU)
    assert ideal.forward == 4 * (3_670_016 + 11_010_048) == 58_720_256
    assert ideal.backward == 4 * 2 * 3_670_016 == 29_360_128
    assert ideal.gradient == 4 * 3_670_016 == 14_680_064
    assert ideal.total == 88_080_384


def test_ideal_bytes_halve_with_the_size_of_the_dtype():
    single = SHAPES["imagenet-resnet"].ideal_bytes(torch.float32, CPU)
    half = SHAPES["imagenet-resnet"].ideal_bytes(torch.bfloat16, CPU)
    assert half.total * 2 == single.total


def test_batch_of_imagenet_resnet_is_32_on_a_cpu_and_256_on_a_gpu():
    shape = SHAPES["imagenet-resnet"]
    assert shape.batch_on(CPU) == 32
    assert shape.batch_on(torch.device("cuda")) == 256
    assert SHAPES["cifar-wrn"].batch_on(torch.device("cuda")) == 128


@pytest.mark.usefixtures("small_cache")
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (wrong_gradient, "gradient off by 0.5 against float64"),
        (wrong_loss, "loss off by 0.001 against float64"),
        (not_finite, "loss off by inf and gradient off by inf against float64"),
    ],
)
def test_wrong_variant_is_refused_and_gets_no_time(wrong, reason):
    _, variants = measured(
        Variant(EAGER, "right", half_square, half_square),
        Variant("wrong", "wrong", wrong, half_square),
    )
    refused = variants["wrong"]
    assert refused["status"] == "refused"
    assert refused["reason"].startswith(reason)
    for key in ("forward_ms", "backward_ms", "total_ms", "peak_extra_bytes", "ratios"):
        assert refused[key] is None, key
    assert variants[EAGER]["status"] == "ok"
    assert variants[EAGER]["total_ms"]["n"] == 4  # 2 rounds of 2 calls


@pytest.mark.usefixtures("small_cache")
def test_refused_variant_is_called_once_only():
    calls = []

    def counted(student, teacher):
        calls.append(1)
        return wrong_gradient(student, teacher)

    measured(Variant("wrong", "wrong", counted, half_square))
    assert len(calls) == 1


@pytest.mark.usefixtures("small_cache")
def test_variant_that_raises_is_reported_and_the_others_are_timed():
    _, variants = measured(
        Variant("broken", "broken", raises, half_square),
        Variant(EAGER, "right", half_square, half_square),
    )
    assert variants["broken"]["status"] == "failed"
    assert variants["broken"]["reason"] == "RuntimeError: no compiler"
    assert variants["broken"]["total_ms"] is None
    assert variants[EAGER]["total_ms"] is not None


@pytest.mark.usefixtures("small_cache")
def test_ratios_are_those_of_the_medians_and_of_the_floor():
    record, variants = measured(
        Variant(EAGER, "eager", half_square, half_square),
        Variant("ours", "ours", half_square, half_square),
    )
    copy = record["copy"]
    bandwidth = 2 * copy["buffer_bytes"] / (copy["ms"]["median"] / 1e3)
    assert copy["bytes_per_second"] == pytest.approx(bandwidth)
    assert record["floor_ms"]["forward"] == pytest.approx(1e3 * 4000 / bandwidth)
    assert record["floor_ms"]["total"] == pytest.approx(1e3 * 5000 / bandwidth)

    ours, eager = variants["ours"], variants[EAGER]
    medians = ours["total_ms"]["median"], eager["total_ms"]["median"]
    assert ours["ratios"]["speedup_over_eager"] == pytest.approx(medians[1] / medians[0])
    assert ours["ratios"]["times_floor"] == pytest.approx(medians[0] / record["floor_ms"]["total"])
    assert ours["ratios"]["speedup_over_compile"] is None  # not among the variants
    assert eager["ratios"]["speedup_over_eager"] == 1.0


def test_steps_take_turns_in_fixed_order_and_the_first_call_of_a_turn_is_not_counted(monkeypatch):
    calls, now = [], 0
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now))

    def step(key, mark):
        """The n-th call of all takes n seconds."""
        nonlocal now
        calls.append(key)
        now += len(calls)
        mark()

    settings = Settings(min_time=0.0, min_rounds=2, calls_per_turn=2)
    times = interleave({key: partial(step, key) for key in "ab"}, settings, clock.CpuClock())
    assert "".join(calls) == "aaabbbaaabbb"
    assert times == {"a": [(2,), (3,), (8,), (9,)], "b": [(5,), (6,), (11,), (12,)]}


@pytest.mark.usefixtures("small_cache")
def test_calls_go_through_all_sets_of_inputs_in_turn():
    seen = []

    def record_set(student, teacher):
        seen.append(float(student[0].detach().flatten()[0]) - 0.5)
        return half_square(student, teacher)

    case = case_of(Variant(EAGER, "eager", record_set, half_square), sets=3)
    measure(case, Copy(CPU), ONCE)
    # First the parity check and the memory trace, both on set 0; then two turns of three calls.
    assert seen == [0, 0, 0, 1, 2, 0, 1, 2]


@pytest.mark.usefixtures("small_cache")
@pytest.mark.parametrize(
    ("bytes_of_one", "sets"),
    [
        (MIB, 4),  # four times the cache of 1 MiB
        (3 * MIB // 2, 3),  # rounded up
        (64 * MIB, 2),  # two at least
        (100, 128),  # 128 at most
        (4 * 2**30, 2),
    ],
)
def test_sets_of_inputs_exceed_the_cache(bytes_of_one, sets):
    assert input_sets(bytes_of_one, CPU) == sets


@pytest.mark.usefixtures("small_cache")
def test_copy_buffers_are_well_beyond_the_cache(monkeypatch):
    assert Copy(CPU).buffer_bytes == 64 * MIB
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: 20 * MIB)
    assert Copy(CPU).buffer_bytes == 80 * MIB


def test_spread_is_the_median_and_the_quartiles_in_milliseconds():
    assert spread([0.005, 0.001, 0.002, 0.004, 0.003]) == pytest.approx(
        {"median": 3.0, "q1": 2.0, "q3": 4.0, "min": 1.0, "n": 5}
    )


def test_round_is_the_median_of_its_calls_to_five_digits():
    seconds = [0.001, 0.003, 0.002, 0.004, 0.0050001234]
    assert by_round(seconds, 2) == [2.0, 3.0, 5.0001]


@pytest.mark.usefixtures("small_cache")
def test_rounds_are_kept_of_each_stage_and_of_the_copy():
    record, variants = measured(Variant(EAGER, "eager", half_square, half_square))
    rounds = variants[EAGER]["rounds_ms"]
    assert {stage: len(values) for stage, values in rounds.items()} == {
        "forward": 2,
        "backward": 2,
        "total": 2,
    }
    for total, *parts in zip(*(rounds[s] for s in ("total", "forward", "backward")), strict=True):
        assert total == pytest.approx(sum(parts), rel=1e-3)
    assert len(record["copy"]["rounds_ms"]) == 2


@pytest.mark.usefixtures("small_cache")
def test_variant_of_a_part_is_not_compared_with_the_whole():
    _, variants = measured(
        Variant(EAGER, "eager", half_square, half_square),
        Variant("part", "part", half_square, half_square, part="attention"),
    )
    assert variants["part"]["ratios"]["speedup_over_eager"] is None
    assert variants["part"]["ratios"]["times_floor"] > 0


def test_peak_counts_what_lives_at_once_and_the_result():
    existing = torch.zeros(MIB)  # 4 MiB that were there before

    def step():
        first = existing.clone()  # 4 MiB live
        second = first.clone()  # 8
        del first  # 4
        small = second[: MIB // 4].clone()  # 5
        return second, small

    assert peak_extra_bytes(step, CPU) == 8 * MIB


@pytest.mark.usefixtures("small_cache")
def test_peak_of_a_variant_includes_its_gradient():
    _, variants = measured(Variant(EAGER, "eager", half_square, half_square))
    gradient_bytes = 4 * 2 * 3 * 4 * 5
    assert variants[EAGER]["peak_extra_bytes"] >= gradient_bytes


@pytest.mark.usefixtures("small_cache")
def test_speedup_over_compile_uses_the_compiled_peer():
    _, variants = measured(
        Variant(COMPILED, "compiled", half_square, half_square),
        Variant("ours", "ours", half_square, half_square),
    )
    compiled, ours = variants[COMPILED]["total_ms"], variants["ours"]["total_ms"]
    assert variants["ours"]["ratios"]["speedup_over_compile"] == pytest.approx(
        compiled["median"] / ours["median"]
    )
    assert variants["ours"]["ratios"]["speedup_over_eager"] is None
