"""What is compiled of csrc, and with what: for setup.py, which is the only reader.

Libraries of operators for torch.ops.load_library: they hold no Python symbol and use LibTorch's
stable ABI only, so one build serves every later torch.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import setuptools

ROOT = Path(__file__).parents[1].resolve()
PACKAGE = "amd_fused"
DEBUG = os.environ.get("DEBUG") == "1"

# The oldest torch whose stable ABI the sources may use, as TORCH_TARGET_VERSION wants it.
MIN_TORCH, TORCH_TARGET_VERSION = (2, 10), "0x020a000000000000"

# No -march=native: the sources choose the vector width when they run. No -ffast-math: NaN and Inf
# must reach the loss. Nobody reads errno or floating-point traps, and they would bar vectorisation.
CXX_FLAGS = ["-std=c++17", "-fvisibility=hidden", "-Wall", "-Wextra"]
# -Wno-psabi: wide vectors never cross a function that is not inlined.
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
CXX_FLAGS += ["-O1", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]
NVCC_FLAGS = ["-std=c++17", "-Xcompiler=-fvisibility=hidden", "-O3", "--threads=4"]
# Not -G: without optimisation the kernels' registers would spill.
NVCC_FLAGS += ["-lineinfo", "-UNDEBUG"] if DEBUG else []
# What nvcc compiles for, as far as it knows them, where TORCH_CUDA_ARCH_LIST says nothing.
GPU_ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


class CannotBuildError(Exception):
    """Why a library cannot be built here, and what would change that."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(f"{why}; {remedy}")
        self.why, self.remedy = why, remedy


def wish(library: str) -> str:
    """ "0", "1" or "auto": what the environment says about building a library."""
    variable = f"AMD_FUSED_{library.upper()}"
    value = os.environ.get(variable) or "auto"
    if value not in ("0", "1", "auto"):
        raise SystemExit(f"amd_fused: {variable} must be 0, 1 or auto, got {value!r}")
    return value


def cpp_extension() -> tuple[setuptools.Extension, dict[str, Any]]:
    """csrc/cpu, and what is recorded of it.

    Raises:
        CannotBuildError: here it cannot be built.
    """
    _check_wish("cpp")
    if sys.platform == "win32":
        raise CannotBuildError(
            "it uses vector types of GCC and Clang, which MSVC lacks", "use Linux, macOS or WSL"
        )
    os.environ["CXX"] = _find_compiler()  # torch compiles and setuptools links: both with this one
    torch = import_torch()
    return _extension("cpp", "cpu", extra_compile_args=CXX_FLAGS), {"torch": torch.__version__}


