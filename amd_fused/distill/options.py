"""The command line's options: one for each field of Settings, and what each command adds."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from amd_fused.distill import plugins, recipe_files
from amd_fused.distill.config import Settings, all_settings, setting_types
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import Method, parse
from amd_fused.distill.setting import GROUPS, flag

PROGRAM = "amd-fused"
# A teacher learns from the labels alone. What a sweep varies it takes itself.
_STUDENTS_ONLY = ("objective",)
_NOT_OPTIONS = ("recipe",)
SWEPT = ("gamma", "margin", "components")


class Parser(argparse.ArgumentParser):
    """One line and exit code 2 for what cannot be parsed, instead of the usage.

    Options must be written out: a sweep would take --seed for its --seeds.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        refuse(f"{message} ({self.prog} --help lists the options)")


def refuse(message: str) -> NoReturn:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    raise SystemExit(2)


def add_run_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Recipe, output folder and all settings that the command may change.

    An option that is not given is not in the namespace, so that the recipe's value stands.
    """
    parser.add_argument(
        "--recipe",
        default="digits",
        metavar="NAME",
        help="what all other options start from: one that `amd-fused recipes` lists or a file that "
        "ends in .yaml (default: digits)",
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="default: runs/<recipe>/<what is trained>"
    )
    add_plugin_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")
    types = setting_types()
    for group in GROUPS:
        if command == "train-teacher" and group in _STUDENTS_ONLY:
            continue
        section = parser.add_argument_group(group)
        for option in all_settings():
            name = option.name
            hidden = name in _NOT_OPTIONS or _belongs_elsewhere(name, command)
            if option.metadata["group"] == group and not hidden:
                section.add_argument(flag(name), **_argument(option, types[name], command))


def add_plugin_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file or module that registers methods and data sets of your own; may be "
        "given more than once",
    )


def load_plugins(arguments: Sequence[str] | None) -> None:
    """Imports the plugins of a command line and its recipe, whose options it may have.

    Raises:
        UsageError: one cannot be imported, or the recipe breaks a rule.
    """
    early = Parser(add_help=False)
    add_plugin_option(early)
    early.add_argument("--recipe", default="")
    given, _ = early.parse_known_args(arguments)
    for plugin in given.plugin:
        plugins.load(plugin)
    if recipe_files.is_file(given.recipe):
        recipe_files.find(given.recipe)


def _belongs_elsewhere(name: str, command: str) -> bool:
    """Whether another option of the command says it."""
    return {
        "train-teacher": name.startswith("student") or name in ("mixup", "teacher_cache"),
        "distill": False,
        "sweep": name in ("method", "seed"),
        "tune": name in ("method", "seed"),
    }[command]


def _argument(option: Any, kind: Any, command: str) -> dict[str, Any]:
    default, help = option.default, option.metadata["help"].replace("%", "%%")
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    if shown != "":
        help += f" (where the recipe says nothing: {shown})"
    made: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help}
    if kind is Method:
        return made | {"metavar": "METHOD", "type": parse}
    if kind is bool:
        return made | {"action": argparse.BooleanOptionalAction}
    several: dict[str, Any] = {}
    if command == "sweep" and option.name in SWEPT:
        several = {"nargs": "+"}
    if option.metadata["choices"]:
        # Not argparse's own choices: Settings has the rule and the words for it.
        return made | several | {"metavar": "{" + ",".join(option.metadata["choices"]) + "}"}
    if isinstance(default, tuple):
        inner = get_args(kind)[0]
        metavar = "N" if inner is int else "TRACKER" if option.name == "log_with" else "PATH"
        return made | {"nargs": "*", "type": inner, "metavar": metavar}
    return made | several | {"type": kind, "metavar": {int: "N", float: "X", str: "NAME"}[kind]}


def settings_of(given: argparse.Namespace, command: str) -> Settings:
    """The recipe's settings with what the command line says.

    Raises:
        UsageError: the recipe is unknown, or a value breaks its rule.
    """
    recipe = recipe_files.find(given.recipe)
    values: dict[str, Any] = dict(recipe.settings)
    if command == "train-teacher":
        values |= recipe.teacher_settings
    given_values = overrides(given)
    if command == "distill":
        method = given_values.get("method", Settings(**values).method)
        values |= recipe.method_settings.get(method.key, {})
    values |= given_values
    return Settings(**values, recipe=recipe.name)


def overrides(given: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line names, lists as tuples."""
    names = {option.name for option in all_settings()} - {"recipe"}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(given).items()
        if name in names
    }


def folder(given: argparse.Namespace, *parts: str) -> Path:
    """Where the command writes: a folder that can be written into, or made. It is not made here,
    for the command may yet be refused.

    Raises:
        UsageError: it is a file, or may not be written into.
    """
    path: Path = given.output_dir or Path("runs").joinpath(
        recipe_files.title_of(given.recipe), *parts
    )
    try:
        there = next(place for place in (path, *path.parents) if place.exists())
        # A name of its own for each of several processes.
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UsageError(
            f"--output-dir must be a folder to write into, got {path} ({error.strerror})"
        ) from None
    return path
