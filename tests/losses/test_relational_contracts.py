"""What at_loss, sp_loss and rkd_loss have in common: inputs, dtypes, layers, compilers."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import cases
import pytest
import torch
from measures import relative_error, run
from torch import Tensor
from torch.autograd import forward_ad

from amd_fused import ATLoss, RKDLoss, SPLoss, at_loss, rkd_loss, sp_loss

pytestmark = pytest.mark.filterwarnings("ignore:at_loss. no fused backend")
LOSSES: dict[str, Callable[..., Tensor]] = {
    "at": at_loss,
    "at cubed": functools.partial(at_loss, p=3),
    "sp": sp_loss,
    "rkd": rkd_loss,
}
MODULES = {"at": ATLoss, "sp": SPLoss, "rkd": RKDLoss}
every_loss = pytest.mark.parametrize("name", LOSSES)
every_module = pytest.mark.parametrize("name", MODULES)


def owner(name: str) -> str:
    return f"{name.split()[0]}_loss"


@every_loss
@pytest.mark.parametrize("dtypes", cases.DTYPES.values(), ids=cases.DTYPES.keys())
def test_the_result_is_one_number_and_gradients_have_their_inputs_dtype(
    name: str, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    features = cases.features((4, 6, 5, 5, 4), dtypes)
    result = run(LOSSES[name], *features)
    wide = run(LOSSES[name], *(a.double() for a in features))
    assert result.loss.shape == ()
    assert result.loss.dtype == (torch.float64 if torch.float64 in dtypes else torch.float32)
    torch.testing.assert_close(result.loss.double(), wide.loss, rtol=1e-5, atol=1e-9)
    for a, grad, exact in zip(features, result.grads, wide.grads, strict=True):
        assert grad.dtype == a.dtype
        atol = float(torch.finfo(a.dtype).eps * exact.abs().max())
        torch.testing.assert_close(grad.double(), exact, rtol=0, atol=2 * atol + 1e-7)


@every_loss
def test_gradients_flow_to_whichever_side_requires_one(name: str) -> None:
    for wanted in ((True, False), (False, True), (True, True)):
        features = cases.features((3, 4, 5, 4, 4))
        both = run(LOSSES[name], *features)
        leaves = [a.requires_grad_(w) for a, w in zip(features, wanted, strict=True)]
        LOSSES[name](*leaves).backward()
        for a, w, grad in zip(leaves, wanted, both.grads, strict=True):
            assert (a.grad is not None) == w
            assert not w or torch.allclose(a.grad, grad, rtol=1e-5, atol=1e-9)


@every_loss
def test_layers_are_added_up_with_their_weights(name: str) -> None:
    pairs = [cases.features(shape) for shape in ((3, 4, 5, 6, 6), (3, 8, 7, 3, 5))]
    students, teachers = [s for s, _ in pairs], tuple(t for _, t in pairs)
    alone = [LOSSES[name](s, t) for s, t in pairs]
    torch.testing.assert_close(LOSSES[name](students, teachers), alone[0] + alone[1])
    weighted = LOSSES[name](students, teachers, layer_weights=[0.5, 3.0])
    torch.testing.assert_close(weighted, 0.5 * alone[0] + 3 * alone[1])


@every_loss
def test_the_same_features_cost_nothing_but_rounding(name: str) -> None:
    student, _ = cases.features((4, 5, 5, 4, 4))
    result = run(LOSSES[name], student, student.clone())
    assert result.loss.item() == pytest.approx(0, abs=1e-14)
    assert all(grad.abs().max() < 1e-8 for grad in result.grads)


@every_loss
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_strides_change_nothing_and_inputs_are_not_written_to(name: str, layout: str) -> None:
    plain = cases.features((4, 6, 5, 5, 4))
    strided = [cases.LAYOUTS[layout](a) for a in plain]
    before = [a.clone() for a in strided]
    expected, found = run(LOSSES[name], *plain), run(LOSSES[name], *strided)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.grads, expected.grads, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(strided, before, strict=True))


@every_loss
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_inf_reach_the_loss(name: str, bad: float) -> None:
    for side in (0, 1):
        features = cases.features((3, 4, 5, 4, 4))
        features[side][1, 2, 3, 1] = bad
        assert torch.isnan(LOSSES[name](*features))


@every_loss
def test_bitwise_the_same_from_run_to_run(name: str) -> None:
    features = cases.features((6, 16, 9, 14, 14))
    first, again = run(LOSSES[name], *features), run(LOSSES[name], *features)
    assert torch.equal(first.loss, again.loss)
    assert all(map(torch.equal, first.grads, again.grads))


@every_loss
def test_autocast_changes_nothing(name: str) -> None:
    features = cases.features((4, 6, 5, 5, 4))
    expected = run(LOSSES[name], *features)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(LOSSES[name], *features)
    assert torch.equal(found.loss, expected.loss)
    assert all(map(torch.equal, found.grads, expected.grads))


@every_loss
def test_uninitialised_memory_is_never_read(name: str, poisoned: None) -> None:
    for layout in ("nchw", "channels_last", "window"):
        for dtype in (torch.float32, torch.float16):
            result = run(LOSSES[name], *cases.features((4, 6, 5, 5, 4), (dtype, dtype), layout))
            assert torch.isfinite(result.loss)
            assert all(torch.isfinite(grad).all() for grad in result.grads)


@every_loss
def test_an_upstream_gradient_is_applied_before_the_cast_to_half(name: str) -> None:
    """A loss scale is there for gradients that float16 has no digits for."""
    features = cases.features((4, 6, 5, 5, 4))
    student, teacher = ((256 * a).half() for a in features)
    wide = student.double().requires_grad_()
    exact = torch.autograd.grad(LOSSES[name](wide, teacher.double()), wide)[0]
    student.requires_grad_()
    (LOSSES[name](student, teacher) * 2.0**12).backward()
    assert relative_error(student.grad.double() / 2.0**12, exact) < 1e-3


# The casts of half precision are the same in all of them, and so is the sum over layers.
COMPILED = {("at", torch.float16): 2, ("sp", torch.float32): 1, ("rkd", torch.float32): 1}


@pytest.mark.parametrize(
    ("name", "dtype", "layers"),
    [
        *((*case, layers) for case, layers in COMPILED.items()),
        *(
            pytest.param(name, dtype, 2, marks=pytest.mark.exhaustive)
            for name in LOSSES
            for dtype in (torch.float32, torch.float16)
            if COMPILED.get((name, dtype)) != 2
        ),
    ],
)
def test_compiles_to_one_graph_with_the_same_result(
    name: str, dtype: torch.dtype, layers: int
) -> None:
    compiled = torch.compile(LOSSES[name], backend="aot_eager", fullgraph=True)
    for batch in (3, 5):
        pairs = [cases.features((batch, 4, 5, 4, 6), (dtype, dtype), seed=i) for i in range(layers)]
        sides = [s for s, _ in pairs], [t for _, t in pairs]
        eager, traced = run(LOSSES[name], *sides), run(compiled, *sides)
        torch.testing.assert_close(traced.loss, eager.loss)
        torch.testing.assert_close(traced.grads, eager.grads)


@pytest.mark.parametrize("name", ["at", "sp", "rkd"])
def test_forward_mode_is_refused(name: str) -> None:
    student, teacher = cases.features((3, 4, 5, 4, 4))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(student, torch.ones_like(student))
        with pytest.raises(RuntimeError, match=r"forward.mode"):
            LOSSES[name](dual, teacher)


@every_module
def test_modules_are_their_function_with_fixed_options(name: str) -> None:
    features = cases.features((3, 4, 5, 4, 4))
    options: dict[str, Any] = {
        "at": {"p": 3, "mode": "paper"},
        "sp": {"norm_p": 1},
        "rkd": {"distance_weight": 2.0, "angle_weight": 3.0},
    }[name]
    weights = [2.0]
    criterion = MODULES[name](*options.values(), layer_weights=weights)
    weights[0] = 5.0
    sides = [features[0]], [features[1]]
    expected = LOSSES[name](*sides, **options, layer_weights=[2.0])
    for module in (criterion, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert torch.equal(module(*sides), expected)
    assert all(f"{key}={value!r}" in repr(criterion) for key, value in options.items())
    assert not list(criterion.parameters())
    assert not criterion.state_dict()
    assert torch.equal(MODULES[name]()(*features), LOSSES[name](*features))


@every_loss
@pytest.mark.parametrize(
    ("student", "teacher", "error", "message"),
    [
        ([], [], ValueError, "student must have at least one feature map, got an empty list"),
        (torch.ones(3, 4, 2, 2), [torch.ones(3, 4, 2, 2)], TypeError, "must both be a tensor or"),
        ([torch.ones(3, 4, 2, 2)] * 2, [torch.ones(3, 4, 2, 2)], ValueError, "got 2 and 1"),
        (torch.ones(3, 4, 2, 2), torch.ones(2, 4, 2, 2), ValueError, "teacher must have the batch"),
        (torch.ones(3, 4, 2, 2).int(), torch.ones(3, 4, 2, 2), TypeError, "student must have dtyp"),
        (torch.ones(3), torch.ones(3), ValueError, r"student must be .*\[B, .*\], got 1-D"),
        (torch.ones(3, 0, 2, 2), torch.ones(3, 4, 2, 2), ValueError, r"got shape \(3, 0, 2, 2\)"),
        (torch.ones(3, 4, 2, 2), torch.ones(3, 4, 2, 2, device="meta"), ValueError, "device of st"),
    ],
)
def test_bad_inputs_are_named(
    name: str, student: Any, teacher: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{owner(name)}: .*{message}"):
        LOSSES[name](student, teacher)
    with pytest.raises(ValueError, match=f"^{owner(name)}: layer_weights must have one weight"):
        LOSSES[name](torch.ones(3, 4, 2, 2), torch.ones(3, 4, 2, 2), layer_weights=[1, 2])
