"""The CUDA kernels on the CPU: what test_parity.py, test_contracts.py and test_operators.py cannot
ask of every backend. No thread's turn matters, launches are as few as the header says, every form
is taken; and running on the CPU finds the mistakes that it is there to find.
"""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
from pathlib import Path
from typing import Any

import afd_oracle
import afds_oracle
import cases
import pytest
import torch
from cuda_on_host import build
from measures import Result, oracle, relative_error, run
from torch import Tensor

from amd_fused import amd_loss

cuda = functools.partial(amd_loss, backend="cuda")
pytestmark = pytest.mark.usefixtures("cuda_on_host")

ORDER = "AMD_FUSED_HOST_ORDER"
MULTIPROCESSORS = "AMD_FUSED_HOST_MULTIPROCESSORS"
# One shape for each form (csrc/cuda/amd_plan.h), with rows that are whole 16-byte slots, that are
# only several together, and that never are; pixels likewise.
SHAPES = {
    "fused, aligned": (2, 12, 20, 8, 8),
    "fused, four rows a slot": (2, 14, 9, 7, 7),
    "fused, wider than a block": (4, 2, 3, 36, 34),  # of a device that four samples fill
    "split": (1, 40, 24, 56, 56),
    "split into groups of channels": (2, 300, 290, 14, 14),
    "chunked": (2, 3, 2, 67, 131),
}


def same(a: Result, b: Result) -> bool:
    return torch.equal(a.loss, b.loss) and all(map(torch.equal, a.grads, b.grads))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_order_of_threads_and_blocks_changes_no_bit(
    shape: str, layout: str, monkeypatch: pytest.MonkeyPatch, poisoned: None
) -> None:
    """What two threads write and read without a barrier between them would come out otherwise."""
    if "wider" in shape:
        monkeypatch.setenv(MULTIPROCESSORS, "2")
    student, teacher = cases.features(SHAPES[shape], cases.DTYPES["float32 and bfloat16"], layout)
    results = []
    for order in ("forward", "reverse"):
        monkeypatch.setenv(ORDER, order)
        results.append(run(cuda, student, teacher))
    assert torch.isfinite(results[0].loss)
    assert same(*results)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@pytest.mark.parametrize("shape", ["7x7", "56x56", "many channels"])
def test_nor_of_afds(
    shape: str, layout: str, monkeypatch: pytest.MonkeyPatch, poisoned: None
) -> None:
    """Teams of a channel below a warp and above it, and pixels."""
    given = afds_oracle.inputs(shape, "float32", layout)
    results = []
    build.launched()
    for order in ("forward", "reverse"):
        monkeypatch.setenv(ORDER, order)
        results.append(afds_oracle.run("cuda", given))
        assert build.launched() == ["afds_fwd_kernel", "afds_bwd_kernel"]
    assert all(map(torch.equal, *results))
    assert all(a.isfinite().all() for a in results[0])


MEANS = "afd_mean_kernel"


@pytest.mark.parametrize(
    ("size", "layout", "means"),
    [
        ((3, 20, 8, 8), "nchw", 0),
        ((3, 20, 8, 8), "channels_last", 0),
        ((2, 20, 24, 24), "nchw", 1),  # tiles of positions
        ((1, 1040, 6, 6), "nchw", 1),  # groups of channels
        ((1, 24, 30, 33), "channels_last", 1),  # groups of pixels
        ((1, 530, 24, 24), "channels_last", 2),  # and tiles of channels
        ((1, 530, 9, 7), "window", 2),
    ],
)
def test_nor_of_afd_which_adds_up_the_parts_of_a_feature(
    size: tuple[int, int, int, int],
    layout: str,
    means: int,
    monkeypatch: pytest.MonkeyPatch,
    poisoned: None,
) -> None:
    batch, channels, height, width = size
    a, _ = cases.features((batch, channels, 1, height, width), layout=layout)
    results = []
    build.launched()
    for order in ("forward", "reverse"):
        monkeypatch.setenv(ORDER, order)
        results.append(afd_oracle.reduce("cuda", a))
        assert build.launched() == ["afd_fwd_kernel", *[MEANS] * means, "afd_bwd_kernel"]
    assert all(map(torch.equal, *results))
    for ours, exact in zip(results[0], afd_oracle.reduced(a), strict=True):
        assert relative_error(ours, exact) < 2e-6


def launches_of(student: Any, teacher: Any) -> tuple[list[str], list[str]]:
    """Names of the kernels launched forward and backward."""
    students = [student] if isinstance(student, Tensor) else student
    for a in students:
        a.requires_grad_()
    build.launched()
    loss = cuda(student, teacher)
    forward = build.launched()
    torch.autograd.grad(loss, students)
    return forward, build.launched()


FUSED, SPLIT = ["amd_fused_fwd_kernel"], ["amd_map_fwd_kernel", "amd_sample_fwd_kernel"]
CHUNKED = ["amd_map_fwd_kernel", *["amd_chunk_fwd_kernel"] * 5]
LAYERS, BACKWARD = ["amd_layers_fwd_kernel"], ["amd_bwd_kernel"]


