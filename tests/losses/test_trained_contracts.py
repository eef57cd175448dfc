"""What vid, cc, crd, afd and afds have in common: dtypes, sides, layouts, compilers, layers."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import cases
import pytest
import torch
from measures import relative_error, run
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import amd_fused
from amd_fused import reference

B, C, N, K = 4, 6, 30, 12


def drawn(*shape: int, seed: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


BANKS = torch.nn.functional.normalize(drawn(2, N, C), dim=2)
SAMPLES = torch.randint(N, (64, 1 + K), generator=torch.Generator().manual_seed(5))
LOG_Z = torch.tensor([3.5, 3.0])


def _one(pair: Any) -> Tensor:
    """The only feature map of a side."""
    return pair if isinstance(pair, Tensor) else pair[0]


def _vid(student: Any, teacher: Any, loss: Any = amd_fused.vid_loss) -> Tensor:
    return loss(_one(student), _one(teacher), drawn(C))


def _rows(pair: Any) -> Tensor:
    return _one(pair).flatten(2).mean(2)


def _cc(student: Any, teacher: Any, loss: Any = amd_fused.cc_loss) -> Tensor:
    return loss(_rows(student), _rows(teacher))


def _cc_paper(student: Any, teacher: Any, loss: Any = amd_fused.cc_loss) -> Tensor:
    return loss(_rows(student), _rows(teacher), formula="paper")


def _crd(student: Any, teacher: Any, loss: Any = amd_fused.crd_loss) -> Tensor:
    rows = _rows(student), _rows(teacher)
    return loss(*rows, *BANKS, SAMPLES[: len(rows[0])], LOG_Z, temperature=0.5)


def _afd(student: Any, teacher: Any, loss: Any = amd_fused.afd_loss) -> Tensor:
    attention = drawn(64, 1, 2).softmax(2)[: len(_one(student))]
    half = _one(student).shape[2] // 2
    return loss([_one(student), _one(student)[:, :, half:]], [_one(teacher)], attention)


def _afds(student: Any, teacher: Any, loss: Any = amd_fused.afds_loss) -> Tensor:
    return loss(_one(student), _one(teacher), drawn(64, C).softmax(1)[: len(_one(student))])


LOSSES: dict[str, Callable[..., Tensor]] = {
    "vid": _vid, "cc": _cc, "cc paper": _cc_paper, "crd": _crd, "afd": _afd, "afds": _afds,
}  # fmt: skip
every_loss = pytest.mark.parametrize("name", LOSSES)


class Inputs(NamedTuple):
    student: Tensor
    teacher: Tensor


def features(
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32, torch.float32),
    layout: str = "nchw",
    batch: int = B,
) -> Inputs:
    return Inputs(*cases.features((batch, C, C, 6, 4), dtypes, layout))


@every_loss
@pytest.mark.parametrize("dtypes", cases.DTYPES.values(), ids=cases.DTYPES.keys())
def test_the_result_is_one_number_and_gradients_have_their_inputs_dtype(
    name: str, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    pair = features(dtypes)
    result = run(LOSSES[name], *pair)
    wide = run(LOSSES[name], *(a.double() for a in pair))
    assert result.loss.shape == ()
    assert result.loss.dtype == (torch.float64 if torch.float64 in dtypes else torch.float32)
    # The embeddings are means of maps, rounded to their dtype before the loss.
    coarse = max(torch.finfo(dtype).eps for dtype in dtypes) if "c" in name[:2] else 0.0
    torch.testing.assert_close(result.loss.double(), wide.loss, rtol=1e-5 + 4 * coarse, atol=1e-6)
    for a, grad, exact in zip(pair, result.grads, wide.grads, strict=True):
        assert grad.dtype == a.dtype
        atol = float((torch.finfo(a.dtype).eps + 4 * coarse) * exact.abs().max())
        torch.testing.assert_close(grad.double(), exact, rtol=0, atol=2 * atol + 1e-7)


@every_loss
def test_gradients_flow_to_whichever_side_requires_one(name: str) -> None:
    for wanted in ((True, False), (False, True), (True, True)):
        pair = features()
        both = run(LOSSES[name], *pair)
        leaves = [a.requires_grad_(w) for a, w in zip(pair, wanted, strict=True)]
        LOSSES[name](*leaves).backward()
        for a, w, grad in zip(leaves, wanted, both.grads, strict=True):
            assert (a.grad is not None) == w
            assert not w or torch.allclose(a.grad, grad, rtol=1e-5, atol=1e-9)


@every_loss
def test_gradients_are_those_of_the_value(name: str) -> None:
    pair = [a.requires_grad_() for a in features((torch.float64, torch.float64), batch=3)]
    loss = functools.partial(LOSSES[name], loss=getattr(reference, f"{name.split()[0]}_loss"))
    assert gradcheck(loss, pair, fast_mode=True)
    assert gradgradcheck(loss, pair, fast_mode=True)
    torch.testing.assert_close(LOSSES[name](*pair), loss(*pair), rtol=1e-12, atol=1e-12)
    for found, exact in zip(run(LOSSES[name], *pair).grads, run(loss, *pair).grads, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)


@every_loss
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_strides_change_nothing_and_inputs_are_not_written_to(name: str, layout: str) -> None:
    plain, strided = features(), features(layout=layout)
    before = [a.clone() for a in strided]
    expected, found = run(LOSSES[name], *plain), run(LOSSES[name], *strided)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.grads, expected.grads, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(strided, before, strict=True))


@every_loss
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_inf_reach_the_loss(name: str, bad: float) -> None:
    for side in (0, 1):
        pair = features()
        pair[side][1, 2, 3, 1] = bad
        assert not LOSSES[name](*pair).isfinite()


@every_loss
def test_bitwise_the_same_from_run_to_run_whatever_autocast_and_torch_empty(
    name: str, poisoned: None
) -> None:
    under_autocast = torch.autocast("cpu", torch.bfloat16)
    first = run(LOSSES[name], *features())
    again = run(under_autocast(LOSSES[name]), *features())
    assert torch.isfinite(first.loss)
    assert torch.equal(first.loss, again.loss)
    assert all(map(torch.equal, first.grads, again.grads))


@every_loss
def test_an_upstream_gradient_is_applied_before_the_cast_to_half(name: str) -> None:
    """A loss scale is there for gradients that float16 has no digits for."""
    if name.startswith("c"):
        student, teacher = (_rows(a).half() for a in features())
    else:
        student, teacher = (a.half() for a in features())
    as_maps = (lambda a: a) if student.ndim == 4 else (lambda a: a[:, :, None, None])
    wide = student.double().requires_grad_()
    exact = torch.autograd.grad(LOSSES[name](as_maps(wide), as_maps(teacher.double())), wide)[0]
    student.requires_grad_()
    (LOSSES[name](as_maps(student), as_maps(teacher)) * 2.0**8).backward()
    assert student.grad is not None
    assert relative_error(student.grad.double() / 2.0**8, exact) < 2e-3


CRITERIA: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "vid": (
        lambda: amd_fused.VIDLoss(C, C, hidden_channels=5, initial_variance=2.0, eps=1e-4),
        {
            "student_channels": (C,), "hidden_channels": 5, "initial_variance": 2.0, "eps": 1e-4,
            "backend": "auto",
        },
    ),
    "cc": (
        lambda: amd_fused.CCLoss(C, C, "paper", embed_features=7, gamma=0.5, order=3),
        {"formula": "paper", "gamma": 0.5, "order": 3},
    ),
    "crd": (
        lambda: amd_fused.CRDLoss(C, C, N, K, temperature=0.1, momentum=1, seed=2),
        {"num_negatives": K, "temperature": 0.1, "momentum": 1, "seed": 2, "backend": "auto"},
    ),
    "afd": (
        lambda: amd_fused.AFDLoss(C, [C], attention_features=8),
        {"teacher_channels": (C,), "attention_features": 8, "backend": "auto"},
    ),
    "afds": (
        lambda: amd_fused.AFDSLoss((C, 6, 4), "se", eps=1e-5),
        {
            "feature_shapes": ((C, 6, 4),), "predictor": "se", "eps": 1e-5, "backend": "auto",
        },
    ),
}  # fmt: skip
every_criterion = pytest.mark.parametrize("name", CRITERIA)


def call(name: str, criterion: Any, student: Tensor, teacher: Tensor) -> Tensor:
    if name == "crd":
        return criterion(_rows(student), _rows(teacher), torch.arange(len(student)) * 2)
    if name == "cc":
        return criterion(_rows(student), _rows(teacher))
    return criterion(student, teacher)


@every_criterion
def test_options_are_attributes_and_shown(name: str) -> None:
    make, options = CRITERIA[name]
    criterion = make()
    assert all(getattr(criterion, key) == value for key, value in options.items())
    assert all(f"{key}={value!r}" in repr(criterion) for key, value in options.items())


@every_criterion
@pytest.mark.parametrize("dtypes", cases.DTYPES.values(), ids=cases.DTYPES.keys())
def test_layers_of_any_dtype_take_features_of_any_and_learn(
    name: str, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    criterion = CRITERIA[name][0]()
    student, teacher = features(dtypes)
    student.requires_grad_()
    loss = call(name, criterion, student, teacher)
    assert loss.shape == ()
    assert loss.dtype == (torch.float64 if torch.float64 in dtypes else torch.float32)
    loss.backward()
    assert student.grad is not None
    assert student.grad.dtype == student.dtype
    parameters = list(criterion.parameters())
    assert parameters
    for p in parameters:
        assert p.grad is not None
        assert torch.isfinite(p.grad).all()
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = call(name, copy.deepcopy(criterion), student, teacher)
    assert under_autocast.dtype == loss.dtype


@every_criterion
def test_a_criterion_in_float64_has_gradients_of_its_value(name: str) -> None:
    criterion = CRITERIA[name][0]().double()
    student, teacher = features((torch.float64, torch.float64), batch=3)
    call(name, criterion, student, teacher)
    criterion.eval()  # BatchNorm and banks hold still
    parameters = [p for p in criterion.parameters() if p.numel() < 30]

    def loss(student: Tensor, *_: Tensor) -> Tensor:
        return call(name, criterion, student, teacher)

    assert gradcheck(loss, (student.requires_grad_(), *parameters), fast_mode=True)


@every_criterion
def test_state_and_copies(name: str) -> None:
    make, _ = CRITERIA[name]
    criterion = make()
    student, teacher = features()
    call(name, criterion, student, teacher).backward()
    copies = [make(), copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))]
    copies[0].load_state_dict(criterion.state_dict())
    expected = call(name, criterion, student, teacher)
    for other in copies:
        assert torch.equal(call(name, other, student, teacher), expected)


@every_criterion
def test_layers_and_buffers_follow_the_features(name: str) -> None:
    """Another device than the CPU that every machine has; no loss is computed on it."""
    criterion = CRITERIA[name][0]()
    pair = torch.ones(B, C, 6, 4, device="meta"), torch.ones(B, C, 6, 4, device="meta")
    if name == "crd":
        rows = [a[:, :, 0, 0] for a in pair]
        loss = criterion(*rows, torch.ones(B, dtype=torch.int64, device="meta"))
    elif name in ("vid", "afd", "afds"):
        with pytest.warns(UserWarning, match="plain PyTorch reference"):
            loss = call(name, criterion, *pair)
    else:
        loss = call(name, criterion, *pair)
    held = [*criterion.parameters(), *criterion.buffers()]
    assert {a.device.type for a in (loss, *held)} == {"meta"}


# Another size compiles again: test_contracts_modules.py has that in `make test`.
@pytest.mark.parametrize(
    "batches",
    [(4, 4, 4), pytest.param((4, 6, 5), marks=pytest.mark.exhaustive)],
    ids=["one size", "several"],
)
@pytest.mark.parametrize("name", ["crd", "afd"])
def test_a_compiled_criterion_changes_its_buffers_as_well(
    name: str, batches: tuple[int, ...]
) -> None:
    criteria = [CRITERIA[name][0]() for _ in range(2)]
    criteria[1].load_state_dict(criteria[0].state_dict())
    compiled = torch.compile(functools.partial(call, name), backend="aot_eager", fullgraph=True)
    for batch in batches:
        student, teacher = features(batch=batch)
        student.requires_grad_()
        expected = call(name, criteria[0], student, teacher)
        found = compiled(criteria[1], student, teacher)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(loss, student)[0] for loss in (found, expected)]
        torch.testing.assert_close(*gradients)
    for found, expected in zip(criteria[1].buffers(), criteria[0].buffers(), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_second_derivative_and_forward_mode_of_crd_are_refused_with_the_remedy() -> None:
    student, teacher = features()
    student.requires_grad_()
    (grad,) = torch.autograd.grad(_crd(student, teacher), student, create_graph=True)
    remedy = r"use amd_fused\.reference\.crd_loss where a gradient is differentiated again"
    with pytest.raises(RuntimeError, match=f"^crd_loss: it has no second derivatives; {remedy}"):
        torch.autograd.grad(grad.sum(), student)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(student.detach(), torch.ones_like(student))
        with pytest.raises(RuntimeError, match=r"^crd_loss: .*forward.mode"):
            _crd(dual, teacher)
