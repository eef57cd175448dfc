"""What a student learns from, by name: single methods, sums of them, and their weights."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError

# Every single method, with a line of help.
KNOWN: dict[str, str] = {
    "scratch": "the labels alone",
    "kd": "the teacher's logits (Hinton et al. 2015); the methods below come on top of it",
    "skd": "logits on a sphere, in place of kd (Guo et al. 2020)",
    "nd": "norm and direction of the embedding (KD++, Wang et al. 2023)",
    "lsh": "the embedding's side of random hyperplanes (Wang, Ge, Wu 2021)",
    "at": "attention maps (Zagoruyko & Komodakis 2017)",
    "sp": "similarities within a batch (Tung & Mori 2019)",
    "rkd": "distances and angles within a batch (Park et al. 2019)",
    "amd-g": "AMD on whole maps",
    "amd-gl": "AMD on whole maps and their quadrants",
    "amd-masked-g": "AMD on whole maps, the negative map masked (5.6.1)",
    "amd-masked-gl": "AMD on whole maps and their quadrants, the negative map masked (5.6.1)",
}
_LABELS = {
    "scratch": "Scratch",
    "amd-g": "AMD (g)",
    "amd-gl": "AMD (g+l)",
    "amd-masked-g": "masked AMD (g)",
    "amd-masked-gl": "masked AMD (g+l)",
}
# How a sum is written, whatever the order it was given in: logits first, AMD next.
_ORDER = sorted(KNOWN, key=lambda key: (key not in ("scratch", "kd", "skd"), key[:3] != "amd"))
_MAPS = ("amd", "at", "sp")
EMBEDDINGS = ("nd", "lsh", "rkd")
_CLASS_MEANS = ("nd", "lsh")


@dataclass(frozen=True)
class Method:
    """A single method or a sum of them; :func:`parse` makes it.

    Args:
        key: the single methods joined by `+`, in one order for each sum.
        label: as a table shows it.
        distilled: whether there is a teacher.
        maps, embedding: whether a loss compares feature maps, or embeddings.
        class_means: whether a loss needs the teacher's mean embedding of each class.
        losses: names of the feature losses, which are those of their parts in the log: `amd` for
            every form of AMD, and the method's key otherwise.
    """

    key: str
    label: str
    distilled: bool
    maps: bool
    embedding: bool
    class_means: bool
    losses: tuple[str, ...]


def parse(text: str) -> Method:
    """The method of a key such as `amd-gl` or a sum such as `amd-gl+sp`, in any order and case.

    Raises:
        UsageError: a name is unknown or stands twice, or the sum makes no sense: `scratch` has no
            teacher to learn from, `kd` is in every sum already, AMD can only be one of its forms.
    """
    parts = [part.strip().lower() for part in text.split("+")]
    for part in parts:
        if part not in KNOWN:
            found = difflib.get_close_matches(part, KNOWN, n=3, cutoff=0.5)
            hint = f"; near matches: {', '.join(found)}" if found else ""
            raise UsageError(
                f"--method must be one of {', '.join(KNOWN)}, or several joined by +, got "
                f"{text!r}{hint}"
            )
    losses = [loss_of(part) for part in parts]
    if len(set(losses)) < len(losses):
        rule = "have each method once, and AMD in one form"
    elif len(parts) > 1 and "scratch" in parts:
        rule = "leave scratch out of a sum, which has a teacher"
    elif len(parts) > 1 and "kd" in parts:
        rule = "leave kd out of a sum: it is in every one, or skd in its place"
    else:
        parts.sort(key=_ORDER.index)
        losses = [loss_of(part) for part in parts if part not in ("scratch", "kd", "skd")]
        return Method(
            key="+".join(parts),
            label=" + ".join(_LABELS.get(part, part.upper()) for part in parts),
            distilled=parts != ["scratch"],
            maps=any(loss in _MAPS for loss in losses),
            embedding=any(loss in EMBEDDINGS for loss in losses),
            class_means=any(loss in _CLASS_MEANS for loss in losses),
            losses=tuple(losses),
        )
    raise UsageError(f"--method must {rule}, got {text!r}")


def check(method: Method, settings: Settings) -> None:
    """What :func:`criteria.criterion` asks of the settings, before there are networks.

    Raises:
        UsageError: every weight is 0, or images are mixed though nd needs their class.
    """
    if "nd" in method.losses and settings.mixup > 0:
        raise UsageError(
            f"--mixup must be 0 with nd, which needs one class an image, got {settings.mixup}"
        )
    weights = (settings.ce_weight, settings.kd_weight)
    if method.distilled and not any((*weights, *(weight_of(n, settings) for n in method.losses))):
        raise UsageError(
            f"--ce-weight, --kd-weight or the weight of a loss of {method.key} must be > 0, got 0"
        )


def weight_of(loss: str, settings: Settings) -> float:
    """The setting that weighs a feature loss."""
    weight: float = settings.gamma if loss == "amd" else getattr(settings, f"{loss}_weight")
    return weight


def loss_of(part: str) -> str:
    """The name of a single method's feature loss."""
    return "amd" if part.startswith("amd") else part
