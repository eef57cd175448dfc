"""Installing works everywhere: what cannot be built is left out, and the package says why.

Each test builds a copy of the sources into a virtual environment of its own, by pip for real and
offline where that has a part in it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import amd_fused

ROOT = Path(__file__).parents[2]
NEEDED = ("LICENSE", "MANIFEST.in", "README.md", "amd_fused", "csrc", "pyproject.toml", "setup.py")
COMPILERS = ("c++", "g++", "clang++")
USE = """
import json, warnings, torch, amd_fused
warnings.simplefilter("ignore")
x, y = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 5, 4, 4)
loss = amd_fused.amd_loss(x, y)
loss.backward()
right = amd_fused.reference.amd_loss(x, y)
assert (loss - right).abs() <= 1e-5 * right, (loss, right)
assert x.grad.isfinite().all() and x.grad.any()
print(json.dumps([amd_fused.__file__, amd_fused.backends()]))
"""
BUILD = """
import pathlib, runpy, sys, zipfile
folder = sys.argv.pop()
sys.argv = ["setup.py", "--quiet", "bdist_wheel"]
runpy.run_path("setup.py", run_name="__main__")
(wheel,) = pathlib.Path("dist").iterdir()
zipfile.ZipFile(wheel).extractall(folder)
"""


class Environment:
    """A virtual environment beside a copy of the sources, with setuptools and without pip."""

    def __init__(self, folder: Path, with_torch: Forks) -> None:
        self.folder, self.sources = folder, folder / "sources"
        self._with_torch = with_torch
        for name in NEEDED:
            source, target = ROOT / name, self.sources / name
            target.parent.mkdir(exist_ok=True)
            if source.is_dir():
                ignored = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
                shutil.copytree(source, target, ignore=ignored)
            else:
                shutil.copy(source, target)
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        self.site_packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
        setuptools = importlib.metadata.distribution("setuptools")
        for name in {path.parts[0] for path in setuptools.files or []}:
            (self.site_packages / name).symlink_to(setuptools.locate_file(name))

    def show_torch(self) -> None:
        """From now on it sees all packages of the running environment, behind its own."""
        installed = Path(torch.__file__).parents[1]
        (self.site_packages / "running.pth").write_text(f"{installed}\n")

    def install(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """`pip install --no-build-isolation` of the sources, with these environment variables."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "install"]
        command += ["--no-compile", "--no-build-isolation", "--no-deps", "--no-index"]
        return subprocess.run(
            [*command, str(self.sources)],
            cwd=self.folder,
            env=self._kept() | variables,
            capture_output=True,
            text=True,
        )

    def build(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """What pip does where torch is, without pip: makes a wheel and unpacks it."""
        env = self._kept() | variables
        return self._with_torch.run(BUILD, str(self.site_packages), env=env, cwd=self.sources)

    def use(self) -> dict[str, str]:
        """Runs the loss of the package there. The states of its backends."""
        env = self._kept() | {"PYTHONPATH": str(self.site_packages)}
        result = self._with_torch.run(USE, env=env, cwd=self.folder)
        assert result.returncode == 0, result.stderr
        where, states = json.loads(result.stdout.splitlines()[-1])
        assert Path(where).parent.parent == self.site_packages
        return states

    def record(self) -> dict[str, Any]:
        """What the build wrote of each library."""
        return json.loads((self.site_packages / "amd_fused" / "_build.json").read_text())

    def _kept(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith(("AMD_FUSED_", "PYTHON"))}


@pytest.fixture
def environment(tmp_path: Path, with_torch: Forks) -> Environment:
    return Environment(tmp_path, with_torch)


def without_compiler(folder: Path) -> dict[str, str]:
    return {"PATH": str(folder / "empty"), "CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}


def test_without_a_compiler_the_package_installs_and_says_what_to_do(environment: Environment):
    environment.show_torch()
    result = environment.install(**without_compiler(environment.folder))
    assert result.returncode == 0, result.stdout + result.stderr
    assert environment.use()["cpp"] == (
        "not usable, because the extension was not built: no C++ compiler was found (looked for "
        "/nonexistent/c++); install g++ or clang++, or name yours in CXX, then run `pip install "
        "--no-build-isolation --no-deps --force-reinstall .` in the source folder"
    )


def test_without_torch_at_build_time_the_package_installs_and_says_what_to_do(
    environment: Environment,
):
    result = environment.install()
    assert result.returncode == 0, result.stdout + result.stderr
    installed = {path.name for path in environment.site_packages.iterdir()}
    assert "amd_fused" in installed
    assert not installed & {"tests", "benchmarks", "csrc"}
    assert (environment.site_packages / "amd_fused" / "py.typed").exists()
    assert (environment.site_packages / "amd_fused" / "distill" / "__init__.py").exists()
    assert environment.use()["cpp"] == (
        "not usable, because the extension was not built: the build environment had no torch "
        "(unless --no-build-isolation is given, pip hides the installed one from the build); "
        "make sure that torch is installed, then run `pip install --no-build-isolation --no-deps "
        "--force-reinstall .` in the source folder"
    )


CPU_ONLY = torch.version.cuda is None
CUDA_HOME = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
needs_cpu_only_torch = pytest.mark.skipif(not CPU_ONLY, reason="this torch has CUDA")


@needs_cpu_only_torch
@pytest.mark.skipif(not (CUDA_HOME / "bin" / "nvcc").exists(), reason="nvcc is not installed")
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["one file", "whole"]
)
def test_a_build_with_cuda_works_on_a_torch_without_and_says_why_cuda_is_not_usable(
    environment: Environment, whole: bool
):
    if not whole:  # what such a torch refuses to load may lack its kernels
        folder = environment.sources / "csrc" / "cuda"
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "nothing.cu").write_text("__global__ void nothing() {}\n")
    result = environment.build(
        AMD_FUSED_CPP="1" if whole else "0",
        AMD_FUSED_CUDA="1",
        TORCH_CUDA_ARCH_LIST="9.0",
        DEBUG="1",  # compiles sooner
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (environment.site_packages / "amd_fused" / "_cuda.so").exists()
    assert environment.record()["cuda"]["built"] is True
    assert environment.record()["cuda"]["cuda"].count(".") == 1
    states = environment.use()
    assert (states["cpp"] == "usable") is whole
    assert states["cuda"] == (
        f"not usable, because torch {torch.__version__} was built without CUDA; install a CUDA "
        "build of torch"
    )


def test_the_build_fails_where_cuda_was_demanded_and_there_is_none(environment: Environment):
    result = environment.build(AMD_FUSED_CPP="0", AMD_FUSED_CUDA="1", CUDA_HOME="/nonexistent")
    assert result.returncode != 0
    message = (
        "AMD_FUSED_CUDA=1 asks for the cuda extension, but no CUDA toolkit was found (looked in "
        "/nonexistent); install nvcc, or name the toolkit's folder in CUDA_HOME"
    )
    assert message in result.stderr


def test_the_build_fails_where_the_extension_was_demanded_and_cannot_be_built(
    environment: Environment,
):
    result = environment.build(AMD_FUSED_CPP="1", **without_compiler(environment.folder))
    assert result.returncode != 0
    assert "AMD_FUSED_CPP=1 asks for the cpp extension, but no C++ compiler" in result.stderr
    assert not (environment.site_packages / "amd_fused").exists()


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
def test_sources_that_do_not_compile_leave_a_working_package_and_the_compiler_error(
    environment: Environment,
):
    for path in (environment.sources / "csrc" / "cpu").rglob("*.cpp"):
        path.unlink()
    (environment.sources / "csrc" / "cpu" / "broken.cpp").write_text('#error "broken on purpose"\n')
    result = environment.build()
    assert result.returncode == 0, result.stdout + result.stderr
    state = environment.use()["cpp"]
    assert "was not built: compiling it failed (" in state
    assert "broken.cpp:1:2: error:" in state
    assert "broken on purpose" in state
    assert "set AMD_FUSED_CPP=1 to see all that the compiler says, then run `pip" in state
    if CPU_ONLY:  # left to itself, the build leaves out what this torch could not load
        left_out = environment.record()["cuda"]
        assert left_out["built"] is False
        assert left_out["why"] == f"torch {torch.__version__} has no CUDA"
        assert "set AMD_FUSED_CUDA=1" in left_out["remedy"]


def test_the_trainer_s_extra_leaves_torch_alone() -> None:
    """Nothing that it brings, however far behind, asks for one version of torch."""
    wanted = [Requirement(text) for text in importlib.metadata.requires("amd_fused") or []]
    chosen = [r for r in wanted if r.marker and r.marker.evaluate({"extra": "distill"})]
    assert "accelerate" in {r.name for r in chosen}
    seen: set[str] = set()
    while chosen:
        requirement = chosen.pop()
        name = canonicalize_name(requirement.name)
        assert name not in ("torchvision", "timm")
        if name == "torch":
            assert not any(s.operator in ("==", "===", "~=") for s in requirement.specifier)
        if name in seen or name == "torch":
            continue
        seen.add(name)
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        further = [Requirement(text) for text in texts]
        chosen += [r for r in further if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert {"accelerate", "torchmetrics", "rich"} <= seen


def test_a_wheel_without_compiled_kernels_is_one_for_any_platform(environment: Environment) -> None:
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel"]
    variables = {**os.environ, "AMD_FUSED_CPP": "0", "AMD_FUSED_CUDA": "0"}
    subprocess.run(command, cwd=environment.sources, env=variables, check=True, capture_output=True)
    (wheel,) = (environment.sources / "dist").iterdir()
    assert wheel.name == f"amd_fused-{amd_fused.__version__}-py3-none-any.whl"


@pytest.mark.parametrize("repository", ["", "https://forge.example/somebody/amd_fused"])
def test_the_readme_s_links_hold_on_a_package_s_page(
    environment: Environment, repository: str
) -> None:
    command = [sys.executable, "setup.py", "--quiet", "dist_info", "--output-dir", "."]
    variables = {**os.environ, "AMD_FUSED_REPOSITORY": repository}
    subprocess.run(command, cwd=environment.sources, env=variables, check=True, capture_output=True)
    (metadata,) = environment.sources.glob("*.dist-info/METADATA")
    headers, _, page = metadata.read_text().partition("\n\n")
    assert "Description-Content-Type: text/markdown" in headers
    assert f"Project-URL: Source, {repository}" in headers or not repository
    readme = (ROOT / "README.md").read_text()
    assert re.findall("```.*?```", page, re.DOTALL) == re.findall("```.*?```", readme, re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub("```.*?```", "", page, flags=re.DOTALL))
    version = f"v{amd_fused.__version__}"
    if not repository:
        assert [target for target in targets if "://" not in target] == []
        return
    assert f"{repository}/blob/{version}/README.md#citation" in targets
    places = [target.removeprefix(f"{repository}/") for target in targets]
    kinds = {kind: [p for p in places if p.startswith(f"{kind}/")] for kind in ("blob", "raw")}
    assert len(kinds["blob"]) + len(kinds["raw"]) == len(targets)
    assert {path.suffix for path in map(Path, kinds["raw"])} == {".png"}
    for place in places:
        assert (ROOT / place.split("/", 2)[2].partition("#")[0]).exists()


def test_a_source_archive_has_what_its_tests_need(tmp_path: Path) -> None:
    copy = tmp_path / "sources"
    left_out = (
        ".git",
        ".venv",
        "build",
        "dist",
        "runs",
        "*.egg-info",
        "__pycache__",
        "*.so",
        ".*cache",
    )
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*left_out))
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    assert archive.name == f"amd_fused-{amd_fused.__version__}.tar.gz"
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    needed = {
        str(path.relative_to(copy))
        for folder in ("amd_fused", "benchmarks", "csrc", "examples", "tests")
        for path in (copy / folder).rglob("*")
        if path.suffix in (".py", ".h", ".cpp", ".cu", ".cuh")
    }
    needed |= {"Makefile", "constraints.txt", "tests/support/released.json", ".ci/run"}
    assert needed - packed == set()
