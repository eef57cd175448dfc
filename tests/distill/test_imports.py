"""Which parts of the trainer import which: no cycles, and training does without reports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import amd_fused.distill

ROOT = Path(amd_fused.distill.__file__).parent
PACKAGE = "amd_fused.distill"


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names, also within functions, but not what only type checkers import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            yield from imported(node)


def part(name: str) -> str:
    """The package or file of the trainer in which a module lies."""
    return name.removeprefix(f"{PACKAGE}.").split(".")[0]


def graph() -> dict[str, set[str]]:
    """By part of the trainer, the parts that it imports."""
    found: dict[str, set[str]] = {}
    for file in ROOT.rglob("*.py"):
        relative = file.relative_to(ROOT)
        own = relative.parts[0].removesuffix(".py")
        names = imported(ast.parse(file.read_text()))
        parts = {part(name) for name in names if name.startswith(f"{PACKAGE}.")}
        found.setdefault(own, set()).update(parts - {own})
    return found


def test_no_part_imports_one_that_imports_it() -> None:
    order = list(TopologicalSorter(graph()).static_order())
    assert order.index("methods") < order.index("engine") < order.index("cli")


def test_only_the_commands_call_both_training_and_reports() -> None:
    parts = graph()
    assert {name for name, used in parts.items() if "reports" in used} == {"cli", "sweep"}
    training = {name for name, used in parts.items() if "engine" in used}
    assert training == {"cli", "sweep", "tune", "reports", "teacher_options", "training"}
