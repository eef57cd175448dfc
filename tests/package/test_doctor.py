"""`python -m amd_fused doctor` says what a bug report needs, with nothing installed but torch."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import amd_fused
from amd_fused import _backends, doctor

ROOT = Path(__file__).parents[2]


def only_torch(folder: Path) -> None:
    """Links to torch and what it requires: a Python that sees nothing else besides."""
    names, linked = ["torch"], set()
    while names:
        name = canonicalize_name(names.pop())
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        if name in linked or name.startswith(("nvidia", "triton", "cuda")):
            continue
        linked.add(name)
        for top in {path.parts[0] for path in distribution.files or []} - {"..", "__pycache__"}:
            (folder / top).symlink_to(distribution.locate_file(top))
        required = [Requirement(text) for text in distribution.requires or []]
        names += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AMD_FUSED_BACKEND", "AMD_FUSED_CPU_ISA", "AMD_FUSED_COMMIT"):
        monkeypatch.delenv(name, raising=False)


COMMANDS = """
import runpy, sys
import amd_fused
print("compiler:", "torch._dynamo" in sys.modules)
for command in sys.argv[1:]:
    sys.argv = ["amd_fused", command]
    print("command:", command)
    try:
        runpy.run_module("amd_fused", run_name="__main__")
    except SystemExit as ended:
        assert not ended.code
"""


def test_needs_nothing_but_torch_and_not_its_compiler(tmp_path: Path) -> None:
    only_torch(tmp_path)
    left_out = ("TRITON_INTERPRET", "AMD_FUSED_BACKEND")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    done = subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", COMMANDS, "doctor", "backends"],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, *said = done.stdout.split("command: ")
    assert first == "compiler: False\n"
    assert [text.partition("\n")[0] for text in said] == ["doctor", "backends"]
    for text in said:
        assert re.search(r"triton:? +not usable, because Triton cannot be imported", text)
        assert re.search(r"reference:? +usable", text)


def test_versions_machine_and_backends_are_there() -> None:
    text = doctor.report()
    assert f"- amd_fused: {amd_fused.__version__} in {Path(amd_fused.__file__).parent}" in text
    assert f"- torch: {torch.__version__}, built with CUDA" in text
    assert re.search(r"^- Python: 3\.\d+\.\d+", text, re.MULTILINE)
    assert re.search(r"^- CPU: .+, \d+ cores, \d+ threads$", text, re.MULTILINE)
    for name, state in amd_fused.backends().items():
        assert f"- {name}: {state}" in text
    assert "- reference: usable; amd_loss and its gradient are right here" in text


def test_a_backend_that_fails_or_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nluck")

    monkeypatch.setattr(amd_fused, "amd_loss", fails)
    assert "- reference: usable; BUT amd_loss raised RuntimeError: out of luck" in doctor.report()
    right = amd_fused.reference.amd_loss
    monkeypatch.setattr(amd_fused, "amd_loss", lambda a, b, **_: 1.01 * right(a, b))
    assert "BUT amd_loss is wrong: it differs from the reference by 1.0e-02" in doctor.report()
    monkeypatch.setattr(amd_fused, "amd_loss", lambda a, b, **_: float("nan") * right(a, b))
    assert "BUT amd_loss is wrong: it differs from the reference by inf" in doctor.report()


def test_variables_and_missing_commands_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMD_FUSED_CPU_ISA", "avx2")
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    text = doctor.report()
    assert "- AMD_FUSED_CPU_ISA: avx2" in text
    assert "- C++ compiler: /nonexistent/c++ does not run" in text


def test_docs_have_every_environment_variable_that_the_sources_read() -> None:
    folders = (ROOT / "amd_fused", ROOT / "csrc", ROOT / "benchmarks")
    sources = [p for f in folders for p in f.rglob("*") if p.suffix in (".py", ".cpp", ".h")]
    read = {
        name
        for path in (*sources, ROOT / "setup.py")
        for name in re.findall(r"""["'](AMD_FUSED_[A-Z_]+[A-Z])["']""", path.read_text())
    }
    assert _backends.ENVIRONMENT_VARIABLE in read
    table = (ROOT / "docs" / "environment.md").read_text()
    documented = set(re.findall(r"^\| `([A-Z_]+)`", table, re.MULTILINE))
    assert (read | {"AMD_FUSED_CPP", "AMD_FUSED_CUDA", *doctor.VARIABLES}) - documented == set()
