"""What the tests of this folder share: the device, inputs on it, and the measure of accuracy.

They run on a GPU. With AMD_FUSED_TEST_DEVICE=cpu and TRITON_INTERPRET=1 those that need none run on
a CPU, in Triton's interpreter and by tests/cuda_on_host, on a part of their inputs: the dry form,
which shows that the tests themselves are in order.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import cases
import torch
from measures import Result, oracle, relative_error, run
from torch import Tensor

from amd_fused import reference
from amd_fused.losses.amd.options import AMDOptions, operands
from benchmarks.cases import amd as amd_case
from benchmarks.cases.shapes import SHAPES

DEVICE = torch.device(os.environ.get("AMD_FUSED_TEST_DEVICE", "cuda"))
DRY = DEVICE.type == "cpu"

# Each test of the kernels runs once for each (conftest.py).
BACKENDS = ("triton", "cuda")
features = functools.partial(cases.features, device=DEVICE)

# One shape for each form of the forward kernels (losses/amd/triton/plan.py): few positions and
# channels; a map that fits in registers, with features that one program should not read alone; a
# map that does not fit. In the dry form the smallest that are of that form.
FORMS = {
    "fused": (2, 12, 20, 7, 7),
    "split": (1, 3, 2, 33, 33) if DRY else (1, 20, 16, 56, 56),
    "chunked": (2, 3, 2, 65, 65) if DRY else (2, 3, 2, 67, 131),
}
KERNELS = {
    "fused": {"amd_fused_fwd_kernel"},
    "split": {"amd_map_fwd_kernel", "amd_sample_fwd_kernel"},
    "chunked": {"amd_map_fwd_kernel", "amd_chunk_fwd_kernel"},
}
# Beyond eager's own error: (loss, gradient), relative in the L2 norm.
TOLERANCE = {torch.float32: (2e-6, 5e-6), torch.float64: (1e-13, 1e-12)}


def sized(full: Any, dry: Any) -> Any:
    """The size on a GPU, and the one in the dry form, where an interpreter runs the kernels."""
    return dry if DRY else full


def some(values: Iterable[Any], *dry: Any) -> list[Any]:
    """All values on a GPU, and those that the dry form takes on a CPU."""
    return list(dry if DRY else values)


def benchmark_features(
    shape: str, layout: str, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs of a benchmark, drawn on the device."""
    inputs = amd_case.features(SHAPES[shape], layout, dtype, DEVICE, seed=0)
    return [a.detach() for a in inputs.student], inputs.teacher


def forward_kernels(student: Tensor, teacher: Tensor) -> set[str]:
    """Names of the kernels that a call launches forward; none is launched here."""
    from amd_fused.losses.amd.triton import launcher as amd

    launched: list[Any] = []
    told = operands(AMDOptions(), [student, teacher])
    amd.amd_fwd_triton([student], [teacher], told, [True, True], submit=launched.extend)
    return {launch.kernel.fn.__name__ for launch in launched}


def same(a: Result, b: Result) -> bool:
    """Bit by bit, but for the signs of zeros."""
    return torch.equal(a.loss, b.loss) and all(map(torch.equal, a.grads, b.grads))


def assert_as_accurate_as_eager(
    loss: Callable[..., Tensor], student: Any, teacher: Any, **options: Any
) -> None:
    """Error against float64 no larger than eager PyTorch's own in this dtype plus the tolerance."""
    exact = oracle(student, teacher, **options)
    eager = run(reference.amd_loss, student, teacher, **options)
    fused = run(loss, student, teacher, **options)
    leaves = [student, teacher] if isinstance(student, Tensor) else [*student, *teacher]
    computed_in = reference.compute_dtype(leaves)
    assert fused.loss.dtype == eager.loss.dtype == computed_in
    loss_tolerance, grad_tolerance = TOLERANCE[computed_in]
    allowed = relative_error(eager.loss, exact.loss) + loss_tolerance
    assert relative_error(fused.loss, exact.loss) <= allowed
    for leaf, ours, theirs, truth in zip(
        leaves, fused.grads, eager.grads, exact.grads, strict=True
    ):
        assert (ours.dtype, ours.shape) == (leaf.dtype, leaf.shape)
        allowed = relative_error(theirs, truth) + grad_tolerance
        if DRY and leaf.dtype == torch.bfloat16:
            allowed += 2**-8  # Triton's interpreter cuts digits off where a GPU rounds
        assert relative_error(ours, truth) <= allowed
