"""make compat: the core set finds faults, and the table says what ran, what failed and what did
not.

The core set runs in the environment of the tests; a row's environment is made by `make compat`
alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import matrix
import pytest
import table
from core_set import CHECKS
from environment import CORE_SET, Environment, FailedError, python_of
from forks import Forks
from matrix import Outcome, Row

import amd_fused

ROOT = Path(__file__).parents[2]
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
USABLE = [name for name in ("cpp", "triton") if amd_fused.backends()[name] == "usable"]
VERSIONS = {"python": "3.12.1", "torch": "2.11.0+cu130", "triton": "3.6.0", "numpy": "2.4.6"}
FOUND = {
    "import": {"versions": VERSIONS, "package": "site-packages/amd_fused", "cpp": "0"},
    "backends": {"triton": "usable", "cuda": "not usable, because", "cpp": "usable"},
    "losses": {"cpp": 4e-7, "reference": 3e-7},
    "hooks": ["stem"],
    "torch.compile": ["amd_loss"],
    "demo": ["scratch"],
}


def checked(failing: dict[str, str], cpp: str = "0") -> Outcome:
    """The outcome of a row whose checks find FOUND, or fail."""

    def run(name: str, *_: str) -> Any:
        if name in failing:
            raise FailedError(failing[name])
        return FOUND[name]

    outcome = Outcome(Row("3.12", "==2.11.0"))
    matrix.check(run, outcome, cpp)
    return outcome


# Of the losses Triton's interpreter takes most of the time.
@pytest.mark.parametrize(
    ("name", "needed"),
    [
        *((name, USABLE) for name in ("import", "backends", "hooks")),
        ("losses", [name for name in USABLE if name != "triton"]),
        pytest.param("losses", USABLE, marks=pytest.mark.exhaustive),
    ],
)
def test_the_core_set_passes_here(name: str, needed: list[str]) -> None:
    found = CHECKS[name](*needed)
    if name == "import":
        assert found["package"] == str(Path(amd_fused.__file__).parent)
        assert found["versions"]["python"].startswith(HERE)
    if name == "losses":
        assert found.keys() == {*needed, "reference", "torch"}
        assert all(0 < error < 2e-6 for error in found.values())


@pytest.mark.parametrize(
    ("check", "path", "right", "wrong", "message"),
    [
        ("losses", "losses/kd/reference.py", "temperature**2", "temperature", "kd on reference"),
        ("backends", "_backends/__init__.py", 'f"_{name}.so"', '"_.so"', "backend cpp is not"),
    ],
)
def test_the_core_set_finds_a_planted_fault(
    with_torch: Forks, tmp_path: Path, check: str, path: str, right: str, wrong: str, message: str
) -> None:
    shutil.copytree(ROOT / "amd_fused", tmp_path / "amd_fused")
    source = tmp_path / "amd_fused" / path
    assert right in source.read_text()
    source.write_text(source.read_text().replace(right, wrong))
    said = with_torch.run(
        "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')",
        *(str(CORE_SET), check, *(["cpp"] if check == "backends" else [])),
        env=os.environ | {"PYTHONPATH": str(CORE_SET.parent)},
        cwd=tmp_path,
    )
    assert said.returncode != 0
    assert message in said.stderr.splitlines()[-1]


def test_what_a_failing_step_said_last_is_the_message(tmp_path: Path) -> None:
    environment = Environment.__new__(Environment)
    environment.folder, environment.log = tmp_path, tmp_path / "log"
    environment.python = Path(sys.executable)
    environment.log.write_text("")
    with pytest.raises(FailedError, match=r"^KeyError: 'no such check'$"):
        environment.check("no such check")
    with pytest.raises(FailedError, match=r"\(ended by signal 9\)$"):
        environment._run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], limit=60)
    with pytest.raises(FailedError, match=r"^not done after 0 s$"):
        environment._run([sys.executable, "-c", "input()"], limit=0)


def test_a_python_is_found_by_its_version_and_an_absent_one_is_none() -> None:
    python = python_of(HERE)
    assert python is not None
    said = subprocess.run([python, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith(f"Python {HERE}.")
    assert python_of("3.99") is None


def test_a_command_that_is_another_python_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python3.99").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert python_of("3.99") is None


def test_a_row_that_passed_and_one_that_failed_in_the_table() -> None:
    failure = "AssertionError: kd on cpp | in float32"
    outcomes = [checked({}), checked({"losses": failure})]
    assert [outcome.passed for outcome in outcomes] == [True, False]
    lines = table.page(outcomes, [], "2.13.0").splitlines()
    passed, failed = (line for line in lines if line.startswith("| 3.12.1"))
    assert passed == (
        "| 3.12.1 | 2.11.0+cu130 | 3.6.0 | 2.4.6 | - | yes | triton, cpp | 4.0e-07, 3.0e-07 | yes "
        "| yes | yes |"
    )
    assert "| **failed**: AssertionError: kd on cpp \\| in float32 | yes | yes | yes |" in failed
    assert "FAILED" in table.said(outcomes[1])
    assert failure in table.said(outcomes[1])


def test_another_build_of_the_library_is_a_failure() -> None:
    outcome = checked({}, cpp="1")
    assert not outcome.passed
    assert outcome.checks["import"] == "site-packages/amd_fused has another build of _cpp.so"


def test_a_row_whose_installation_failed_has_its_message_in_the_table() -> None:
    outcome = Outcome(Row("3.10", ""), error="ERROR: No matching distribution found for torch")
    (line,) = (x for x in table.page([outcome], [], "").splitlines() if x.startswith("| 3.10"))
    assert line.startswith("| 3.10 | newest | - | - | - | **failed**: ERROR: No matching distri")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel as far as the runner reads it, which then builds none and works below tmp_path."""
    path = tmp_path / "made.whl"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("amd_fused/_cpp.so", "")
        opened.writestr("amd_fused/_build.json", '{"cpp": {"torch": "2.13.0"}}')
    monkeypatch.setattr(matrix, "FOLDER", tmp_path / "compat")
    monkeypatch.setattr(matrix, "build_wheel", lambda: path)
    return path


