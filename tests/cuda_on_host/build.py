"""Compiles csrc/cuda for the CPU, against the header beside this file, and loads its operators.

The kernels then run on CPU tensors under their own operators' names, as Triton's do in its
interpreter. The library is kept in build/cuda_on_host under a name made of what it was made of.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "cuda_on_host"
COMPILER = next(filter(shutil.which, [os.environ.get("CXX") or "g++", "g++", "c++"]), None)
FLAGS = [
    *("-x", "c++", "-std=c++17", "-O1", "-g0", "-fPIC", "-w"),
    *("-DAMD_DISPATCH_KEY=CPU", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
]
MORE_FLAGS = shlex.split(os.environ.get("CFLAGS", ""))


class CannotCompileError(Exception):
    """What the compiler said."""


def sources() -> list[Path]:
    files = [p for p in (ROOT / "csrc" / "cuda").iterdir() if p.suffix in (".cu", ".cpp")]
    return sorted([*files, HERE / "fibers.cpp"])


@functools.cache
def library() -> Path:
    """The library's file, compiled if need be: ten seconds or so."""
    folders = [HERE, ROOT / "csrc", ROOT / "csrc" / "cuda"]
    read = sorted(p for folder in folders for p in folder.iterdir() if p.is_file())
    digest = hashlib.sha256(repr((COMPILER, FLAGS, MORE_FLAGS, torch.__version__)).encode())
    for path in read:
        digest.update(path.name.encode() + path.read_bytes())
    result = FOLDER / f"{digest.hexdigest()[:16]}.so"
    FOLDER.mkdir(parents=True, exist_ok=True)
    # One process of a parallel test run compiles, the others wait for it.
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            for earlier in FOLDER.glob("*.so"):
                earlier.unlink()
            _compile(result)
    return result


@functools.cache
def loaded() -> ctypes.CDLL:
    """The library, its operators registered for CPU tensors."""
    torch.ops.load_library(str(library()))
    handle = ctypes.CDLL(str(library()))
    handle.cuda_on_host_launched.restype = ctypes.c_char_p
    return handle


def launched() -> list[str]:
    """Names of the kernels launched since the last call."""
    return loaded().cuda_on_host_launched().decode().split()


def _compile(result: Path) -> None:
    includes = [HERE, ROOT / "csrc", ROOT / "csrc" / "cuda", *cpp_extension.include_paths()]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        objects = [Path(folder, f"{path.name}.o") for path in sources()]
        commands = [
            [
                COMPILER,
                *FLAGS,
                *MORE_FLAGS,
                *(f"-I{path}" for path in includes),
                "-c",
                source,
                "-o",
                target,
            ]
            for source, target in zip(sources(), objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        torch_libraries = Path(torch.__file__).parent / "lib"
        linked = Path(folder, "linked.so")
        names = ["-ltorch", "-ltorch_cpu", "-lc10"]
        _run(
            [
                COMPILER,
                "-shared",
                *MORE_FLAGS,
                *objects,
                f"-L{torch_libraries}",
                *names,
                "-o",
                linked,
            ]
        )
        linked.rename(result)


def _run(command: Sequence[object]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotCompileError(done.stderr[-3000:])
