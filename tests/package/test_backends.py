"""A named backend runs or says why not, only "auto" chooses, and no instruction set is special."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from amd_fused import AMDLoss, _backends, amd_loss, backends, reference
from amd_fused._backends import build_info

S = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
T = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(1))
VARIABLE = "AMD_FUSED_BACKEND"
needs_cpp = pytest.mark.skipif(
    backends()["cpp"] != "usable", reason=f"backend cpp is {backends()['cpp']}"
)


@pytest.fixture(autouse=True)
def no_preference(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def no_cpp(monkeypatch):
    """As where the extension was not built."""
    why = "the extension was not built: there is no compiler; install g++"
    monkeypatch.setattr(_backends, "cpp_load_error", lambda: why)
    return why


def is_from_reference(loss: Tensor) -> bool:
    """The fused forward pass runs as one operator, and the graph shows it."""
    pending, names = [loss.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is not None:
            names.add(node.name())
            pending += [following for following, _ in node.next_functions]
    return any("CosMargin" in name for name in names)


def loss_with(backend: str) -> Tensor:
    return amd_loss(S.clone().requires_grad_(), T, backend=backend)


def test_each_backend_says_whether_it_is_usable():
    states = backends()
    assert list(states) == ["triton", "cuda", "cpp", "reference"]
    assert states["reference"] == "usable"
    for name, state in states.items():
        assert state == "usable" or state.startswith("not usable, because "), name


@pytest.fixture
def cuda_torch(monkeypatch, tmp_path):
    """A torch of CUDA 12.8 that sees a device, and a package whose libraries can be put there."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_backends, "__file__", str(tmp_path / "_backends" / "__init__.py"))
    monkeypatch.setattr(build_info, "_PACKAGE", tmp_path)
    _backends.cuda_error.cache_clear()
    yield tmp_path
    _backends.cuda_error.cache_clear()


def record_of(folder: Path, **entry: object) -> None:
    (folder / "_build.json").write_text(json.dumps({"cuda": entry}))


