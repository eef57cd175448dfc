"""`python -m benchmarks [COMMAND] ...`, one module a command; without a name, losses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "losses": "benchmarks.cases.losses",
    "siblings": "benchmarks.cases.siblings",
    "scaling": "benchmarks.cases.scaling",
    "host": "benchmarks.cases.host",
    "training": "benchmarks.cases.training",
    "report": "benchmarks.show.report",
    "compare": "benchmarks.show.compare",
    "all": "benchmarks.all",
    "gpu": "benchmarks.gpu",
}


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given.pop(0) if given and given[0] in COMMANDS else "losses"
    return importlib.import_module(COMMANDS[name]).main(given)


if __name__ == "__main__":
    sys.exit(main())
