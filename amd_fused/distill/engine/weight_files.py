"""Weights from whoever trained them: a file of safetensors or of torch, into a network by name."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from amd_fused.distill.errors import UsageError

# Under these keys training scripts keep the weights, beside the optimizer's state and the epoch.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# What DataParallel and DDP, and torch.compile, put before every name.
_PREFIXES = ("module.", "_orig_mod.")
# Names that a message lists.
_SHOWN = 3


def read_weights(option: str, file: Path) -> dict[str, Tensor]:
    """The state_dict in a file: names as in the bare network, tensors on the CPU.

    A file `*.safetensors` is read as such, any other by `torch.load(weights_only=True)`, which runs
    none of the file's code. A state_dict may lie in a dictionary under "state_dict",
    "model_state_dict" or "model". Prefixes of wrapped networks ("module.", "_orig_mod.") are taken
    off.

    Raises:
        UsageError: the file is missing or broken, or holds something else; `option` named it.
    """
    if not file.is_file():
        raise UsageError(f"{option} must be a file of weights, got {file}")
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{option}: {file} must hold tensors alone, which torch.load(weights_only=True) reads "
            f"({_first_line(error)}); save the network's state_dict()"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError) as error:
        raise UsageError(f"{option}: {file} cannot be read ({_first_line(error)})") from None
    while isinstance(content, Mapping) and not _is_state_dict(content):
        inner = next((content[key] for key in _WRAPPERS if key in content), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not _is_state_dict(content):
        held = list(content) if isinstance(content, Mapping) else type(content).__name__
        raise UsageError(
            f"{option}: {file} must hold a state_dict, names with tensors, by itself or under "
            f"{', '.join(_WRAPPERS)}, got {_listed(held) if isinstance(held, list) else held}"
        )
    return _bare(content)


def load_into(
    network: nn.Module,
    name: str,
    weights: Mapping[str, Tensor],
    origin: str,
    num_classes: int | None = None,
) -> None:
    """Puts weights into a network, which may be known to be for `num_classes`, each in its place.

    Raises:
        UsageError: they are for another number of classes, shapes differ, or names are missing or
            left over; `origin` says where they come from.
    """
    own = network.state_dict()
    wrong = {k: v for k, v in weights.items() if k in own and own[k].shape != v.shape}
    for key, value in wrong.items():
        here = own[key].shape
        if len(here) and here[0] == num_classes and value.shape[1:] == here[1:]:
            raise UsageError(
                f"{origin} must be for {num_classes} classes as the data, got {value.shape[0]} "
                f"({key} of shape {list(value.shape)})"
            )
    if wrong:
        shapes = [f"{k} {list(v.shape)}, not {list(own[k].shape)}" for k, v in wrong.items()]
        raise UsageError(f"{origin} must have the shapes of {name}, got {_listed(shapes)}")
    # Files from before PyTorch 0.4.1 count no batches, and nothing reads the count.
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in weights if k not in own]
    if missing or unexpected:
        problems = {"missing": missing, "unexpected": unexpected}
        told = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
        raise UsageError(f"{origin} must have the weights of {name}, got {told}")
    network.load_state_dict(dict(weights), strict=False)


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )


def _bare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bare = dict(weights)
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in bare)), ""):
        bare = {key.removeprefix(prefix): value for key, value in bare.items()}
    return bare


def _listed(names: Iterable[Any]) -> str:
    every = list(map(str, names))
    shown = ", ".join(every[:_SHOWN])
    return shown if len(every) <= _SHOWN else f"{shown} and {len(every) - _SHOWN} more"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
