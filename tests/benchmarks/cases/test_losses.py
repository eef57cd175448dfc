"""The AMD loss as it is measured: shapes, bytes worked by hand, order, and the peers' meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.cases import amd, common, losses, released, scaling
from benchmarks.cases.shapes import SHAPES
from benchmarks.measure import environment, results
from benchmarks.measure.subject import EAGER, input_sets
from benchmarks.show import report

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_ideal_bytes_of_cifar_wrn_are_those_counted_by_hand():
    # Elements a sample, student: 16*32*32 + 32*16*16 + 64*8*8 = 16384 + 8192 + 4096 = 28672;
    # 128 samples: 3,670,016. The teacher has three times the channels: 11,010,048.
    ideal = SHAPES["cifar-wrn"].ideal_bytes(torch.float32, CPU)
    assert ideal.forward == 4 * (3_670_016 + 11_010_048) == 58_720_256
    assert ideal.backward == 4 * 2 * 3_670_016 == 29_360_128
    assert ideal.gradient == 4 * 3_670_016 == 14_680_064
    assert ideal.total == 88_080_384
    # They halve with the size of the dtype.
    assert SHAPES["cifar-wrn"].ideal_bytes(torch.bfloat16, CPU).total * 2 == ideal.total


def test_batch_of_imagenet_resnet_is_32_on_a_cpu_and_256_on_a_gpu():
    shape = SHAPES["imagenet-resnet"]
    assert (shape.batch_on(CPU), shape.batch_on(CUDA)) == (32, 256)
    assert SHAPES["cifar-wrn"].batch_on(CUDA) == 128


def test_batch_and_map_sizes_are_those_worked_by_hand():
    batch = scaling.shape_of("batch", 16)
    # 16 samples of 128 x 28 x 28 = 100,352 elements, 4 bytes each, read twice and twice again.
    assert batch.ideal_bytes(torch.float32, CPU).total == 4 * 4 * 16 * 100_352 == 25_690_112
    side = scaling.shape_of("map", 56).ideal_bytes(torch.float32, CPU)
    # 16 samples of 64 x 56 x 56 = 200,704.
    assert side.forward == 2 * 4 * 16 * 200_704 == 25_690_112
    assert side.gradient == 4 * 16 * 200_704


@pytest.mark.parametrize(("device", "cache"), [(CPU, 32 << 20), (CUDA, 50 << 20)])
def test_sizes_span_a_factor_of_64_and_rotated_inputs_exceed_the_cache(monkeypatch, device, cache):
    """Of a server CPU's last level and of an H200's L2: no call finds its inputs there."""
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: cache)
    for sweep, sizes in scaling.SIZES[device.type].items():
        assert len(sizes) >= 4
        assert sizes == tuple(sorted(sizes))
        first, *_, last = (scaling.shape_of(sweep, size).elements(device)[0] for size in sizes)
        assert last >= 64 * first
        for size in sizes:
            ideal = scaling.shape_of(sweep, size).ideal_bytes(torch.float32, device)
            sets = input_sets(ideal.forward, device)
            case = {"input_sets": sets, "ideal_bytes": {"forward": ideal.forward}}
            assert not report.fits_cache(case, {"last_level_cache_bytes": cache}), (sweep, size)


def names(command, *arguments):
    options = command.parser().parse_args(["--device=cpu", *arguments])
    return [entry.name for entry in command.entries(options)]


def test_most_different_cases_come_first_when_time_is_short():
    grid = ("--shapes", "cifar-wrn", "detection", "--layouts", "nchw", "channels_last")
    grid = (*grid, "--dtypes", "float32", "bfloat16")
    in_order, short = names(losses, *grid), names(losses, *grid, "--seconds", "9")
    assert in_order[:3] == [
        "cifar-wrn, nchw, float32",
        "cifar-wrn, nchw, bfloat16",
        "cifar-wrn, channels_last, float32",
    ]
    assert short[:4] == [
        "cifar-wrn, nchw, float32",
        "detection, nchw, float32",
        "cifar-wrn, channels_last, bfloat16",
        "detection, channels_last, bfloat16",
    ]
    assert sorted(short) == sorted(in_order)


def test_ends_of_each_sweep_come_first_when_time_is_short():
    in_order, short = names(scaling), names(scaling, "--seconds=9")
    batches = [f"batch-{size}" for size in scaling.SIZES["cpu"]["batch"]]
    maps = [f"map-{size}x{size}" for size in scaling.SIZES["cpu"]["map"]]
    assert in_order == [f"{name}, nchw, float32" for name in (*batches, *maps)]
    ends = (batches[0], batches[-1], maps[0], maps[-1])
    assert short[:4] == [f"{name}, nchw, float32" for name in ends]
    assert sorted(short) == sorted(in_order)


def test_scaling_writes_sweep_and_size_of_each_case(tmp_path, monkeypatch):
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: 2**20)
    output = tmp_path / "scaling.json"
    arguments = ["--device=cpu", "--tiny", "--min-time=0", f"--output={output}"]
    assert scaling.main([*arguments, "--variants", EAGER]) == 0
    cases = results.read(output)["cases"]
    sizes = [(case["sweep"], case["size"]) for case in cases]
    assert sizes == [("batch", 1), ("batch", 2), ("map", 2), ("map", 3)]
    assert cases[3]["pairs"] == [{"student": [2, 3, 3, 3], "teacher": [2, 3, 3, 3]}]


@pytest.mark.parametrize("layout", amd.LAYOUTS)
def test_features_have_the_shape_layout_and_dtype_asked_for(layout):
    inputs = amd.features(SHAPES["tiny"], layout, torch.bfloat16, CPU, seed=0)
    assert [tuple(a.shape) for a in inputs.student] == [(2, 3, 7, 7), (2, 4, 4, 5)]
    assert [tuple(a.shape) for a in inputs.teacher] == [(2, 5, 7, 7), (2, 6, 4, 5)]
    for a in inputs.student + inputs.teacher:
        assert a.dtype == torch.bfloat16
        assert a.is_contiguous(memory_format=amd.LAYOUTS[layout])
    assert all(a.requires_grad and a.is_leaf for a in inputs.student)
    assert not any(a.requires_grad for a in inputs.teacher)


# Value and gradient norm by the authors' public code, run in float64 on numpy's legacy numbers.
@pytest.mark.parametrize(
    ("seeds", "shapes", "value", "gradient_norm"),
    [
        (
            (11, 31),
            ((2, 4, 8, 8), (2, 6, 8, 8)),
            0.0006942324622182432,
            0.00011233410414545849,
        ),
        (
            (12, 32),
            ((3, 8, 7, 7), (3, 8, 7, 7)),
            0.0007092847890824396,
            0.00012536297417566446,
        ),
    ],
)
def test_released_style_gives_the_numbers_of_the_released_code(seeds, shapes, value, gradient_norm):
    a_s, a_t = (
        torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))
        for seed, shape in zip(seeds, shapes, strict=True)
    )
    a_s.requires_grad_()
    loss = released.amd([a_s], [a_t])
    (gradient,) = torch.autograd.grad(loss, a_s)
    assert loss.item() == pytest.approx(value, rel=1e-10)
    assert gradient.norm().item() == pytest.approx(gradient_norm, rel=1e-9)


def test_plain_at_loss_is_the_mean_squared_difference_worked_by_hand():
    # Attention maps, mean of squares over two channels: student (1, 7), teacher (4, 3).
    a_s = torch.tensor([1.0, 1.0, 1.0, 13**0.5], dtype=torch.float64).reshape(1, 2, 1, 2)
    a_t = torch.tensor([2.0, 3**0.5, 2.0, 3**0.5], dtype=torch.float64).reshape(1, 2, 1, 2)
    s, t = 50**0.5, 5.0
    value = ((1 / s - 4 / t) ** 2 + (7 / s - 3 / t) ** 2) / 2
    assert released.plain_at([a_s], [a_t]).item() == pytest.approx(value, rel=1e-12)
    # The mean over layers, whatever their sizes.
    other = released.plain_at([a_s.reshape(1, 1, 2, 2)], [a_t.reshape(1, 1, 2, 2)]).item()
    both = released.plain_at([a_s, a_s.reshape(1, 1, 2, 2)], [a_t, a_t.reshape(1, 1, 2, 2)])
    assert both.item() == pytest.approx((value + other) / 2, rel=1e-12)


def test_each_usable_fused_backend_that_has_the_loss_is_a_variant(monkeypatch):
    monkeypatch.delenv("AMD_FUSED_BACKEND", raising=False)
    monkeypatch.setattr(common._backends, "choose", lambda *_: "triton")
    usable = {"triton": "usable", "cuda": "usable", "cpp": "usable", "reference": "usable"}
    monkeypatch.setattr(common.amd_fused, "backends", lambda: usable)

    def titles(*among):
        return {v.key: v.title for v in common.ours(min, min, CUDA, *among)}

    assert titles() == {"amd_fused": "amd_fused (triton)", "amd_fused_cuda": "amd_fused (cuda)"}
    assert list(titles(("triton", "cpp"))) == ["amd_fused"]
    usable["cuda"] = "not usable, because it was not built"
    assert list(titles()) == ["amd_fused"]
    # One that was asked for is measured alone.
    usable["cuda"] = "usable"
    monkeypatch.setenv("AMD_FUSED_BACKEND", "triton")
    assert list(titles()) == ["amd_fused"]


def test_variants_on_a_gpu_include_the_autotuned_compiler(monkeypatch):
    monkeypatch.setattr(common._backends, "choose", lambda *_: "triton")
    variants = [v for v in amd.variants(CUDA) if v.key != "amd_fused_cuda"]
    keys = ["amd_fused", "eager", "compile", "max-autotune", "released", "attention", "at"]
    assert [v.key for v in variants] == keys
    assert [v.key for v in variants if v.compiles] == keys[2:4]