def test_without_a_device_or_without_cuda_the_cuda_library_is_not_looked_for(
    cuda_torch, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backends()["cuda"] == "not usable, because torch sees no CUDA device"
    _backends.cuda_error.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert backends()["cuda"].startswith(f"not usable, because torch {torch.__version__} was built")


def test_a_cuda_library_that_was_not_built_says_why(cuda_torch):
    record_of(cuda_torch, built=False, why="no CUDA toolkit was found", remedy="install nvcc")
    state = backends()["cuda"]
    assert state.startswith(
        "not usable, because the extension was not built: no CUDA toolkit was found; install nvcc"
    )


def test_a_cuda_library_of_another_major_version_is_refused(cuda_torch):
    record_of(cuda_torch, built=True, cuda="13.0")
    (cuda_torch / "_cuda.so").touch()
    assert "it was built with CUDA 13.0 and torch with 12.8" in backends()["cuda"]


def test_a_cuda_library_that_does_not_load_says_why(cuda_torch):
    record_of(cuda_torch, built=True, cuda="12.4")
    (cuda_torch / "_cuda.so").write_text("no library")
    state = backends()["cuda"]
    assert state.startswith(
        f"not usable, because _cuda.so does not load into torch {torch.__version__}"
    )
    assert "--no-deps" in state


@pytest.mark.parametrize(
    ("usable", "expected"),
    [({"triton", "cuda"}, "triton"), ({"cuda"}, "cuda"), (set(), "reference")],
)
@pytest.mark.filterwarnings("ignore:amd_loss. no fused backend")
def test_auto_on_cuda_tensors_takes_triton_then_cuda_then_the_reference(
    monkeypatch, usable, expected
):
    for name in ("triton", "cuda"):
        why = "" if name in usable else "it is not there"
        monkeypatch.setattr(_backends, f"{name}_error", lambda why=why: why)
    assert _backends.choose("amd_loss", "auto", "cuda") == expected


def test_a_missing_extension_is_explained(no_cpp):
    assert backends()["cpp"] == f"not usable, because {no_cpp}"
    assert backends()["reference"] == "usable"


@pytest.mark.parametrize("backend", ["triton", "cuda", "cpp"])
def test_a_named_backend_that_cannot_run_raises_and_says_why(backend, request, monkeypatch):
    if backend == "cpp":
        request.getfixturevalue("no_cpp")
    # conftest.py sets it, and then CPU tensors are fine.
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    _backends.triton_error.cache_clear()
    request.addfinalizer(_backends.triton_error.cache_clear)
    state = backends()[backend]
    if state == "usable":  # with a GPU: not on these tensors
        state = "runs on cuda tensors, got tensors on cpu"
    for call in (lambda: loss_with(backend), lambda: AMDLoss(backend=backend)(S, T)):
        with pytest.raises(RuntimeError) as error:
            call()
        assert str(error.value).startswith(f"amd_loss: backend {backend!r} ")
        assert state in str(error.value)


@needs_cpp
def test_a_named_backend_refuses_tensors_of_another_device():
    with pytest.raises(
        RuntimeError, match="backend 'cpp' runs on cpu tensors, got tensors on meta"
    ):
        amd_loss(S.to("meta"), T.to("meta"), backend="cpp")
    with pytest.raises(RuntimeError, match=r'use backend="auto" or move the tensors$'):
        amd_loss(S.to("meta"), T.to("meta"), backend="cpp")


@needs_cpp
def test_a_backend_of_the_environment_that_refuses_tensors_names_the_variable(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cpp")
    with pytest.raises(RuntimeError, match=f"unset the environment variable {VARIABLE} or move"):
        amd_loss(S.to("meta"), T.to("meta"))


def test_reference_runs_on_any_device():
    assert is_from_reference(loss_with("reference"))
    assert amd_loss(S.to("meta"), T.to("meta"), backend="reference").device.type == "meta"


@needs_cpp
def test_auto_takes_the_kernel_where_there_is_one():
    assert not is_from_reference(loss_with("auto"))
    assert not is_from_reference(loss_with("cpp"))


def test_auto_falls_to_the_reference_with_one_warning(no_cpp):
    with pytest.warns(UserWarning, match="^amd_loss: no fused backend for cpu tensors") as caught:
        first = loss_with("auto")
    assert len(caught) == 1
    assert no_cpp in str(caught[0].message)
    assert "plain PyTorch reference" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for again in (loss_with("auto"), AMDLoss()(S.clone().requires_grad_(), T)):
            assert torch.equal(first, again)
    assert is_from_reference(first)
    assert torch.equal(first, reference.amd_loss(S, T))


def test_the_warning_points_at_the_caller_s_line(no_cpp):
    with pytest.warns(UserWarning, match="no fused backend") as caught:
        amd_loss(S, T)
    assert caught[0].filename == __file__


def test_a_named_reference_does_not_warn(no_cpp):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_with("reference")


@needs_cpp
def test_the_environment_variable_replaces_auto(monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    assert is_from_reference(loss_with("auto"))
    assert is_from_reference(amd_loss(S.clone().requires_grad_(), T))
    assert is_from_reference(AMDLoss()(S.clone().requires_grad_(), T))
    monkeypatch.setenv(VARIABLE, "auto")
    assert not is_from_reference(loss_with("auto"))
    monkeypatch.setenv(VARIABLE, "")
    assert not is_from_reference(loss_with("auto"))


@needs_cpp
def test_the_environment_variable_does_not_override_a_named_backend(monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    assert not is_from_reference(loss_with("cpp"))
    monkeypatch.setenv(VARIABLE, "cpp")
    assert is_from_reference(loss_with("reference"))
    monkeypatch.setenv(VARIABLE, "no such backend")
    assert is_from_reference(loss_with("reference"))


def test_a_backend_named_in_the_environment_does_not_fall_back(monkeypatch, no_cpp):
    monkeypatch.setenv(VARIABLE, "cpp")
    with pytest.raises(RuntimeError, match="backend 'cpp' is not usable, because") as error:
        loss_with("auto")
    assert no_cpp in str(error.value)


def test_a_wrong_name_in_the_environment_is_named(monkeypatch):
    monkeypatch.setenv(VARIABLE, "gpu")
    with pytest.raises(ValueError, match="environment variable AMD_FUSED_BACKEND must be") as error:
        loss_with("auto")
    for part in ("amd_loss: ", "auto, triton, cuda, cpp, reference", "got 'gpu'"):
        assert part in str(error.value)


ROOT = Path(__file__).parents[2]


@needs_cpp
def test_an_unknown_instruction_set_is_named(with_torch):
    """In a process of its own: what a process has once looked up, it keeps."""
    program = """
import torch
from amd_fused import amd_loss
a = torch.ones(1, 1, 2, 2)
try:
    amd_loss(a, a, backend="cpp")
except (RuntimeError, ValueError) as error:
    print(error)
"""
    variables = {"AMD_FUSED_CPU_ISA": "sse9", "PYTHONPATH": str(ROOT)}
    done = with_torch.run(program, env=os.environ | variables)
    assert done.returncode == 0, done.stderr
    assert "AMD_FUSED_CPU_ISA must be one of baseline, avx2, avx512, got 'sse9'" in done.stdout
