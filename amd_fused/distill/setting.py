"""One setting of a run: a field of a dataclass with its group, help and rule."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, get_args

# In the order in which --help shows them.
GROUPS = ("data", "networks", "training", "objective", "running")


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a test."""

    text: str
    holds: Callable[[Any], bool]


POSITIVE = Rule("> 0", lambda value: value > 0)
NOT_NEGATIVE = Rule(">= 0", lambda value: value >= 0)
AT_LEAST_1 = Rule("at least 1", lambda value: value >= 1)


def setting(
    group: str,
    default: Any,
    help: str,
    rule: Rule | None = None,
    choices: Collection[str] = (),
) -> Any:
    """A field; its metadata holds all but the default."""
    return field(
        default=default,
        metadata={"group": group, "help": help, "rule": rule, "choices": choices},
    )


def flag(name: str) -> str:
    """A field's name on the command line."""
    return "--" + name.replace("_", "-")


def value_text(value: Any) -> str:
    """As "10000", "yes", "layer1 layer2"; "-" for what is empty."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "-"
    return str(value) or "-"


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def from_plain(value: Any, kind: Any) -> Any:
    """A value of JSON or YAML as one of a setting's type; a list becomes a tuple, and a whole
    number stands for a float too.

    Raises:
        TypeError: it is of another type; the message says what it must be.
    """
    inner = get_args(kind)
    if inner:
        words = f"a list, each {_WORDS[inner[0]]}"
        if not isinstance(value, list | tuple):
            raise TypeError(words)
        try:
            return tuple(from_plain(one, inner[0]) for one in value)
        except TypeError:
            raise TypeError(words) from None
    allowed = int | float if kind is float else kind
    # To Python, True is a whole number.
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(_WORDS[kind])
    return value
