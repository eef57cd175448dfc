"""The LSH loss as a module that holds its hyperplanes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from amd_fused.losses._common import embedding_checks, processes, teacher_pass, value_checks
from amd_fused.losses._common.buffers import follow
from amd_fused.losses.lsh import checks, hash_bias
from amd_fused.losses.lsh.function import lsh_loss

_OWNER = "LSHLoss"
_STATISTICS: dict[str, type[hash_bias.MedianHash] | type[hash_bias.MeanHash]] = {
    "median": hash_bias.MedianHash,
    "mean": hash_bias.MeanHash,
}


class LSHLoss(_Loss):
    """LSH loss as a module: :func:`lsh_loss` with frozen random hyperplanes.

    As::

        criterion = LSHLoss(in_features, num_hashes)
        criterion.init_bias(teacher_features)
        loss = lsh_loss(student, teacher, criterion.weight, criterion.bias)

    Args:
        in_features: width D of the teacher's embeddings.
        num_hashes: number H of hyperplanes; the paper's order of magnitude is 4 D.
        std: standard deviation > 0 of the normal distribution that ``weight`` [H, D] is drawn from.
        bias: what :meth:`init_bias` makes of the teacher's hash values: "median", which splits its
            data evenly, or "mean"; "zero" leaves the hyperplanes through the origin, where they are
            before init_bias is called. Only kind "bce" depends on it.
        l2_weight, kind, backend: as in :func:`lsh_loss`.
        student_features: width of the student's embeddings; where it differs from in_features, an
            ``adapter``, ``nn.Linear(student_features, in_features)``, maps them. It is trained:
            give ``criterion.parameters()`` to the optimiser. The squared difference, too, is then
            of its output.
        generator: for ``weight``; on its device. Without it torch's global one is used. All
            processes of a distributed training must have the same weight: give each a generator of
            the same seed, or wrap the criterion into DDP, which broadcasts buffers.

    ``weight`` and ``bias`` are buffers, which state_dict has and no optimiser sees. They follow the
    embeddings to their device when called, the adapter with them; under torch.compile an adapter
    must be there already.

    Called with:
        student: embeddings [B, D], or [B, student_features]. teacher: embeddings [B, D].
        :func:`lsh_loss` says more.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or an input does (when
            called).

    Source: as :func:`lsh_loss`. The released code holds hyperplanes in an ``nn.Linear``, keeps the
    hash values of a whole dataset [N, H] for the median, and leaves the adapter to the student.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        in_features: int,
        num_hashes: int,
        std: float = 1.0,
        bias: str = "median",
        l2_weight: float = 1.0,
        kind: str = "bce",
        *,
        student_features: int | None = None,
        generator: torch.Generator | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        embedding_checks.count(_OWNER, "in_features", in_features)
        embedding_checks.count(_OWNER, "num_hashes", num_hashes)
        value_checks.positive(_OWNER, "std", std)
        value_checks.choice(_OWNER, "bias", bias, (*_STATISTICS, "zero"))
        checks.lsh_options(_OWNER, kind=kind, l2_weight=l2_weight, backend=backend)
        if student_features is not None:
            embedding_checks.count(_OWNER, "student_features", student_features)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(
                f"{_OWNER}: generator must be a torch.Generator, got {type(generator).__name__}"
            )
        self.std, self.statistic = std, bias
        self.l2_weight, self.kind, self.backend = l2_weight, kind, backend
        device = None if generator is None else generator.device
        weight = torch.randn(num_hashes, in_features, generator=generator, device=device) * std
        self.register_buffer("weight", weight)
        self.register_buffer("bias", weight.new_zeros(num_hashes))
        self.adapter: nn.Linear | None = None
        if student_features not in (None, in_features):
            self.adapter = nn.Linear(student_features, in_features, device=device)
        self._has_bias = bias == "zero"
        self.register_load_state_dict_post_hook(_bias_was_loaded)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        follow(self, student)
        if not self._has_bias and self.kind == "bce" and not torch.compiler.is_compiling():
            self._has_bias = True
            warnings.warn(
                f"{_OWNER}: init_bias was not called, so bias={self.statistic!r} is 0 yet; call it "
                'with embeddings of the teacher, or pass bias="zero"',
                stacklevel=4,  # the caller of the module, past nn.Module's two frames
            )
        if self.adapter is not None:
            embedding_checks.embedding(_OWNER, "student", student)
            if student.shape[1] != self.adapter.in_features:
                raise ValueError(
                    f"{_OWNER}: student must have the width student_features = "
                    f"{self.adapter.in_features}, got shape {tuple(student.shape)}"
                )
            student = self.adapter(student.to(self.adapter.weight.dtype))
        return lsh_loss(
            student,
            teacher,
            self.weight,
            self.bias,
            kind=self.kind,
            l2_weight=self.l2_weight,
            backend=self.backend,
        )

    def init_bias(
        self,
        teacher_features: Tensor | Iterable[Any],
        model: Callable[[Any], Tensor] | None = None,
    ) -> None:
        """Sets ``bias`` to minus the median (or mean) of each hash over the teacher's data.

        Args:
            teacher_features: embeddings [N, D], or a loader of them: batches that are a tensor
                [B, D] or begin with one. With a model: a loader of its inputs, batches that are
                inputs or begin with them, or dicts of them, ``model(**inputs)``.
            model: the teacher up to its embeddings, as in :func:`amd_fused.class_means`; a module
                is run in evaluation mode and gets its modes back.

        The median is exact, the lower of two; it needs all embeddings in memory, [N, D] in the
        dtype and on the device of ``weight``. A part of a large dataset is enough: with N samples a
        side of a hyperplane holds half of the data but for a part of about 0.5 / sqrt(N). The mean
        holds nothing. With bias="zero" there is nothing to do, and nothing is done.

        Under torch.distributed, when it is initialised, every process must call it with its own
        shard; median or mean are those of all data, and the same in every process.
        """
        if self.statistic == "zero":
            return
        if isinstance(teacher_features, Tensor):
            teacher_features = [teacher_features]
        if model is not None and not callable(model):
            raise TypeError(
                f"{_OWNER}: model must be a module or a function, got {type(model).__name__}"
            )
        statistic = _STATISTICS[self.statistic](_OWNER, self.weight)
        with processes.shared_errors(_OWNER), teacher_pass.evaluating(model):
            for features, _ in teacher_pass.embeddings(_OWNER, model, teacher_features):
                if features.shape[1] != self.weight.shape[1]:
                    raise ValueError(
                        f"{_OWNER}: teacher_features must have the width in_features = "
                        f"{self.weight.shape[1]}, got shape {tuple(features.shape)}"
                    )
                statistic.add(features)
        bias = -statistic.value()
        if not torch.isfinite(bias).all():
            raise ValueError(f"{_OWNER}: teacher_features must be finite, got NaN or Inf")
        self.bias.copy_(bias)
        self._has_bias = True

    def extra_repr(self) -> str:
        hashes, width = self.weight.shape
        return (
            f"in_features={width}, num_hashes={hashes}, std={self.std!r}, bias={self.statistic!r}, "
            f"l2_weight={self.l2_weight!r}, kind={self.kind!r}, backend={self.backend!r}"
        )


def _bias_was_loaded(criterion: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(criterion, LSHLoss)
    if not any(key.endswith("bias") for key in incompatible_keys.missing_keys):
        criterion._has_bias = True
