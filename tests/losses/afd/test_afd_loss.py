"""afd_loss and AFDLoss: formula, published values, attention, zeros, errors."""

from __future__ import annotations

from typing import Any

import pytest
import released
import torch
import trained_oracle
from torch import Tensor

from amd_fused import AFDLoss, afd_loss

STUDENT, TEACHER = ((3, 8, 6), (5, 4, 3), (2, 4, 3)), ((4, 8, 6), (7, 4, 3), (6, 5, 5))


def features(
    shapes: tuple[tuple[int, int, int], ...], seed: int = 0, batch: int = 4
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *s, generator=generator, dtype=torch.float64) for s in shapes]


def test_is_the_formula_on_maps_of_any_sizes() -> None:
    students, teachers = features(STUDENT), features(TEACHER, 1)
    attention = features(((3, 3),), 2)[0].softmax(2)  # type: ignore[arg-type]
    loss = afd_loss(students, teachers, attention)
    exact = trained_oracle.afd(students, teachers, attention)
    torch.testing.assert_close(loss.item(), exact)
    one = afd_loss(students[0], teachers[:1], attention[:, :1, :1])
    exact = trained_oracle.afd(students[:1], teachers[:1], attention[:, :1, :1])
    torch.testing.assert_close(one.item(), exact)


@pytest.mark.parametrize("case", released.cases("afd"), ids=released.name)
def test_values_and_gradients_of_the_released_code(case: dict[str, Any]) -> None:
    sides = [[released.tensor(spec) for spec in case[side]] for side in ("student", "teacher")]
    channels = [[a.shape[1] for a in side] for side in sides]
    criterion = AFDLoss(*channels, attention_features=16).double()
    layers = [*criterion.key_layers, criterion.bilinear, *criterion.query_layers]
    in_order = [criterion.teacher_positions, criterion.student_positions]
    in_order += [p for layer in layers for p in layer.parameters()]
    assert len(in_order) == len(list(criterion.parameters()))
    released.check(case, in_order, criterion, *sides)


def test_attention_is_the_formula_of_its_layers() -> None:
    students, teachers = features(STUDENT), features(TEACHER, 1)
    criterion = AFDLoss([3, 5, 2], [4, 7, 6], attention_features=8).double()
    exact = trained_oracle.attention(students, teachers, criterion.state_dict(), 8)
    expected = trained_oracle.afd(students, teachers, torch.from_numpy(exact))
    torch.testing.assert_close(criterion(students, teachers).item(), expected)


def test_evaluation_mode_takes_running_statistics_and_one_sample() -> None:
    students, teachers = features(STUDENT), features(TEACHER, 1)
    criterion = AFDLoss([3, 5, 2], [4, 7, 6]).double()
    for _ in range(3):
        criterion(students, teachers)
    criterion.eval()
    state = {name: a.clone() for name, a in criterion.state_dict().items()}
    alone = [criterion([a[i : i + 1] for a in students], [a[i : i + 1] for a in teachers])
             for i in range(4)]  # fmt: skip
    torch.testing.assert_close(criterion(students, teachers), torch.stack(alone).mean())
    assert all(torch.equal(a, state[name]) for name, a in criterion.state_dict().items())


def test_layers_begin_as_the_released_codes() -> None:
    criterion = AFDLoss([3, 5], [4, 7, 6])
    assert criterion.teacher_positions.shape == (3, 128)
    assert criterion.student_positions.shape == (2, 128)
    assert criterion.bilinear[0].weight.shape == (3 * 128, 128)
    # xavier_normal: 2 / (rows + columns)
    assert criterion.teacher_positions.std().item() == pytest.approx((2 / 131) ** 0.5, rel=0.15)


def test_all_zero_maps_have_no_direction_and_no_gradient() -> None:
    students, teachers = features(STUDENT[1:]), features(TEACHER[1:2], 1)
    students[0][2] = 0
    teachers[0][1] = 0
    leaves = [a.requires_grad_() for a in (*students, *teachers)]
    attention = torch.full((4, 1, 2), 0.5, dtype=torch.float64)
    grads = torch.autograd.grad(afd_loss(students, teachers, attention), leaves)
    assert all(grad.isfinite().all() for grad in grads)
    assert (grads[0][2] == 0).all()
    assert (grads[2][1] == 0).all()
    assert (grads[0][0] != 0).any()


def test_a_teacher_of_inference_mode_serves_the_module() -> None:
    criterion = AFDLoss([3, 5, 2], [4, 7, 6]).double()
    with torch.inference_mode():
        teachers = features(TEACHER, 1)
    criterion(features(STUDENT), teachers).backward()
    assert all(p.grad is not None for p in criterion.parameters())


MAP = torch.ones(2, 3, 4, 4)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no maps": ({"student": []}, ValueError, "student must have at least one feature map"),
    "an embedding": (
        {"teacher": [MAP, MAP[:, :, 0, 0]]}, ValueError,
        r"teacher\[1\] must be 4-D \[B, C, H, W\], got 2-D",
    ),
    "a number": ({"teacher": 3}, TypeError, "teacher must be a tensor or a list or tuple of tens"),
    "integers": ({"student": MAP.int()}, TypeError, "student must have dtype float32"),
    "other batches": (
        {"teacher": [MAP, MAP[:1]]}, ValueError,
        r"teacher\[1\] must have the batch size of the first of student \(2\), got 1",
    ),
    "elsewhere": (
        {"teacher": MAP.to("meta")}, ValueError, "teacher must be on the device of the first of st",
    ),
    "attention of one pair": (
        {"student": [MAP, MAP]}, ValueError,
        r"attention must be \[B, T, S\] = \(2, 1, 2\) for 1 .* and 2 of student, got .*\(2, 1, 1\)",
    ),
    "attention elsewhere": (
        {"attention": torch.ones(2, 1, 1, device="meta")}, ValueError, "attention must be on the",
    ),
    "a backend": ({"backend": "cpu"}, ValueError, "backend must be one of 'auto', .* got 'cpu'"),
    "not of a CPU": ({"backend": "cuda"}, RuntimeError, "backend 'cuda' (is not u|runs on cu)"),
    "no attention": ({"attention": None}, TypeError, "attention must be a tensor, got NoneType"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_message_names_argument_rule_and_value(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "student": MAP, "teacher": MAP, "attention": torch.ones(2, 1, 1),
    }  # fmt: skip
    with pytest.raises(error, match=f"^afd_loss: {message}"):
        afd_loss(**(arguments | changes))


def test_module_names_options_and_features() -> None:
    with pytest.raises(ValueError, match=r"^AFDLoss: student_channels\[1\] must be >= 1, got 0"):
        AFDLoss([3, 0], [3])
    with pytest.raises(ValueError, match=r"^AFDLoss: attention_features must be >= 1, got 0"):
        AFDLoss(3, 3, attention_features=0)
    with pytest.raises(ValueError, match=r"^AFDLoss: backend must be one of .* got None"):
        AFDLoss(3, 3, backend=None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"^AFDLoss: backend 'cuda' (is not u|runs on cu)"):
        AFDLoss(3, 3, backend="cuda")(MAP, MAP)
    with pytest.raises(ValueError, match=r"^AFDLoss: teacher must have teacher_channels = 4 chan"):
        AFDLoss(3, 4)(MAP, MAP)
    with pytest.raises(ValueError, match=r"^AFDLoss: student must have one feature map for each o"):
        AFDLoss([3, 3], 3)(MAP, MAP)
    with pytest.raises(ValueError, match=r"^AFDLoss: the batch must have at least 2 samples"):
        AFDLoss(3, 3)(MAP[:1], MAP[:1])
