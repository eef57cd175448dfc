"""A single method: what one name that --method takes adds to the objective, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused.distill.methods.inputs import Embeddings, Inputs, Shapes

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings

# Okabe and Ito's palette without its yellow, which does not show on white.
ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    *("#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"),
)
BLACK, GREY = "#000000", "#7F7F7F"


@dataclass(frozen=True)
class Look:
    """A curve in a picture, in matplotlib's terms."""

    colour: str
    line: str
    marker: str


@dataclass(frozen=True)
class Term:
    """One term of Eq. 8 beside the labels.

    Args:
        key: its name.
        label: as a table shows it.
        help: what it is, in a line.
        look: in pictures; None: whatever is left.
        part: its name among the losses in the log. Terms with the same part exclude each other.
        rank: where it stands in the name of a sum: 0 before 1 before 2.
        distilled: whether it needs a teacher.
        logit_loss: makes a loss of the logits, in place of KD's.
        feature_loss: makes a loss of features from the settings and, with `class_means`, from what
            is known of the embeddings.
        layered_loss: instead of it, makes one that has layers for the features' shapes.
        inputs: the features it compares.
        paired: whether it compares maps position by position.
        class_means: whether it needs the teacher's mean embedding of each class.
        one_class: whether each image must have one class, which Mixup's have not.
        weight: the setting that weighs a feature loss.
        settings: other settings that it depends on.
        alone: the rule that a sum with it breaks; empty where sums may have it.
    """

    key: str
    label: str
    help: str
    look: Look | None
    part: str = ""
    rank: int = 2
    distilled: bool = True
    logit_loss: Callable[[Settings], nn.Module] | None = None
    feature_loss: Callable[[Settings, Embeddings | None], nn.Module] | None = None
    layered_loss: Callable[[Settings, Shapes], nn.Module] | None = None
    inputs: Inputs = Inputs.NONE
    paired: bool = False
    class_means: bool = False
    one_class: bool = False
    weight: str = ""
    settings: tuple[str, ...] = ()
    alone: str = ""

    @property
    def of_features(self) -> bool:
        """Whether it is a loss of features."""
        return self.feature_loss is not None or self.layered_loss is not None


def backend_without_cuda(settings: Settings) -> str:
    """For a loss without a CUDA C++ kernel: "auto" where the settings say "cuda"."""
    return "auto" if settings.backend == "cuda" else settings.backend
