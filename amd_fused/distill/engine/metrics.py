"""What a network does on the test images, each of them counted once over all processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from amd_fused.distill.vision import prepare_torchvision

prepare_torchvision()

from torchmetrics import Metric  # noqa: E402
from torchmetrics.classification import (  # noqa: E402
    MulticlassAccuracy,
    MulticlassCalibrationError,
)

BINS = 15
# The largest float32 below 1. A confidence of 1 belongs to the last bin, where torchmetrics would
# open one more for it.
_BELOW_ONE = 1 - 2**-24


@dataclass(frozen=True)
class Measures:
    """Of one network on all test images.

    test: "top1", "top5" and "ece" in percent, "nll" in nats.
    reliability: the 16 "edges" of the bins of confidence, and by bin the "count" of images, the
        mean "confidence" and the "accuracy", 0 where a bin is empty.
    """

    test: dict[str, float]
    reliability: dict[str, list[float]]


@torch.no_grad()
def measure(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    accelerator: Accelerator,
) -> Measures:
    """The measures over the batches of all processes together; sets evaluation mode.

    Args:
        batches: (images, labels) of this process's share, at least one, on any device.

    "top5" is of the first 5 classes, or of all where there are fewer. "ece" is the expected
    calibration error with 15 bins of confidence (the paper's section 5.6.2), "nll" the mean
    negative log likelihood.
    """
    network.eval()
    device = accelerator.device
    counting: dict[str, Any] = {"average": "micro", "validate_args": False}
    top1 = MulticlassAccuracy(num_classes, **counting).to(device)
    top5 = MulticlassAccuracy(num_classes, top_k=min(5, num_classes), **counting).to(device)
    ece = MulticlassCalibrationError(num_classes, BINS, "l1", validate_args=False).to(device)
    nll, reliability = NegativeLogLikelihood().to(device), Reliability().to(device)
    for images, labels in batches:
        with accelerator.autocast():
            logits = network(images.to(device, non_blocking=True))
        # Of a network in half precision too, probabilities are worth having in full.
        logits, labels = logits.float(), labels.to(device, non_blocking=True)
        # Not logits for the calibration: torchmetrics would take some that lie in [0, 1] for
        # probabilities.
        probabilities = logits.softmax(dim=1).clamp(max=_BELOW_ONE)
        for logit_metric in (top1, top5, nll):
            logit_metric.update(logits, labels)
        for calibration in (ece, reliability):
            calibration.update(probabilities, labels)
    return Measures(
        test={
            "top1": _percent(top1.compute()),
            "top5": _percent(top5.compute()),
            "nll": float(nll.compute()),
            "ece": _percent(ece.compute()),
        },
        reliability=reliability.compute(),
    )


class NegativeLogLikelihood(Metric):
    """The mean over all samples, summed in float64 where the device has it."""

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        wide = _widest(logits)
        sum_ = F.cross_entropy(logits.to(wide), labels, reduction="sum")
        self.total = self.total.to(wide) + sum_
        self.count += len(labels)

    def compute(self) -> Tensor:
        return self.total / self.count


class Reliability(Metric):
    """How often the most probable class is right, by bins of its probability, as the ECE's."""

    count: Tensor
    confidence: Tensor
    correct: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("count", "confidence", "correct"):
            self.add_state(name, torch.zeros(BINS), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Probabilities [B, K], all below 1, and labels [B]."""
        wide = _widest(probabilities)
        confidence, predicted = probabilities.max(dim=1)
        edges = _edges(confidence.dtype).to(confidence.device)
        # Bin k holds edges[k] <= confidence < edges[k + 1]; NaN counts as large, and shows in the
        # negative log likelihood.
        bins = (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=BINS - 1)
        columns = F.one_hot(bins, BINS).to(wide)
        self.count = self.count.to(wide) + columns.sum(0)
        self.confidence = self.confidence.to(wide) + confidence.to(wide) @ columns
        self.correct = self.correct.to(wide) + (predicted == labels).to(wide) @ columns

    def compute(self) -> dict[str, list[float]]:
        filled = self.count.clamp(min=1)
        return {
            "edges": _edges(torch.float64).tolist(),
            "count": self.count.tolist(),
            "confidence": (self.confidence / filled).tolist(),
            "accuracy": (self.correct / filled).tolist(),
        }


def _percent(share: Tensor) -> float:
    # torchmetrics divides in float32: what comes after the fourth digit is noise.
    return round(100 * float(share), 4)


def _edges(dtype: torch.dtype) -> Tensor:
    return torch.linspace(0, 1, BINS + 1, dtype=dtype)


def _widest(a: Tensor) -> torch.dtype:
    return torch.float32 if a.device.type == "mps" else torch.float64