@pytest.mark.parametrize(
    ("shape", "layout", "multiprocessors", "expected"),
    [
        ((2, 12, 20, 7, 7), "nchw", 132, FUSED),
        ((2, 12, 20, 16, 16), "channels_last", 132, FUSED),
        ((4, 64, 64, 34, 36), "nchw", 2, FUSED),  # enough samples to fill the device
        ((4, 64, 64, 34, 36), "channels_last", 2, FUSED),
        ((3, 64, 64, 34, 36), "nchw", 2, SPLIT),  # of 600 KB each, and one multiprocessor waits
        ((1, 64, 64, 56, 56), "nchw", 132, SPLIT),
        ((1, 64, 64, 7, 7), "nchw", 132, FUSED),  # 25 KB: one block reads that at once
        ((1, 4, 3, 80, 70), "nchw", 132, CHUNKED),
    ],
)
def test_the_form_follows_from_shape_and_batch(
    shape: tuple[int, int, int, int, int],
    layout: str,
    multiprocessors: int,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(MULTIPROCESSORS, str(multiprocessors))
    forward, backward = launches_of(*cases.features(shape, layout=layout))
    assert (forward, backward) == (expected, BACKWARD)


def test_float64_leaves_the_block_at_half_the_size() -> None:
    doubles = (torch.float64, torch.float64)
    assert launches_of(*cases.features((1, 2, 3, 56, 56), doubles))[0] == CHUNKED
    assert launches_of(*cases.features((1, 2, 3, 28, 28), doubles))[0] == FUSED


def test_layers_of_one_form_share_its_launches() -> None:
    shapes = [(2, 6, 4, 7, 7), (2, 64, 64, 40, 40), (2, 3, 2, 8, 6), (2, 2, 2, 66, 65)]
    pairs = [cases.features(shape) for shape in shapes]
    forward, backward = launches_of([s for s, _ in pairs], [t for _, t in pairs])
    # The map kernel reads for split and chunked layers at once.
    assert forward == [SPLIT[0], *FUSED, SPLIT[1], *CHUNKED[1:], *LAYERS]
    assert backward == BACKWARD


def test_without_gradients_a_pass_less_is_launched() -> None:
    student, teacher = cases.features((1, 2, 3, 66, 65))
    build.launched()
    cuda(student, teacher)
    assert build.launched() == CHUNKED[:-1]


def test_more_layers_than_one_launch_takes() -> None:
    pairs = [cases.features((2, 3 + k, 4, 4 + k % 5, 6), seed=k) for k in range(18)]
    students, teachers = [s for s, _ in pairs], [t for _, t in pairs]
    forward, backward = launches_of(students, teachers)
    assert (forward, backward) == (FUSED * 2 + LAYERS, BACKWARD * 2)
    exact, fused = oracle(students, teachers), run(cuda, students, teachers)
    assert relative_error(fused.loss, exact.loss) < 2e-6
    for ours, truth in zip(fused.grads, exact.grads, strict=True):
        assert relative_error(ours, truth) < 5e-6


@pytest.mark.parametrize("shape", list(SHAPES)[3:])
def test_every_form_reads_every_storage(shape: str) -> None:
    """In float32 and float64, NCHW and channels_last; scaled, as gradients would underflow."""

    def scaled(student: Any, teacher: Any, backend: str) -> Tensor:
        return amd_loss(student, teacher, backend=backend) * 2.0**20

    for dtypes in ("float16", "float16 and float64"):
        for layout in ("nchw", "channels_last"):
            student, teacher = cases.features(SHAPES[shape], cases.DTYPES[dtypes], layout)
            exact = run(scaled, student.double(), teacher.double(), backend="reference")
            fused = run(scaled, student, teacher, backend="cuda")
            assert relative_error(fused.loss, exact.loss) < 2e-6
            for ours, truth in zip(fused.grads, exact.grads, strict=True):
                assert relative_error(ours, truth) < 2e-3


@pytest.mark.parametrize("margin", [6.5, 40.0])
def test_margins_past_the_polynomial_take_the_direct_form(margin: float) -> None:
    student, teacher = cases.features((2, 6, 4, 8, 8), (torch.float64, torch.float64))
    exact = oracle(student, teacher, margin=margin)
    fused = run(cuda, student, teacher, margin=margin)
    assert relative_error(fused.loss, exact.loss) < 1e-12
    for ours, truth in zip(fused.grads, exact.grads, strict=True):
        assert relative_error(ours, truth) < 1e-11


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """run_broken of broken.cu, given a kernel's number and where it writes."""
    output = tmp_path_factory.mktemp("broken") / "broken.so"
    here = Path(build.__file__).parent
    command = [build.COMPILER, *build.FLAGS, f"-I{here}", "-shared", "-o", output]
    command += [here / "broken.cu", here / "fibers.cpp"]
    subprocess.run([str(part) for part in command], check=True)
    function = ctypes.CDLL(str(output)).run_broken
    function.restype = ctypes.c_char_p
    return lambda which, out: function(which, ctypes.c_void_p(out.data_ptr())).decode()


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, r"thread 0 waits at the barrier of .*broken.cu:\d+, thread 5 is done$"),
        (1, r"thread 0 waits at the barrier of .*, thread 32 waits at the barrier of .*$"),
        (2, r"thread 0 shuffles at .*, thread 16 is done$"),
        (3, r"a write past the block's shared memory$"),
        (4, r"an access is not aligned$"),
    ],
)
def test_mistakes_in_a_kernel_are_errors(broken: Any, which: int, message: str) -> None:
    assert re.match(rf"kernel, block 0: {message}", broken(which, torch.zeros(64)))
    assert broken(6, torch.zeros(64)) == "", "the next launch runs"


def test_a_missing_barrier_shows_in_the_other_order(
    broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: dict[int, list[Tensor]] = {5: [], 6: []}
    for order in ("forward", "reverse"):
        monkeypatch.setenv(ORDER, order)
        for which, outputs in results.items():
            out = torch.zeros(64)
            assert broken(which, out) == ""
            outputs.append(out)
    assert not torch.equal(*results[5])
    assert torch.equal(*results[6])
    assert torch.equal(results[6][0], torch.arange(63.0, -1, -1))
