"""Attention transfer as a function: it is one term of the AMD loss, and runs on its kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from amd_fused import _backends
from amd_fused.losses._common import constant_losses, layouts, pair_checks, pooling, value_checks
from amd_fused.losses._common.layouts import LayoutOptions
from amd_fused.losses.amd import operator
from amd_fused.losses.amd.options import FormulaOptions
from amd_fused.losses.at import checks, reference


def at_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    p: float = 2,
    mode: str = "code",
    *,
    layer_weights: Sequence[float] | None = None,
    align: str = "error",
    layout: str | None = None,
    prefix_tokens: int = 0,
    grid: Sequence[int] | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention transfer: the distance of two normalised attention maps.

    Computes, for p = 2 without storing a map of the features' size besides the gradient::

        q = F.normalize(a.abs().pow(p).sum(1).flatten(1))
        loss = (q_student - q_teacher).square().mean()  # mode="paper": .sum(1).mean()

    for each layer pair, and adds the layers up.

    Args:
        student: features [B, C_S, H, W] of one layer, or a sequence of such tensors, one a layer.
            float32, float16, bfloat16 or float64, any strides. Or volumes [B, C_S, D, H, W]; of 3-D
            features ``layout`` says what they are.
        teacher: the matching features [B, C_T, H, W]; C_T and the dtype may differ.
        p: exponent of the activations, >= 1. p = 2 has kernels (those of the AMD loss, whose
            second term it is); any other runs in plain PyTorch on every device.
        mode: "code": mean over batch and positions, as the released code and those after it have
            it (a weight of 1000 belongs to that); "paper": sum over positions, mean over the batch.
        layer_weights: one weight >= 0 a layer pair; default 1 each. The layers are added up, not
            averaged.
        align: "error" refuses different heights or widths in a pair; "adaptive_avg" average-pools
            the larger member to the smaller's size, before the power.
        layout: what the axes of 3-D features are: "NLC", tokens [B, N, C] as vision transformers
            have them, or "NCL", [B, C, L]. It says nothing of features of more axes.
        prefix_tokens: how many tokens are left out at the front, such as a class token.
        grid: (H, W) of 3-D features, whose H * W positions it puts in rows. Tokens against maps
            need it.
        backend: "auto", "triton", "cuda", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Returns:
        0-d float32 tensor, float64 when an input is float64. Gradients flow to every input that
        requires one; an all-zero map has q = 0 and gradient 0. NaN and Inf in an input give NaN,
        and so do numbers whose power 2 p leaves the range of the sums (4e9 in float32 for p = 2);
        where those of a whole map are below it (1e-11; from 1e-9 on digits are lost), it counts as
        all-zero.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, has no kernel for this p, or a second
            derivative was asked of a fused one (``backend="reference"`` has them).

    Source: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017, section 3.1.
    Released code: ``at_loss`` of szagoruyko/attention-transfer; ``Attention`` of RepDistiller is
    the same function for one layer and returns the list of them, which its caller adds up. They
    take a**p rather than abs(a)**p (another map for odd p), and pool unequal maps of their own
    accord: ``align="adaptive_avg"``. The paper's Eq. 2 has the norm of the difference where all
    code has its square, and half the weight.
    """
    owner = "at_loss"
    checks.at_options(
        owner, p=p, mode=mode, layer_weights=layer_weights, align=align, backend=backend
    )
    axes = LayoutOptions(layout=layout, prefix_tokens=prefix_tokens, grid=grid)
    layouts.check(owner, axes)
    students, teachers = pair_checks.feature_pairs(
        owner, student, teacher, axes, local_weight=0.0, layer_weights=layer_weights, align=align
    )
    constant_losses.warn_of_constant_maps(owner, students, teachers, 0.0)
    if align == "adaptive_avg":
        students, teachers = pooling.pool_to_common_size(students, teachers)
    chosen = _choose(owner, backend, students[0].device.type, p)
    if chosen == "reference":
        return reference.at_loss(students, teachers, p=p, mode=mode, layer_weights=layer_weights)
    features = students + teachers
    value_checks.no_transforms(owner, chosen, features)
    # derived: the AMD loss of whole maps with the weights (0, 3, 0) and eps = 0 is D_p, this loss.
    # The other terms count for nothing; a margin of 1 makes theirs the shortest polynomial.
    weights = layer_weights or [1.0] * len(students)
    options = FormulaOptions(
        margin=1.0,
        scale=1.0,
        local_weight=0.0,
        component_weights=(0.0, 3.0, 0.0),
        # A sum over the layers, where AMD has their mean.
        layer_weights=[len(students) * weight for weight in weights],
        eps=0.0,
        reduction="mean" if mode == "code" else "batchmean",
    )
    per_sample = operator.amd_fwd(chosen, students, teachers, options, owner)
    return per_sample.mean()


def _choose(owner: str, backend: str, device_type: str, p: float) -> str:
    if p == 2:
        return _backends.choose(owner, backend, device_type)
    if backend not in ("auto", "reference"):
        raise RuntimeError(
            f"{owner}: backend {backend!r} has kernels for p = 2 alone, got p = {p}; "
            'use backend="auto"'
        )
    # Nothing is missing here that an installation could mend, so there is nothing to warn of.
    return "reference"
