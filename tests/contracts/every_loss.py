"""Every loss with inputs that it takes, for contracts that all of them keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import amd_fused

B, K, D, H = 4, 10, 6, 8
SHAPES = {"maps": (B, D, 4, 4), "logits": (B, K), "embeddings": (B, D)}
TARGET = torch.tensor([3, 1, 0, 7])


def made(kind: str, seed: int = 0, batch: int = B) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *SHAPES[kind][1:], generator=generator)


def constant(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


class Loss(NamedTuple):
    kind: str  # of its inputs
    function: Callable[..., Tensor]  # (student, teacher, **options)
    backends: tuple[str, ...]  # none: it has no such option


def _nd(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    target = torch.arange(len(student), device="cpu") % K
    return amd_fused.nd_loss(student, teacher, target, MEANS, **options)


def _lsh(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    return amd_fused.lsh_loss(student, teacher, PLANES, **options)


def _vid(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    return amd_fused.vid_loss(student, teacher, RHO, **options)


def _crd(student: Tensor, teacher: Tensor) -> Tensor:
    samples = SAMPLES[torch.arange(len(student), device="cpu") % B]
    return amd_fused.crd_loss(student, teacher, *BANKS, samples, LOG_Z, temperature=1.0)


def _afd(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    return amd_fused.afd_loss(student, teacher, SHARE.expand(len(student), 1, 1), **options)


def _afds(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    return amd_fused.afds_loss(student, teacher, CHANNELS.expand(len(student), D), **options)


MEANS, PLANES, RHO = constant(K, D), constant(H, D), constant(D)
SHARE, CHANNELS = torch.ones(1), constant(D).softmax(0)
BANKS, LOG_Z = constant(2, K, D), torch.tensor([2.0, 3.0])
SAMPLES = torch.arange(B * H).view(B, H) * 7 % K
CPU = ("reference", "cpp")
LOSSES = {
    "amd_loss": Loss("maps", amd_fused.amd_loss, CPU),
    "at_loss": Loss("maps", amd_fused.at_loss, CPU),
    "kd_loss": Loss("logits", amd_fused.kd_loss, CPU),
    "spherical_kd_loss": Loss("logits", amd_fused.spherical_kd_loss, CPU),
    "nd_loss": Loss("embeddings", _nd, CPU),
    "lsh_loss": Loss("embeddings", _lsh, CPU),
    "sp_loss": Loss("maps", amd_fused.sp_loss, ()),
    "rkd_loss": Loss("embeddings", amd_fused.rkd_loss, ()),
    "vid_loss": Loss("maps", _vid, CPU),
    "cc_loss": Loss("embeddings", amd_fused.cc_loss, ()),
    "crd_loss": Loss("embeddings", _crd, ()),
    "afd_loss": Loss("maps", _afd, CPU),
    "afds_loss": Loss("maps", _afds, CPU),
}
# Of torch's differentiable operators alone, which know second derivatives and transforms.
PLAIN = ("cc_loss",)
# A loss without backends once; the others on each.
FORMS: dict[str, tuple[str, dict[str, str]]] = {
    f"{name} {backend}".strip(): (name, {"backend": backend} if backend else {})
    for name, loss in LOSSES.items()
    for backend in loss.backends or ("",)
}


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student)[0]


class Step(nn.Module):
    """A criterion called as its kind is."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        if isinstance(self.criterion, amd_fused.DistillationLoss):
            logits = student.flatten(1)[:, :K], teacher.flatten(1)[:, :K]
            return self.criterion(*logits, target, student, teacher)
        if isinstance(self.criterion, amd_fused.NDLoss):
            return self.criterion(student, teacher, target)
        if isinstance(self.criterion, amd_fused.CRDLoss):
            return self.criterion(student, teacher, torch.arange(len(student)))
        return self.criterion(student, teacher)


def _adapted_lsh() -> nn.Module:
    torch.manual_seed(3)
    criterion = amd_fused.LSHLoss(D, H, student_features=D)
    criterion.init_bias(made("embeddings", 9))
    return criterion


def _contrasting() -> nn.Module:
    """In evaluation mode, where a call leaves banks as they are; they were trained before."""
    torch.manual_seed(3)
    criterion = amd_fused.CRDLoss(D, D, K, H)
    criterion(made("embeddings", 9), made("embeddings", 10), torch.arange(B))
    return criterion.eval()


def _seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def seeded() -> nn.Module:
        torch.manual_seed(3)
        return make()

    return seeded


# Name: kind of inputs, and the criterion, made anew.
CRITERIA: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "AMDLoss": ("maps", lambda: amd_fused.AMDLoss(layer_weights=[2.0])),
    "ATLoss": ("maps", lambda: amd_fused.ATLoss(mode="paper")),
    "KDLoss": ("logits", lambda: amd_fused.KDLoss(2.0)),
    "SphericalKDLoss": ("logits", lambda: amd_fused.SphericalKDLoss(norm="l2")),
    "NDLoss": ("embeddings", lambda: amd_fused.NDLoss(MEANS)),
    "LSHLoss": ("embeddings", _adapted_lsh),
    "SPLoss": ("maps", lambda: amd_fused.SPLoss()),
    "RKDLoss": ("embeddings", lambda: amd_fused.RKDLoss()),
    "VIDLoss": ("maps", _seeded(lambda: amd_fused.VIDLoss(D, D))),
    "CCLoss": ("embeddings", _seeded(lambda: amd_fused.CCLoss(D, D))),
    "CRDLoss": ("embeddings", _contrasting),
    "AFDLoss": ("maps", _seeded(lambda: amd_fused.AFDLoss(D, D))),
    "AFDSLoss": ("maps", _seeded(lambda: amd_fused.AFDSLoss((D, 4, 4)))),
    "DistillationLoss": ("maps", lambda: amd_fused.DistillationLoss()),
    "DistillationLoss of several": (
        "maps",
        lambda: amd_fused.DistillationLoss(
            logit_loss=amd_fused.SphericalKDLoss(),
            feature_loss={"at": (10.0, amd_fused.ATLoss()), "sp": (3.0, amd_fused.SPLoss())},
        ),
    ),
}  # fmt: skip
