"""Criteria in the middle of training: copies, states, changing batches, several calls."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every_loss import CRITERIA, TARGET, B, D, K, Step, constant, gradient, made
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import amd_fused

every_criterion = pytest.mark.parametrize("name", CRITERIA)


def trained(name: str) -> tuple[str, nn.Module, Any]:
    """A criterion after two steps, with the optimiser of its parameters, if it has any."""
    kind, make = CRITERIA[name]
    step = Step(make())
    parameters = list(step.parameters())
    optimiser = torch.optim.Adam(parameters) if parameters else None
    for seed in (1, 2):
        student = made(kind, seed).requires_grad_()
        step(student, made(kind, seed + 10), TARGET).backward()
        if optimiser:
            optimiser.step()
            optimiser.zero_grad()
    return kind, step.criterion, optimiser


def results(criterion: nn.Module, kind: str) -> list[Tensor]:
    student = made(kind, 5).requires_grad_()
    loss = Step(criterion)(student, made(kind, 6), TARGET)
    return [loss.detach(), gradient(loss, student)]


def loaded(criterion: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(criterion, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def from_state(name: str, criterion: nn.Module) -> nn.Module:
    fresh = CRITERIA[name][1]()
    file = io.BytesIO()
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


COPIES: dict[str, Callable[[str, nn.Module], nn.Module]] = {
    "deepcopy": lambda name, criterion: copy.deepcopy(criterion),
    "pickle": lambda name, criterion: pickle.loads(pickle.dumps(criterion)),
    "torch.save": lambda name, criterion: loaded(criterion),
    "state_dict": from_state,
}


# Functions of a lambda cannot be pickled; the criteria's own parts can.
@pytest.mark.parametrize("copied", COPIES)
@every_criterion
def test_copies_in_mid_training_are_the_same_loss_and_their_own(name: str, copied: str) -> None:
    kind, criterion, _ = trained(name)
    other = COPIES[copied](name, criterion)
    expected = results(criterion, kind)
    assert all(map(torch.equal, results(other, kind), expected))
    for tensor in [*other.parameters(), *other.buffers()]:
        with torch.no_grad():
            tensor.mul_(2)
    assert all(map(torch.equal, results(criterion, kind), expected))


@every_criterion
def test_a_criterion_called_twice_in_one_forward_pass_is_the_sum(name: str) -> None:
    kind, make = CRITERIA[name]
    step = Step(make())
    students = [made(kind, seed).requires_grad_() for seed in (1, 2)]
    teacher = made(kind, 3)
    together = sum(step(s, teacher, TARGET) for s in students)
    gradients = torch.autograd.grad(together, students)
    for student, found in zip(students, gradients, strict=True):
        assert torch.equal(found, gradient(step(student, teacher, TARGET), student))


# A list, trained layers, embeddings and state, and a sum; the other criteria are exhaustive.
COMPILED = ("AMDLoss", "AFDLoss", "CRDLoss", "DistillationLoss of several")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in COMPILED else pytest.mark.exhaustive)
        for name in CRITERIA
    ],
)
def test_a_last_smaller_batch_compiles_once_more_and_no_more_after_that(name: str) -> None:
    kind, make = CRITERIA[name]
    counter = CompileCounter()
    step = Step(make())
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    for size in (8, 8, 5, 8, 8, 3, 8, 7, 4, 6):
        student = made(kind, size, size).requires_grad_()
        teacher, target = made(kind, size + 20, size), torch.arange(size) % K
        expected = step(student, teacher, target)
        found = compiled(student, teacher, target)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradient(found, student), gradient(expected, student))
    assert counter.frame_count <= 2


def mixup(target: Tensor, share: float = 0.7) -> Tensor:
    one_hot = F.one_hot(target, K).float()
    return share * one_hot + (1 - share) * one_hot.roll(1, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_soft_targets_are_those_of_cross_entropy(dtype: torch.dtype) -> None:
    z_s = made("logits", 1).to(dtype).requires_grad_()
    target = mixup(TARGET)
    criterion = amd_fused.DistillationLoss(1.0, 0.0, feature_weight=0.0)
    loss = criterion(z_s, None, target)
    expected = F.cross_entropy(z_s.float() if dtype == torch.bfloat16 else z_s, target.to(
        torch.float64 if dtype == torch.float64 else torch.float32))  # fmt: skip
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, z_s), gradient(expected, z_s))


@pytest.mark.parametrize("compiled", [False, True])
def test_soft_targets_beside_a_masked_class_are_those_of_the_other_classes(compiled: bool) -> None:
    masked, kept = 9, list(range(9))
    z_s, z_t, target = made("logits", 1), made("logits", 2), mixup(TARGET)
    assert (target[:, masked] == 0).all()
    few = z_s[:, kept].requires_grad_()
    expected = amd_fused.DistillationLoss(feature_weight=0)(few, z_t[:, kept], target[:, kept])
    z_s[:, masked] = z_t[:, masked] = -torch.inf
    z_s.requires_grad_()
    criterion: Any = amd_fused.DistillationLoss(feature_weight=0)
    if compiled:
        criterion = torch.compile(criterion, backend="aot_eager", fullgraph=True)
    loss = criterion(z_s, z_t, target)
    torch.testing.assert_close(loss, expected)
    grad = gradient(loss, z_s)
    torch.testing.assert_close(grad[:, kept], gradient(expected, few))
    assert (grad[:, masked] == 0).all()


def test_a_share_of_a_masked_class_makes_the_loss_infinite_as_the_cross_entropy_is() -> None:
    z_s, target = made("logits", 1), mixup(TARGET)
    z_s[0, TARGET[0]] = -torch.inf
    criterion = amd_fused.DistillationLoss(1.0, 0.0, feature_weight=0.0)
    z_s.requires_grad_()
    loss = criterion(z_s, None, target)
    assert loss == torch.inf
    assert gradient(loss, z_s).isfinite().all()


# Near one level, so that no term of a position is under the floor of its norm.
ONE, SMALL = (1 + 0.1 * constant(3, 5, size, size) for size in (1, 2))
CONSTANT: dict[str, tuple[Callable[..., Tensor], Tensor, dict[str, Any], str]] = {
    "amd": (amd_fused.amd_loss, ONE, {"local_weight": 0.0}, "every map has one position"),
    "amd, quadrants": (
        amd_fused.amd_loss, SMALL, {"local_weight": 1.0}, "every quadrant has one position",
    ),
    "at": (amd_fused.at_loss, ONE, {}, "every map has one position"),
    "at, cubes": (amd_fused.at_loss, ONE, {"p": 3.0}, "every map has one position"),
    "sp": (amd_fused.sp_loss, SMALL[:1], {}, "the batch has B = 1"),
    "rkd": (amd_fused.rkd_loss, SMALL[:2], {}, "the batch has B = 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONSTANT)
def test_a_shape_on_which_a_loss_is_constant_is_said_once(case: str) -> None:
    loss, student, options, reason = CONSTANT[case]
    student = student.clone().requires_grad_()
    with pytest.warns(UserWarning, match=f"the gradient is 0 whatever .*: {reason}"):
        value = loss(student, 2 * student.detach() + 1, **options)
    assert value.abs() < 1e-6
    assert gradient(value, student).abs().max() < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(student, student.detach(), **options)


@pytest.mark.parametrize("case", CONSTANT)
def test_other_shapes_and_one_larger_map_are_no_reason_to_warn(case: str) -> None:
    loss, student, options, _ = CONSTANT[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if case in ("sp", "rkd"):
            larger = torch.cat([student, torch.randn_like(student)] * 2)
            loss(larger, larger, **options)
        else:
            pair = [student, torch.randn(3, 5, 4, 4)]
            loss(pair, pair, **options)


def test_a_compiled_loss_warns_too() -> None:
    compiled = torch.compile(amd_fused.sp_loss, backend="eager", fullgraph=True)
    with pytest.warns(UserWarning, match="the batch has B = 1"):
        compiled(torch.randn(1, D), torch.randn(1, D))


DICTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "another key": (
        {"x": torch.randn(B, D), "target": TARGET}, {},
        r'under "labels" or "label", got a dict with the keys \[.x., .target.\]; .* label_key=',
    ),
    "a wrong key": (
        {"x": torch.randn(B, D), "target": TARGET}, {"label_key": "y"},
        r"under label_key='y', got a dict with the keys \[.x., .target.\]; .* label_key=",
    ),
    "labels in a list": (
        {"x": torch.randn(B, D), "labels": [3, 1, 0, 7]}, {},
        "labels of a batch must be a tensor, got list",
    ),
    "one tensor": (torch.randn(B, D), {}, r"\(inputs, labels, .* got Tensor$"),
    "a tuple of one": ((torch.randn(B, D),), {}, r"got tuple of 1 \(Tensor\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", DICTS)
@pytest.mark.parametrize("of", ["a model", "embeddings"])
def test_batches_without_labels_are_described_before_the_model_sees_them(
    case: str, of: str
) -> None:
    batch, options, message = DICTS[case]

    def model(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("the model was called")

    source: Any = model if of == "a model" else torch.randn(B, D)
    with pytest.raises(TypeError, match=message):
        amd_fused.class_means(source, [batch], K, **options)


def test_the_key_of_the_labels_may_be_named() -> None:
    x, target = torch.randn(2 * K, D), torch.arange(2 * K) % K
    batch = {"x": x, "target": target}
    means = amd_fused.class_means(lambda x: x, [batch], K, label_key="target")
    assert torch.equal(means, amd_fused.class_means(x, target, K))
    assert torch.equal(means, amd_fused.class_means(x, [batch], K, label_key="target"))
