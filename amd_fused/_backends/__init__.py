"""Which implementation can run here, and which one a call gets."""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path

import torch

from amd_fused._backends import build_info
from amd_fused._backends.kernels import BACKENDS, KERNELS
from amd_fused._compiler import constant_result

ENVIRONMENT_VARIABLE = "AMD_FUSED_BACKEND"
# The order in which "auto" tries them, by the tensors' device type.
_AUTO_ORDER = {"cuda": ("triton", "cuda", "reference"), "cpu": ("cpp", "reference")}
_DEVICES = {"triton": ("cuda",), "cuda": ("cuda",), "cpp": ("cpu",)}
# Tuples of tensors as kernel arguments.
_MIN_TRITON = (3, 4)


def backends() -> dict[str, str]:
    """Each backend with ``"usable"``, or ``"not usable, because ..."`` and what to do about it.

    >>> amd_fused.backends()["reference"]
    'usable'
    """
    return {name: _state(name) for name in BACKENDS if name != "auto"}


@constant_result
def choose(
    owner: str,
    backend: str,
    device_type: str,
    among: tuple[str, ...] = KERNELS["amd"],
    plain: str = "reference",
) -> str:
    """The backend that a call runs on: a named one or an error; only "auto" may choose.

    Args:
        owner: the function's name, for messages.
        backend: what the caller asked for; "auto" reads the environment variable AMD_FUSED_BACKEND.
        device_type: of the input tensors.
        among: the fused backends that have kernels of this loss. The environment variable speaks
            for the whole package: it leaves losses alone that lack the backend it names.
        plain: what "auto" takes where none of them is usable; of the reference it warns.

    Raises:
        RuntimeError: the named backend cannot run here, not on this device, or has no such kernel.
    """
    usable = (*among, "reference")
    remedy = 'use backend="auto"'
    if backend == "auto":
        backend = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
        if backend not in BACKENDS:
            raise ValueError(
                f"{owner}: the environment variable {ENVIRONMENT_VARIABLE} must be one of "
                f"{', '.join(BACKENDS)}, got {backend!r}"
            )
        if backend not in usable:
            backend = "auto"
        remedy = f"unset the environment variable {ENVIRONMENT_VARIABLE}"
    if backend == "auto":
        order = [name for name in _AUTO_ORDER.get(device_type, ("reference",)) if name in usable]
        chosen = next(name for name in order if _state(name) == "usable")
        if chosen != "reference":
            return chosen
        if plain == "reference":
            _warn_reference(owner, device_type, among)
        return plain
    if backend not in usable:
        raise RuntimeError(
            f"{owner}: backend {backend!r} has no kernels of this loss; "
            f'use backend="auto" or one of {", ".join(map(repr, usable))}'
        )
    state = _state(backend)
    if state != "usable":
        raise RuntimeError(f"{owner}: backend {backend!r} is {state}")
    devices = _DEVICES.get(backend, (device_type,))
    if backend == "triton" and _interpreting():
        devices = ("cpu",)
    if device_type not in devices:
        raise RuntimeError(
            f"{owner}: backend {backend!r} runs on {' or '.join(devices)} tensors, got tensors on "
            f"{device_type}; {remedy} or move the tensors"
        )
    return backend


@cache
def cpp_load_error() -> str:
    """Loads the C++ library and its operators, once. Empty if that worked, else why it did not."""
    return _load_error("cpp")


@cache
def cuda_error() -> str:
    """The same of the CUDA library, which is loaded only where torch has CUDA and a device."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    built_with = build_info.build_record("cuda").get("cuda", torch.version.cuda)
    if built_with.split(".")[0] != torch.version.cuda.split(".")[0]:
        return (
            f"it was built with CUDA {built_with} and torch with {torch.version.cuda}; run "
            f"`{build_info.REBUILD}` in the source folder, with that version's nvcc (CUDA_HOME "
            "names its folder)"
        )
    return _load_error("cuda")


def _load_error(name: str) -> str:
    library = Path(__file__).parents[1] / f"_{name}.so"
    if not library.exists():
        return f"the extension was not built: {build_info.why_not_built(name)}"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return (
            f"{library.name} does not load into torch {torch.__version__} ({error}); "
            f"run `{build_info.REBUILD}` in the source folder"
        )
    return ""


@cache
def triton_error() -> str:
    """Empty if the Triton kernels can run here, else why they cannot."""
    install = "install it with `pip install 'triton>=3.4'` (Linux)"
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error}); {install}"
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < _MIN_TRITON:
        return f"it needs Triton >= 3.4, got {triton.__version__}; {install}"
    if not _interpreting() and not torch.cuda.is_available():
        return "torch sees no CUDA device; TRITON_INTERPRET=1 lets it take CPU tensors, slowly"
    return ""


def _interpreting() -> bool:
    """Triton's interpreter runs kernels on CPU tensors, if asked before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _state(name: str) -> str:
    if name == "reference":
        return "usable"
    error = {"triton": triton_error, "cuda": cuda_error, "cpp": cpp_load_error}[name]()
    return f"not usable, because {error}" if error else "usable"


@cache
def _warn_reference(owner: str, device_type: str, among: tuple[str, ...]) -> None:
    """Once for each function and device type."""
    reasons = "; ".join(
        f"{name}: {_state(name)}" for name in _AUTO_ORDER.get(device_type, ()) if name in among
    )
    warnings.warn(
        f"{owner}: no fused backend for {device_type} tensors, using the plain PyTorch reference, "
        f"which is several times slower ({reasons or 'none is written for this device'})",
        stacklevel=4,  # the caller of the loss
    )
