"""What the runs of a report were: what is the same in all of them, and what is not."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from amd_fused.distill.config import all_settings
from amd_fused.distill.reports.runs import Run
from amd_fused.distill.setting import value_text


def describe(run: Run) -> dict[str, str]:
    """A run's facts by name, as text: what it is, where it ran, then every setting."""
    config, settings = run.config, run.settings
    teacher = config.get("teacher")
    facts = {
        "Folder": str(run.path),
        "Role": str(config["role"]),
        "Data": run.data,
        "Network": f"{run.network}, {config['parameters']:,} parameters",
        "Method": "labels alone" if run.is_teacher else run.method.label,
        "Recipe": settings.recipe,
        "Seed": str(settings.seed),
        "Teacher": "-",
        "Teacher's run": "-",
        "Teacher's epoch": "-",
        "Teacher's file": "-",
    }
    if teacher is not None:
        top1 = "" if teacher["top1"] is None else f", top-1 {teacher['top1']:.2f} %"
        facts["Teacher"] = f"{teacher['network']}{top1}"
        if "run" in teacher:
            facts["Teacher's run"] = str(teacher["run"])
            facts["Teacher's epoch"] = f"{teacher['epoch']} of {teacher['epochs']}"
        elif "file" in teacher:
            facts["Teacher's file"] = f"{teacher['file']}, SHA-256 {teacher['weights_sha256']}"
    versions = config.get("versions") or {}
    facts |= {
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Commit": str(config.get("commit") or "-"),
        "Device": str(config.get("device") or "-"),
        "Processes": str(config.get("processes") or "-"),
        "Started": str(config.get("started") or "-"),
        "Command": shlex.join(map(str, config.get("command") or [])) or "-",
    }
    return facts


def describe_settings(run: Run) -> dict[str, str]:
    """Every setting by its name, but those that `describe` names."""
    return {
        option.name: value_text(getattr(run.settings, option.name))
        for option in all_settings()
        if option.name not in ("data", "method", "recipe", "seed")
    }


def split(facts: Sequence[dict[str, str]]) -> tuple[dict[str, str], list[str]]:
    """What is the same in all, and the names of what is not."""
    same = {
        name: value
        for name, value in facts[0].items()
        if all(other.get(name) == value for other in facts)
    }
    return same, [name for name in facts[0] if name not in same]
