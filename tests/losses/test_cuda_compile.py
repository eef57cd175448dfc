"""The CUDA kernels compile for the GPUs that matter, without one: no spills, 16 bytes at a time.

nvcc compiles the .cu files against the headers of the torch that is installed, CPU-only or not:
`make test` those of the AMD loss for one GPU, without the host's half, that tests/cuda_on_host
compiles of all.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]
# The longest first, so that no process compiles it alone at the end.
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"), key=lambda path: -path.stat().st_size)
CAPABILITIES = ("75", "80", "90", "100")
Compiled = dict[str, tuple[Path, str]]
CUDA_HOME = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
NVCC = shutil.which("nvcc") or shutil.which(str(CUDA_HOME / "bin" / "nvcc"))
KERNELS = {
    "amd_fused_fwd_kernel",
    "amd_sample_fwd_kernel",
    "amd_map_fwd_kernel",
    "amd_chunk_fwd_kernel",
    "amd_layers_fwd_kernel",
    "amd_bwd_kernel",
    "afd_fwd_kernel",
    "afd_mean_kernel",
    "afd_bwd_kernel",
    "afds_fwd_kernel",
    "afds_bwd_kernel",
    "crd_fwd_kernel",
    "crd_sums_kernel",
}
# A kernel's name out of its mangled one, and its compute type: f or d.
NAME = f"({'|'.join(KERNELS)})I([fd])E"

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


@pytest.fixture(
    scope="module",
    params=[(("90",), "amd_"), pytest.param((CAPABILITIES, ""), marks=pytest.mark.exhaustive)],
    ids=["amd for sm_90", "every"],
)
def chosen(request: pytest.FixtureRequest) -> tuple[tuple[str, ...], str]:
    """For which GPUs, and how the names of sources and kernels begin."""
    return request.param


@pytest.fixture(scope="module")
def capabilities(chosen: tuple[tuple[str, ...], str]) -> tuple[str, ...]:
    return chosen[0]


@pytest.fixture(scope="module")
def kernels(chosen: tuple[tuple[str, ...], str]) -> set[str]:
    return {name for name in KERNELS if name.startswith(chosen[1])}


@pytest.fixture(scope="module")
def compiled(chosen: tuple[tuple[str, ...], str]) -> Compiled:
    """By source: its object file or cubin, and what ptxas said of it; kept in build/cubins under a
    name made of what they were made of."""
    capabilities, prefix = chosen
    sources = [source for source in SOURCES if source.name.startswith(prefix)]
    command = [NVCC, "-std=c++17", "-O3", "-Xptxas=-v", "-Werror=all-warnings"]
    command += [f"-gencode=arch=compute_{c},code=sm_{c}" for c in capabilities]
    command.append("-cubin" if len(capabilities) == 1 else "-c")  # a cubin is of one
    version = subprocess.run([NVCC, "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(repr((command, prefix, version, torch.__version__)).encode())
    for path in sorted([*(ROOT / "csrc").glob("*.h"), *(ROOT / "csrc" / "cuda").iterdir()]):
        digest.update(path.name.encode() + path.read_bytes())
    folder = ROOT / "build" / "cubins" / f"{'-'.join(capabilities)}.{digest.hexdigest()[:16]}"
    if not folder.exists():
        for earlier in folder.parent.glob(f"{'-'.join(capabilities)}.*"):
            shutil.rmtree(earlier)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            whole = Path(unfinished) / "whole"
            whole.mkdir()
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(functools.partial(compile_one, command, whole), sources))
            whole.rename(folder)
    names = [source.name for source in sources]
    return {name: (folder / f"{name}.o", (folder / f"{name}.log").read_text()) for name in names}


def compile_one(command: list[str], folder: Path, source: Path) -> None:
    includes = [ROOT / "csrc", ROOT / "csrc" / "cuda", *cpp_extension.include_paths()]
    output = folder / f"{source.name}.o"
    done = subprocess.run(
        [*command, *(f"-I{path}" for path in includes), str(source), "-o", str(output)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    output.with_suffix(".log").write_text(done.stdout + done.stderr)


def resources(log: str) -> Iterator[tuple[str, str, str, int, int]]:
    """Kernel, compute type, capability, registers and spilt bytes, of what ptxas -v says."""
    for part in log.split("Compiling entry function ")[1:]:
        name = re.search(NAME, part)
        target = re.search(r"for 'sm_(\d+)", part)
        registers = re.search(r"Used (\d+) registers", part)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        assert name, part
        assert target, part
        assert registers, part
        assert spills, part
        yield name[1], name[2], target[1], int(registers[1]), int(spills[1]) + int(spills[2])


def test_every_kernel_compiles_for_every_architecture_without_spilling(
    compiled: Compiled, capabilities: tuple[str, ...], kernels: set[str]
) -> None:
    rows = [row for _, log in compiled.values() for row in resources(log)]
    for name, kind, capability, registers, spilt in sorted(rows):
        print(f"{name}<{kind}> sm_{capability}: {registers} registers, {spilt} bytes spilt")
    assert Counter(row[:3] for row in rows) == Counter(
        (name, kind, capability) for name in kernels for kind in "fd" for capability in capabilities
    )
    assert [row for row in rows if row[-1] > 0] == []


def test_the_kernels_that_read_features_leave_room_for_two_blocks_a_multiprocessor(
    compiled: Compiled, capabilities: tuple[str, ...], kernels: set[str]
) -> None:
    """65,536 registers, in units of 8 a thread; the most threads that a block may have."""
    threads = {"amd_fused_fwd_kernel": 384, "amd_map_fwd_kernel": 128, "amd_bwd_kernel": 256}
    threads |= {"afd_fwd_kernel": 256, "afd_bwd_kernel": 256}
    threads |= {"afds_fwd_kernel": 256, "afds_bwd_kernel": 256}
    threads |= {"crd_fwd_kernel": 256}
    checked = 0
    for _, log in compiled.values():
        for name, kind, _, registers, _ in resources(log):
            if name in threads and kind == "f":
                assert 2 * threads[name] * -(-registers // 8) * 8 <= 65536
                checked += 1
    assert checked == len(threads.keys() & kernels) * len(capabilities)


@functools.cache
def disassembler() -> str | None:
    """cuobjdump: of the toolkit, or the one that Triton brings."""
    found = shutil.which("cuobjdump") or shutil.which(str(CUDA_HOME / "bin" / "cuobjdump"))
    triton = importlib.util.find_spec("triton")
    if found or triton is None or triton.origin is None:
        return found
    return shutil.which(str(Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"))


def instructions(path: Path, capability: str) -> dict[tuple[str, str, str], Counter[str]]:
    """How often each kernel has which instruction."""
    tool = disassembler()
    assert tool
    command: Sequence[str] = [tool, "-sass", "-arch", f"sm_{capability}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for part in done.stdout.split("Function : ")[1:]:
        name = re.match(rf"\S*?{NAME}", part)
        assert name, part[:200]
        found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]+)", part)
        counts[name[1], name[2], capability] = Counter(found)
    return counts


def test_features_move_16_bytes_at_a_time(
    compiled: Compiled, capabilities: tuple[str, ...], kernels: set[str]
) -> None:
    """Loads through the read-only cache forward; loads and stores backward."""
    if disassembler() is None:
        pytest.skip("cuobjdump is not installed")
    found: dict[tuple[str, str, str], Counter[str]] = {}
    for capability, (path, _) in itertools.product(capabilities, compiled.values()):
        found |= instructions(path, capability)
    for capability, kind in itertools.product(capabilities, "fd"):
        reading = {"amd_fused_fwd_kernel": 8, "amd_map_fwd_kernel": 8, "amd_bwd_kernel": 8}
        reading |= {"afd_fwd_kernel": 8, "afd_bwd_kernel": 8}
        # Of both sides: four at once in either pass, and two at once.
        reading |= {"afds_fwd_kernel": 16, "afds_bwd_kernel": 4}
        # Of every dtype, some rows under way at once.
        reading |= {"crd_fwd_kernel": 16}
        for kernel in reading.keys() & kernels:
            counts = found[kernel, kind, capability]
            loads = {name for name in counts if re.match(r"LDG\..*128", name)}
            print(kernel, kind, capability, {name: counts[name] for name in loads})
            # Rows and pixels, four loads under way at once.
            assert sum(counts[name] for name in loads) >= reading[kernel]
        writing = {"amd_bwd_kernel": 8, "afd_bwd_kernel": 8, "afds_bwd_kernel": 4}
        for kernel in writing.keys() & kernels:
            counts = found[kernel, kind, capability]
            stores = {n: c for n, c in counts.items() if n.startswith("STG")}
            wide = sum(count for name, count in stores.items() if "128" in name)
            assert wide >= writing[kernel], stores
