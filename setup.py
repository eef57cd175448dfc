"""Builds the kernels that can be built here, with torch's build extension over ninja.

A library that cannot be built is left out and the package still installs: `amd_fused/_build.json`
keeps the reason, and `amd_fused.backends()` tells it. Environment variables: AMD_FUSED_CPP=0 and
AMD_FUSED_CUDA=0 leave the C++ and the CUDA kernels out, 1 fails where they cannot be built; left to
themselves, CUDA's are built where there are nvcc and a torch with CUDA. TORCH_CUDA_ARCH_LIST says
for which GPUs; DEBUG=1 builds for a debugger; CXX and CUDA_HOME name the compilers;
AMD_FUSED_REPOSITORY is where the sources are shown. What is compiled is in csrc/extensions.py,
everything else about the package in pyproject.toml.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import setuptools
from setuptools.command.build import build

if int(setuptools.__version__.split(".")[0]) < 77:
    raise SystemExit(
        f"amd_fused: building needs setuptools >= 77, got {setuptools.__version__}; "
        "run `pip install 'setuptools>=77.0.3,<82'` (torch 2.11 and 2.12 want < 82)"
    )

from setuptools.command.bdist_wheel import bdist_wheel  # older setuptools has it in another package

sys.path.insert(0, str(Path(__file__).parent / "csrc"))  # pip runs this file from elsewhere

from extensions import DEBUG, LIBRARIES, PACKAGE, ROOT, CannotBuildError, wish

# What amd_fused/_build.json will say of each library.
record: dict[str, dict[str, Any]] = {}


def declare_extensions() -> list[setuptools.Extension]:
    extensions = []
    for library, declare in LIBRARIES.items():
        try:
            extension, versions = declare()
            extensions.append(extension)
            record[library] = {"built": True, **versions}
        except CannotBuildError as error:
            record[library] = {"built": False, "why": error.why, "remedy": error.remedy}
    return extensions


def library_of(extension: setuptools.Extension) -> str:
    return extension.name.rpartition("._")[2]


def attempt(action: Callable[[], None]) -> tuple[Exception | None, str]:
    """Runs it. Returns what it raised, if anything, and what it and its children printed."""
    with tempfile.NamedTemporaryFile("r", errors="replace") as log:
        sys.stdout.flush()
        sys.stderr.flush()
        terminal = os.dup(1), os.dup(2)
        with subprocess.Popen(["tee", log.name], stdin=subprocess.PIPE) as tee:
            assert tee.stdin is not None
            for stream in (1, 2):
                os.dup2(tee.stdin.fileno(), stream)
            error = None
            try:
                action()
            except Exception as raised:
                error = raised
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                for stream, original in zip((1, 2), terminal, strict=True):
                    os.dup2(original, stream)
                    os.close(original)
        return error, log.read()


def build_ext_command() -> type[setuptools.Command]:
    """torch's build command, which survives and records a failing compiler. Needs torch."""
    from torch.utils.cpp_extension import BuildExtension

    # `python -m pip` outside an activated environment has that environment's ninja not on its PATH.
    with contextlib.suppress(ModuleNotFoundError):
        import ninja

        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")])

    class BuildExt(BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            self.no_python_abi_suffix = True
            # Not the temporary folder of an editable install: ninja compiles only what changed.
            self.build_temp = str(ROOT / "build" / ("debug" if DEBUG else "release"))

        def build_extensions(self) -> None:
            super().build_extensions()
            self.extensions = [e for e in self.extensions if record[library_of(e)]["built"]]

        def build_extension(self, extension: setuptools.Extension) -> None:
            error, output = attempt(lambda: super(BuildExt, self).build_extension(extension))
            if error is None:
                return
            library = library_of(extension)
            if wish(library) == "1":
                raise error
            first = re.search(r"^.*\berror\b.*$", output, re.MULTILINE)
            message = first.group().strip() if first else str(error)
            record[library] = {
                "built": False,
                "why": f"compiling it failed ({message})",
                "remedy": f"set AMD_FUSED_{library.upper()}=1 to see all that the compiler says",
            }
            print(
                f"\nWARNING: amd_fused: the {library} extension did not compile, see above.\n"
                "WARNING: amd_fused: the package installs without it.\n",
                file=sys.stderr,
            )

    return BuildExt


class WriteBuildRecord(setuptools.Command):
    """Writes amd_fused/_build.json beside the package's modules, after all else was built."""

    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        package = (ROOT if self.editable_mode else Path(self.build_lib or "")) / PACKAGE
        for library, entry in record.items():
            if not entry["built"] and wish(library) == "1":
                raise SystemExit(
                    f"amd_fused: AMD_FUSED_{library.upper()}=1 asks for the {library} extension, "
                    f"but {entry['why']}; {entry['remedy']}"
                )
            # A file left by an earlier build would be loaded although it is not of these sources.
            for path in package.glob(f"_{library}*.so"):
                if not entry["built"] or path.name != f"_{library}.so":
                    path.unlink()
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build.json").write_text(json.dumps(record, indent=2) + "\n")

    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib or "", PACKAGE, "_build.json"))]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    sub_commands: ClassVar = [*build.sub_commands, ("write_build_record", None)]


class BdistWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        # No library holds a Python symbol, and torch's ABI is stable: any Python 3, this platform.
        return "py3", "none", super().get_tag()[2]


def description(repository: str) -> str:
    """The README for a package's page, where no file lies beside it: links lead to the repository
    of this version, and where that is not known only their text is left."""
    package = (ROOT / PACKAGE / "__init__.py").read_text()
    version = re.search(r'^__version__ = "(.+)"$', package, re.MULTILINE)
    assert version is not None

    def held(match: re.Match[str]) -> str:
        picture, text, target = match["picture"], match["text"], match["target"]
        if target is None or "://" in target:  # a block of code, or absolute already
            return match.group()
        if not repository:
            return "" if picture else text
        path = f"README.md{target}" if target.startswith("#") else target
        kind = "raw" if picture else "blob"
        return f"{picture}[{text}]({repository}/{kind}/v{version.group(1)}/{path})"

    links = r"```.*?```|(?P<picture>!?)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)"
    return re.sub(links, held, (ROOT / "README.md").read_text(), flags=re.DOTALL)


# Importing torch takes seconds, and pip asks for the metadata twice before it builds.
only_metadata = {"dist_info", "egg_info", "sdist"} & set(sys.argv)
extensions = [] if only_metadata else declare_extensions()
commands = {"build": Build, "write_build_record": WriteBuildRecord, "bdist_wheel": BdistWheel}
if extensions:
    commands["build_ext"] = build_ext_command()
repository = os.environ.get("AMD_FUSED_REPOSITORY", "")
setuptools.setup(
    ext_modules=extensions,
    cmdclass=commands,
    long_description=description(repository),
    long_description_content_type="text/markdown",
    project_urls={"Source": repository} if repository else {},
)
