"""What is kept of a layer's output instead of the output itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from amd_fused.losses._common import outputs


class Capture:
    """Calls the user's function on one layer's output, and names the layer where that fails."""

    def __init__(self, path: str, function: Callable[[Tensor], Tensor], layout: str) -> None:
        self.path = path
        self.function = function
        self.layout = layout

    def __call__(self, output: Tensor) -> Tensor:
        output = self._nchw(output)
        if torch.compiler.is_compiling():
            kept = self.function(output)
        else:
            try:
                kept = self.function(output)
            except Exception as error:
                raise RuntimeError(
                    f"FeatureHooks: capture of {self.path!r}, given a tensor of shape "
                    f"{tuple(output.shape)}, raised {type(error).__name__}: {error}"
                ) from error
        if not isinstance(kept, Tensor):
            raise TypeError(
                f"FeatureHooks: capture of {self.path!r} must return a tensor, "
                f"got {outputs.describe(kept)}"
            )
        return kept

    def again(self, output: Tensor) -> None:
        """For what autograd saves meanwhile. Errors pass: one of torch's own ends a recomputation
        early."""
        self.function(self._nchw(output))

    def _nchw(self, output: Tensor) -> Tensor:
        return as_nchw(self.path, output) if self.layout == "NHWC" else output


def by_layer(
    owner: str, capture: Any, layers: Sequence[str], layout: str
) -> dict[str, Capture | None]:
    """The option ``capture`` as what happens to each layer; None: its output is kept."""
    if isinstance(capture, Mapping):
        unknown = [path for path in capture if path not in layers]
        if unknown:
            raise ValueError(
                f"{owner}: capture must have keys that are among the layers {list(layers)}, "
                f"got {unknown[0]!r}"
            )
        functions = [capture.get(path) for path in layers]
    elif isinstance(capture, (list, tuple)):
        if len(capture) != len(layers):
            raise ValueError(
                f"{owner}: capture must have one function for each of the {len(layers)} layers, "
                f"got {len(capture)}"
            )
        functions = list(capture)
    else:
        functions = [capture] * len(layers)
    for function in functions:
        if function is not None and not callable(function):
            raise TypeError(
                f"{owner}: capture must be a function of a tensor, a list with one for each layer "
                f"or a dict of them by path, got {type(function).__name__}"
            )
    return {
        path: None if function is None else Capture(path, function, layout)
        for path, function in zip(layers, functions, strict=True)
    }


def as_nchw(path: str, output: Tensor) -> Tensor:
    """[B, H, W, C] as a view [B, C, H, W]."""
    if output.ndim != 4:
        raise ValueError(
            f'FeatureHooks: the output of {path!r} must be 4-D for layout="NHWC", got shape '
            f"{tuple(output.shape)}"
        )
    return output.permute(0, 3, 1, 2)
