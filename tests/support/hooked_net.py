"""A small network for the tests of FeatureHooks, and what its layers must put out."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    """``stem`` (conv, norm, act), ``block`` (one conv), ``head``.

    Args:
        inplace: whether ``stem.act`` overwrites the output of ``stem.norm``.
        reentrant: None, or checkpoint the stem with this ``use_reentrant``.
    """

    def __init__(self, inplace: bool = False, reentrant: bool | None = None) -> None:
        super().__init__()
        self.reentrant = reentrant
        layers = {
            "conv": nn.Conv2d(3, 4, 3),
            "norm": nn.BatchNorm2d(4),
            "act": nn.ReLU(inplace=inplace),
        }
        self.stem = nn.Sequential(OrderedDict(layers))
        self.block = nn.Sequential(nn.Conv2d(4, 5, 3))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            x = self.stem(x)
        else:
            x = checkpoint(self.stem, x, use_reentrant=self.reentrant)
        return self.head(self.block(x).mean((2, 3)))


def net(inplace: bool = False, reentrant: bool | None = None) -> Net:
    """A network with the same weights each time."""
    torch.manual_seed(0)
    return Net(inplace, reentrant)


def images(seed: int = 1) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def outputs(model: Net, x: Tensor) -> dict[str, Tensor]:
    """The output of each layer, computed step by step with a copy of the model's weights."""
    m = copy.deepcopy(model)
    norm = m.stem.norm(m.stem.conv(x))
    stem = F.relu(norm)
    return {"stem.norm": norm, "stem": stem, "block": m.block[0](stem)}


def objective(logits: Tensor, features: list[Tensor]) -> Tensor:
    """Something with a gradient from both."""
    return logits.sum() + sum(f.square().mean() for f in features)
