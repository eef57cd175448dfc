"""Settings of every test."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

# Before torch starts its threads: several processes of pytest-xdist share the cores, and a thread
# that waits for others is not to keep one busy.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Nor is each of them to start further ones that compile for it.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch

# Before anything imports Triton: without a GPU its kernels run in the interpreter, on CPU tensors.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Two threads still make parallel code parallel.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(2)

if find_spec("triton") and os.environ.get("TRITON_INTERPRET") == "1":
    import triton_interpreter

    triton_interpreter.patch_once()
    triton_interpreter.leave_out_overflow()
    triton_interpreter.remember_types()
    triton_interpreter.reduce_rows_at_once()
    triton_interpreter.cast_bfloat16_exactly()

from cuda_on_host import build
from forks import Forks

from amd_fused import _backends, backends
from amd_fused.distill.seeding import seed_generators
from amd_fused.losses._common import constant_losses
from amd_fused.losses.amd.triton import plan

# Processes take files in this order, and none is to end alone: those of more than ten seconds where
# nothing is compiled yet.
SLOWEST = (
    *("test_gpu", "test_triton_on_host", "test_triton_compile", "test_operators", "test_parity"),
    *("test_install", "test_cuda_compile", "test_engine_processes", "test_afd_operators"),
    "test_teacher_cache_runs",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first."""
    order = {stem: place for place, stem in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_sessionstart() -> None:
    """Collecting leaves no garbage, and looking for it would take a third of the time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What is there by now stays: the garbage collector goes through what comes after."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Libraries look whether all that they made was freed."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    seed_generators(torch.device("cuda" if torch.cuda.is_available() else "cpu"), 0)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    """Dynamo compiles a function for the eighth time and then no more, and counts its own wrappers
    as one: none leans on what tests before it have compiled."""
    convert_frame = sys.modules.get("torch._dynamo.convert_frame")
    if convert_frame and convert_frame.FRAME_COUNTER:
        torch._dynamo.reset()


@pytest.fixture(autouse=True)
def _unmeasured_guards() -> None:
    """Dynamo empties the caches to measure, for its own log, how long a graph's guards take: 20 ms
    a graph."""
    if guards := sys.modules.get("torch._dynamo.guards"):
        guards.profile_guard_manager = lambda *_: 0.0


@pytest.fixture(autouse=True)
def _warned_of_nothing() -> None:
    """What a process warns of once, each test is warned of: none leans on one before it."""
    constant_losses._once.cache_clear()
    _backends._warn_reference.cache_clear()


@pytest.fixture(scope="session")
def with_torch() -> Iterator[Forks]:
    """Runs programs for which torch is imported already, and this package is not."""
    forks = Forks("torch")
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For folders of tests whose tensors are so small that several threads take longer with them,
    and much longer where these contend."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """torch.empty and its kin hand out NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def cuda_on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backend "cuda" takes CPU tensors: the same kernels, compiled for the CPU."""
    if build.COMPILER is None:
        pytest.skip("no C++ compiler was found to compile the CUDA kernels for the CPU")
    build.loaded()
    monkeypatch.setattr(_backends, "cuda_error", lambda: "")
    monkeypatch.setitem(_backends._DEVICES, "cuda", ("cuda", "cpu"))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's chunked form from 11x9 positions on, in two chunks a quadrant or more: what its
    interpreter takes seconds for with the sizes of a device."""
    monkeypatch.setattr(plan, "MAX_POSITIONS", 64)
    monkeypatch.setattr(plan, "CHUNK", 16)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """A fused backend by name, for CPU tensors; the test is skipped where it cannot run."""
    if request.param == "cuda":
        request.getfixturevalue("cuda_on_host")
    elif backends()[request.param] != "usable":
        pytest.skip(backends()[request.param])
    return request.param
