"""One training step with every loss's inputs, and each loss worked out from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import trained_oracle
from torch import nn

import amd_fused
from amd_fused import FeatureHooks
from amd_fused.distill.config import Settings
from amd_fused.distill.methods import Embeddings, Features, Shapes, parse
from amd_fused.distill.models import build, layers

SETTINGS = Settings(backend="reference", lsh_hashes=16, crd_negatives=24)
IMAGES = 6
CLASSES = 3


def network(name: str, seed: int) -> nn.Module:
    return build(name, num_classes=CLASSES, channels=1, image_size=8, seed=seed)


class Step:
    """One step of a WRN10-1 student under a WRN10-`width` teacher with every loss's inputs."""

    def __init__(self, width: int = 2) -> None:
        self.student, self.teacher = network("WRN10-1", 0), network(f"WRN10-{width}", 1)
        self.images = torch.randn(IMAGES, 1, 8, 8)
        self.target = torch.tensor([0, 1, 2, 0, 1, 2])
        self.class_means = torch.randn(CLASSES, 64 * width)
        self.logits_s, self.of_student = self.features(self.student, "WRN10-1")
        with torch.no_grad():
            self.logits_t, self.of_teacher = self.features(self.teacher.eval(), f"WRN10-{width}")
        self.embeddings = Embeddings(64, 64 * width, self.class_means)
        maps = [
            tuple(tuple(a.shape[1:]) for a in side.maps)
            for side in (self.of_student, self.of_teacher)
        ]
        self.indices = torch.tensor([5, 0, 19, 7, 3, 11])
        labels = torch.arange(20) % CLASSES
        self.shapes = Shapes(*maps, 64, 64 * width, labels)

    @classmethod
    def of(cls, key: str) -> Step:
        """With a teacher as wide as the student where the method needs that."""
        return cls(width=1 if "afds" in key else 2)

    def features(self, model: nn.Module, name: str) -> tuple[torch.Tensor, Features]:
        own = layers(name, model)
        with FeatureHooks(model, [*own.maps, own.embedding]) as hooks:
            logits = model(self.images)
            *maps, embedding = hooks.features
        return logits, Features(maps, embedding)

    def objective(self, key: str, settings: Settings = SETTINGS) -> amd_fused.DistillationLoss:
        return parse(key).criterion(settings, self.embeddings, self.shapes)

    def loss(self, key: str, objective: amd_fused.DistillationLoss) -> torch.Tensor:
        inputs = parse(key).feature_inputs(self.of_student, self.of_teacher)
        return objective(self.logits_s, self.logits_t, self.target, *inputs, indices=self.indices)

    def part(self, name: str, key: str, objective: amd_fused.DistillationLoss) -> torch.Tensor:
        """A feature loss by the library's functions, its options written out."""
        maps_s, maps_t = self.of_student.maps, self.of_teacher.maps
        e_s, e_t = self.of_student.embedding, self.of_teacher.embedding
        if name == "amd":
            return amd_fused.amd_loss(
                maps_s,
                maps_t,
                margin=1.35,
                scale=64,
                local_weight=0.2 if "-gl" in key else 0,
                mask_threshold=0.5 if "masked" in key else None,
                backend="reference",
            )
        if name == "at":
            return amd_fused.at_loss(maps_s, maps_t, backend="reference")
        if name == "sp":
            return amd_fused.sp_loss(maps_s[2], maps_t[2])
        if name == "rkd":
            return amd_fused.rkd_loss(e_s, e_t)
        loss = objective.feature_loss[name]
        if name in ("cc", "crd", "vid", "afd", "afds"):
            return self.layered_part(name, loss)
        if loss.adapter is not None:
            e_s = F.linear(e_s, loss.adapter.weight, loss.adapter.bias)
        if name == "nd":
            # derived: 1 minus the part of the longer norm that points to the class mean.
            direction = F.normalize(self.class_means[self.target], dim=1)
            longer = torch.maximum(e_s.norm(dim=1), e_t.norm(dim=1))
            return (1 - (e_s * direction).sum(1) / longer).mean()
        bias = -(self.class_means @ loss.weight.T).mean(0)
        side = (F.linear(e_t, loss.weight, bias) > 0).float()
        hashes = F.linear(e_s, loss.weight, bias)
        return F.binary_cross_entropy_with_logits(hashes, side) + F.mse_loss(e_s, e_t)

    def layered_part(self, name: str, loss: nn.Module) -> torch.Tensor:
        """Of a loss with layers for the features' shapes, by these layers."""
        maps_s, maps_t = self.of_student.maps, self.of_teacher.maps
        if name == "cc":
            e_s = loss.embed_student(self.of_student.embedding)
            return amd_fused.cc_loss(e_s, loss.embed_teacher(self.of_teacher.embedding))
        if name == "crd":
            # Banks and the step have moved on, and are drawn from the seed alone.
            fresh = amd_fused.CRDLoss(64, loss.embed_teacher.in_features, 20, 24,
                                      labels=self.shapes.labels)  # fmt: skip
            fresh.embed_student, fresh.embed_teacher = loss.embed_student, loss.embed_teacher
            return fresh(self.of_student.embedding, self.of_teacher.embedding, self.indices)
        if name == "vid":
            means = [layer(a) for layer, a in zip(loss.regressors, maps_s, strict=True)]
            return amd_fused.vid_loss(means, maps_t, list(loss.rhos))
        if name == "afd":
            shares = trained_oracle.attention(maps_s, maps_t, loss.state_dict(), 128)
            return amd_fused.afd_loss(maps_s, maps_t, torch.from_numpy(shares))
        shares = [
            torch.from_numpy(trained_oracle.softmax_importance(a, layer.state_dict()))
            for layer, a in zip(loss.predictors, maps_t, strict=True)
        ]
        return amd_fused.afds_loss(maps_s, maps_t, shares)
