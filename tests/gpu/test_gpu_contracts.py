"""Contracts on the device: memory, determinism, no waiting, numbers that must reach the loss."""

from __future__ import annotations

from typing import Any

import cases
import pytest
import torch
from measures import run
from on_device import DEVICE, FORMS, features, same, sized, some

from benchmarks.measure.trace import peak_extra_bytes

# Long enough for anything that waits for the device to be caught: half a second or so; ten for a
# host that was merely busy for that long.
SLEEP_CYCLES = (1_000_000_000, 20_000_000_000)


@pytest.mark.core
@pytest.mark.parametrize("layout", some(["nchw", "channels_last"], "channels_last"))
@pytest.mark.parametrize("form", some(FORMS, "fused"))
@pytest.mark.parametrize("dtypes", some(["float32", "bfloat16"], "float32"))
def test_bitwise_equal_from_run_to_run(amd: Any, dtypes: str, form: str, layout: str) -> None:
    student, teacher = features(FORMS[form], cases.DTYPES[dtypes], layout)
    first = run(amd, student, teacher)
    assert all(same(first, run(amd, student, teacher)) for _ in range(sized(3, 1)))


@pytest.mark.core
def test_a_sample_does_not_depend_on_its_neighbours(amd: Any) -> None:
    student, teacher = features(sized((6, 16, 8, 14, 14), (3, 4, 3, 6, 5)))
    together = amd(student, teacher, reduction="none")
    alone = [
        amd(s, t, reduction="none") for s, t in zip(student.split(1), teacher.split(1), strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("layout", some(cases.LAYOUTS, "channels_last"))
@pytest.mark.parametrize("form", some(FORMS, "split"))
def test_uninitialised_memory_is_never_read(
    amd: Any, form: str, layout: str, poisoned: None
) -> None:
    assert torch.isnan(torch.empty(5, device=DEVICE)).all()
    result = run(amd, *features(FORMS[form], layout=layout))
    assert torch.isfinite(result.loss)
    assert all(torch.isfinite(grad).all() for grad in result.grads)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "size", some([(3, 3, 5), (17, 3, 3), (20, 7, 7), (1, 2, 9)], (3, 3, 5)), ids=str
)
def test_memory_beyond_the_tensor_is_never_used(
    amd: Any, size: tuple[int, int, int], memory_format: torch.memory_format, poisoned: None
) -> None:
    inside, teacher = torch.randn(2, *size).to(DEVICE), torch.randn(2, 3, *size[1:]).to(DEVICE)
    larger = torch.full((4, *size), torch.nan, device=DEVICE)
    window = larger.contiguous(memory_format=memory_format)[1:3].copy_(inside)
    whole = inside.contiguous(memory_format=memory_format)
    assert same(run(amd, window, teacher), run(amd, whole, teacher))


@pytest.mark.parametrize("form", some(FORMS, "fused"))
def test_inputs_are_never_written_to(amd: Any, form: str) -> None:
    student, teacher = features(FORMS[form])
    before = student.clone(), teacher.clone()
    run(amd, student, teacher)
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])


@pytest.mark.parametrize("layout", some(cases.LAYOUTS, "window"))
def test_gradient_keeps_the_memory_format_of_its_input(amd: Any, layout: str) -> None:
    student, teacher = features((2, 6, 4, 5, 8), layout=layout)
    assert run(amd, student, teacher).grads[0].stride() == torch.empty_like(student).stride()


@pytest.mark.parametrize("bad", some([torch.nan, torch.inf, -torch.inf], -torch.inf))
@pytest.mark.parametrize("side", some([0, 1], 1))
@pytest.mark.parametrize("form", some(FORMS, "fused"))
@pytest.mark.parametrize("options", [{}, {"mask_threshold": 0.5}], ids=["plain", "masked"])
def test_nan_and_inf_reach_the_loss_of_their_sample_only(
    amd: Any, bad: float, side: int, form: str, options: dict[str, Any]
) -> None:
    shape = (3, *FORMS[form][1:])
    pair = features(shape)
    pair[side][1, 1, 6, 4] = bad
    loss = amd(*pair, reduction="none", **options)
    assert torch.isnan(loss).tolist() == [False, True, False]
    assert torch.isnan(amd(*pair, **options))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("form", some(FORMS, "fused"))
def test_all_zero_maps_have_finite_loss_and_zero_gradient(amd: Any, form: str, side: int) -> None:
    pair = features(FORMS[form])
    pair[side][0] = 0
    result = run(amd, *pair, reduction="none")
    assert torch.isfinite(result.loss).all()
    assert (result.grads[side][0] == 0).all()
    assert all(torch.isfinite(grad).all() for grad in result.grads)


@pytest.mark.core
@pytest.mark.cuda
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@pytest.mark.parametrize("size", [(64, 7), (16, 56), (2, 160)], ids=str)
def test_nothing_of_a_features_size_is_allocated_but_the_gradient(
    amd: Any, size: tuple[int, int], layout: str
) -> None:
    """Many samples of a small map, of a large one, few of one that is cut into chunks."""
    batch, width = size
    student, teacher = features((batch, 128, 96, width, width), layout=layout)
    student.requires_grad_()
    feature_bytes, a_few = student.numel() * 4, 64 << 10
    run(amd, student.detach(), teacher)  # what is allocated for good, such as by the compiler

    forward = peak_extra_bytes(lambda: amd(student, teacher), DEVICE)
    assert 0 < forward < feature_bytes / 2 + a_few

    loss = amd(student, teacher)
    backward = peak_extra_bytes(lambda: torch.autograd.grad(loss, student), DEVICE)
    # torch's allocator gives large tensors whole units of 2 MiB.
    assert feature_bytes <= backward < feature_bytes + a_few + (2 << 20)


@pytest.mark.core
@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("form", FORMS)
def test_the_host_never_waits_for_the_device(amd: Any, form: str, layout: str) -> None:
    student, teacher = features(FORMS[form], layout=layout)
    expected = run(amd, student, teacher)
    run(amd, student, teacher)  # leaves its memory to the next, which then asks for none
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for cycles in SLEEP_CYCLES:
            result = None  # its memory is for the next
            torch.cuda._sleep(cycles)
            slept = torch.cuda.Event()
            slept.record()
            result = run(amd, student, teacher)
            waited = slept.query()
            if not waited:
                break
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not waited
    assert same(result, expected)
