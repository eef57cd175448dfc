"""LSH: the embedding's side of random hyperplanes (Wang, Ge, Wu 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import LSHLoss
from amd_fused.distill.methods.inputs import Embeddings, Inputs
from amd_fused.distill.methods.term import PURPLE, Look, Term, backend_without_cuda
from amd_fused.distill.setting import AT_LEAST_1, NOT_NEGATIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    lsh_weight: float = setting("objective", 1.0, "weight of the hashing loss", NOT_NEGATIVE)
    lsh_hashes: int = setting("objective", 2048, "hash functions of the hashing loss", AT_LEAST_1)


def _loss(settings: Settings, embeddings: Embeddings | None) -> nn.Module:
    """Its hyperplanes pass through the mean of all embeddings, which is that of the class means
    where classes are equally large."""
    assert embeddings is not None
    loss = LSHLoss(
        embeddings.teacher_width,
        settings.lsh_hashes,
        bias="mean",
        student_features=embeddings.student_width,
        backend=backend_without_cuda(settings),
    )
    # derived: the hash is linear, so its mean over embeddings is the hash of their mean. Not
    # init_bias, which would take these means for one process's share of the data.
    bias = -loss.weight @ embeddings.class_means.to(loss.weight).mean(0)
    loss.load_state_dict({**loss.state_dict(), "bias": bias})
    return loss


TERM = Term(
    key="lsh",
    label="LSH",
    help="the embedding's side of random hyperplanes (Wang, Ge, Wu 2021)",
    look=Look(PURPLE, "--", "^"),
    part="lsh",
    feature_loss=_loss,
    inputs=Inputs.EMBEDDING,
    class_means=True,
    weight="lsh_weight",
    settings=("lsh_hashes",),
)
