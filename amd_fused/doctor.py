"""What a bug report needs: versions, machine, backends, and whether the loss is right here.

``python -m amd_fused doctor`` prints it. Needs nothing but torch.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import amd_fused
from amd_fused._backends import build_info
from amd_fused._machine import processor, version_of

# Those that change what the package does once it is installed; docs/backends.md explains them.
VARIABLES = ("AMD_FUSED_BACKEND", "AMD_FUSED_CPU_ISA", "AMD_FUSED_COMMIT", "TRITON_INTERPRET")
_BESIDE = (
    "accelerate",
    "lightning",
    "numpy",
    "timm",
    "torchdistill",
    "torchvision",
    "transformers",
)
# A fused float32 loss may differ by this share of the reference's, in value and gradient.
_TOLERANCE = 1e-4


def report() -> str:
    """All of it, as Markdown that can be pasted into a bug report."""
    sections: list[tuple[str, Callable[[], Iterator[tuple[str, str]]]]] = [
        ("versions", _versions),
        ("machine", _machine),
        ("built", _built),
        ("backends", _backends),
        ("environment", _environment),
    ]
    lines = ["Paste this into a bug report, with the shapes, dtypes and options of the call.", ""]
    for title, section in sections:
        rows = list(section())
        lines += [f"**{title}**", *(f"- {name}: {value}" for name, value in rows), ""]
    return "\n".join(lines).rstrip()


def _versions() -> Iterator[tuple[str, str]]:
    yield "amd_fused", f"{amd_fused.__version__} in {Path(amd_fused.__file__).parent}"
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "torch", f"{torch.__version__}, built with CUDA {torch.version.cuda or 'none'}"
    yield "Triton", version_of("triton") or "not installed"
    yield "C++ compiler", _first_line(os.environ.get("CXX") or _found("c++", "g++", "clang++"))
    yield "nvcc", _last_line(_found("nvcc"))
    found = [f"{name} {version_of(name)}" for name in _BESIDE if version_of(name)]
    yield "beside it", ", ".join(found) or "nothing that it works with"


def _machine() -> Iterator[tuple[str, str]]:
    yield "system", f"{platform.platform()}, {' '.join(platform.libc_ver()).strip() or 'no glibc'}"
    capability = torch.backends.cpu.get_cpu_capability()
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    yield "CPU", f"{processor()}, {capability}, {threads}"
    if not torch.cuda.is_available():
        yield "GPU", "torch sees none"
        return
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        yield "GPU", f"{of.name}, sm_{of.major}{of.minor}, {of.total_memory / 2**30:.0f} GiB"


def _built() -> Iterator[tuple[str, str]]:
    for library in ("cpp", "cuda"):
        record = build_info.build_record(library)
        if record.get("built"):
            yield library, "with " + ", ".join(f"{k} {record[k]}" for k in record if k != "built")
        else:
            yield library, f"not built: {build_info.why_not_built(library)}"


def _backends() -> Iterator[tuple[str, str]]:
    for name, state in amd_fused.backends().items():
        yield name, f"{state}; {_tried(name)}" if state == "usable" else state


def _environment() -> Iterator[tuple[str, str]]:
    for name in VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]
    if not any(name in os.environ for name in VARIABLES):
        yield "set", f"none of {', '.join(VARIABLES)}"


def _tried(backend: str) -> str:
    """A loss and its gradient on that backend's device, beside the reference's."""
    on_gpu = backend in ("triton", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    generator = torch.Generator().manual_seed(0)
    a_s, a_t = (torch.randn(4, c, 8, 8, generator=generator).to(device) for c in (16, 32))
    a_s.requires_grad_()
    try:
        loss = amd_fused.amd_loss(a_s, a_t, backend=backend)
        (gradient,) = torch.autograd.grad(loss, a_s)
    except Exception as error:  # whatever it is, it belongs into the report
        return f"BUT amd_loss raised {type(error).__name__}: {' '.join(str(error).split())}"
    right = amd_fused.reference.amd_loss(a_s, a_t)
    (right_gradient,) = torch.autograd.grad(right, a_s)
    worst = max(_difference(loss, right), _difference(gradient, right_gradient))
    if worst > _TOLERANCE:
        return f"BUT amd_loss is wrong: it differs from the reference by {worst:.1e} of its value"
    return "amd_loss and its gradient are right here"


def _difference(found: torch.Tensor, right: torch.Tensor) -> float:
    value = (found - right).abs().max() / right.abs().max()
    return float("inf") if value.isnan() else value.item()


def _found(*commands: str) -> str | None:
    return next((command for command in commands if shutil.which(command)), None)


def _first_line(command: str | None) -> str:
    return _said(command)[0]


def _last_line(command: str | None) -> str:
    return _said(command)[-1]


def _said(command: str | None) -> list[str]:
    """What a compiler says to --version."""
    if command is None:
        return ["not found"]
    try:
        done = subprocess.run(
            [*shlex.split(command), "--version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{command} does not run ({error})"]
    return done.stdout.strip().splitlines() or [f"{command} says nothing to --version"]
