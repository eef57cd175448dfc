"""KD and its spherical form as modules."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.loss import _Loss

from amd_fused.losses.kd import checks, reference
from amd_fused.losses.kd.function import kd_loss, spherical_kd_loss


class KDLoss(_Loss):
    """Knowledge distillation as a module: :func:`kd_loss` with fixed options.

    ``KDLoss(tau)(student_logits, teacher_logits) == kd_loss(student_logits, teacher_logits, tau)``

    Args:
        temperature: tau > 0.
        ignore_index: the label of positions that do not count, where ``target`` is given.
        backend: "auto", "triton", "cpp" or "reference".

    Shapes, dtypes and the result are those of :func:`kd_loss`. No parameters and no buffers. The
    options are attributes of the same names, and may be changed between calls.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or the logits do (when
            called).

    Source: Hinton, Vinyals, Dean, 2015; AMD paper, Eq. 3.
    """

    def __init__(
        self, temperature: float = 4.0, *, ignore_index: int = -100, backend: str = "auto"
    ) -> None:
        super().__init__()
        checks.kd_options(
            "KDLoss", temperature=temperature, ignore_index=ignore_index, backend=backend
        )
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.backend = backend

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, target: Tensor | None = None
    ) -> Tensor:
        return kd_loss(
            student_logits,
            teacher_logits,
            self.temperature,
            target=target,
            ignore_index=self.ignore_index,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        names = ("temperature", "ignore_index", "backend")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


class SphericalKDLoss(_Loss):
    """Spherical knowledge distillation as a module: :func:`spherical_kd_loss` with fixed options.

    As::

        criterion = SphericalKDLoss(temperature=4.0)
        z_s = criterion.normalize(student_logits, teacher_logits)
        loss = F.cross_entropy(z_s, target) + criterion(student_logits, teacher_logits)

    Args:
        temperature: tau > 0.
        norm: "std", the unbiased standard deviation over the classes, or "l2", the Euclidean norm.
        multiplier: the common norm r of both sides, a number > 0; None takes each sample's own
            teacher norm.
        ignore_index: the label of positions that do not count, where ``target`` is given.
        backend: "auto", "triton", "cpp" or "reference".

    Shapes, dtypes and the result are those of :func:`spherical_kd_loss`. No parameters and no
    buffers. The options are attributes of the same names, and may be changed between calls.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or the logits do (when
            called).

    Source: Guo et al., "Spherical Knowledge Distillation", 2020.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        norm: str = "std",
        multiplier: float | None = None,
        ignore_index: int = -100,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.spherical_kd_options(
            "SphericalKDLoss",
            temperature=temperature,
            norm=norm,
            multiplier=multiplier,
            ignore_index=ignore_index,
            backend=backend,
        )
        self.temperature = temperature
        self.norm = norm
        self.multiplier = multiplier
        self.ignore_index = ignore_index
        self.backend = backend

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, target: Tensor | None = None
    ) -> Tensor:
        return spherical_kd_loss(
            student_logits,
            teacher_logits,
            self.temperature,
            norm=self.norm,
            multiplier=self.multiplier,
            target=target,
            ignore_index=self.ignore_index,
            backend=self.backend,
        )

    def normalize(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The student's logits on the sphere, ``z / |z| * r``: what its cross entropy must see.

        Args:
            student_logits, teacher_logits: [B, K, ...], as the loss takes them.

        Returns:
            [B, K, ...] in float32, float64 when an input is float64; 0 where the norm is. Gradients
            flow through the norms, to every input that requires one. Plain PyTorch on any device: a
            fused kernel would save little beside the cross entropy that follows.
        """
        checks.spherical_pair(
            "SphericalKDLoss.normalize", student_logits, teacher_logits, self.norm
        )
        return reference.spherical_logits(
            student_logits, teacher_logits, norm=self.norm, multiplier=self.multiplier
        )[0]

    def extra_repr(self) -> str:
        names = ("temperature", "norm", "multiplier", "ignore_index", "backend")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
