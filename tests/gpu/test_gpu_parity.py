"""On the device the Triton kernels are as accurate as eager PyTorch, in all their forms.

Claim: their error against float64 is at most eager's own in the same dtype on the same device, plus
rounding of a few operations.
"""

from __future__ import annotations

import functools
from typing import Any

import cases
import pytest
import torch
from measures import oracle, relative_error, run
from on_device import (
    FORMS,
    KERNELS,
    assert_as_accurate_as_eager,
    benchmark_features,
    features,
    forward_kernels,
    sized,
    some,
)

from amd_fused import amd_loss, backends, reference

cpp = functools.partial(amd_loss, backend="cpp")


@pytest.mark.parametrize("form", FORMS)
def test_shapes_of_these_tests_take_every_form(form: str) -> None:
    assert forward_kernels(*features(FORMS[form])) == KERNELS[form]


@pytest.mark.parametrize("options", some(cases.OPTIONS, "default", "masked released"))
@pytest.mark.parametrize("dtypes", some(["float32", "float64"], "float32"))
def test_every_option_in_single_and_double_precision(amd: Any, options: str, dtypes: str) -> None:
    student, teacher = features(cases.SHAPES["7x7"], cases.DTYPES[dtypes])
    assert_as_accurate_as_eager(amd, student, teacher, **cases.OPTIONS[options])


@pytest.mark.parametrize("options", some(cases.OPTIONS, "none"))
@pytest.mark.parametrize("form", some(FORMS, "split"))
def test_every_option_in_every_form(amd: Any, options: str, form: str) -> None:
    student, teacher = features(FORMS[form], layout="channels_last", seed=1)
    assert_as_accurate_as_eager(amd, student, teacher, **cases.OPTIONS[options])


@pytest.mark.parametrize("layout", some(cases.LAYOUTS, "channels_last", "window"))
@pytest.mark.parametrize("dtypes", some(cases.DTYPES, "float32 and bfloat16"))
def test_every_dtype_in_every_layout(amd: Any, dtypes: str, layout: str) -> None:
    assert_as_accurate_as_eager(amd, *features(cases.SHAPES["7x7"], cases.DTYPES[dtypes], layout))


@pytest.mark.parametrize("layout", some(cases.LAYOUTS, "channels_last"))
@pytest.mark.parametrize("shape", some(cases.SHAPES, "9x4", "one channel"))
def test_every_layout_of_every_size(amd: Any, shape: str, layout: str) -> None:
    assert_as_accurate_as_eager(amd, *features(cases.SHAPES[shape], layout=layout))


@pytest.mark.parametrize("layout", some(["nchw", "channels_last"], "channels_last"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", some(["cifar-wrn", "imagenet-resnet", "detection"], "tiny"))
def test_layers_of_real_networks(amd: Any, shape: str, dtype: torch.dtype, layout: str) -> None:
    assert_as_accurate_as_eager(amd, *benchmark_features(shape, layout, dtype))


@pytest.mark.cuda
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("channels", [(2, 3), (64, 96)])
def test_512x512_map(amd: Any, channels: tuple[int, int], layout: str) -> None:
    """262,144 positions: many chunks of one sample."""
    assert_as_accurate_as_eager(amd, *features((1, *channels, 512, 512), layout=layout))


@pytest.mark.core
def test_layers_of_different_sizes_forms_dtypes_and_layouts_in_one_call(amd: Any) -> None:
    pairs = [
        features(
            sized((1, 12, 5, 7, 5), (1, 4, 3, 7, 5)),
            (torch.bfloat16, torch.float32),
            "channels_last",
        ),
        features(sized((1, 20, 16, 48, 48), FORMS["split"])),
        features((1, 2, 3, 66, 65), (torch.float16, torch.float16), "window"),
    ]
    students, teachers = [s for s, _ in pairs], [t for _, t in pairs]
    assert_as_accurate_as_eager(
        amd, students, teachers, layer_weights=(1.0, 0.5, 3.0), local_weight=0.3
    )


@pytest.mark.core
@pytest.mark.cuda
def test_more_layers_than_one_launch_takes(amd: Any) -> None:
    pairs = [features((2, 3 + k, 4, 4 + k, 6), seed=k) for k in range(11)]
    assert_as_accurate_as_eager(amd, [s for s, _ in pairs], [t for _, t in pairs])


@pytest.mark.core
def test_nearly_equal_maps_lose_no_more_digits_than_eager(amd: Any) -> None:
    """A trained student: D_x is a small difference of large numbers, 2 - 2 cos would be noise."""
    student, _ = features((4, 16, 16, 14, 14))
    noise = torch.randn(student.shape, generator=torch.Generator().manual_seed(3))
    teacher = student * (1 + 1e-3 * noise.to(student.device))
    exact = oracle(student, teacher)
    eager, fused = (run(f, student, teacher) for f in (reference.amd_loss, amd))
    assert relative_error(fused.loss, exact.loss) <= relative_error(eager.loss, exact.loss) + 1e-5
    for ours, theirs, truth in zip(fused.grads, eager.grads, exact.grads, strict=True):
        assert relative_error(ours, truth) <= relative_error(theirs, truth) + 1e-4


@pytest.mark.core
def test_angles_near_zero(amd: Any) -> None:
    """One bright position: q is 1 to rounding there, where autograd through acos gives NaN."""
    student, teacher = features((2, 4, 4, 6, 6))
    student[:, :, 2, 3] *= 1e3
    teacher[:, :, 2, 3] *= 1e3
    assert_as_accurate_as_eager(amd, student, teacher)


@pytest.mark.core
@pytest.mark.skipif(backends()["cpp"] != "usable", reason=f"cpp is {backends()['cpp']}")
@pytest.mark.parametrize("form", some(FORMS, "fused"))
def test_both_backends_agree(amd: Any, form: str) -> None:
    """The same features on the GPU and on the CPU, where the C++ kernel takes them."""
    student, teacher = features(FORMS[form])
    ours = run(amd, student, teacher)
    theirs = run(cpp, student.cpu(), teacher.cpu())
    assert relative_error(ours.loss.cpu(), theirs.loss.double()) < 4e-6
    for a, b in zip(ours.grads, theirs.grads, strict=True):
        assert relative_error(a.cpu(), b.double()) < 1e-5
