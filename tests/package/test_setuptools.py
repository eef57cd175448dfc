"""Nothing that a user is told to run brings setuptools >= 82, which torch 2.11 and 2.12 refuse."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"pip install[^`\n]*setuptools[^`\n]*")
FILES = ["README.md", "CONTRIBUTING.md", "Makefile", "setup.py"]
FOLDERS = ["docs", "csrc", "amd_fused", "benchmarks", "tests/compat"]


def told() -> list[str]:
    """All commands of ours that install setuptools by name."""
    paths = [ROOT / name for name in FILES]
    for folder in FOLDERS:
        paths += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".md", ".py")]
    return [command for path in paths for command in COMMAND.findall(path.read_text())]


def test_every_command_that_names_setuptools_suits_torch_2_11() -> None:
    commands = told()
    assert len(commands) >= 3  # README, docs/versions.md, setup.py
    for command in commands:
        quoted = re.search(r"'(setuptools[^']*)'", command)
        assert quoted, f"{command}: names no versions"
        allowed = Requirement(quoted.group(1)).specifier
        assert "77.0.3" in allowed
        assert "81.0.0" in allowed
        assert "82.0.0" not in allowed
        assert "84.2.1" not in allowed


def test_an_old_setuptools_is_refused_with_a_command_that_mends_it(tmp_path: Path) -> None:
    command = tmp_path / "setuptools" / "command"
    command.mkdir(parents=True)
    (tmp_path / "setuptools" / "__init__.py").write_text("__version__ = '76.1.0'\n")
    (command / "__init__.py").write_text("")
    (command / "build.py").write_text("build = None\n")
    said = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 1
    assert said.stderr.strip() == (
        "amd_fused: building needs setuptools >= 77, got 76.1.0; run `pip install "
        "'setuptools>=77.0.3,<82'` (torch 2.11 and 2.12 want < 82)"
    )
