"""reference.amd_loss is the formulas of the paper: against the oracle in mpmath, and by hand."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
import released
import torch
from torch import Tensor

from amd_fused.reference import amd_loss

EVERY_OPTION = {
    "margin": 2.7,
    "scale": 9.0,
    "local_weight": 0.35,
    "formula": "released",
    "component_weights": (0.5, 2.0, 1.25),
    "mask_threshold": 0.6,
    "eps": 1e-2,
    "reduction": "batchmean",
}
OPTIONS = {
    "defaults": {},
    "global": {"local_weight": 0.0},
    "local": {"local_weight": 1.0},
    "released": {"formula": "released"},
    "margin-below-1": {"margin": 0.5, "formula": "released"},
    "margin-large": {"margin": 7.3},
    "scale-small": {"scale": 0.5},
    "scale-large": {"scale": 300.0},
    "masked": {"mask_threshold": 0.5},
    "masked-at-0": {"mask_threshold": 0.0},
    "components": {"component_weights": (0.0, 0.25, 4.0)},
    "eps-0": {"eps": 0.0},
    "eps-large": {"eps": 3.0},
    "batchmean": {"reduction": "batchmean"},
    "none": {"reduction": "none"},
    "every-option": EVERY_OPTION,
}
# The smallest that has quadrants, odd, 7x7 as at the end of a ResNet, more rows than columns.
SHAPES = [(2, 2), (3, 5), (7, 7), (9, 4)]


def features(shape: tuple[int, ...], seed: int, kind: str = "normal") -> np.ndarray:
    values = np.random.RandomState(seed).standard_normal(shape)
    return np.maximum(values, 0) if kind == "relu" else values


def some_entries(shape: tuple[int, ...], count: int = 3) -> list[tuple[int, ...]]:
    rng = np.random.RandomState(1)
    return [tuple(int(rng.randint(n)) for n in shape) for _ in range(count)]


def assert_matches_oracle(student, teacher, layer: int = 0, **options) -> None:
    """Values, and gradients by both sides at a few entries of one layer."""
    tensors = [[torch.from_numpy(a).requires_grad_() for a in side] for side in (student, teacher)]
    loss = amd_loss(*tensors, **options)
    expected = np.array(oracle.amd_loss(student, teacher, **options), dtype=float)
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-12)
    loss.sum().backward()
    for (own, other), tensor in zip(
        ((student, teacher), (teacher, student)), (side[layer] for side in tensors), strict=True
    ):
        entries = some_entries(tensor.shape)
        slopes = oracle.gradient(own, other, entries, layer=layer, **options)
        assert tensor.grad is not None
        np.testing.assert_allclose(
            [tensor.grad[entry].item() for entry in slopes],
            list(slopes.values()),
            rtol=1e-9,
            atol=1e-11 * tensor.grad.abs().max().item(),
        )


# Zeros among the features, as after a ReLU, matter where a norm or a mask does.
OF_RELU = ("defaults", "masked-at-0", "eps-0", "every-option")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "normal") for name in OPTIONS),
        *((name, "relu") for name in OF_RELU),
        *(
            pytest.param(name, "relu", marks=pytest.mark.exhaustive)
            for name in OPTIONS
            if name not in OF_RELU
        ),
    ],
)
def test_is_the_formula_for_every_option(name, kind):
    assert_matches_oracle(
        [features((2, 2, 3, 5), 0, kind)], [features((2, 3, 3, 5), 1, kind)], **OPTIONS[name]
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", [{}, EVERY_OPTION], ids=["defaults", "every-option"])
def test_is_the_formula_for_even_and_odd_maps(shape, options):
    assert_matches_oracle([features((1, 3, *shape), 2)], [features((1, 1, *shape), 3)], **options)


@pytest.mark.parametrize("reduction", ["mean", "batchmean", "none"])
def test_layers_are_weighted_and_averaged(reduction):
    student = [features((2, 2, 3, 5), 4), features((2, 3, 2, 2), 5)]
    teacher = [features((2, 4, 3, 5), 6), features((2, 1, 2, 2), 7)]
    for layer in (0, 1):
        assert_matches_oracle(
            student, teacher, layer=layer, layer_weights=[0.5, 3.0], reduction=reduction
        )
        assert_matches_oracle(student, teacher, layer=layer, reduction=reduction)


@pytest.mark.parametrize("case", released.cases("amd"), ids=released.name)
def test_the_released_code_gave_these_values_and_gradients(case):
    student = released.tensor(case["student"]).requires_grad_()
    loss = amd_loss(student, released.tensor(case["teacher"]), **case["options"])
    loss.backward()
    assert student.grad is not None
    # The released code clamps q at 1 - 1e-7 and rounds 1 - q to float32.
    assert loss.item() == pytest.approx(case["value"], rel=1e-6)
    assert student.grad.norm().item() == pytest.approx(case["grad_norm"], rel=1e-6)
    np.testing.assert_allclose(
        student.grad.flatten()[:6].numpy(),
        case["grad_first"],
        rtol=1e-5,
        atol=1e-6 * case["grad_norm"],
    )


# By hand. A component weight of 3 alone leaves that component's D (the three are divided by 3), and
# "batchmean" with one sample leaves out the division by the number of positions.
COMPONENTS = {"g": (3.0, 0.0, 0.0), "p": (0.0, 3.0, 0.0), "n": (0.0, 0.0, 3.0)}


def from_map(*rows: list[float]) -> Tensor:
    """Features [1, 1, H, W] whose attention map f is given: their square roots."""
    return torch.tensor(rows, dtype=torch.float64).sqrt()[None, None]


def distances(student: Tensor, teacher: Tensor, **options) -> dict[str, float]:
    """D_g, D_p and D_n of Eq. 7 over the whole map."""
    options = {"local_weight": 0.0, "eps": 0.0, **options}
    return {
        name: amd_loss(
            student, teacher, component_weights=weights, reduction="batchmean", **options
        ).item()
        for name, weights in COMPONENTS.items()
    }


def logsigmoid(z: float) -> float:
    return -math.log(1 + math.exp(-z))


def test_by_hand_two_positions_with_margin_1():
    # f = (3, 4), ||f|| = 5: q = (0.6, 0.8), n = (0.4, 0.2); the teacher's the other way round.
    # m = 1: t = q. s = 5 ln 2: z = s (2 q - 1) = (ln 2, 3 ln 2), sigmoid(z) = (2/3, 8/9).
    d = distances(from_map([3, 4]), from_map([4, 3]), margin=1.0, scale=5 * math.log(2))
    # g = (ln 2/3, ln 8/9): both components differ by ln 4/3.
    g_1, g_2 = math.log(2 / 3), math.log(8 / 9)
    assert d["g"] == pytest.approx(2 * math.log(4 / 3) ** 2 / (g_1**2 + g_2**2), rel=1e-12)
    # q is of unit length: D_p = 0.2^2 + 0.2^2.
    assert d["p"] == pytest.approx(0.08, rel=1e-12)
    # n^ = (2, 1) / sqrt 5 against (1, 2) / sqrt 5.
    assert d["n"] == pytest.approx(0.4, rel=1e-12)


def test_by_hand_two_positions_with_margin_2():
    # cos(2 theta) = 2 q^2 - 1: t = (-0.28, 0.28), t - n = (-0.68, 0.08).
    student, teacher = from_map([3, 4]), from_map([4, 3])
    d = distances(student, teacher, margin=2.0, scale=10.0, formula="released")
    g_1, g_2 = logsigmoid(-6.8), logsigmoid(0.8)
    assert d["g"] == pytest.approx(2 * (g_1 - g_2) ** 2 / (g_1**2 + g_2**2), rel=1e-12)
    # Released formula: p = t, p^ = (-1, 1) / sqrt 2 against (1, -1) / sqrt 2.
    assert d["p"] == pytest.approx(4.0, rel=1e-12)
    # The whole loss: a third of the sum, over 2 positions.
    whole = amd_loss(
        student, teacher, margin=2.0, scale=10.0, formula="released", local_weight=0.0, eps=0.0
    )
    assert whole.item() == pytest.approx((d["g"] + 4.0 + 0.4) / 3 / 2, rel=1e-12)


def test_by_hand_the_mask_keeps_what_exceeds_the_threshold():
    # n = (0.4, 0.2) and (0.2, 0.4); above 0.3: (0.4, 0) and (0, 0.4), orthogonal: D_n = 2.
    d = distances(from_map([3, 4]), from_map([4, 3]), mask_threshold=0.3)
    assert d["n"] == pytest.approx(2.0, rel=1e-12)
    # f = (3, 4), eps = 1: q = (1/2, 2/3), n = (1/2, 1/3). 1/2 does not exceed 1/2: n^ = (0, 0),
    # against (0, 1) of f = (4, 0): q = (4/5, 0), n = (1/5, 1).
    d = distances(from_map([3, 4]), from_map([4, 0]), mask_threshold=0.5, eps=1.0)
    assert d["n"] == pytest.approx(1.0, rel=1e-12)


def test_by_hand_one_hot_position():
    # q = (1, 0, 0): t = (1, -1, -1) for m = 2, n = (0, 1, 1), t - n = (1, -2, -2).
    d = distances(from_map([7, 0, 0]), from_map([0, 0, 2]), margin=2.0, scale=1.0)
    hot, cold = logsigmoid(1.0), logsigmoid(-2.0)
    assert d["g"] == pytest.approx(2 * (hot - cold) ** 2 / (hot**2 + 2 * cold**2), rel=1e-12)
    assert d["p"] == pytest.approx(2.0, rel=1e-12)
    # n^ = (0, 1, 1) / sqrt 2 against (1, 1, 0) / sqrt 2.
    assert d["n"] == pytest.approx(1.0, rel=1e-12)


def test_by_hand_one_hot_position_in_quadrants_of_one_position():
    # Hot at the upper left against the lower right. In a quadrant of one position x^ is a sign:
    # upper left: p^ = 1 against 0, n^ = 0 against 1, g^ = -1 against -1: (0 + 1 + 1) / 3. Lower
    # right: the same. The other two: equal. Mean over four: 1/3.
    student, teacher = from_map([7, 0], [0, 0]), from_map([0, 0], [0, 2])
    loss = amd_loss(student, teacher, local_weight=1.0, eps=0.0, scale=2.0)
    assert loss.item() == pytest.approx(1 / 3, rel=1e-12)


def test_by_hand_an_odd_map_is_cut_before_its_middle():
    # 3x3: quadrants of 1, 2, 2 and 4 positions. p alone, which the norm of all of f does not
    # change within a quadrant: upper right (1, 1) / sqrt 2 against (3, 4) / 5, the others equal.
    student = from_map([1, 1, 1], [1, 1, 1], [1, 1, 1])
    teacher = from_map([1, 3, 4], [1, 1, 1], [1, 1, 1])
    options = {"local_weight": 1.0, "component_weights": COMPONENTS["p"]}
    distance = 2 - 2 * 7 / (5 * math.sqrt(2))
    mean = amd_loss(student, teacher, **options)
    assert mean.item() == pytest.approx(distance / 2 / 4, rel=1e-9)
    batchmean = amd_loss(student, teacher, reduction="batchmean", **options)
    assert batchmean.item() == pytest.approx(distance / 4, rel=1e-9)


def test_by_hand_an_all_zero_map():
    # Student: q = 0, n = 1, t = -1 for m = 2: g the same at both positions,
    # g^ = (-1, -1) / sqrt 2, p^ = 0, n^ = (1, 1) / sqrt 2. Teacher, eps = 1: q = (1/2, 2/3),
    # n = (1/2, 1/3), t = (-1/2, -1/9), t - n = (-1, -4/9), n^ = (3, 2) / sqrt 13.
    student = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    d = distances(student, from_map([3, 4]), margin=2.0, scale=9.0, eps=1.0)
    g_1, g_2 = logsigmoid(-9.0), logsigmoid(-4.0)
    g_product = -(g_1 + g_2) / math.sqrt(2 * (g_1**2 + g_2**2))
    assert d["g"] == pytest.approx(2 - 2 * g_product, rel=1e-12)
    assert d["p"] == pytest.approx(1.0, rel=1e-12)
    assert d["n"] == pytest.approx(2 - 2 * 5 / math.sqrt(2 * 13), rel=1e-12)


def test_by_hand_the_gradient_of_two_positions():
    # p alone: with f = 5 (cos phi, sin phi), D_p = 2 - 2 cos(phi_S - phi_T) and
    # dD/dphi_S = 2 sin(phi_S - phi_T).
    # f_S = (3, 4), f_T = (4, 3): sin(phi_S - phi_T) = 0.8 * 0.8 - 0.6 * 0.6 = 0.28.
    # dphi/df = (-4, 3) / 25, and dA = 2 A df. Two channels: (1, 2) and (sqrt 2, 0).
    student = torch.tensor([[[[1.0, 2.0]], [[math.sqrt(2), 0.0]]]], dtype=torch.float64)
    student.requires_grad_()
    loss = amd_loss(
        student,
        from_map([4, 3]),
        component_weights=COMPONENTS["p"],
        reduction="batchmean",
        local_weight=0.0,
        eps=0.0,
    )
    loss.backward()
    by_f = (0.56 * -4 / 25, 0.56 * 3 / 25)
    expected = [2 * 1 * by_f[0], 2 * 2 * by_f[1], 2 * math.sqrt(2) * by_f[0], 0.0]
    assert student.grad is not None
    assert student.grad.flatten().tolist() == pytest.approx(expected, rel=1e-12)
