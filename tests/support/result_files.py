"""A small result file of `python -m benchmarks`, its figures set by the test."""

from __future__ import annotations

import copy
from typing import Any

from benchmarks.measure import results

PEERS = {
    "eager": ("eager reference", 8.0, "whole"),
    "compile": ("torch.compile reference", 4.0, "whole"),
    "released": ("released style, global only", 10.0, "whole"),
    "at": ("plain AT loss, attention part", 6.0, "attention"),
}
OURS = {
    "amd_fused": ("amd_fused (cpp)", 2.0, "whole"),
    "attention": ("amd_fused (cpp), attention part", 1.5, "attention"),
}
ENVIRONMENT = {
    "device": "Test CPU",
    "device_type": "cpu",
    "cuda": None,
    "processor": "Test CPU",
    "cores": 2,
    "threads": 2,
    "last_level_cache_bytes": 1000,
    "cpu_capability": "AVX2",
    "system": "Linux x86_64",
    "python": "3.11.7",
    "torch": "2.13.0",
    "triton": None,
    "amd_fused": "0.1.0",
    "commit": "0123456789ab",
    "date": "2026-11-21T03:04:05+00:00",
    "load_average": 0.1,
}


def spread(median: float) -> dict[str, float | int]:
    return {"median": median, "q1": 0.9 * median, "q3": 1.2 * median, "min": median / 2, "n": 20}


def variant(key: str, title: str, ms: float, part: str, rounds: list[float]) -> dict[str, Any]:
    return {
        "key": key,
        "title": title,
        "peer": key in PEERS,
        "part": part,
        "status": "ok",
        "reason": "",
        "peak_extra_bytes": int(1000 * ms),
        "launches": None,
        "kernels": None,
        "forward_ms": spread(0.75 * ms),
        "backward_ms": spread(0.25 * ms),
        "total_ms": spread(ms),
        "rounds_ms": {
            "forward": [0.75 * ms * r for r in rounds],
            "backward": [0.25 * ms * r for r in rounds],
            "total": [ms * r for r in rounds],
        },
        "host_ms": None,
        "graph": None,
        "ratios": {
            "speedup_over_eager": 8.0 / ms if part == "whole" else None,
            "speedup_over_compile": 4.0 / ms if part == "whole" else None,
            "times_floor": ms / 1.6,
        },
    }


def case(shape: str, rounds: int = 20) -> dict[str, Any]:
    """The floor is 1.6 ms, the gradient 2000 bytes; rounds without any spread."""
    flat = [1.0] * rounds
    return {
        "subject": "amd",
        "shape": shape,
        "layout": "nchw",
        "dtype": "float32",
        "pairs": [{"student": [2, 3, 4, 4], "teacher": [2, 6, 4, 4]}],
        "input_sets": 2,
        "ideal_bytes": {"forward": 1000, "backward": 600, "total": 1600},
        "gradient_bytes": 2000,
        "copy": {"ms": spread(5.0), "rounds_ms": [5.0] * rounds, "bytes_per_second": 1e6},
        "floor_ms": {"forward": 1.0, "backward": 0.6, "total": 1.6},
        "flops": None,
        "product": None,
        "note": "",
        "variants": [
            variant(key, *named, flat)
            for key, named in {
                "amd_fused": OURS["amd_fused"],
                **{key: PEERS[key] for key in ("eager", "compile", "released")},
                "attention": OURS["attention"],
                "at": PEERS["at"],
            }.items()
        ],
    }


def result(command: str, cases: list[dict[str, Any]], **environment: Any) -> dict[str, Any]:
    return copy.deepcopy(
        {
            "schema": results.SCHEMA,
            "command": command,
            "environment": ENVIRONMENT | environment,
            "finished": True,
            "cases": cases,
        }
    )


def scaling_cases() -> list[dict[str, Any]]:
    """Two sweeps of three sizes, largest first; the smallest batch fits into the cache."""
    made = []
    for sweep, sizes in (("batch", (16, 4, 1)), ("map", (28, 14, 7))):
        for size in sizes:
            made.append(case(f"{sweep}-{size}") | {"sweep": sweep, "size": size})
            if size == 1:
                made[-1]["ideal_bytes"]["forward"] = 400
    return made


def siblings() -> dict[str, Any]:
    """Two subjects, of which one has products: 16 GFLOP in 2 ms are 8000 a second."""
    product = {"ms": spread(1.0), "rounds_ms": [1.0], "flops_per_second": 1e13}
    flops = {"forward": 10**10, "backward": 6 * 10**9, "total": 16 * 10**9}
    lsh = case("a") | {"subject": "lsh", "flops": flops, "product": product}
    return result("siblings", [case("a"), case("b"), lsh])
