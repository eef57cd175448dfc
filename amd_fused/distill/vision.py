"""torchvision, also beside a torch that its wheel was not built for.

The wheels of torchvision that package indexes hold are built for CUDA. Beside a CPU build of torch
their library of operators cannot be loaded, and the import fails because it describes two operators
that are then missing. With those two declared, all that needs no compiled operator works: datasets,
transforms and classification networks.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

import torch

from amd_fused.distill.errors import UsageError

_MISSING = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# SavedNetwork: what a library declares goes when it does.
_declared: list[torch.library.Library] = []


def prepare_torchvision() -> None:
    """Makes torchvision importable, where it is installed: before torchmetrics, which looks for it
    and does without."""
    if importlib.util.find_spec("torchvision") is not None:
        load_torchvision()


def load_torchvision() -> ModuleType:
    """The package torchvision. Call it before importing timm, which imports it too.

    Raises:
        UsageError: it is not installed, or its version does not fit torch's.
    """
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise _unusable(error) from None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise _unusable(error) from error
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _MISSING:
        library.define(schema)
    _declared.append(library)
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        raise _unusable(error) from error


def _unusable(error: Exception) -> UsageError:
    reason = " ".join(str(error).split())
    return UsageError(
        f"torchvision cannot be imported beside torch {torch.__version__} ({reason}); "
        f"pip install --no-deps {fitting_version()} leaves torch as it is, and "
        "pip install 'amd_fused[vision]' may exchange it"
    )


def fitting_version() -> str:
    """The requirement of the torchvision made for this torch: 0.28 with 2.13, and so on."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return f"'torchvision==0.{minor + 15}.*'" if major == 2 else "torchvision"
