"""How a loss's operators come to be: one schema for every backend, and a fake kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch


def define(
    library: torch.library.Library,
    name: str,
    schema: str,
    fake: Callable[..., Any],
    backends: Sequence[str],
    triton: str | Callable[..., Any],
) -> None:
    """``amd_fused::<name>_<backend>`` for each backend.

    The extensions register their implementations when `_backends` loads them. Triton's is
    registered here, for CUDA tensors, and for the CPU's in Triton's interpreter only, which
    `_backends.choose` sees to.

    Args:
        triton: its implementation, or the module that has one as ``<name>_triton``.
    """
    for backend in backends:
        library.define(f"{name}_{backend}{schema}")
        torch.library.register_fake(f"amd_fused::{name}_{backend}", fake, lib=library)
    implementation = imported(triton, f"{name}_triton") if isinstance(triton, str) else triton
    for device in ("CUDA", "CPU"):
        library.impl(f"{name}_triton", implementation, device)


def imported(module: str, function: str) -> Callable[..., Any]:
    """A function of a module that is imported when it is called: Triton need not be there."""

    def call(*args: Any) -> Any:
        return getattr(import_module(module), function)(*args)

    return call
