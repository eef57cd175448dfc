"""What a result file must hold for `report` and `compare`: fields and their types.

A field may hold more than is asked for here; the tests of each command say exactly what it writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# A type or several, the fields of a dict, the items of a list, or which of these, by the value.
Spec = Any


@dataclass(frozen=True)
class Maybe:
    """None, or what the spec says."""

    spec: Spec


NUMBER = (int, float)
SPREAD = {"median": NUMBER, "q1": NUMBER, "q3": NUMBER}
_PARTS = dict.fromkeys(("forward", "backward", "total"), NUMBER)
STAGES = {name: [NUMBER] for name in _PARTS}
_NAMED = {"peer": bool} | dict.fromkeys(("key", "title", "part", "status", "reason"), str)
_GRAPH = {"status": str, "reason": str}
_TIMED_GRAPH = _GRAPH | {"total_ms": SPREAD, "rounds_ms": [NUMBER], "times_floor": NUMBER}
_LOSS = {
    "peak_extra_bytes": int,
    "launches": Maybe(int),
    **dict.fromkeys(("forward_ms", "backward_ms", "total_ms"), SPREAD),
    "rounds_ms": STAGES,
    "host_ms": Maybe(SPREAD),
    "graph": Maybe(lambda graph: _by_status(graph, _GRAPH, _TIMED_GRAPH)),
    "ratios": {
        "speedup_over_eager": Maybe(NUMBER),
        "speedup_over_compile": Maybe(NUMBER),
        "times_floor": NUMBER,
    },
}
_HOST = {
    **dict.fromkeys(("forward_us", "backward_us", "total_us"), SPREAD),
    "rounds_ms": STAGES,
    "times_eager": Maybe(NUMBER),
}
_TRAINING = {
    "step_ms": SPREAD,
    "rounds_ms": {"total": [NUMBER]},
    "images_per_second": NUMBER,
    "peak_extra_bytes": int,
}
_ENVIRONMENT = {
    **dict.fromkeys(("device", "device_type", "cpu_capability", "python", "torch"), str),
    **dict.fromkeys(("amd_fused", "date"), str),
    **dict.fromkeys(("cores", "threads", "last_level_cache_bytes"), int),
    "cuda": Maybe({"runtime": str, "driver": str}),
    "triton": Maybe(str),
    "commit": Maybe(str),
    "load_average": Maybe(NUMBER),
}


def _by_status(value: Any, always: dict[str, Spec], timed: dict[str, Spec]) -> dict[str, Spec]:
    """What was not timed has no figures."""
    return timed if isinstance(value, dict) and value.get("status") == "ok" else always


def _variants(timed: dict[str, Spec]) -> list[Callable[[Any], Spec]]:
    return [lambda variant: _by_status(variant, _NAMED, _NAMED | timed)]


_LOSSES = {
    **dict.fromkeys(("subject", "shape", "layout", "dtype"), str),
    "pairs": [{"student": [int], "teacher": [int]}],
    "input_sets": int,
    "ideal_bytes": _PARTS,
    "gradient_bytes": int,
    "copy": {"ms": SPREAD, "rounds_ms": [NUMBER], "bytes_per_second": NUMBER},
    "floor_ms": _PARTS,
    "variants": _variants(_LOSS),
}
# One case of each command.
CASES: dict[str, dict[str, Spec]] = {
    "losses": _LOSSES,
    "siblings": _LOSSES
    | {
        "flops": Maybe(_PARTS),
        "product": Maybe({"ms": SPREAD, "rounds_ms": [NUMBER], "flops_per_second": NUMBER}),
    },
    "scaling": _LOSSES | {"sweep": str, "size": int},
    "host": {"subject": str, "shape": str, "variants": _variants(_HOST)},
    "training": {
        **dict.fromkeys(("subject", "setting", "status", "reason"), str),
        "batch": int,
        "image": [int],
        "mixed_precision": bool,
        "channels_last": bool,
        "variants": _variants(_TRAINING),
    },
}


def result(command: str) -> dict[str, Spec]:
    """The whole file that a command writes."""
    return {"environment": _ENVIRONMENT, "finished": bool, "cases": [CASES[command]]}


def wrong(value: Any, spec: Spec, path: str = "") -> str:
    """The first field that is not as the spec says, and how; empty if there is none.

    >>> wrong({"cases": [{"shape": 3}]}, {"cases": [{"shape": str}]})
    'cases[0].shape must be str, got 3'
    """
    if isinstance(spec, Maybe):
        return "" if value is None else wrong(value, spec.spec, path)
    if isinstance(spec, dict):
        return _wrong_fields(value, spec, path)
    if isinstance(spec, list):
        if not isinstance(value, list):
            return _said(path, "a list", value)
        found = (wrong(item, spec[0], f"{path}[{i}]") for i, item in enumerate(value))
        return next(filter(None, found), "")
    if isinstance(spec, (type, tuple)):
        # bool is an int to Python, and never a number here.
        fits = isinstance(value, spec) and not (isinstance(value, bool) and spec is not bool)
        names = "a number" if spec == NUMBER else getattr(spec, "__name__", spec)
        return "" if fits else _said(path, names, value)
    return wrong(value, spec(value), path)


def _wrong_fields(value: Any, spec: dict[str, Spec], path: str) -> str:
    if not isinstance(value, dict):
        return _said(path, "an object", value)
    for name, part in spec.items():
        inner = f"{path}.{name}" if path else name
        if name not in value:
            return f"{inner} is missing"
        if found := wrong(value[name], part, inner):
            return found
    return ""


def _said(path: str, what: str, value: Any) -> str:
    shown = repr(value)
    return f"{path} must be {what}, got {shown if len(shown) <= 40 else shown[:37] + '...'}"
