"""compat reproduces the released code: its call, its values and gradients, its argument names."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import released
import torch
import torch.nn.functional as F

import amd_fused
from amd_fused import AMDLoss, ATLoss, DistillationLoss, amd_loss, at_loss
from amd_fused.compat import AngularPenaltyLoss, AngularPenaltyLoss4b
from amd_fused.losses._common import advice

pytestmark = pytest.mark.filterwarnings("ignore:amd_loss. no fused backend")
CLASSES = [AngularPenaltyLoss, AngularPenaltyLoss4b]


def pair(seed: int = 0, size: tuple[int, int] = (8, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(2, 4, *size, dtype=torch.float64, generator=g)
    return student, torch.randn(2, 6, *size, dtype=torch.float64, generator=g)


def released_region_loss(q_s: torch.Tensor, q_t: torch.Tensor, s: float, m: float) -> torch.Tensor:
    """One region: mse of the normalised log-ratio, s cos(m acos q) and s (1 - q)."""
    terms = []
    for q in (q_s.flatten(1), q_t.flatten(1)):
        positive = s * torch.cos(m * torch.acos(q))
        negative = s * (1 - q)
        log_ratio = positive - torch.logaddexp(positive, negative)
        terms.append([F.normalize(x, dim=1) for x in (log_ratio, positive, negative)])
    return sum(F.mse_loss(x_s, x_t) for x_s, x_t in zip(*terms, strict=True)) / 3


def intended_4b(a_s: torch.Tensor, a_t: torch.Tensor, s: float, m: float) -> torch.Tensor:
    """0.8 global + 0.2 mean over the quadrants of the globally normalised map."""
    maps = []
    for a in (a_s, a_t):
        f = a.pow(2).sum(1)
        maps.append(f / (f.flatten(1).norm(dim=1)[:, None, None] + 1e-6))
    q_s, q_t = maps
    h, w = q_s.shape[1] // 2, q_s.shape[2] // 2
    quadrants = [(slice(None, h), slice(None, w)), (slice(None, h), slice(w, None))]
    quadrants += [(slice(h, None), slice(None, w)), (slice(h, None), slice(w, None))]
    local = sum(released_region_loss(q_s[:, r, c], q_t[:, r, c], s, m) for r, c in quadrants) / 4
    return 0.2 * local + 0.8 * released_region_loss(q_s, q_t, s, m)


@pytest.mark.parametrize("case", released.cases("amd"), ids=released.name)
def test_global_values_and_gradients_are_those_of_the_released_code(case):
    student = released.tensor(case["student"]).requires_grad_()
    loss = AngularPenaltyLoss(s=case["options"]["scale"], m=case["options"]["margin"])
    (value,) = loss([student], [released.tensor(case["teacher"])])
    value.backward()
    # The released code rounds 1 - q to float32, whatever its inputs: hence 1e-6 of the scale.
    assert value.item() == pytest.approx(case["value"], rel=1e-7)
    assert student.grad.norm().item() == pytest.approx(case["grad_norm"], rel=1e-6)
    first = torch.tensor(case["grad_first"], dtype=torch.float64)
    torch.testing.assert_close(
        student.grad.flatten()[:6], first, rtol=0, atol=1e-6 * first.abs().max().item()
    )


# 7x9: odd, so the second quadrants are the larger. The other options: not the defaults.
@pytest.mark.parametrize(("size", "s", "m"), [((8, 8), None, None), ((7, 9), 30.0, 2.0)])
def test_4b_is_the_intended_global_and_local_loss(size, s, m):
    student, teacher = pair(size=size)
    student.requires_grad_()
    (value,) = AngularPenaltyLoss4b(s=s, m=m)([student], [teacher])
    expected = intended_4b(student, teacher, s or 64.0, m or 1.35)
    (gradient,) = torch.autograd.grad(value, student)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("cls", CLASSES)
def test_lists_in_a_list_of_losses_out_one_a_pair(cls):
    (s1, t1), (s2, t2) = pair(1), pair(2, (5, 6))
    loss = cls()
    values = loss([s1, s2], (t1, t2))
    assert isinstance(values, list)
    assert [v.shape for v in values] == [(), ()]
    assert values == [*loss([s1], [t1]), *loss([s2], [t2])]


def test_the_sum_over_pairs_is_that_many_times_amd_loss():
    (s1, t1), (s2, t2) = pair(1), pair(2)
    total = sum(AngularPenaltyLoss4b()([s1, s2], [t1, t2]))
    torch.testing.assert_close(total, 2 * AMDLoss(formula="released")([s1, s2], [t1, t2]))


@pytest.mark.parametrize("cls", CLASSES)
def test_finite_where_the_released_code_gives_nan(cls):
    student, teacher = (a.half().requires_grad_() for a in pair())
    (value,) = cls(s=200.0)([student], [teacher])
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_positional_arguments_are_in_the_released_order():
    loss = AngularPenaltyLoss(10, "SphereFace", 1e-5, 32.0, 1.5)
    assert (loss.out_features, loss.loss_type, loss.eps) == (10, "sphereface", 1e-5)
    assert (loss.s, loss.m) == (32.0, 1.5)


def test_none_and_zero_mean_the_released_defaults():
    assert [(x.s, x.m) for x in (AngularPenaltyLoss(), AngularPenaltyLoss4b(s=0, m=0))] == [
        (64.0, 1.35),
        (64.0, 1.35),
    ]


def test_eps_has_no_effect():
    student, teacher = pair()
    assert AngularPenaltyLoss(eps=0.3)([student], [teacher]) == AngularPenaltyLoss()(
        [student], [teacher]
    )


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss_type": "arcface"}, ValueError, "loss_type must be 'sphereface', got 'arcface'"),
        ({"loss_type": None}, TypeError, "loss_type must be 'sphereface', got NoneType"),
        ({"eps": -1e-7}, ValueError, "eps must be finite and >= 0, got -1e-07"),
        ({"s": -1.0}, ValueError, "s must be finite and > 0, got -1.0"),
        ({"s": "64"}, TypeError, "s must be a number, got str"),
        ({"m": float("nan")}, ValueError, "m must be finite and > 0, got nan"),
    ],
)
def test_bad_arguments_are_named(cls, arguments, error, message):
    with pytest.raises(error, match=f"^{cls.__name__}: {message}"):
        cls(**arguments)


# RepDistiller's pairs of networks whose maps differ, as ResNet50 and MobileNetV2.
@pytest.mark.parametrize("cls", CLASSES)
def test_maps_of_different_sizes_are_pooled_as_the_zoo_s_own_at_does(cls):
    (student, _), (_, teacher) = pair(1, (8, 8)), pair(2, (4, 4))
    (value,) = cls(align="adaptive_avg")([student], [teacher])
    torch.testing.assert_close(value, *cls()([F.avg_pool2d(student, 2)], [teacher]))
    (value,) = cls(align="adaptive_avg")([teacher], [student])
    torch.testing.assert_close(value, *cls()([teacher], [F.avg_pool2d(student, 2)]))


@pytest.mark.parametrize(
    "options",
    [
        {"formula": "paper", "mask_threshold": 0.5},
        {"local_weight": 0.7, "component_weights": (1, 0, 2)},
        {"reduction": "batchmean", "backend": "reference"},
        {"layout": "NLC", "grid": (4, 16), "prefix_tokens": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", CLASSES)
def test_takes_the_keywords_of_amd_loss(cls, options):
    student, teacher = pair()
    if "layout" in options:
        student, teacher = (a.flatten(2).transpose(1, 2) for a in (student, teacher))
    (value,) = cls(s=30.0, m=2.0, **options)([student], [teacher])
    own = {"formula": "released", "local_weight": 0.2 if cls is AngularPenaltyLoss4b else 0.0}
    expected = amd_loss(student, teacher, **{**own, **options}, scale=30.0, margin=2.0)
    torch.testing.assert_close(value, expected)


def test_layer_weights_are_factors_of_the_losses():
    (s1, t1), (s2, t2) = pair(1), pair(2)
    plain = AngularPenaltyLoss4b()([s1, s2], [t1, t2])
    weighted = AngularPenaltyLoss4b(layer_weights=[2.0, 0.5])([s1, s2], [t1, t2])
    torch.testing.assert_close(weighted, [2 * plain[0], plain[1] / 2])
    with pytest.raises(ValueError, match="one weight for each of the 1 layer pairs, got 2"):
        AngularPenaltyLoss4b(layer_weights=[2.0, 0.5])([s1], [t1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"align": "pool"}, ValueError, "align must be"),
        ({"margin": 1.2}, TypeError, "margin is called m here, got margin=1.2"),
        ({"scale": 32}, TypeError, "scale is called s here, got scale=32"),
        ({"aling": "error"}, TypeError, "'aling' is none of its options"),
        ({"local_weight": 2}, ValueError, "local_weight must be between 0 and 1, got 2"),
    ],
)
@pytest.mark.parametrize("cls", CLASSES)
def test_bad_keywords_are_named(cls, options, error, message):
    with pytest.raises(error, match=f"^{cls.__name__}: {message}"):
        cls(**options)


SMALL, LARGE = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
LOGITS = torch.rand(2, 5)
# A call with maps of two sizes, and where its message says the option belongs.
CALLS = {
    "amd_loss": (lambda: amd_loss(SMALL, LARGE), "of amd_loss or AMDLoss", AMDLoss),
    "AMDLoss": (lambda: AMDLoss()(SMALL, LARGE), "of amd_loss or AMDLoss", AMDLoss),
    "at_loss": (lambda: at_loss(SMALL, LARGE), "of at_loss or ATLoss", ATLoss),
    "ATLoss": (lambda: ATLoss()(SMALL, LARGE), "of at_loss or ATLoss", ATLoss),
    "DistillationLoss": (
        lambda: DistillationLoss()(LOGITS, LOGITS, torch.tensor([0, 1]), SMALL, LARGE),
        "of amd_loss or AMDLoss",
        AMDLoss,
    ),
    "compat": (
        lambda: AngularPenaltyLoss4b()([SMALL], [LARGE]),
        r'^AngularPenaltyLoss4b: .*align="adaptive_avg" pools',
        AngularPenaltyLoss4b,
    ),
}


@pytest.mark.parametrize(("call", "where", "owner"), CALLS.values(), ids=CALLS)
def test_a_message_advises_only_what_the_named_object_takes(call, where, owner):
    with pytest.raises(ValueError, match=where) as error:
        call()
    assert 'align="adaptive_avg"' in str(error.value)
    owner(align="adaptive_avg")


@pytest.mark.parametrize("owner", advice.MODULES)
def test_what_a_message_names_takes_the_options(owner):
    function, module = getattr(amd_fused, owner), getattr(amd_fused, advice.MODULES[owner])
    assert advice.option_of(owner) == f" of {owner} or {module.__name__}"
    for takes in (function, module):
        assert "backend" in inspect.signature(takes).parameters
    assert advice.option_of("AngularPenaltyLoss4b") == ""


@pytest.mark.parametrize("cls", CLASSES)
def test_bad_lists_are_named(cls):
    student, teacher = pair()
    with pytest.raises(TypeError, match=r"g_s must be a list of feature maps, got Tensor; put"):
        cls()(student, [teacher])
    with pytest.raises(ValueError, match=r"same number of feature maps, got 1 and 2"):
        cls()([student], [teacher, teacher])
    with pytest.raises(ValueError, match=r"g_s must have at least one feature map"):
        cls()([], [])


@pytest.mark.parametrize("cls", CLASSES)
def test_copies_and_pickles_are_the_same_loss(cls):
    student, teacher = pair()
    loss = cls(s=30.0, m=2.0)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other([student], [teacher]) == loss([student], [teacher])
    assert repr(loss) == f"{cls.__name__}(loss_type='sphereface', s=30.0, m=2.0)"
    assert "m=1.35, align='adaptive_avg')" in repr(cls(align="adaptive_avg"))


@pytest.mark.parametrize("cls", CLASSES)
def test_compiles_as_one_graph(cls):
    (s1, t1), (s2, t2) = pair(1), pair(2, (5, 6))
    compiled = torch.compile(cls(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled([s1, s2], [t1, t2]), cls()([s1, s2], [t1, t2]))
