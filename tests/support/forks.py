"""Programs for which torch is imported already: forks of a process that has imported it.

A new interpreter imports torch for two seconds, which is most of what a short program takes. Where
what is tested is not that interpreter, a fork will do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Forks:
    """A process that imports modules, and forks for every program that it is to run."""

    def __init__(self, *modules: str) -> None:
        # Each program brings its own path. One thread is the fastest for what is so short, and
        # strings have other hashes than here.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._parent: Any = subprocess.Popen(
            [sys.executable, __file__, *modules],
            env=kept | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        program: str,
        *arguments: str,
        env: Mapping[str, str] = os.environ,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """`python -c program arguments`, with what it said."""
        with tempfile.TemporaryDirectory() as said:
            asked = {"program": program, "arguments": arguments, "env": dict(env)}
            asked |= {"cwd": str(cwd or Path.cwd()), "said": said}
            print(json.dumps(asked), file=self._parent.stdin, flush=True)
            code = int(self._parent.stdout.readline())
            out, err = (Path(said, name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(["python", "-c", program, *arguments], code, out, err)

    def close(self) -> None:
        self._parent.stdin.close()
        self._parent.wait()
        self._parent.stdout.close()


def asked() -> dict[str, Any]:
    """In a child: what it is to run. The parent waits for each, and says its exit code."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def prepare(env: Mapping[str, str], cwd: str, said: str) -> None:
    """Streams, variables, folder and path as a new interpreter would have them."""
    for stream, name in enumerate((os.devnull, f"{said}/out", f"{said}/err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), stream)
    os.environ.clear()
    os.environ |= env
    os.chdir(cwd)
    sys.path[:1] = ["", *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        __import__(name)
    task = asked()
    prepare(task["env"], task["cwd"], task["said"])
    sys.argv = ["-c", *task["arguments"]]
    exec(compile(task["program"], "<program>", "exec"), {"__name__": "__main__"})
