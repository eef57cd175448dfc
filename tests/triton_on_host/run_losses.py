"""Runs losses through Triton's real compiler and launcher, without a GPU: one JSON line a case.

Run as a script, for Triton's compiler and its interpreter cannot share a process:
`python run_losses.py [--all]`, with tests and tests/support on the path, prints each case's error
beside eager's, both against the float64 oracles, and the kernels launched.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import afd_oracle
import afds_oracle
import crd_oracle
import kd_oracle
import lsh_oracle
import nd_oracle
import torch
import vid_oracle
from cases import DTYPES, SHAPES, features
from measures import oracle, relative_error, run

from amd_fused import amd_loss, attention_map, reference
from amd_fused.losses.kd.triton import launcher
from triton_on_host import driver

# B, C_S, C_T, H, W
FORMS = {
    "fused": (2, 12, 20, 7, 7),
    "fused, one sample": (1, 12, 20, 7, 7),
    "2x2": (2, 6, 4, 2, 2),
    "one of everything": (1, 1, 1, 2, 2),
    "split, one sample": (1, 20, 6, 24, 25),
    "split, one of everything": (1, 1, 1, 24, 25),
    "chunked": (1, 3, 2, 65, 67),
    "chunked, one of everything": (1, 1, 1, 65, 67),
}
# One of each form with sizes of one, of both layouts and of both kinds of numbers.
SHORT = [
    ("fused", "float32", "nchw"),
    ("one of everything", "float32", "nchw"),
    ("split, one sample", "float32", "channels_last"),
    ("chunked, one of everything", "float32", "nchw"),
    ("fused", "bfloat16", "channels_last"),
]
LONG = [
    (form, dtypes, layout)
    for form in FORMS
    for dtypes in ("float32", "bfloat16", "float16")
    for layout in ("nchw", "channels_last", "window", "unaligned", "height and width swapped")
]


def errors(ours: Any, eager: Any, truth: Any) -> dict[str, Any]:
    parts = [
        [relative_error(x, exact) for x, exact in zip(result, truth, strict=True)]
        for result in (ours, eager)
    ]
    return {"errors": parts[0], "eager": parts[1]}


def amd(form: str, dtypes: str, layout: str) -> dict[str, Any]:
    pair = features(FORMS[form], DTYPES[dtypes], layout)
    ours = run(lambda s, t: amd_loss(s, t, backend="triton"), *pair)
    results = [ours, run(reference.amd_loss, *pair), oracle(*pair)]
    return errors(*[[result.loss, *result.grads] for result in results])


def amd_again(form: str, dtypes: str, layout: str) -> dict[str, Any]:
    """A call like that of an earlier case, on other numbers: its launches are a replay."""
    pair = features(FORMS[form], DTYPES[dtypes], layout, seed=1)
    ours = run(lambda s, t: amd_loss(s, t, backend="triton"), *pair)
    replayed = emulator.replayed.copy()
    results = [ours, run(reference.amd_loss, *pair), oracle(*pair)]
    return {"replayed": replayed} | errors(*[[r.loss, *r.grads] for r in results])


# B, C, H, W: channels of one program, shared out over several, and sizes of one.
MAP_FORMS = {
    "one group": (40, 6, 9, 7),
    "groups": (2, 260, 6, 6),
    "one of everything": (1, 1, 1, 1),
}


def of_map(form: str, dtypes: str, layout: str) -> dict[str, Any]:
    batch, channels, height, width = MAP_FORMS[form]
    a, _ = features((batch, channels, 1, height, width), DTYPES[dtypes], layout)
    upstream = torch.randn(batch, 1, height, width)

    def found(function: Callable[..., Any], a: Any) -> list[Any]:
        leaf = a.detach().requires_grad_()
        root = function(leaf)
        return [root.detach(), torch.autograd.grad(root, leaf, upstream.to(root.dtype))[0]]

    def exact(a: Any) -> Any:
        return a.square().sum(1, keepdim=True).sqrt()

    ours = found(partial(attention_map, backend="triton"), a)
    return errors(ours, found(reference.attention_map, a), found(exact, a.double()))


def map_again() -> dict[str, Any]:
    of_map("groups", "float32", "nchw")
    emulator.launched.clear()
    emulator.replayed.clear()
    result = of_map("groups", "float32", "nchw")
    return {"replayed": emulator.replayed.copy()} | result


def maps(full: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    dtypes = ("float32", "bfloat16", "float16", "float64") if full else ("float32",)
    layouts = (
        ("nchw", "channels_last", "window", "unaligned") if full else ("nchw", "channels_last")
    )
    for case in itertools.product(MAP_FORMS, dtypes, layouts):
        yield f"map {' '.join(case)}", partial(of_map, *case)
    yield "again map", map_again


def kd(form: dict[str, Any], size: tuple[int, int], dtypes: str) -> dict[str, Any]:
    z = kd_oracle.logits(size, dtypes)
    ours, truth = kd_oracle.run(form, *z, backend="triton"), kd_oracle.oracle(form, *z)
    return errors(ours, kd_oracle.run(form, *z), truth)


def kd_wide(form: dict[str, Any], size: tuple[int, int], dtypes: str) -> dict[str, Any]:
    """Limits lowered, so that rows are read in blocks."""
    tiles = [dict.fromkeys(launcher.MAX_TILE, width) for width in (8, 16)]
    with (
        patch.object(launcher, "MAX_TILE", tiles[0]),
        patch.object(launcher, "WIDE_TILE", tiles[1]),
    ):
        return kd(form, size, dtypes)


def nd(shape: str, dtypes: str) -> dict[str, Any]:
    given = nd_oracle.inputs(shape, dtypes)
    ours, eager = nd_oracle.run("triton", given), nd_oracle.run("reference", given)
    return errors(ours, eager, nd_oracle.oracle(given))


def lsh(dtypes: str) -> dict[str, Any]:
    given = lsh_oracle.inputs(dtypes=dtypes)
    ours, eager = lsh_oracle.run("triton", given), lsh_oracle.run("reference", given)
    return errors(ours, eager, lsh_oracle.oracle(given))


def afds(shape: str, dtypes: str, layout: str) -> dict[str, Any]:
    given = afds_oracle.inputs(shape, dtypes, layout)
    ours, eager = afds_oracle.run("triton", given), afds_oracle.run("reference", given)
    return errors(ours, eager, afds_oracle.oracle(given))


def afd(shape: str, dtypes: str, layout: str) -> dict[str, Any]:
    """Map, means and gradient of a feature of a shape of cases.py."""
    a, _ = features(SHAPES[shape], DTYPES[dtypes], layout)
    results = afd_oracle.reduce("triton", a), afd_oracle.reduce("reference", a)
    return errors(*results, afd_oracle.reduced(a))


def afd_again() -> dict[str, Any]:
    afd("7x7", "float32", "nchw")
    emulator.launched.clear()
    emulator.replayed.clear()
    result = afd("7x7", "float32", "nchw")
    return {"replayed": emulator.replayed.copy()} | result


def vid(shape: str, dtypes: str, layout: str) -> dict[str, Any]:
    given = vid_oracle.inputs(shape, dtypes, layout)
    ours, eager = vid_oracle.run("triton", given), vid_oracle.run("reference", given)
    return errors(ours, eager, vid_oracle.oracle(given))


def crd(sizes: dict[str, Any]) -> dict[str, Any]:
    given = crd_oracle.inputs(**sizes)
    ours, eager = crd_oracle.run("triton", given), crd_oracle.run("reference", given)
    return errors(ours, eager, crd_oracle.oracle(given))


def channels(full: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    dtypes = ("float32", "bfloat16", "float16", "float64") if full else ("float32",)
    layouts = ("nchw", "channels_last", "window")
    if full:
        layouts += ("unaligned", "height and width swapped")
    for case in itertools.product(("7x7", "one channel"), dtypes, layouts):
        yield f"afds {' '.join(case)}", partial(afds, *case)
        yield f"vid {' '.join(case)}", partial(vid, *case)
    # Channels of one program, and shared out; a map of one stretch, and of several.
    shapes = ("7x7", "one large sample", "56x56") if full else ("7x7",)
    for case in itertools.product(shapes, dtypes, layouts):
        yield f"afd {' '.join(case)}", partial(afd, *case)
    if not full:
        yield "afd one large sample", partial(afd, "one large sample", "float32", "nchw")
    yield "again afd", afd_again


def rows(full: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for dtypes in ("float32", "bfloat16", "float16") if full else ("float32",):
        for name, form in kd_oracle.FORMS.items():
            for size in ((1, 5), (3, 67)) if full or name == "std" else ((3, 67),):
                yield f"{name} {size} {dtypes}", partial(kd, form, size, dtypes)
        yield f"wide std {dtypes}", partial(kd_wide, kd_oracle.FORMS["std"], (3, 67), dtypes)
        for shape in ("narrow", "odd"):
            yield f"nd {shape} {dtypes}", partial(nd, shape, dtypes)
        yield f"lsh {dtypes}", partial(lsh, dtypes)
        for width in (9, 64):
            sizes = {"width": width, "bank_dtype": getattr(torch, dtypes)}
            yield f"crd {width} {dtypes}", partial(crd, sizes)


def main(full: bool) -> None:
    # torch.empty hands out NaN; use_deterministic_algorithms would import torch's compiler as well.
    torch.set_deterministic_debug_mode("error")
    chosen = LONG if full else SHORT
    cases = [(" ".join(case), partial(amd, *case)) for case in chosen]
    first = {case[0]: case for case in reversed(chosen)}.values()
    again = [(f"again {' '.join(case)}", partial(amd_again, *case)) for case in first]
    for name, measure in [*cases, *again, *maps(full), *rows(full), *channels(full)]:
        emulator.launched.clear()
        emulator.replayed.clear()
        result = measure()
        print(json.dumps({"case": name, "kernels": emulator.launched, **result}), flush=True)


if __name__ == "__main__":
    emulator = driver.install()
    main("--all" in sys.argv)
