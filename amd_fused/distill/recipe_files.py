"""Recipes of the user's, in YAML: the settings by their names, and what a sweep runs.

Example::

    base: digits                # a recipe that this one starts from
    student: wrn16-2
    lr: 0.1
    methods: [kd, amd-gl, amd-gl+sp]
    seeds: 3
    method_settings:
      amd-gl: {gamma: 500}
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from amd_fused.distill import plugins, recipes
from amd_fused.distill.config import Settings, all_settings, setting_types, setting_value
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import Method, parse
from amd_fused.distill.recipe import SIZES_APART, Recipe
from amd_fused.distill.setting import from_plain
from amd_fused.distill.trials import Trials
from amd_fused.distill.yaml_text import dump, load

_ENDINGS = (".yaml", ".yml")
# Beside the settings, at the top of a file; `tune` holds the last two of them.
_OTHER_KEYS = (
    *("base", "title", "methods", "seeds", "grid", "teacher_settings", "method_settings"),
    *("left_out", "tune", "plugins"),
)
_OF_TUNE = ("validation_size", "trials")
_OF_TRIALS = tuple(option.name for option in fields(Trials))


def find(name: str) -> Recipe:
    """The recipe that `--recipe` names: a built-in one, or one in a file that ends in .yaml or
    .yml.

    Raises:
        UsageError: there is none, or the file breaks a rule.
    """
    return _File(Path(name)).recipe() if is_file(name) else recipes.get(name)


def is_file(name: str) -> bool:
    """Whether a recipe's name is that of a file."""
    return name.endswith(_ENDINGS)


def title_of(name: str) -> str:
    """What a recipe is called in folders' names: a file by its own without the ending."""
    return Path(name).stem if is_file(name) else name


def to_yaml(recipe: Recipe) -> str:
    """A recipe as a file that :func:`find` reads; what the paper reports of it is left out."""
    content = {
        "teacher_settings": _plain(recipe.teacher_settings),
        "methods": list(recipe.methods),
        "seeds": recipe.seeds,
        "grid": _plain(recipe.grid),
        "method_settings": {key: _plain(own) for key, own in recipe.method_settings.items()},
        "left_out": dict(recipe.left_out),
        "tune": {},
    }
    trials = [
        {"method": one.method, "after": one.after, "tried": [_plain(x) for x in one.tried]}
        for one in recipe.trials
    ]
    if trials or recipe.validation_size:
        content["tune"] = {"validation_size": recipe.validation_size, "trials": trials}
    said = {key: value for key, value in content.items() if value}
    own = {"plugins": list(recipe.plugins)} if recipe.plugins else {}
    return dump({"title": recipe.title, **own, **_plain(recipe.settings), **said})


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Method):
            return value.key
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in settings.items()}


