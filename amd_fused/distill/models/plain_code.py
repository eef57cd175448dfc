"""How a network is made without this package: what a model card says."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from amd_fused.distill.models import library, registry
from amd_fused.distill.models.names import is_module


@dataclass(frozen=True)
class PlainCode:
    """Python that makes `network` with weights of its own.

    Args:
        imports, lines: of the code.
        source: a file that the code imports as `model`; None where libraries suffice.
    """

    imports: str
    lines: tuple[str, ...]
    source: Path | None = None


def plain_code(name: str, network: nn.Module, *, num_classes: int, channels: int) -> PlainCode:
    """The code for a network that `build(name, ...)` made.

    Args:
        name: canonical, or what :func:`name_of` gave of a module of the user's.
    """
    if is_module(name):
        kind = type(network)
        made = f"network = {kind.__name__}(...)  # with the arguments that it was trained with"
        return PlainCode(f"from {kind.__module__} import {kind.__name__}", (made,))
    source, _, model = name.rpartition("/")
    if source == "timm":
        made = f'timm.create_model("{model}", num_classes={num_classes}, in_chans={channels})'
        return PlainCode("import timm", (f"network = {made}",))
    if source == "torchvision":
        options = {"num_classes": num_classes, **library.torchvision_options(model)}
        lines = [f'network = torchvision.models.get_model("{model}", {_arguments(options)})']
        path, first = library.first_convolution(network)
        if channels != 3:
            lines.append(f'network.set_submodule("{path}", torch.nn.{first})')
        return PlainCode("import torchvision", tuple(lines))
    kind, sizes = registry.own_network(name)
    arguments = [*map(str, sizes), _arguments({"num_classes": num_classes, "channels": channels})]
    return PlainCode(
        f"from model import {kind.__name__}",
        (f"network = {kind.__name__}({', '.join(arguments)})",),
        Path(inspect.getfile(kind)),
    )


def _arguments(options: dict[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
