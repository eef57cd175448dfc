"""A teacher, labels and constants made under torch.inference_mode() serve every loss."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import amd_fused

B, K, D, H = 4, 10, 6, 8


def made(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if kind == "labels":
        return torch.randint(K, (B,), generator=generator)
    if kind == "samples":
        return torch.randint(H, (B, 3), generator=generator)
    shape = {
        "logits": (B, K), "embeddings": (B, D), "maps": (B, D, 4, 4), "means": (K, D),
        "planes": (H, D), "bias": (H,), "importance": (B, D), "variances": (D,),
        "attention": (B, 1, 1), "normalizers": (2,),
    }[kind]  # fmt: skip
    return torch.randn(shape, generator=generator)


# Student's input, what is made in inference mode, and the loss of both on a backend.
LOSSES: dict[str, tuple[str, tuple[str, ...], Callable[..., Tensor], tuple[str, ...]]] = {
    "amd": ("maps", ("maps",), amd_fused.amd_loss, ("reference", "cpp", "triton", "cuda")),
    "at": ("maps", ("maps",), amd_fused.at_loss, ("reference", "cpp", "triton", "cuda")),
    "kd": ("logits", ("logits",), amd_fused.kd_loss, ("reference", "cpp", "triton")),
    "skd": ("logits", ("logits",), amd_fused.spherical_kd_loss, ("reference", "cpp", "triton")),
    "nd": (
        "embeddings", ("embeddings", "labels", "means"), amd_fused.nd_loss,
        ("reference", "cpp", "triton"),
    ),
    "lsh": (
        "embeddings", ("embeddings", "planes", "bias"), amd_fused.lsh_loss,
        ("reference", "cpp", "triton"),
    ),
    "afd": (
        "maps", ("maps", "attention"), amd_fused.afd_loss, ("reference", "cpp", "triton", "cuda"),
    ),
    "afds": (
        "maps", ("maps", "importance"), amd_fused.afds_loss,
        ("reference", "cpp", "triton", "cuda"),
    ),
    "vid": (
        "maps", ("maps", "variances"), amd_fused.vid_loss, ("reference", "cpp", "triton", "cuda"),
    ),
    "crd": (
        "embeddings", ("embeddings", "planes", "planes", "samples", "normalizers"),
        functools.partial(amd_fused.crd_loss, temperature=10.0),
        ("reference", "cpp", "triton", "cuda"),
    ),
}  # fmt: skip
CASES = [(name, backend) for name, (*_, backends) in LOSSES.items() for backend in backends]


def loss_and_gradient(
    loss: Callable[..., Tensor], student: Tensor, others: list[Tensor]
) -> list[Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student, *others)
    value.backward()
    assert student.grad is not None
    return [value.detach(), student.grad]


@pytest.mark.parametrize(("name", "backend"), CASES, indirect=["backend"])
def test_loss_and_gradient_are_those_of_ordinary_tensors(name: str, backend: str) -> None:
    kind, kinds, function, _ = LOSSES[name]
    student = made(kind).flip(0)
    with torch.inference_mode():
        others = [made(k) for k in kinds]
    assert all(a.is_inference() for a in others)
    found = loss_and_gradient(lambda *a: function(*a, backend=backend), student, others)
    expected = loss_and_gradient(
        lambda *a: function(*a, backend=backend), student, [made(k) for k in kinds]
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


PLAIN: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "sp": ("embeddings", amd_fused.sp_loss),
    "rkd": ("embeddings", amd_fused.rkd_loss),
    "cc": ("embeddings", amd_fused.cc_loss),
    "crd": (
        "embeddings",
        lambda s, t: amd_fused.crd_loss(
            s, t, made("planes"), made("planes"), made("labels").view(2, 2).repeat(2, 1) % H,
            torch.zeros(2), temperature=1.0,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_losses_without_backends(name: str) -> None:
    kind, function = PLAIN[name]
    student = made(kind).flip(0)
    with torch.inference_mode():
        teacher = made(kind)
    found = loss_and_gradient(function, student, [teacher])
    expected = loss_and_gradient(function, student, [made(kind)])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["l2", "l1"])
@pytest.mark.parametrize("backend", ["reference", "cpp"], indirect=True)
def test_other_kinds_of_lsh(kind: str, backend: str) -> None:
    def loss(*tensors: Tensor) -> Tensor:
        return amd_fused.lsh_loss(*tensors, kind=kind, backend=backend)

    student = made("embeddings").flip(0)
    with torch.inference_mode():
        others = [made(k) for k in ("embeddings", "planes", "bias")]
    found = loss_and_gradient(loss, student, others)
    expected = loss_and_gradient(loss, student, [made(k) for k in ("embeddings", "planes", "bias")])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("soft", [False, True])
def test_the_whole_objective(soft: bool) -> None:
    with torch.inference_mode():
        z_t, target, features = made("logits"), made("labels"), made("maps")
        if soft:
            target = made("logits").softmax(1)

    def loss(z_s: Tensor, a_s: Tensor) -> Tensor:
        return amd_fused.DistillationLoss()(z_s, z_t, target, [a_s], [features])

    z_s, a_s = (made(k).flip(0).requires_grad_() for k in ("logits", "maps"))
    loss(z_s, a_s).backward()
    assert z_s.grad is not None
    assert a_s.grad is not None
    with torch.inference_mode():
        assert torch.equal(loss(z_s, a_s), loss(z_s, a_s))
