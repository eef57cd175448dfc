"""What feature losses compare, and what they must know of the embeddings beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from torch import Tensor

MapShape: TypeAlias = tuple[int, int, int]  # (C, H, W)


@dataclass(frozen=True)
class Features:
    """What the losses compare of one network in one step.

    Args:
        maps: feature maps `[B, C, H, W]`, from the first layer to the last; of a teacher those
            alone of which a loss takes more than the attention map.
        embedding: `[B, D]` or `[B, D, 1, 1]`; None where no loss takes it.
        attention: a teacher's attention maps `[B, 1, H, W]`, from the first layer to the last,
            which stand for its feature maps; empty where no loss takes them.
    """

    maps: list[Tensor]
    embedding: Tensor | None
    attention: list[Tensor] = field(default_factory=list)


class Inputs(Enum):
    """Which features a loss takes: none, all maps, all for their attention, the last map, or the
    embedding `[B, D]`."""

    NONE = "none"
    MAPS = "maps"
    ATTENTION = "attention"
    LAST_MAP = "last map"
    EMBEDDING = "embedding"

    def of(self, features: Features, owner: str, loss: str) -> Any:
        """Raises:
        ValueError: `features`, called `owner`, lack what `loss` takes.
        """
        if self is Inputs.EMBEDDING:
            if features.embedding is None:
                raise ValueError(f"feature_inputs: {owner}.embedding must be given for {loss}")
            return features.embedding.flatten(1)
        maps = features.maps
        if self is Inputs.ATTENTION and features.attention:
            maps = features.attention
        if not maps:
            raise ValueError(f"feature_inputs: {owner}.maps must be given for {loss}")
        return maps[-1] if self is Inputs.LAST_MAP else maps


@dataclass(frozen=True)
class Embeddings:
    """Widths of both networks' embeddings, and the teacher's mean of each class.

    Args:
        class_means: `[K, teacher_width]`.

    Raises:
        ValueError: the class means have another width.
    """

    student_width: int
    teacher_width: int
    class_means: Tensor

    def __post_init__(self) -> None:
        if self.class_means.ndim != 2 or self.class_means.shape[1] != self.teacher_width:
            raise ValueError(
                f"Embeddings: class_means must be [K, teacher_width = {self.teacher_width}], got "
                f"shape {tuple(self.class_means.shape)}"
            )


@dataclass(frozen=True)
class Shapes:
    """Of what both networks give for one image, for losses whose layers are made for it, and the
    classes of the training images, for those that keep something of each.

    Args:
        student_maps, teacher_maps: `(C, H, W)` of each feature map; empty where no loss takes them.
        student_width, teacher_width: of the embeddings; 0 where no loss takes them.
        labels: `[N]`, of the training images in the order of their indices.
    """

    student_maps: tuple[MapShape, ...] = ()
    teacher_maps: tuple[MapShape, ...] = ()
    student_width: int = 0
    teacher_width: int = 0
    labels: Tensor | None = None

    @property
    def student_channels(self) -> list[int]:
        return [c for c, _, _ in self.student_maps]

    @property
    def teacher_channels(self) -> list[int]:
        return [c for c, _, _ in self.teacher_maps]
