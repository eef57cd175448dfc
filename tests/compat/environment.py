"""Fresh virtual environments of chosen versions, and the core set run inside them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

CORE_SET = Path(__file__).with_name("core_set.py")
# In seconds, for a slow disk or connection: an ordinary torch is several gigabytes.
INSTALLING, CHECKING = 3600, 1200


class FailedError(Exception):
    """A step of a row failed; the message is the last line that it said."""


def python_of(version: str) -> Path | None:
    """The command of Python `version` ("3.10"): on the PATH, else pyenv's, else uv's newest."""
    candidates = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates += sorted(map(str, pyenv.glob(f"{version}.*/bin/python")), reverse=True)
    if shutil.which("uv"):
        said = subprocess.run(["uv", "python", "find", version], capture_output=True, text=True)
        candidates.append(said.stdout.strip())
    code = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in candidates:
        if candidate:
            said = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
            # pyenv leaves commands on the PATH of versions that are not switched on.
            if said.stdout.strip() == version:
                return Path(candidate)
    return None


class Environment:
    """A virtual environment in a folder, made anew. What its commands say goes to `log`."""

    def __init__(self, folder: Path, python: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        self.python = folder / "bin" / "python"
        shutil.rmtree(folder, ignore_errors=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        self._run([str(python), "-m", "venv", str(folder)], INSTALLING)

    def pip(self, command: str, *arguments: str) -> None:
        """pip's install and check, by uv where it is on the PATH: it unpacks a package only once.

        Raises:
            FailedError: it failed.
        """
        if uv := shutil.which("uv"):
            called = [uv, "pip", command, "--python", str(self.python)]
        else:
            called = [str(self.python), "-m", "pip", command, "--disable-pip-version-check"]
        self._run([*called, "--quiet", *arguments], INSTALLING)

    def check(self, name: str, *needed: str) -> Any:
        """A check of the core set: what it found. Raises FailedError."""
        said = self._run([str(self.python), str(CORE_SET), name, *needed], CHECKING)
        return json.loads(said.splitlines()[-1])

    def _run(self, command: list[str], limit: float) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AMD_FUSED_", "PYTHON"))}
        # Compiled anew in each environment.
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor-cache")}
        with open(self.log, "a") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            try:
                done = subprocess.run(
                    command,
                    cwd=self.folder if self.folder.exists() else None,
                    env=kept | caches,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    text=True,
                    timeout=limit,
                )
            except subprocess.TimeoutExpired:
                raise FailedError(f"not done after {limit:.0f} s") from None
            log.write(done.stdout)
        if done.returncode != 0:
            raise FailedError(_last_line(self.log.read_text()) + _signal(done.returncode))
        return done.stdout


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _signal(code: int) -> str:
    return f" (ended by signal {-code})" if code < 0 else ""
