"""Every loss of a cache's outputs is that of the live teacher's, and how far float16 moves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import amd_fused
from amd_fused import FeatureHooks, TeacherCache, TeacherOutputs
from amd_fused.distill import models

IMAGES, CLASSES, SIZE = 24, 10, 16


def network(name: str, seed: int) -> tuple[torch.nn.Module, models.Layers]:
    model = models.build(name, num_classes=CLASSES, channels=3, image_size=SIZE, seed=seed)
    return model, models.layers(name, model)


class Nets:
    """A batch of a WRN10-1 student and of its WRN10-3 teacher, whose weights are as they began."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator)
        self.labels = torch.arange(IMAGES) % CLASSES
        self.model_t, self.layers = network("wrn10-3", 1)
        self.model_t.eval()
        model_s, layers_s = network("wrn10-1", 0)
        with torch.no_grad():
            self.student = self.outputs(model_s, layers_s)
            self.live = self.outputs(self.model_t, self.layers)
        self.means = torch.randn(CLASSES, 192, generator=generator)
        self.adapter = torch.randn(192, 64, generator=generator) / 8

    def outputs(self, model: torch.nn.Module, layers: models.Layers) -> TeacherOutputs:
        """Whole features in place of attention maps."""
        with FeatureHooks(model, [*layers.maps, layers.embedding]) as hooks:
            logits = model(self.images)
            *maps, embedding = hooks.features
        return TeacherOutputs(logits, maps, maps[-1:], embedding.flatten(1))

    def kept(self, dtype: torch.dtype) -> TeacherOutputs:
        cache = TeacherCache(
            None,
            teacher=self.model_t,
            dataset=self.images,
            maps=self.layers.maps,
            features=self.layers.maps[-1:],
            embedding=self.layers.embedding,
            dtype=dtype,
        )
        cache(self.images, range(IMAGES))
        found = cache.get(range(IMAGES))
        assert found is not None
        return found


@pytest.fixture(scope="module")
def nets() -> Nets:
    return Nets()


def hashed(kind: str) -> Callable[[Nets, TeacherOutputs, TeacherOutputs], Tensor]:
    def loss(nets: Nets, student: TeacherOutputs, teacher: TeacherOutputs) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        criterion = amd_fused.LSHLoss(192, 64, bias="zero", generator=generator, kind=kind)
        return criterion(student.embedding @ nets.adapter.T, teacher.embedding)

    return loss


LOSSES: dict[str, Callable[[Nets, TeacherOutputs, TeacherOutputs], Tensor]] = {
    "amd": lambda n, s, t: amd_fused.amd_loss(s.maps, t.maps),
    "amd global": lambda n, s, t: amd_fused.amd_loss(s.maps, t.maps, local_weight=0.0),
    "amd masked": lambda n, s, t: amd_fused.amd_loss(s.maps, t.maps, mask_threshold=0.5),
    "at": lambda n, s, t: amd_fused.at_loss(s.maps, t.maps),
    "sp": lambda n, s, t: amd_fused.sp_loss(s.features[0], t.features[0]),
    "kd": lambda n, s, t: amd_fused.kd_loss(s.logits, t.logits),
    "skd": lambda n, s, t: amd_fused.spherical_kd_loss(s.logits, t.logits),
    "rkd": lambda n, s, t: amd_fused.rkd_loss(s.embedding, t.embedding),
    "nd": lambda n, s, t: amd_fused.nd_loss(
        s.embedding @ n.adapter.T, t.embedding, n.labels, n.means
    ),
    "lsh": hashed("bce"),
}
# At most, relative: how far the loss moves, and the norm of what its gradients move. In float16 a
# number's error is half an ulp of 11 bits, 4.9e-4 of it at most; here the AMD loss moves by 2e-4,
# its gradient by 1.1e-3, those of AT and RKD alike, and all others less. In float32 only losses of
# attention maps move, by the rounding of a square root that is squared again.
MOVED = {torch.float32: (1e-6, 1e-6), torch.float16: (5e-4, 3e-3)}


def value_and_gradient(nets: Nets, name: str, teacher: TeacherOutputs) -> tuple[Tensor, Tensor]:
    own = nets.student
    leaves: list[Any] = [
        own.logits.clone().requires_grad_(),
        [a.clone().requires_grad_() for a in own.maps],
        own.embedding.clone().requires_grad_(),
    ]
    student = TeacherOutputs(leaves[0], leaves[1], leaves[1][-1:], leaves[2])
    loss = LOSSES[name](nets, student, teacher)
    loss.backward()
    given = [leaves[0], *leaves[1], leaves[2]]
    gradients = [a.grad.flatten() for a in given if a.grad is not None]
    return loss.detach().double(), torch.cat(gradients).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_the_live_teacher(nets: Nets, name: str, dtype: torch.dtype) -> None:
    live, gradient = value_and_gradient(nets, name, nets.live)
    kept, gradient_kept = value_and_gradient(nets, name, nets.kept(dtype))
    moved = ((kept - live).abs() / live.abs()).item()
    turned = ((gradient_kept - gradient).norm() / gradient.norm()).item()
    assert gradient.norm() > 0
    assert moved <= MOVED[dtype][0]
    assert turned <= MOVED[dtype][1]
    if dtype == torch.float32 and name not in ("amd", "amd global", "amd masked", "at"):
        assert moved == turned == 0
