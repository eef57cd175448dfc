"""Stands in for the CUDA driver: Triton compiles for sm_90, and its launcher's launches run here.

`install()` in a process of its own, before anything else uses Triton, without its interpreter.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver

from triton_on_host.instructions import Program
from triton_on_host.memory import DeviceMemory

BUILD = Path(__file__).parent.parent.parent / "build"
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_uint64, *3 * [ctypes.c_uint], ctypes.POINTER(ctypes.c_void_p)
)


class Emulator:
    """What has been compiled, the buffers of the launch in progress, and what went wrong."""

    def __init__(self) -> None:
        self.kernels: dict[int, CompiledKernel] = {}
        self.programs: dict[str, Program] = {}
        self.memory = DeviceMemory()
        self.fault: Exception | None = None
        self.launched: list[str] = []
        self.replayed: list[str] = []
        self.callback = CALLBACK(self.on_launch)

    def on_launch(self, function: int, blocks: int, threads: int, shared: int, given: Any) -> int:
        try:
            kernel = self.kernels[function]
            ptx = kernel.asm["ptx"]
            program = self.programs.setdefault(kernel.hash, None) or Program(ptx)
            self.programs[kernel.hash] = program
            parameters = []
            for index, kind in enumerate(program.function.parameters):
                held, made = (
                    (ctypes.c_uint64, np.uint64) if "64" in kind else (ctypes.c_uint32, np.uint32)
                )
                number = ctypes.cast(given[index], ctypes.POINTER(held))[0]
                parameters.append(made(number))
            self.launched.append(program.function.name)
            program.launch(blocks, threads, shared, parameters, self.memory)
        except Exception as error:  # it cannot pass through Triton's C code
            self.fault = error
        return 0

    def watched(self, run: Callable[[], Any], arguments: Sequence[Any]) -> Any:
        """A launch, with the buffers that its tensors can reach and no others."""
        self.memory, self.fault = DeviceMemory(), None
        for place, argument in enumerate(arguments):
            for tensor in tensors(argument):
                reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
                size = (1 + reach) * tensor.element_size() if tensor.numel() else 0
                name = f"argument {place}, {tuple(tensor.shape)}"
                self.memory.add(name, tensor.data_ptr(), size)
        result = run()
        if self.fault is not None:
            raise self.fault
        return result


def tensors(argument: Any) -> Iterator[torch.Tensor]:
    if isinstance(argument, torch.Tensor):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for member in argument:
            yield from tensors(member)


class HostDriver(CudaDriver):
    """Triton's driver on top of the library that stands for libcuda."""

    def __init__(self) -> None:
        # Not the base class's, which takes devices and streams from torch.cuda.
        self.utils, self.launcher_cls = CudaUtils(), CudaLauncher

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def stub() -> Path:
    folder = BUILD / "triton_on_host"
    folder.mkdir(parents=True, exist_ok=True)
    include = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    source = Path(__file__).with_name("stub_libcuda.c")
    unfinished = folder / f"libcuda.{os.getpid()}"
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, f"-I{include}", str(source), "-o", str(unfinished)], check=True)
    os.replace(unfinished, folder / "libcuda.so.1")
    return folder


def install() -> Emulator:
    emulator = Emulator()
    folder = stub()
    library = ctypes.CDLL(str(folder / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    library.stub_on_launch(emulator.callback)
    triton.knobs.nvidia.libcuda_path = str(folder)
    triton.knobs.cache.dir = str(BUILD / "triton-cache")
    driver.set_active(HostDriver())
    load = CompiledKernel._init_handles

    def loaded(kernel: CompiledKernel) -> None:
        load(kernel)
        emulator.kernels[kernel.function] = kernel

    CompiledKernel._init_handles = loaded

    from amd_fused import _backends
    from amd_fused.losses._common.triton import replay
    from amd_fused.losses._common.triton.launch import Launch

    _backends._interpreting = lambda: True  # the backend takes CPU tensors
    _backends.triton_error.cache_clear()
    first = Launch.run
    Launch.run = lambda launch: emulator.watched(lambda: first(launch), launch.args)

    def again(run: Callable[..., object], arguments: Sequence[Any]) -> None:
        emulator.watched(lambda: run(*arguments), arguments)
        emulator.replayed.append(emulator.launched[-1])

    replay.submit = again
    return emulator