class _File:
    """One file, and its errors, which begin with its name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def recipe(self) -> Recipe:
        read = self._read()
        loaded = self._plugins(read.get("plugins", []) if isinstance(read, Mapping) else [])
        known = {option.name for option in all_settings()} - {"recipe"}
        content = self._mapping("", read, {*known, *_OTHER_KEYS})
        base = self._base(content.get("base"))
        settings = self._settings("", {name: content[name] for name in content if name in known})
        made = replace(
            base,
            name=self._path.stem,
            title=self._typed("title", content.get("title", base.title), str),
            settings={**base.settings, **settings},
            teacher_settings=self._of_teacher(base, settings, content.get("teacher_settings", {})),
            methods=self._methods(base, settings, content.get("methods")),
            seeds=self._typed("seeds", content.get("seeds", base.seeds), int),
            grid=self._grid(content["grid"]) if "grid" in content else base.grid,
            left_out=self._left_out(content.get("left_out", base.left_out)),
            method_settings=self._of_methods(base, settings, content.get("method_settings", {})),
            # The paper's numbers are of the paper's settings.
            reported=None,
            expected=(),
            plugins=loaded,
        )
        made = self._with_trials(made, content["tune"]) if "tune" in content else made
        self._try(made)
        return made

    def _read(self) -> Any:
        try:
            return load(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--recipe must be a file that can be read, got {self._path} ({error})"
            ) from None
        except ValueError as error:
            raise self._refusal(f"must be YAML, but {error}") from None

    def _plugins(self, given: Any) -> tuple[str, ...]:
        """Imports them, files by their place beside this one: settings may be theirs."""
        found = []
        for plugin in self._typed("plugins", given, tuple[str, ...]):
            file = plugin.endswith(".py")
            found.append(str((self._path.parent / plugin).resolve()) if file else plugin)
            try:
                plugins.load(found[-1])
            except UsageError as error:
                raise self._refusal(f"plugins: {error}") from None
        return tuple(found)

    def _base(self, name: Any) -> Recipe:
        if name is None:
            return Recipe("", "", {}, {}, ())
        try:
            return recipes.get(self._typed("base", name, str))
        except UsageError as error:
            raise self._refusal(f"base: {error}") from None

    def _of_teacher(self, base: Recipe, settings: Mapping[str, Any], given: Any) -> dict[str, Any]:
        """As with options of a sweep, what the file sets stands for teachers too, but for the sizes
        that the base sets apart."""
        before = {
            name: value
            for name, value in base.teacher_settings.items()
            if name in SIZES_APART or name not in settings
        }
        return {**before, **self._settings("teacher_settings", given)}

    def _of_methods(
        self, base: Recipe, settings: Mapping[str, Any], given: Any
    ) -> dict[str, dict[str, Any]]:
        before = {
            key: {name: value for name, value in own.items() if name not in settings}
            for key, own in base.method_settings.items()
        }
        own = {
            self._method("method_settings", key): self._settings(f"method_settings, {key}", values)
            for key, values in self._mapping("method_settings", given).items()
        }
        return {key: value for key, value in {**before, **own}.items() if value}

    def _methods(self, base: Recipe, settings: Mapping[str, Any], given: Any) -> tuple[str, ...]:
        if given is None:
            own = settings.get("method", Settings().method)
            return base.methods or ("scratch", own.key)
        if not isinstance(given, list):
            raise self._refusal(f"methods must be a list of methods, got {given!r}")
        return tuple(self._method("methods", key) for key in given)

    def _method(self, key: str, value: Any) -> str:
        try:
            return parse(self._typed(key, value, str)).key
        except UsageError as error:
            raise self._refusal(f"{key}: {error}") from None

    def _grid(self, given: Any) -> dict[str, tuple[float | str, ...]]:
        several: dict[Any, Any] = {float: tuple[float, ...], str: tuple[str, ...]}
        known = {name: several[kind] for name, kind in setting_types().items() if kind in several}
        return {
            name: self._typed(f"grid, {name}", values, known[name])
            for name, values in self._mapping("grid", given, known).items()
        }

    def _left_out(self, given: Any) -> dict[str, str]:
        return {
            self._method("left_out", key): self._typed(f"left_out, {key}", reason, str)
            for key, reason in self._mapping("left_out", given).items()
        }

    def _with_trials(self, recipe: Recipe, given: Any) -> Recipe:
        content = self._mapping("tune", given, _OF_TUNE)
        size = self._typed("tune, validation_size", content.get("validation_size", 0), int)
        trials: list[Trials] = []
        listed = content.get("trials", [])
        for entry in listed if isinstance(listed, list) else [listed]:
            one = self._mapping("tune, trials", entry, _OF_TRIALS)
            method = self._method("tune, trials, method", one.get("method"))
            after = one.get("after")
            after = None if after is None else self._method("tune, trials, after", after)
            if after is not None and after not in {before.method for before in trials}:
                raise self._refusal(
                    f"tune, trials: after must be a method tried before {method}, got {after!r}"
                )
            tried = one.get("tried")
            if not isinstance(tried, list) or not tried:
                raise self._refusal(f"tune, trials, tried must be a list of settings, got {tried}")
            where = f"tune, trials of {method}"
            trials.append(Trials(method, tuple(self._settings(where, x) for x in tried), after))
        return replace(recipe, validation_size=size, trials=tuple(trials))

    def _try(self, recipe: Recipe) -> None:
        """Values that break a rule are the file's, not the command line's."""
        try:
            Settings(**recipe.settings)
            Settings(**{**recipe.settings, **recipe.teacher_settings})
            for own in recipe.method_settings.values():
                Settings(**{**recipe.settings, **own})
        except UsageError as error:
            raise self._refusal(str(error)) from None

    def _settings(self, where: str, given: Any) -> dict[str, Any]:
        known = {option.name for option in all_settings()} - {"recipe"}
        made = {}
        for name, value in self._mapping(where, given, known).items():
            key = f"{where}, {name}" if where else name
            try:
                made[name] = setting_value(name, value)
            except TypeError as error:
                raise self._refusal(f"{key} must be {error}, got {value!r}") from None
            except UsageError as error:
                raise self._refusal(f"{key}: {error}") from None
        return made

    def _mapping(
        self, where: str, given: Any, known: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Keys and values. Known keys may have dashes for underscores."""
        place = f"{where}: " if where else ""
        if not isinstance(given, Mapping):
            raise self._refusal(f"{place}must be keys with values, got {given!r}")
        if known is None:
            return dict(given)
        made: dict[str, Any] = {}
        for key, value in given.items():
            name = str(key).replace("-", "_")
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"perhaps {near[0]}" if near else "`amd-fused distill --help` lists settings"
                raise self._refusal(f"{place}{key!r} is no key of a recipe; {hint}")
            if name in made:
                raise self._refusal(f"{place}{name} must be given once, got it again as {key!r}")
            made[name] = value
        return made

    def _typed(self, key: str, value: Any, kind: Any) -> Any:
        try:
            return from_plain(value, kind)
        except TypeError as error:
            raise self._refusal(f"{key} must be {error}, got {value!r}") from None

    def _refusal(self, text: str) -> UsageError:
        return UsageError(f"{self._path}: {text}")
