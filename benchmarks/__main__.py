"""`python -m benchmarks [COMMAND] ...`, one module a command; without a name, losses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = (
    *("losses", "siblings", "scaling", "host", "training"),
    *("report", "compare", "all", "gpu"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = COMMANDS[0], arguments
    if arguments and arguments[0] in COMMANDS:
        name, rest = arguments[0], arguments[1:]
    return importlib.import_module(f"benchmarks.{name}").main(rest)


if __name__ == "__main__":
    sys.exit(main())
