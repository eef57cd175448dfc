"""What a student learns from: a single method or a sum of them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from amd_fused import DistillationLoss
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import kd, scratch
from amd_fused.distill.methods.inputs import Embeddings, Features, Inputs, Shapes
from amd_fused.distill.methods.known import TERMS
from amd_fused.distill.methods.term import Term
from amd_fused.distill.seeding import seeded

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings

# What every method with a teacher depends on.
_SHARED = ("ce_weight", "kd_weight", "temperature", "backend")
# Adapters and hyperplanes are drawn from another stream than the networks' weights.
_STREAM = 1 << 40


@dataclass(frozen=True)
class Method:
    """The terms of the objective beside the labels; :func:`parse` makes it.

    Args:
        terms: in one order for each sum.
    """

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return self.key

    @property
    def key(self) -> str:
        """The names of the terms, joined by `+`."""
        return "+".join(term.key for term in self.terms)

    @property
    def label(self) -> str:
        """As a table shows it."""
        return " + ".join(term.label for term in self.terms)

    @property
    def order(self) -> tuple[int, ...]:
        """Sorts methods as the paper's tables do: single ones as they are listed, then sums."""
        return (len(self.terms), *(TERMS.index(term) for term in self.terms))

    @property
    def distilled(self) -> bool:
        """Whether there is a teacher."""
        return all(term.distilled for term in self.terms)

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the feature losses, which are those of their parts in the log."""
        return tuple(term.part for term in self.terms if term.of_features)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all parts of the objective."""
        return ("ce", "kd", *self.losses) if self.distilled else ("ce",)

    @property
    def maps(self) -> bool:
        """Whether a loss compares feature maps."""
        return self.all_maps or self.attention or self.last_map

    @property
    def all_maps(self) -> bool:
        """Whether a loss compares all maps with all their channels."""
        return any(term.inputs is Inputs.MAPS for term in self.terms)

    @property
    def attention(self) -> bool:
        """Whether a loss compares maps by their attention alone."""
        return any(term.inputs is Inputs.ATTENTION for term in self.terms)

    @property
    def last_map(self) -> bool:
        """Whether a loss compares the last map with all its channels."""
        return any(term.inputs is Inputs.LAST_MAP for term in self.terms)

    @property
    def taught_by(self) -> tuple[str, ...]:
        """What its losses take of a teacher: logits, attention, maps, last-map, embedding."""
        if not self.distilled:
            return ()
        optional = {
            "attention": self.attention,
            "maps": self.all_maps,
            "last-map": self.last_map and not self.all_maps,
            "embedding": self.embedding,
        }
        return ("logits", *(name for name, taken in optional.items() if taken))

    @property
    def paired(self) -> bool:
        """Whether a loss compares maps position by position."""
        return any(term.paired for term in self.terms)

    @property
    def embedding(self) -> bool:
        """Whether a loss compares embeddings."""
        return any(term.inputs is Inputs.EMBEDDING for term in self.terms)

    @property
    def class_means(self) -> bool:
        """Whether a loss needs the teacher's mean embedding of each class."""
        return any(term.class_means for term in self.terms)

    @property
    def layered(self) -> bool:
        """Whether a loss has layers that are made for the features' shapes."""
        return any(term.layered_loss is not None for term in self.terms)

    def depends_on(self, setting: str, group: str) -> bool:
        """Whether a student's training depends on a setting of a group."""
        if group == "objective":
            own = [name for term in self.terms for name in (term.weight, *term.settings)]
            return setting in own or (self.distilled and setting in _SHARED)
        if setting.endswith("_layers"):
            return self.maps
        if setting.endswith("_embedding"):
            return self.embedding
        return True

    def check(self, settings: Settings) -> None:
        """What :meth:`criterion` asks of the settings, before there are networks.

        Raises:
            UsageError: every weight is 0, or images are mixed though a loss needs their class.
        """
        for term in self.terms:
            if term.one_class and settings.mixup > 0:
                raise UsageError(
                    f"--mixup must be 0 with {term.key}, which needs one class an image, got "
                    f"{settings.mixup}"
                )
        weights = [settings.ce_weight, settings.kd_weight]
        weights += [getattr(settings, term.weight) for term in self.terms if term.weight]
        if self.distilled and not any(weights):
            raise UsageError(
                f"--ce-weight, --kd-weight or the weight of a loss of {self.key} must be > 0, got 0"
            )

    def criterion(
        self,
        settings: Settings,
        embeddings: Embeddings | None = None,
        shapes: Shapes | None = None,
    ) -> DistillationLoss:
        """The objective: Eq. 8 with the settings' weights.

        As, for `amd-gl+sp`::

            ce_weight * CE + kd_weight * KD + gamma * AMD + sp_weight * SP

        `scratch` is the cross-entropy alone, with weight 1.

        Args:
            embeddings: for methods with `class_means`. Where the widths differ, nd and lsh have a
                linear adapter from the student's to the teacher's.
            shapes: for methods that are `layered`.

        The result has state to be saved with the student's, and parameters to be trained with it
        (`criterion.parameters()`, none for most methods). Both are drawn from the seed alone. Its
        `backend` is the settings' for every loss that has it.

        Raises:
            UsageError: as :meth:`check`, or a loss has no layers for these shapes.
            ValueError: there are no embeddings or shapes, but a loss needs to know them.
        """
        if not self.distilled:
            return DistillationLoss(ce_weight=1.0, kd_weight=0.0, feature_weight=0.0)
        self.check(settings)
        if self.class_means and embeddings is None:
            raise ValueError(f"criterion: embeddings must be given for {self.key}, got None")
        if self.layered and shapes is None:
            raise ValueError(f"criterion: shapes must be given for {self.key}, got None")
        losses: dict[str, tuple[float, nn.Module]] = {}
        with seeded(settings.seed + _STREAM):
            for term in self.terms:
                if not term.of_features:
                    continue
                if term.layered_loss is not None:
                    assert shapes is not None
                    try:
                        loss = term.layered_loss(settings, shapes)
                    except ValueError as error:
                        raise UsageError(f"--method {self.key}: {error}") from None
                else:
                    assert term.feature_loss is not None
                    loss = term.feature_loss(settings, embeddings)
                losses[term.part] = getattr(settings, term.weight), loss
            of_logits = [term.logit_loss for term in (*self.terms, kd.TERM) if term.logit_loss]
            logit_loss = of_logits[0](settings)
        if not losses:
            return DistillationLoss(
                settings.ce_weight, settings.kd_weight, feature_weight=0.0, logit_loss=logit_loss
            )
        return DistillationLoss(
            settings.ce_weight, settings.kd_weight, feature_loss=losses, logit_loss=logit_loss
        )

    def feature_inputs(
        self, student: Features, teacher: Features
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What each feature loss compares, by its name, of the student and of the teacher.

        Raises:
            ValueError: there are no maps or no embedding, but a loss takes them.
        """
        taken = {term.part: term.inputs for term in self.terms if term.of_features}
        return (
            {loss: inputs.of(student, "student", loss) for loss, inputs in taken.items()},
            {loss: inputs.of(teacher, "teacher", loss) for loss, inputs in taken.items()},
        )


SCRATCH = Method((scratch.TERM,))


def parse(text: str) -> Method:
    """The method of a key such as `amd-gl` or a sum such as `amd-gl+sp`, in any order and case.

    Raises:
        UsageError: a name is unknown or stands twice, or the sum makes no sense: `scratch` has no
            teacher to learn from, `kd` is in every sum already, AMD can only be one of its forms.
    """
    by_key = {term.key: term for term in TERMS}
    keys = [key.strip().lower() for key in text.split("+")]
    for key in keys:
        if key not in by_key:
            near = difflib.get_close_matches(key, by_key, n=3, cutoff=0.5)
            hint = f"; near matches: {', '.join(near)}" if near else ""
            raise UsageError(
                f"--method must be one of {', '.join(by_key)}, or several joined by +, got "
                f"{text!r}{hint}"
            )
    terms = [by_key[key] for key in keys]
    rules = [term.alone for term in terms if len(terms) > 1 and term.alone]
    if not rules and len({term.part for term in terms}) < len(terms):
        rules = ["have each method once, and in one form"]
    if rules:
        raise UsageError(f"--method must {rules[0]}, got {text!r}")
    return Method(tuple(sorted(terms, key=lambda term: (term.rank, TERMS.index(term)))))
