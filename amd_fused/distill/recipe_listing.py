"""`amd-fused recipes`: all recipes in a line each, or one in full, with what the paper reports."""

from __future__ import annotations

from typing import Any

from amd_fused.distill.config import Settings, all_settings
from amd_fused.distill.methods import parse
from amd_fused.distill.paper import Values
from amd_fused.distill.recipe import Recipe
from amd_fused.distill.recipe_files import find
from amd_fused.distill.recipes import RECIPES
from amd_fused.distill.weights import SOURCES

# Of a recipe, what is not the experiment's.
_NOT_SHOWN = ("recipe", "data_dir", "method")


def overview() -> str:
    """A line a recipe: name, networks, what the paper reports of it."""
    rows = []
    for recipe in RECIPES.values():
        pair = f"{recipe.settings['teacher']} to {recipe.settings['student']}"
        rows.append((recipe.name, pair, "".join(recipe.expected[-1:]), recipe.title))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    head = ("recipe", "networks", "in the paper (%)", "what it is")
    widths = [max(width, len(title)) for width, title in zip(widths, head, strict=False)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in (head, *rows)
    ]
    more = "amd-fused recipes --table 3 (to 9): the recipe and method of every number of a table"
    return "\n".join([*lines, "", more])


def describe(name: str) -> str:
    """A recipe in full."""
    recipe = find(name)
    lines = [f"{recipe.name}: {recipe.title}", "", "settings:"]
    settings = Settings(**recipe.settings)
    for option in all_settings():
        value = getattr(settings, option.name)
        hidden = option.metadata["group"] == "running" or option.name in _NOT_SHOWN
        if not hidden and value not in ("", ()):
            lines.append(f"  {option.name}: {_shown(value)}")
    if recipe.teacher_settings:
        lines += ["of the teacher:"]
        lines += [f"  {key}: {_shown(value)}" for key, value in recipe.teacher_settings.items()]
    for method, values in recipe.method_settings.items():
        lines += [f"of {method}: " + ", ".join(f"{k} {_shown(v)}" for k, v in values.items())]
    if recipe.trials:
        tried = len(recipe.trials[0].tried)
        lines += ["", f"amd-fused tune --recipe {name}: {tried} trials for each method"]
    lines += ["", f"amd-fused sweep --recipe {name}: {recipe.seeds} seeds of"]
    lines += [f"  {', '.join(recipe.methods)}"]
    lines += [f"  {key}: {_shown(values)}" for key, values in recipe.grid.items()]
    for method, reason in recipe.left_out.items():
        lines += [f"  {method} does not run: {reason}"]
    lines += _sources(recipe, settings)
    if recipe.reported is not None:
        setup = recipe.reported
        changed = set(recipe.methods) - {"scratch"} != set(setup.methods)
        if changed and recipe.expected:
            lines += ["", "in the paper (%):", *(f"  {line}" for line in recipe.expected)]
        without = " of the setup without this change" if changed else ""
        lines += ["", f"top-1 (%) in the paper{without}, {setup.source}:", *_reported(setup.values)]
        if setup.top5:
            lines += ["", f"top-5 (%) in the paper, {setup.source}:", *_reported(setup.top5)]
    return "\n".join(lines)


def _sources(recipe: Recipe, settings: Settings) -> list[str]:
    """Where the weights of a recipe of the paper come from."""
    if recipe.reported is None:
        return []
    terms = dict.fromkeys(term for key in recipe.methods for term in parse(key).terms)
    weights = dict.fromkeys(term.weight for term in terms if term.weight in SOURCES)
    shown = [f"  {name} {getattr(settings, name):g}: {SOURCES[name]}" for name in weights]
    return ["", "weights of the losses, and where they come from:", *shown] if shown else []


def _reported(values: Values) -> list[str]:
    lines = []
    for key, value in values.items():
        if value is not None:
            mean, deviation = value
            lines.append(
                f"  {key} {mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")
            )
    return lines


def _shown(value: Any) -> str:
    return " ".join(f"{v:g}" for v in value) or "-" if isinstance(value, tuple) else str(value)
