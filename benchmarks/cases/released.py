"""Peers: losses in the style of the code that their authors released."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def plain_at(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Attention transfer: mean squared difference of ``normalize(mean_c A^2)``, mean over layers.

    In float32 at least, as autocast has ``pow`` computed on a GPU.
    """

    def attention(a: Tensor) -> Tensor:
        wide = a.to(torch.promote_types(a.dtype, torch.float32))
        return F.normalize(wide.pow(2).mean(1).flatten(1), dim=1)

    pairs = zip(student, teacher, strict=True)
    return torch.stack([F.mse_loss(attention(a_s), attention(a_t)) for a_s, a_t in pairs]).mean()


def amd(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The global loss, ``formula="released"``, by the kind of operations the authors' code uses.

    ``abs`` and ``pow`` for the square, ``acos`` behind a clamp, probabilities by ``exp``, their
    logarithms again for each term; layer by layer, then the mean. The negative map is cast to
    float32 whatever the input; at a scale of 90 or more, and in float16, ``exp`` overflows.
    """
    losses = [_released_pair(a_s, a_t) for a_s, a_t in zip(student, teacher, strict=True)]
    return torch.stack(losses).mean()


def _released_pair(a_s: Tensor, a_t: Tensor) -> Tensor:
    pairs = zip(_released_terms(a_s), _released_terms(a_t), strict=True)
    # Eq. 7: a mean squared error for each of the three terms.
    return torch.stack([F.mse_loss(x_s, x_t) for x_s, x_t in pairs]).mean()


def _released_terms(a: Tensor, margin: float = 1.35, scale: float = 64.0) -> list[Tensor]:
    f = torch.sum(torch.pow(torch.abs(a), 2), dim=1, keepdim=True)  # Eq. 4
    q = torch.div(f, torch.norm(f, dim=(2, 3), keepdim=True) + 1e-6).flatten(1)
    theta = torch.acos(torch.clamp(q, -1.0 + 1e-7, 1.0 - 1e-7))
    logit = scale * torch.cos(margin * theta)
    positive, negative = torch.exp(logit), torch.exp(scale * (1 - q).float())
    g = logit - torch.log(positive + negative)  # Eq. 6
    return [F.normalize(x, dim=1) for x in (g, torch.log(positive), torch.log(negative))]


def at(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The sum over layers, as the released code's callers take it."""
    return len(student) * plain_at(student, teacher)


def sp(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The released code's lines, but for the shape of its result."""

    def similarity(f: Tensor) -> Tensor:
        x = f.reshape(f.shape[0], -1)
        return F.normalize(torch.mm(x, x.t()))

    (s,), (t,) = student, teacher
    return (similarity(t) - similarity(s)).square().sum() / s.shape[0] ** 2


def rkd(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The released code's lines, of one pair."""

    def distances(e: Tensor) -> Tensor:
        square = e.pow(2).sum(dim=1)
        product = e @ e.t()
        d = (square[:, None] + square[None, :] - 2 * product).clamp(min=1e-12).sqrt().clone()
        d[range(len(e)), range(len(e))] = 0
        return d / d[d > 0].mean()

    def cosines(e: Tensor) -> Tensor:
        direction = F.normalize(e[None] - e[:, None], p=2, dim=2)
        return torch.bmm(direction, direction.transpose(1, 2))

    (s,), (t,) = student, teacher
    distance = F.smooth_l1_loss(distances(s), distances(t))
    return 25 * distance + 50 * F.smooth_l1_loss(cosines(s), cosines(t))


def afd(student: Sequence[Tensor], teacher: Sequence[Tensor], attention: Tensor) -> Tensor:
    """The released code's operations behind its attention; pooled anew for each teacher map."""
    values = [a.pow(2).mean(1, keepdim=True) for a in student]
    losses = []
    for i, a in enumerate(teacher):
        pooled = [F.adaptive_avg_pool2d(f, a.shape[2:]).flatten(1) for f in values]
        v_s = F.normalize(torch.stack(pooled, dim=1), dim=2)
        v_t = F.normalize(a.pow(2).mean(1).flatten(1), dim=1)
        distance = (v_s - v_t.unsqueeze(1)).pow(2).mean(2)
        losses.append((attention[:, i] * distance).sum(1).mean())
    return torch.stack(losses).sum()


def cc(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The released code's lines."""
    (s,), (t,) = student, teacher
    delta = torch.abs(s - t)
    return (delta[:-1] * delta[1:]).sum(1).mean()


def crd(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    student_bank: Tensor,
    teacher_bank: Tensor,
    samples: Tensor,
    log_normalizers: Tensor,
) -> Tensor:
    """The released code's lines behind its linear layers: the candidates' rows, one by one."""
    batch, noise = len(samples), (samples.shape[1] - 1) / len(student_bank)

    def contrast(e: Tensor, bank: Tensor, log_z: Tensor) -> Tensor:
        rows = torch.index_select(bank, 0, samples.view(-1)).view(*samples.shape, -1)
        h = torch.exp(torch.bmm(rows, e.view(batch, -1, 1)) / 0.07) / log_z.exp()
        positive = torch.log(h[:, 0] / (h[:, 0] + noise + 1e-7))
        negative = torch.log(noise / (h[:, 1:] + noise + 1e-7))
        return -(positive.sum() + negative.sum()) / batch

    (s,), (t,) = student, teacher
    of_s = contrast(s, teacher_bank, log_normalizers[0])
    return of_s + contrast(t, student_bank, log_normalizers[1])
