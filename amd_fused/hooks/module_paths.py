"""Modules by path, seen through the wrappers of data parallelism and torch.compile."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from amd_fused.losses._common import outputs

# What the wrappers put before the path of a module.
_WRAPPER_SEGMENTS = frozenset(("module", "_orig_mod"))
# "lstm[0]", 'block["maps"]': entries of what a module returns.
_ENTRY = re.compile(r"\[([^\[\]]+)\]")
_WITH_ENTRIES = re.compile(rf"(.*?)((?:{_ENTRY.pattern})+)")


def check(owner: str, layers: Any) -> tuple[str, ...]:
    """The paths as a tuple of distinct strings."""
    if isinstance(layers, str):
        raise TypeError(
            f"{owner}: layers must be a list of module paths, got the string {layers!r}; "
            f"pass [{layers!r}]"
        )
    if not isinstance(layers, Iterable):
        raise TypeError(
            f"{owner}: layers must be a list of module paths, got {type(layers).__name__}"
        )
    paths = tuple(layers)
    if not paths:
        raise ValueError(f"{owner}: layers must have at least one module path, got none")
    for path in paths:
        if not isinstance(path, str):
            raise TypeError(
                f"{owner}: layers must be a list of module paths (strings), got "
                f"{type(path).__name__} in it"
            )
    duplicates = sorted({path for path in paths if paths.count(path) > 1})
    if duplicates:
        raise ValueError(f"{owner}: layers must be distinct, got {duplicates} more than once")
    return paths


def refuse_script(owner: str, rule: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            f"{owner}: {rule} a TorchScript module (torch.jit.script, torch.jit.trace), whose "
            "calls run no hooks; hook the Python module that it was made from, or let its forward "
            "return the features"
        )


def unwrap(model: nn.Module) -> list[nn.Module]:
    """The model and what it wraps, outermost first."""
    chain = [model]
    while True:
        children = chain[-1]._modules
        if isinstance(chain[-1], (DataParallel, DistributedDataParallel)):
            inner = children["module"]
        else:
            # Not get: a TorchScript module's children lack it.
            inner = children["_orig_mod"] if "_orig_mod" in children else None  # noqa: SIM401
        if inner is None:
            return chain
        chain.append(inner)


def resolve(
    owner: str, model: nn.Module, layers: tuple[str, ...]
) -> list[tuple[nn.Module, outputs.Entry]]:
    """The module of each path, and the entry of its output that is meant."""
    found: dict[tuple[nn.Module, outputs.Entry], str] = {}
    for path in layers:
        of_module, entry = _split(model, path)
        module = _find(owner, model, of_module)
        refuse_script(owner, f"layers must name Python modules, got {path!r},", module)
        # A ModuleList or ModuleDict; DenseNet's blocks are such with a forward of their own.
        if type(module).forward is nn.Module.forward and "forward" not in vars(module):
            raise ValueError(
                f"{owner}: layers must name modules that are called, got {path!r}, a "
                f"{type(module).__name__}, which has no forward; name one of its entries"
            )
        if (module, entry) in found:
            raise ValueError(
                f"{owner}: layers must be distinct, got {found[module, entry]!r} and {path!r}, "
                "which are the same module"
            )
        found[module, entry] = path
    return list(found)


def _split(model: nn.Module, path: str) -> tuple[str, outputs.Entry]:
    """A path without what it picks of the output, and that."""
    match = _WITH_ENTRIES.fullmatch(path)
    if match is None or _submodule(model, path) is not None:
        return path, ()
    keys = [key.strip("\"'") for key in _ENTRY.findall(match[2])]
    return match[1], tuple(int(k) if re.fullmatch(r"-?\d+", k) else k for k in keys)


def _find(owner: str, model: nn.Module, path: str) -> nn.Module:
    core = unwrap(model)[-1]
    exact = {m for m in (_submodule(model, path), _submodule(core, path)) if m is not None}
    if len(exact) == 1:
        return exact.pop()
    named: dict[str, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        named.setdefault(_bare(name), []).append((name, module))
    del named[""]
    matches = sorted(named.get(_bare(path), []), key=lambda match: len(match[0]))
    if not matches:
        near = difflib.get_close_matches(_bare(path), named, n=3, cutoff=0.5)
        children = [name for name, _ in core.named_children()]
        hint = f"near matches: {near}" if near else f"nothing is near; its children: {children}"
        raise ValueError(
            f"{owner}: layers must be module paths of {type(core).__name__}, got {path!r}; {hint}"
        )
    outermost, module = matches[0]
    if exact or not all(name.startswith(outermost) for name, _ in matches):
        raise ValueError(
            f"{owner}: layers must name one module each, got {path!r}, which may be any of "
            f"{[name for name, _ in matches]}; write one of these in full"
        )
    return module


def _submodule(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path) if path else None
    except AttributeError:
        return None


def _bare(path: str) -> str:
    """The path without the segments that wrappers add."""
    return ".".join(part for part in path.split(".") if part not in _WRAPPER_SEGMENTS)
