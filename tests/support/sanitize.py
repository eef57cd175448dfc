"""Builds the kernels of csrc/cpu, and CUDA's for the CPU, with AddressSanitizer and
UndefinedBehaviorSanitizer, and runs the losses' tests on them.

In a copy of the sources below build/sanitize, whose extension the tests then import. First a fault
is planted there and has to be found: a run that finds nothing says something only then. Without
ThreadSanitizer, which wants every library of the process built with it: the threads are torch's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "sanitize"
PARTS = ("amd_fused", "benchmarks", "csrc", "tests", "setup.py", "pyproject.toml", "README.md")
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
TESTS = [
    f"tests/losses/{loss}"
    for loss in ("amd", "at", "attention_map", "kd", "nd", "lsh", "afd", "afds", "vid", "crd", "sp")
]
# One row past the end of torch's tensor of rows, in a file that compiles in seconds.
PLANT = (
    "csrc/cpu/rows/kd_forward.cpp",
    "extents, sums, row + b);",
    "extents, sums, row + b + 1);",
)
PLANTED_TESTS = ["tests/losses/kd/test_kd_parity.py", "-k", "cpp and layout", "-x"]


def main() -> int:
    """With --optional, as in make test-all, a compiler without sanitizers is no failure."""
    optional = "--optional" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--optional"]
    compiler = os.environ.get("CXX") or "c++"
    libraries = [library(compiler, name) for name in ("libasan.so", "libstdc++.so")]
    if None in libraries:
        print(f"sanitize: {compiler} has no AddressSanitizer; install it, or name another in CXX")
        return 0 if optional else 1
    copy_sources()
    path, right, wrong = PLANT
    source = (COPY / path).read_text()
    assert source.count(right) == 1
    (COPY / path).write_text(source.replace(right, wrong))
    build()
    planted = run(PLANTED_TESTS, libraries, capture_output=True)
    found = "AddressSanitizer" in planted.stdout + planted.stderr
    print("sanitize: the planted fault was", "found" if found else "NOT found", flush=True)
    (COPY / path).write_text(source)
    build()
    clean = run([*TESTS, "-k", "cpp or cuda", "-n", "2", *arguments], libraries)
    return 0 if found and clean.returncode == 0 else 1


def library(compiler: str, name: str) -> str | None:
    """Where the compiler keeps it; None if it has none."""
    said = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True)
    path = said.stdout.strip()
    return path if os.path.isabs(path) else None


def copy_sources() -> None:
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "_build.json", "results")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, COPY / part, ignore=unwanted)
        else:
            shutil.copy(ROOT / part, COPY / part)


def build() -> None:
    flags = dict.fromkeys(("CFLAGS", "CXXFLAGS", "LDFLAGS"), SANITIZERS)
    wishes = {"DEBUG": "1", "AMD_FUSED_CPP": "1", "AMD_FUSED_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=COPY, env=os.environ | flags | wishes, check=True)


def run(
    arguments: list[str], libraries: list[str | None], **options: bool
) -> subprocess.CompletedProcess[str]:
    """pytest on the copy. What a sanitizer says goes past pytest's capture, for it ends the
    process."""
    variables = {
        "LD_PRELOAD": " ".join(map(str, libraries)),
        # Python's own allocations are no leaks of ours.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(COPY),
        "CFLAGS": SANITIZERS,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    captured = [] if "-n" in arguments else ["-s"]
    return subprocess.run(
        [*command, *captured, *arguments],
        cwd=COPY,
        env=os.environ | variables,
        text=True,
        check=False,
        **options,
    )


if __name__ == "__main__":
    sys.exit(main())
