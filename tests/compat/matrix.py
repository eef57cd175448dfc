"""`make compat`: the core set in fresh environments of the versions that the package promises.

One wheel is built, with the torch of the running Python, and installed everywhere: LibTorch's
stable ABI promises that one `_cpp.so` serves torch 2.10 and all later ones. Environments are made
below build/compat one after the other and removed when they are done with; logs and results stay.
The table of what ran is written to docs/versions.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import table
from core_set import CHECKS
from environment import Environment, FailedError, python_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "compat"
PAGE = ROOT / "docs" / "versions.md"
FUSED = ("cpp", "triton")


@dataclass(frozen=True)
class Row:
    """Versions as pip takes them: "==2.10.0", or "" for the newest that the others allow.

    Args:
        triton: None for the one that this torch brings.
        also: more requirements, where these versions need them.
    """

    python: str
    torch: str
    triton: str | None = None
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        triton = "own" if self.triton is None else self.triton or "newest"
        parts = (f"python{self.python}", f"torch{self.torch or '-newest'}", f"triton-{triton}")
        return "-".join(parts).replace("=", "")


# Every Python, every minor version of torch and Triton 3.4, 3.6 and the newest at least once; the
# oldest and the newest torch with several Pythons. The most telling rows come first.
# The interpreters of Triton 3.4 and 3.6 do not work with the newest NumPy.
ROWS = (
    Row("3.10", "==2.10.0", "==3.4.0", ("numpy<2.4",)),
    Row("3.11", "==2.13.0", ""),
    Row("3.13", "", ""),
    Row("3.12", "==2.11.0", "==3.6.0", ("numpy<2.4",)),
    Row("3.13", "==2.10.0", "==3.6.0", ("numpy<2.4",)),
    Row("3.10", "==2.14.1"),
    Row("3.11", "==2.12.1"),
    Row("3.12", "", "==3.4.0", ("numpy<2.4",)),
)


@dataclass
class Outcome:
    """What became of a row.

    Args:
        checks: what each check of the core set found, or the message of one that failed.
        error: why the row did not get as far as the checks.
    """

    row: Row
    versions: dict[str, str | None] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def passed(self) -> bool:
        return not self.error and not self.failed


def run_row(row: Row, python: Path, wheel: Path) -> Outcome:
    """Makes the row's environment, installs and checks."""
    outcome = Outcome(row)
    folder = FOLDER / row.name
    try:
        environment = Environment(folder, python, FOLDER / "logs" / f"{row.name}.log")
        environment.pip("install", "--upgrade", "pip")
        # As a user does: all the rest in versions that go with this torch.
        extra = f"amd_fused[distill] @ {wheel.as_uri()}"
        environment.pip("install", "--no-compile", f"torch{row.torch}", extra, "mpmath", *row.also)
        environment.pip("check")
        if row.triton is not None:
            environment.pip("install", "--no-compile", "--no-deps", f"triton{row.triton}")
    except FailedError as error:
        outcome.error = str(error)
    else:
        check(environment.check, outcome, cpp_of(wheel))
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def check(run: Callable[..., Any], outcome: Outcome, cpp: str) -> None:
    """The core set by `run(check, *needed)`, into the outcome; `cpp` is the hash of the build."""
    for name in CHECKS:
        try:
            found = run(name, *FUSED)
            if name == "import":
                outcome.versions = found["versions"]
                if found["cpp"] != cpp:
                    raise FailedError(f"{found['package']} has another build of _cpp.so")
        except FailedError as error:
            outcome.failed.append(name)
            found = str(error)
        outcome.checks[name] = found


def cpp_of(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as opened:
        return hashlib.sha256(opened.read("amd_fused/_cpp.so")).hexdigest()


def built_with(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as opened:
        return json.loads(opened.read("amd_fused/_build.json"))["cpp"]["torch"]


def build_wheel() -> Path:
    """The one wheel, of this working tree."""
    for stale in (ROOT / "build").glob("lib*"):  # setuptools would pack removed modules with it
        shutil.rmtree(stale)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-build-isolation", "--no-deps", "--wheel-dir", str(FOLDER / "wheel")]
    wishes = {"AMD_FUSED_CPP": "1", "AMD_FUSED_CUDA": "0"}
    subprocess.run([*command, str(ROOT)], env=os.environ | wishes, check=True)
    return existing_wheel()


def existing_wheel() -> Path:
    found = sorted((FOLDER / "wheel").glob("*.whl"))
    if len(found) != 1:
        raise SystemExit("compat: there is no wheel in build/compat/wheel; run it without --only")
    return found[0]


def main(arguments: Sequence[str] | None = None, rows: Sequence[Row] = ROWS) -> int:
    parser = argparse.ArgumentParser(prog="make compat", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--only",
        nargs="*",
        choices=[row.name for row in rows],
        metavar="ROW",
        help="run these, with the wheel of before; the others' results stay. Rows: "
        + ", ".join(row.name for row in rows),
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="default: docs/versions.md")
    given = parser.parse_args(arguments)
    if given.only is not None:
        wheel = existing_wheel()
    else:
        shutil.rmtree(FOLDER, ignore_errors=True)
        wheel = build_wheel()
    results = FOLDER / "results"
    results.mkdir(parents=True, exist_ok=True)
    not_run = []
    for row in rows:
        python = python_of(row.python)
        if python is None:
            not_run.append(row)
            print(f"compat: {row.name}: not run, no python{row.python} was found", flush=True)
        elif given.only is None or row.name in given.only:
            outcome = run_row(row, python, wheel)
            entry = dataclasses.asdict(outcome) | {"passed": outcome.passed}
            (results / f"{row.name}.json").write_text(json.dumps(entry, indent=1))
            print(table.said(outcome), flush=True)
    outcomes = [
        Outcome(row, **{k: v for k, v in entry.items() if k not in ("row", "passed")})
        for row in rows
        if (entry := read(results / f"{row.name}.json"))
    ]
    if not outcomes:
        print("compat: nothing was run: none of the Pythons was found")
        return 1
    given.page.write_text(table.page(outcomes, not_run, built_with(wheel)))
    print(f"compat: {given.page} has the table")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
