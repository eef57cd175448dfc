"""One batch's outputs of a teacher, under the names by which they are kept, and the pass that gives
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from amd_fused.hooks import FeatureHooks
from amd_fused.losses._common import outputs, teacher_pass
from amd_fused.losses.attention_map import attention_map

OWNER = "TeacherCache"


@dataclass(frozen=True)
class TeacherOutputs:
    """Of one batch, in the batch's order; what was not asked for is None or empty.

    Args:
        logits: [B, K].
        maps: attention maps [B, 1, H, W], in the order of the layers.
        features: [B, C, H, W] or whatever the layers give, in the order of the layers.
        embedding: [B, D].
    """

    logits: Tensor | None = None
    maps: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    embedding: Tensor | None = None


@dataclass(frozen=True)
class Wanted:
    """Which outputs are kept: logits or not, and the layers of all others."""

    logits: bool
    maps: tuple[str, ...]
    features: tuple[str, ...]
    embedding: str

    @property
    def names(self) -> list[str]:
        """Of the tensors that are kept; a file's name without its ending."""
        return [
            *(["logits"] if self.logits else []),
            *(f"map-{number}" for number in range(len(self.maps))),
            *(f"features-{number}" for number in range(len(self.features))),
            *(["embedding"] if self.embedding else []),
        ]

    @property
    def layers(self) -> tuple[str, ...]:
        """Module paths, each once: a layer may be wanted both as a map and as features."""
        embedding = [self.embedding] if self.embedding else []
        return tuple(dict.fromkeys([*self.maps, *self.features, *embedding]))

    def by_name(self, given: TeacherOutputs) -> dict[str, Tensor]:
        """Raises:
        ValueError: an output is missing, or one too many.
        TypeError: one is no tensor.
        """
        found = {
            **({"logits": given.logits} if given.logits is not None else {}),
            **{f"map-{number}": a for number, a in enumerate(given.maps)},
            **{f"features-{number}": a for number, a in enumerate(given.features)},
            **({"embedding": given.embedding} if given.embedding is not None else {}),
        }
        if list(found) != self.names:
            raise ValueError(f"{OWNER}: outputs must be {self.names}, got {list(found)}")
        for name, a in found.items():
            if not isinstance(a, Tensor):
                raise TypeError(f"{OWNER}: {name} must be a tensor, got {type(a).__name__}")
        return found

    def of_names(self, found: Mapping[str, Tensor]) -> TeacherOutputs:
        return TeacherOutputs(
            found.get("logits"),
            [found[f"map-{number}"] for number in range(len(self.maps))],
            [found[f"features-{number}"] for number in range(len(self.features))],
            found.get("embedding"),
        )


class TeacherPass:
    """Runs a teacher, in evaluation mode and without gradients, for the wanted outputs."""

    def __init__(self, teacher: nn.Module, wanted: Wanted, layout: str) -> None:
        self._teacher, self._wanted = teacher, wanted
        self._hooks: dict[str, FeatureHooks] = {}
        if wanted.maps:
            self._hooks["maps"] = FeatureHooks(
                teacher, wanted.maps, capture=attention_map, layout=layout
            )
        if wanted.features:
            self._hooks["features"] = FeatureHooks(teacher, wanted.features, layout=layout)
        if wanted.embedding:
            self._hooks["embedding"] = FeatureHooks(teacher, [wanted.embedding])

    def __call__(self, inputs: Tensor | Mapping[str, Any]) -> TeacherOutputs:
        wanted = self._wanted
        with teacher_pass.evaluating(self._teacher):
            if isinstance(inputs, Mapping):
                given = self._teacher(**inputs)
            else:
                given = self._teacher(inputs)
        found = {name: hooks.features for name, hooks in self._hooks.items()}
        for hooks in self._hooks.values():
            hooks.clear()
        return TeacherOutputs(
            _logits(given) if wanted.logits else None,
            found.get("maps", []),
            found.get("features", []),
            found["embedding"][0].flatten(1) if wanted.embedding else None,
        )

    def remove(self) -> None:
        """Takes the hooks off the teacher."""
        for hooks in self._hooks.values():
            hooks.remove()


def _logits(given: Any) -> Tensor:
    found = given
    if isinstance(given, Mapping):
        found = given.get("logits")
    elif not isinstance(given, Tensor):
        found = getattr(given, "logits", None)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"{OWNER}: the teacher must return logits, or an output with `logits`, got "
            f"{outputs.describe(given)}; wrap it in a module that does, or say logits=False"
        )
    return found
