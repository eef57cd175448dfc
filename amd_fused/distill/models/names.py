"""One name for each network, however it is written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torch import nn

from amd_fused.distill.errors import UsageError
from amd_fused.distill.models import library, resnet, wrn

# Networks that go by a plain name though they are torchvision's.
_PLAIN = ("resnet18", "resnet34")
_FORMS = (
    "WRN<depth>-<width> (WRN16-3), "
    + f"ResNet<depth> ({', '.join(map(str, resnet.DEPTHS))} for small images; 18, 34), "
    + "MobileNetV2, torchvision/<name> or timm/<name>"
)
_MODULE = "module/"
# What a mistyped name is held against.
_KNOWN = (
    *(f"WRN{size}" for size in ("16-1", "16-3", "16-8", "28-1", "28-3", "40-1", "40-2")),
    *(f"ResNet{depth}" for depth in sorted((*resnet.DEPTHS, 18, 34))),
    "MobileNetV2",
)


def name_of(module: nn.Module) -> str:
    """What stands for the name of a module that a program made: `module/` and its class."""
    return f"{_MODULE}{type(module).__name__}"


def is_module(name: str) -> bool:
    """Whether :func:`name_of` gave it."""
    return name.startswith(_MODULE)


def canonical(name: str) -> str:
    """A network's one name: `WRN16-3`, `ResNet44`, `MobileNetV2`, `torchvision/resnet18`.

    `16-3`, `wrn16-3` and `WRN-16-3` are the first, `resnet-44` the second, `mobilenet_v2` the
    third, `ResNet18` the last: small letters or capitals, with or without the hyphen. What
    :func:`name_of` gave stays as it is.

    Raises:
        UsageError: there is no such network, or the library that should have it is not installed.
    """
    text = name.strip()
    if is_module(text):
        return text
    if match := re.fullmatch(r"(torchvision|timm)/(.+)", text, re.IGNORECASE):
        source, model = match[1].lower(), match[2].lower()
        known = library.names(source)
        if model not in known:
            raise UsageError(
                f"{source} has no classification network {match[2]!r}{near(model, known)}; "
                "--teacher and --student must name one that it has"
            )
        return f"{source}/{model}"
    if match := re.fullmatch(r"(?:wrn-?)?(\d+)-(\d+)", text, re.IGNORECASE):
        depth, width = int(match[1]), int(match[2])
        if not wrn.is_depth(depth) or width < 1:
            raise UsageError(
                "a WideResNet (--teacher, --student) must have depth 6n + 4 from 10 on and width "
                f">= 1, as WRN16-3 has, got {name!r}"
            )
        return f"WRN{depth}-{width}"
    if match := re.fullmatch(r"resnet-?(\d+)", text, re.IGNORECASE):
        depth = int(match[1])
        if depth in resnet.DEPTHS:
            return f"ResNet{depth}"
        if f"resnet{depth}" in _PLAIN:
            return f"torchvision/resnet{depth}"
    if re.fullmatch(r"mobilenet[-_]?v2", text, re.IGNORECASE):
        return "MobileNetV2"
    raise UsageError(
        f"a network (--teacher, --student) must be {_FORMS}, got {name!r}{near(text, _KNOWN)}"
    )


def near(name: str, known: Sequence[str]) -> str:
    """`; near matches: ...`, or nothing where nothing is near."""
    by_lower = {entry.lower(): entry for entry in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return f"; near matches: {', '.join(by_lower[entry] for entry in found)}" if found else ""
