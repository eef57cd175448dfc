"""crd_loss: formula, published values, chunks, extremes, errors."""

from __future__ import annotations

from typing import Any

import pytest
import released
import torch
import torch.nn.functional as F
import trained_oracle
from torch import Tensor

from amd_fused import CRDLoss, crd_loss, reference
from amd_fused.losses.crd import operator

B, N, D, K = 4, 20, 8, 35


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


def given(rows: int = N) -> dict[str, Any]:
    """More draws than rows: some come several times."""
    generator = torch.Generator().manual_seed(5)
    return {
        "student": unit(B, D, seed=0),
        "teacher": unit(B, D, seed=1),
        "student_bank": unit(rows, D, seed=2),
        "teacher_bank": unit(rows, D, seed=3),
        "samples": torch.randint(rows, (B, 1 + K), generator=generator),
        "log_normalizers": torch.tensor([3.0, 2.5], dtype=torch.float64),
    }


def exact(inputs: dict[str, Any], *options: float) -> float:
    banks = inputs["student_bank"], inputs["teacher_bank"]
    return trained_oracle.crd(
        inputs["student"],
        inputs["teacher"],
        banks,
        inputs["samples"],
        inputs["log_normalizers"],
        *options,
    )


@pytest.mark.parametrize("options", [(0.07, 1e-7), (0.5, 0.1)])
def test_is_the_formula(options: tuple[float, float]) -> None:
    temperature, eps = options
    inputs = given()
    for loss in (crd_loss, reference.crd_loss):
        value = loss(**inputs, temperature=temperature, eps=eps)
        torch.testing.assert_close(value.item(), exact(inputs, *options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrower_embeddings_and_banks_are_widened(dtype: torch.dtype) -> None:
    inputs = given()
    for name in ("student", "teacher", "student_bank", "teacher_bank", "log_normalizers"):
        inputs[name] = inputs[name].to(dtype)
    inputs["samples"] = inputs["samples"].int()
    value = crd_loss(**inputs, temperature=0.5)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact(inputs, 0.5), rel=1e-5)


def test_rows_of_a_bank_are_read_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = given()
    leaves = [inputs[side].requires_grad_() for side in ("student", "teacher")]
    results = []
    for rows in (1024, 7):
        monkeypatch.setattr(operator, "LEAST_ROWS", rows)
        monkeypatch.setattr(operator, "SCORE_BYTES", 0)
        loss = crd_loss(**inputs)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
        banks = inputs["student_bank"], inputs["teacher_bank"]
        log_z = operator.log_normalizers(*(a.detach() for a in leaves), *banks,
                                         inputs["samples"], 0.07)  # fmt: skip
        truth = trained_oracle.normalizers(*leaves, banks, inputs["samples"])
        assert log_z.exp().tolist() == pytest.approx(truth, rel=1e-10)
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-13)


def test_gradients_are_the_references_and_do_not_read_the_banks_again() -> None:
    inputs = given()
    leaves = [inputs[side].requires_grad_() for side in ("student", "teacher")]
    expected = torch.autograd.grad(reference.crd_loss(**inputs), leaves)
    loss = crd_loss(**inputs)
    inputs["student_bank"].zero_()
    inputs["teacher_bank"].fill_(torch.nan)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), expected)


@pytest.mark.parametrize("case", released.cases("crd"), ids=["RepDistiller"])
def test_values_gradients_and_banks_of_the_released_code(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call: with the normalisers of the first, and the banks that it left."""
    samples = torch.tensor(case["samples"])
    shape = (20, 8)
    criterion = CRDLoss(5, 7, 20, 12, embed_features=8).double()
    seeds = case["banks"], case["banks"] + 1
    for bank, seed in zip((criterion.student_bank, criterion.teacher_bank), seeds, strict=True):
        bank.copy_(0.5 * released.tensor({"seed": seed, "shape": shape, "kind": "normal"}))
    monkeypatch.setattr(criterion, "_negatives", lambda indices: samples[:, 1:])

    def second(student: Tensor, teacher: Tensor) -> Tensor:
        criterion(student, teacher, samples[:, 0])
        return criterion(student, teacher, samples[:, 0])

    sides = released.tensor(case["student"]), released.tensor(case["teacher"])
    released.check(case, list(criterion.parameters()), second, *sides)
    # The released code keeps them in float32.
    assert criterion.log_normalizers.exp().tolist() == pytest.approx(case["normalizers"], rel=1e-6)
    weights = released.tensor({"seed": 1, "shape": shape, "kind": "normal"})
    sums = [
        (bank * weights).sum().item() for bank in (criterion.student_bank, criterion.teacher_bank)
    ]
    assert sums == pytest.approx(case["bank_sums"], rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_temperature_overflows(dtype: torch.dtype) -> None:
    """exp(1 / 0.001) is past the range of float64; its logarithm is not."""
    inputs = {name: a.to(dtype) if a.is_floating_point() else a for name, a in given().items()}
    inputs["student"].requires_grad_()
    loss = crd_loss(**inputs, temperature=1e-3)
    assert torch.isfinite(loss)
    (grad,) = torch.autograd.grad(loss, inputs["student"])
    assert torch.isfinite(grad).all()


def test_bitwise_the_same_on_one_thread_and_two() -> None:
    inputs, results = given(3000), []
    inputs["student"].requires_grad_()
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        loss = crd_loss(**inputs)
        results.append((loss.detach(), torch.autograd.grad(loss, inputs["student"])[0]))
    torch.set_num_threads(threads)
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "other widths": (
        {"student": torch.ones(B, 5)}, ValueError,
        r"same shape, got \(4, 5\) and \(4, 8\); map both to one width, as CRDLoss does",
    ),
    "a bank of another width": (
        {"teacher_bank": torch.ones(N, 5)}, ValueError,
        r"teacher_bank must have the embeddings' width 8, got shape \(20, 5\)",
    ),
    "unlike banks": (
        {"teacher_bank": torch.ones(9, D)}, ValueError, r"same shape, got \(20, 8\) and \(9, 8\)",
    ),
    "a trained bank": (
        {"student_bank": torch.ones(N, D, requires_grad=True)}, ValueError,
        "student_bank must not require a gradient",
    ),
    "no negatives": (
        {"samples": torch.zeros(B, 1, dtype=torch.int64)}, ValueError,
        r"samples must be \[B, 1 \+ K\] with B = 4 and K >= 1, got shape \(4, 1\)",
    ),
    "samples in floats": ({"samples": torch.ones(B, 3)}, TypeError, "samples must have dtype"),
    "past the end": (
        {"samples": torch.full((B, 3), N)}, ValueError, "samples must be between 0 and 19.* 20",
    ),
    "before the start": ({"samples": torch.full((B, 3), -1)}, ValueError, "between 0 .* got -1"),
    "one normaliser": ({"log_normalizers": torch.ones(1)}, ValueError, r"must be \[2\], of"),
    "temperature": ({"temperature": 0}, ValueError, "temperature must be finite and > 0, got 0"),
    "eps": ({"eps": -1e-7}, ValueError, "eps must be finite and > 0, got -1e-07"),
    "backend": ({"backend": "cpu"}, ValueError, "backend must be one of 'auto', .* got 'cpu'"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_message_names_argument_rule_and_value(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^crd_loss: .*{message}"):
        crd_loss(**(given() | changes))