def cuda_extension() -> tuple[setuptools.Extension, dict[str, Any]]:
    """csrc/cuda, and what is recorded of it. Needs no GPU.

    Raises:
        CannotBuildError: here it cannot be built, or need not be.
    """
    _check_wish("cuda")
    if sys.platform != "linux":
        raise CannotBuildError("it was written and compiled on Linux only so far", "use Linux")
    os.environ["CXX"] = _find_compiler()
    torch = import_torch()
    if torch.version.cuda is None and wish("cuda") == "auto":
        raise CannotBuildError(
            f"torch {torch.__version__} has no CUDA",
            "install a CUDA build of torch, or set AMD_FUSED_CUDA=1 to build it all the same",
        )
    home = _find_cuda()
    version = _nvcc_says(home, "--version", r"release ([\d.]+)")[0]
    if torch.version.cuda and version.split(".")[0] != torch.version.cuda.split(".")[0]:
        raise CannotBuildError(
            f"nvcc is of CUDA {version} and torch of {torch.version.cuda}",
            f"install the toolkit of CUDA {torch.version.cuda}, or name it in CUDA_HOME",
        )
    from torch.utils import cpp_extension

    # torch looks for CUDA only where it was built with it.
    cpp_extension.CUDA_HOME = str(home)
    # Whether nvcc takes this host compiler, nvcc itself says: torch would end the whole build.
    os.environ.setdefault("TORCH_DONT_CHECK_COMPILER_ABI", "1")
    extension = _extension(
        "cuda",
        "cuda",
        extra_compile_args={"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS + _architectures(home)},
        # The runtime is linked in: which one torch brings does not matter then. libtorch leads to
        # the current stream where torch has CUDA, even if the torch of the build has not.
        extra_link_args=["-Wl,--no-as-needed", "-ltorch"],
        libraries=["cudart_static", "dl", "rt", "pthread"],
        library_dirs=[str(path) for path in _library_folders(home)],
    )
    extension.include_dirs.append(str(home / "include"))
    extension.define_macros.append(("USE_CUDA", None))
    return extension, {"torch": torch.__version__, "cuda": version}


LIBRARIES = {"cpp": cpp_extension, "cuda": cuda_extension}


def import_torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise CannotBuildError(
            f"the build environment had no {error.name} (unless --no-build-isolation is given, pip "
            "hides the installed one from the build)",
            f"make sure that {error.name} is installed",
        ) from None
    # A torch that is there but broken raises whatever its loader raises.
    except Exception as error:
        raise CannotBuildError(
            f"torch could not be imported when it was built ({error})", "mend torch"
        ) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MIN_TORCH:
        raise CannotBuildError(
            f"it needs torch >= {'.'.join(map(str, MIN_TORCH))}, got {torch.__version__}",
            "upgrade torch",
        )
    return torch


def _check_wish(library: str) -> None:
    if wish(library) == "0":
        variable = f"AMD_FUSED_{library.upper()}"
        raise CannotBuildError(f"{variable}=0 was set when it was built", f"unset {variable}")


def _extension(library: str, folder: str, **options: Any) -> setuptools.Extension:
    from torch.utils.cpp_extension import CppExtension

    shared, sources = ROOT / "csrc", ROOT / "csrc" / folder
    folders = [shared, sources, *sorted(p for p in sources.iterdir() if p.is_dir())]
    found = [p for f in folders[1:] for p in f.iterdir()]
    files = [p for p in found if p.suffix in (".cpp", ".cu")]
    headers = [p for p in (*shared.iterdir(), *found) if p.suffix in (".h", ".cuh")]
    return CppExtension(
        f"{PACKAGE}._{library}",
        sorted(str(path.relative_to(ROOT)) for path in files),
        include_dirs=[str(f) for f in folders],
        depends=sorted(str(path.relative_to(ROOT)) for path in headers),
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION)],
        py_limited_api=True,  # does not link libtorch_python
        **options,
    )


def _find_compiler() -> str:
    """The C++ compiler's command: CXX, else the first usual name on the PATH."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        if shutil.which(shlex.split(name)[0]):
            return name
    raise CannotBuildError(
        f"no C++ compiler was found (looked for {', '.join(names)})",
        "install g++ or clang++, or name yours in CXX",
    )


def _find_cuda() -> Path:
    """The CUDA toolkit's folder: CUDA_HOME, else nvcc's, else the usual one."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc")
    on_path = [Path(nvcc).resolve().parents[1]] if nvcc else []
    folders = [Path(named)] if named else [*on_path, Path("/usr/local/cuda")]
    for folder in folders:
        if (folder / "bin" / "nvcc").exists() and (folder / "include" / "cuda_runtime.h").exists():
            return folder
    raise CannotBuildError(
        f"no CUDA toolkit was found (looked in {', '.join(map(str, folders))})",
        "install nvcc, or name the toolkit's folder in CUDA_HOME",
    )


def _library_folders(home: Path) -> list[Path]:
    folders = [home / "lib64", home / "lib", *sorted((home / "targets").glob("*/lib"))]
    return [folder for folder in folders if (folder / "libcudart_static.a").exists()]


def _nvcc_says(home: Path, option: str, pattern: str) -> list[str]:
    said = subprocess.run([home / "bin" / "nvcc", option], capture_output=True, text=True)
    found = re.findall(pattern, said.stdout)
    if said.returncode != 0 or not found:
        raise CannotBuildError(
            f"nvcc {option} failed ({said.stdout}{said.stderr})", "mend the CUDA toolkit"
        )
    return found


def _architectures(home: Path) -> list[str]:
    """nvcc's flags for GPU_ARCHITECTURES and PTX for later ones; none where torch reads a list."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return []
    known = {int(number) for number in _nvcc_says(home, "--list-gpu-arch", r"compute_(\d+)")}
    chosen = [number for number in GPU_ARCHITECTURES if number in known]
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in chosen]
    return [*flags, f"-gencode=arch=compute_{chosen[-1]},code=compute_{chosen[-1]}"]