def test_a_python_that_is_missing_is_said(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "run_row", lambda row, *_: Outcome(row, VERSIONS, FOUND))
    page = wheel.with_name("versions.md")
    rows = [Row("3.99", ""), Row(HERE, "==2.10.0")]
    assert matrix.main(["--page", str(page)], rows) == 0
    said = capsys.readouterr().out
    assert "python3.99-torch-newest-triton-own: not run, no python3.99 was found" in said
    assert f"python{HERE}-torch2.10.0-triton-own: passed" in said
    assert "Not run, for it was not installed: Python 3.99." in page.read_text()


def test_a_failed_row_is_a_failed_run(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "run_row", lambda row, *_: Outcome(row, error="broken"))
    page = wheel.with_name("versions.md")
    assert matrix.main(["--page", str(page)], [Row(HERE, "")]) == 1
    assert "**failed**: broken" in page.read_text()


def test_nothing_run_is_a_failure(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = wheel.with_name("versions.md")
    assert matrix.main(["--page", str(page)], [Row("3.99", "")]) == 1
    assert "nothing was run" in capsys.readouterr().out
    assert not page.exists()


def test_the_rows_have_every_version_promised() -> None:
    assert {row.python for row in matrix.ROWS} == {"3.10", "3.11", "3.12", "3.13"}
    torches = {row.torch for row in matrix.ROWS}
    assert "" in torches
    assert "==2.10.0" in torches
    assert {"==3.4.0", "==3.6.0", ""} <= {row.triton for row in matrix.ROWS}
    names = [row.name for row in matrix.ROWS]
    assert len(names) == len(set(names))
