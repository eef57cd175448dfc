"""CRDLoss: negatives that a seed decides, banks that remember, normalisers set once, processes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trained_oracle
from torch import Tensor

from amd_fused import CRDLoss, crd_loss
from amd_fused.losses.crd import negatives

B, N, K = 4, 30, 50
LABELS = torch.arange(N) % 7 * 10
INDICES = torch.tensor([3, 29, 0, 11])


def rows(width: int, seed: int, batch: int = B) -> Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed))


def criterion(**options: Any) -> CRDLoss:
    torch.manual_seed(1)
    return CRDLoss(**({"student_features": 5, "teacher_features": 6, "num_samples": N,
                       "num_negatives": K, "embed_features": 8} | options))  # fmt: skip


def embeddings(of: CRDLoss, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return F.normalize(of.embed_student(student)), F.normalize(of.embed_teacher(teacher))


def drawn(labels: Tensor | None, indices: Tensor, step: int, seed: int, count: int) -> Tensor:
    others = negatives.OtherClasses(labels, N)
    of_classes = others.order, others.first, others.size
    return negatives.draw(*of_classes, indices, torch.tensor(step), seed, count)


def lowbias32(x: Any) -> Any:
    x = np.asarray(x, dtype=np.uint32)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 5, -3])
def test_negatives_are_the_published_hash_of_seed_step_sample_and_number(seed: int) -> None:
    """In NumPy's unsigned integers, which wrap around; samples of other classes listed by class."""
    found = drawn(LABELS, INDICES, 12, seed, 9)
    for b, index in enumerate(INDICES.tolist()):
        key = lowbias32(12 ^ seed & 0xFFFFFFFF)
        key = lowbias32(key ^ np.uint32(seed >> 32 & 0xFFFFFFFF))
        first = lowbias32(key ^ np.uint32(index))
        second = lowbias32(np.uint32((int(first) + 0x9E3779B9) % 2**32))
        ordered = sorted(range(N), key=lambda i: (LABELS[i].item(), i))
        others = [i for i in ordered if LABELS[i] != LABELS[index]]
        for k in range(9):
            word = lowbias32((int(lowbias32(first ^ np.uint32(k))) + int(second)) % 2**32)
            assert found[b, k] == others[int(word) * len(others) // 2**32]


def test_negatives_change_with_seed_step_and_sample_alone() -> None:
    one = drawn(LABELS, INDICES, 3, 0, K)
    assert torch.equal(drawn(LABELS, INDICES.flip(0), 3, 0, K), one.flip(0))
    assert torch.equal(drawn(LABELS, INDICES[1:2], 3, 0, K), one[1:2])
    assert torch.equal(drawn(LABELS, INDICES, 3, 0, 2 * K)[:, :K], one)
    for other in (drawn(LABELS, INDICES, 4, 0, K), drawn(LABELS, INDICES, 3, 1, K)):
        assert (other != one).any(1).all()


@pytest.mark.parametrize("labels", [None, LABELS])
def test_negatives_are_of_other_classes_and_equally_likely(labels: Tensor | None) -> None:
    every, draws = torch.arange(N), 20000
    found = drawn(labels, every, 0, 0, draws)
    classes = every if labels is None else labels
    assert (classes[found] != classes[:, None]).all()
    counts = F.one_hot(found, N).sum(1).double()
    for index in range(N):
        others = classes != classes[index]
        expected = draws / others.sum()
        # chi^2 of 22 to 28 degrees of freedom: 80 is past 1 in a million
        assert ((counts[index][others] - expected) ** 2 / expected).sum() < 80


def test_is_the_function_of_its_banks_and_changes_rows_of_the_batch() -> None:
    student, teacher = rows(5, 2).requires_grad_(), rows(6, 3)
    loss = criterion(labels=LABELS, momentum=0.25, temperature=0.5)
    before = copy.deepcopy(loss)
    value = loss(student, teacher, INDICES)
    samples = torch.cat([INDICES[:, None], drawn(LABELS, INDICES, 0, 0, K)], 1)
    banks = before.student_bank, before.teacher_bank
    e_s, e_t = embeddings(before, student, teacher)
    truth = trained_oracle.normalizers(e_s, e_t, banks, samples, 0.5)
    assert loss.log_normalizers.exp().tolist() == pytest.approx(truth, rel=1e-5)
    expected = crd_loss(e_s, e_t, *banks, samples, loss.log_normalizers, temperature=0.5)
    torch.testing.assert_close(value, expected)
    parameters = [student, *loss.parameters()]
    found = torch.autograd.grad(value, parameters)
    exact = torch.autograd.grad(expected, [student, *before.parameters()])
    torch.testing.assert_close(found, exact)
    for now, bank, e in zip((loss.student_bank, loss.teacher_bank), banks, (e_s, e_t), strict=True):
        expected = bank.clone()
        expected[INDICES] = F.normalize(0.25 * bank[INDICES] + 0.75 * e.detach())
        torch.testing.assert_close(now, expected)
    assert loss.step == 1


def test_normalisers_are_set_once_and_without_a_graph() -> None:
    loss = criterion()
    loss(rows(5, 2).requires_grad_(), rows(6, 3), INDICES)
    first = loss.log_normalizers.clone()
    assert not loss.log_normalizers.requires_grad
    loss(rows(5, 4).requires_grad_(), rows(6, 5), INDICES)
    assert torch.equal(loss.log_normalizers, first)
    copy.deepcopy(loss)


def test_evaluation_mode_changes_nothing() -> None:
    loss = criterion().eval()
    state = copy.deepcopy(loss.state_dict())
    student, teacher = rows(5, 2), rows(6, 3)
    value = loss(student, teacher, INDICES)
    torch.testing.assert_close(loss.state_dict(), state, equal_nan=True)
    assert torch.equal(loss(student, teacher, INDICES), value)
    assert torch.equal(loss.train()(student, teacher, INDICES), value)
    assert loss.log_normalizers.isfinite().all()


def test_a_resumed_training_has_the_same_bits() -> None:
    def step(loss: CRDLoss, optimiser: torch.optim.Optimizer, i: int) -> Tensor:
        optimiser.zero_grad()
        indices = torch.randint(N, (B,), generator=torch.Generator().manual_seed(i))
        value = loss(rows(5, i), rows(6, 20 + i), indices)
        value.backward()
        optimiser.step()
        return value.detach()

    loss = criterion(labels=LABELS)
    optimiser = torch.optim.SGD(loss.parameters(), 0.1, momentum=0.9)
    for i in range(3):
        step(loss, optimiser, i)
    saved = copy.deepcopy((loss.state_dict(), optimiser.state_dict()))
    resumed = criterion(labels=LABELS, seed=0)
    again = torch.optim.SGD(resumed.parameters(), 0.1, momentum=0.9)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    for i in range(3, 6):
        assert torch.equal(step(loss, optimiser, i), step(resumed, again, i))
    assert all(map(torch.equal, loss.state_dict().values(), resumed.state_dict().values()))


def test_banks_begin_as_random_directions_of_the_seed() -> None:
    loss, other = criterion(num_samples=500, seed=1), criterion(num_samples=500, seed=2)
    assert torch.equal(loss.student_bank, criterion(num_samples=500, seed=1).student_bank)
    for bank in (loss.student_bank, loss.teacher_bank):
        assert bank.abs().max() <= (3 / 8) ** 0.5
        assert bank.square().sum(1).mean().item() == pytest.approx(1, rel=0.05)
        assert bank.mean().abs() < 0.05
        assert not torch.equal(bank, other.student_bank)
    assert not torch.equal(loss.student_bank, loss.teacher_bank)


def test_a_sample_that_comes_twice_enters_with_its_last_embedding() -> None:
    student, teacher = rows(5, 2), rows(6, 3)
    loss = criterion(momentum=0.0)
    e_s, _ = embeddings(loss, student, teacher)
    loss(student, teacher, torch.tensor([4, 9, 4, 9]))
    torch.testing.assert_close(loss.student_bank[[4, 9]], e_s[2:].detach())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_broken_sample_reaches_the_loss_but_neither_banks_nor_normalisers(bad: float) -> None:
    loss = criterion()
    before = loss.student_bank.clone()
    student = rows(5, 2)
    student[1, 0] = bad
    assert not loss(student, rows(6, 3), INDICES).isfinite()
    assert torch.equal(loss.student_bank[INDICES[1]], before[INDICES[1]])
    assert not torch.equal(loss.student_bank[INDICES[0]], before[INDICES[0]])
    assert loss.student_bank.isfinite().all()
    assert loss(rows(5, 2), rows(6, 3), INDICES).isfinite()
    assert loss.log_normalizers.isfinite().all()


def test_a_bank_knows_its_samples_after_training() -> None:
    """Both sides of a sample come nearer to each other than to the others'."""
    loss = criterion(num_samples=16, num_negatives=64, labels=None)
    student, teacher = rows(5, 2, 16), rows(6, 3, 16)
    optimiser = torch.optim.Adam(loss.parameters(), 0.03)
    values = []
    for _ in range(60):
        optimiser.zero_grad()
        value = loss(student, teacher, torch.arange(16))
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.6 * values[0]
    nearest = (loss.student_bank @ loss.teacher_bank.T).argmax(1)
    assert (nearest == torch.arange(16)).sum() > 8


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no width": ({"student_features": 0}, ValueError, "student_features must be >= 1, got 0"),
    "one sample": ({"num_samples": 1}, ValueError, "num_samples must be >= 2, .* got 1"),
    "no negatives": ({"num_negatives": 0}, ValueError, "num_negatives must be >= 1, got 0"),
    "labels of fewer": ({"labels": LABELS[1:]}, ValueError, "labels must be .* B = 30, got shape"),
    "soft labels": ({"labels": LABELS.float()}, TypeError, "labels must have an integer dtype"),
    "one class": ({"labels": 0 * LABELS}, ValueError, "labels must be of at least two classes"),
    "momentum": ({"momentum": 1.5}, ValueError, "momentum must be between 0 and 1, got 1.5"),
    "temperature": ({"temperature": -1}, ValueError, "temperature must be finite and > 0, got -1"),
    "half a seed": ({"seed": 0.5}, TypeError, "seed must be an integer, got float"),
    "a long seed": ({"seed": 2**63}, ValueError, "seed must be between .* got 9"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), OPTIONS.values(), ids=OPTIONS.keys())
def test_message_names_the_option(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^CRDLoss: {message}"):
        criterion(**changes)


INPUTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a width": ({"student": rows(6, 2)}, ValueError, "student must have the width"),
    "batches": ({"teacher": rows(6, 3, 2)}, ValueError, "teacher must have the batch"),
    "Mixup": (
        {"indices": INDICES.float()}, TypeError, r"indices must be .* a blend of samples \(Mixup\)",
    ),
    "none": ({"indices": None}, TypeError, "indices must be a tensor"),
    "too few": ({"indices": INDICES[1:]}, ValueError, "indices must be .* with B = 4, got shape"),
    "past the end": (
        {"indices": torch.tensor([0, 1, 2, N])}, ValueError, "indices must be between 0 and 29.*30",
    ),
    "elsewhere": ({"indices": INDICES.to("meta")}, ValueError, "indices must be on the device of"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), INPUTS.values(), ids=INPUTS.keys())
def test_message_names_the_input(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"student": rows(5, 2), "teacher": rows(6, 3), "indices": INDICES}
    with pytest.raises(error, match=f"^CRDLoss: {message}"):
        criterion()(**(arguments | changes))
