"""What is right for the losses with trained layers: the papers' formulas, in float64 and by loops
over samples, channels and pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def array(a: Tensor) -> Array:
    return a.detach().double().numpy()


def vid(student: Tensor, teacher: Tensor, rho: Tensor, eps: float = 1e-5) -> float:
    """The mean of log sigma + (t - mu)^2 / (2 sigma^2) over samples, channels and positions."""
    mu, t, raw = array(student), array(teacher), array(rho)
    terms = []
    for b, c in np.ndindex(*mu.shape[:2]):
        sigma = math.sqrt(math.log(1 + math.exp(raw[c])) + eps)
        for i in np.ndindex(*mu.shape[2:]):
            terms.append(math.log(sigma) + (t[b, c][i] - mu[b, c][i]) ** 2 / (2 * sigma**2))
    return math.fsum(terms) / len(terms)


def cc_released(student: Tensor, teacher: Tensor) -> float:
    """Of every sample and the next one, the products of their sides' distances."""
    s, t = array(student), array(teacher)
    pairs = [
        math.fsum(
            abs(s[b, d] - t[b, d]) * abs(s[b + 1, d] - t[b + 1, d]) for d in range(s.shape[1])
        )
        for b in range(len(s) - 1)
    ]
    return math.fsum(pairs) / len(pairs)


def cc_paper(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> float:
    """The squared distance of the correlation matrices, by B^2."""

    def kernel(e: Array) -> Array:
        x = [row / math.sqrt(math.fsum(row**2)) for row in e]
        series = [
            math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)
        ]
        return np.array(
            [[sum(a * (u @ v) ** p for p, a in enumerate(series)) for u in x] for v in x]
        )

    return float(((kernel(array(student)) - kernel(array(teacher))) ** 2).sum() / len(student) ** 2)


def crd(
    student: Tensor,
    teacher: Tensor,
    banks: tuple[Tensor, Tensor],
    samples: Tensor,
    log_normalizers: Tensor,
    temperature: float = 0.07,
    eps: float = 1e-7,
) -> float:
    """NCE with a binary classifier: the sample's own row against K draws from 1 / N."""
    rows = [array(bank) for bank in banks]
    chosen, z = samples.numpy(), np.exp(array(log_normalizers))
    negatives, total = chosen.shape[1] - 1, 0.0
    noise = negatives / len(rows[0])
    for e, bank, normalizer in ((student, rows[1], z[0]), (teacher, rows[0], z[1])):
        for b, anchor in enumerate(array(e)):
            for k, row in enumerate(chosen[b]):
                p = math.exp(anchor @ bank[row] / temperature) / normalizer
                share = p / (p + noise + eps) if k == 0 else noise / (p + noise + eps)
                total -= math.log(share)
    return total / len(student)


def normalizers(
    student: Tensor,
    teacher: Tensor,
    banks: tuple[Tensor, Tensor],
    samples: Tensor,
    temperature: float = 0.07,
) -> list[float]:
    """N times the mean of the exponentials of either side's scores."""
    found = []
    for e, bank in ((student, array(banks[1])), (teacher, array(banks[0]))):
        anchors = array(e)
        exponentials = [
            math.exp(anchors[b] @ bank[row] / temperature)
            for b, chosen in enumerate(samples.tolist())
            for row in chosen
        ]
        found.append(len(bank) * math.fsum(exponentials) / len(exponentials))
    return found


def afd(students: Sequence[Tensor], teachers: Sequence[Tensor], attention: Tensor) -> float:
    """All pairs of maps, student's averaged over the cells of the teacher's grid."""
    weights, total = array(attention), 0.0
    for t, a_t in enumerate(map(array, teachers)):
        for s, a_s in enumerate(map(array, students)):
            for b in range(len(a_t)):
                v_t = _unit((a_t[b] ** 2).mean(0))
                v_s = _unit(_pooled((a_s[b] ** 2).mean(0), *a_t.shape[2:]))
                total += weights[b, t, s] * ((v_s - v_t) ** 2).mean() / len(a_t)
    return total


def _unit(x: Array) -> Array:
    return x / math.sqrt((x**2).sum())


def _pooled(f: Array, height: int, width: int) -> Array:
    """Cell i of n reads from floor(i H / n) to ceil((i + 1) H / n)."""

    def cells(size: int, count: int) -> list[slice]:
        return [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]

    rows, columns = cells(f.shape[0], height), cells(f.shape[1], width)
    return np.array([[f[row, column].mean() for column in columns] for row in rows])


def attention(
    students: Sequence[Tensor], teachers: Sequence[Tensor], state: dict[str, Tensor], q: int
) -> Array:
    """AFDLoss's, [B, T, S], in training mode, of its state_dict."""

    def layer(name: str, x: Array, relu: bool = False) -> Array:
        y = x @ array(state[f"{name}.0.weight"]).T + array(state[f"{name}.0.bias"])
        y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)
        y = y * array(state[f"{name}.1.weight"]) + array(state[f"{name}.1.bias"])
        return np.maximum(y, 0) if relu else y

    count = len(teachers)
    keys = [layer(f"key_layers.{i}", array(a).mean((2, 3)), True) for i, a in enumerate(students)]
    queries = [layer(f"query_layers.{i}", array(a).mean((2, 3))) for i, a in enumerate(teachers)]
    # Rows sample by sample, each with its student maps one after the other.
    rows = np.array([key[b] for b in range(len(keys[0])) for key in keys])
    mapped = layer("bilinear", rows)
    p_t, p_s = array(state["teacher_positions"]), array(state["student_positions"])
    found = np.zeros((len(keys[0]), count, len(keys)))
    for b, t, s in np.ndindex(*found.shape):
        key = mapped[b * len(keys) + s, t * q : (t + 1) * q]
        found[b, t, s] = math.exp((key @ queries[t][b] + p_t[t] @ p_s[s]) / math.sqrt(q))
    return found / found.sum(2, keepdims=True)


def afds(student: Tensor, teacher: Tensor, importance: Tensor, eps: float = 1e-6) -> float:
    """Channel by channel, each map of length 1 but for eps."""
    a_s, a_t, rho = array(student), array(teacher), array(importance)
    total = 0.0
    for b, c in np.ndindex(*rho.shape):
        x_s = a_s[b, c] / (math.sqrt((a_s[b, c] ** 2).sum()) + eps)
        x_t = a_t[b, c] / (math.sqrt((a_t[b, c] ** 2).sum()) + eps)
        total += rho[b, c] * ((x_s - x_t) ** 2).mean() / len(rho)
    return total


def softmax_importance(teacher: Tensor, state: dict[str, Tensor]) -> Array:
    """AFDSLoss's of one layer's state: a hidden layer a channel, then softmax over channels."""
    x = array(teacher).reshape(*teacher.shape[:2], -1)
    w, b = array(state["hidden.weight"]), array(state["hidden.bias"])
    score = np.maximum(x @ w.T + b, 0) @ array(state["weight"]) + array(state["bias"])
    e = np.exp(score)
    return e / e.sum(1, keepdims=True)


def se_importance(teacher: Tensor, state: dict[str, Tensor]) -> Array:
    """Two linear layers of the channels' means, then sigmoids by their sum."""
    x = array(teacher).mean((2, 3))
    for name in ("squeeze", "excite"):
        x = x @ array(state[f"{name}.weight"])[:, :, 0, 0].T + array(state[f"{name}.bias"])
        x = np.maximum(x, 0) if name == "squeeze" else 1 / (1 + np.exp(-x))
    return x / x.sum(1, keepdims=True)
