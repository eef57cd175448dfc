"""The LSH loss: right by hand, as accurate as eager PyTorch on every backend, bounded in memory."""

from __future__ import annotations

import math
from typing import Any

import embeddings
import pytest
import torch
import torch.nn.functional as F
from lsh_oracle import Inputs, inputs, oracle, run
from measures import relative_error
from torch.profiler import ProfilerActivity, profile

from amd_fused import lsh_loss, reference
from amd_fused.losses.lsh import operator as lsh

FUSED = ["cpp", "triton"]
ALL = ["reference", *FUSED]
KINDS = ["bce", "l2", "l1"]
# Beyond eager's own error: (loss, gradient), relative in the L2 norm.
TOLERANCE = {torch.float32: (1e-6, 1e-6), torch.float64: (1e-14, 1e-14)}


def check(backend: str, given: Inputs, **options: Any) -> None:
    truth = oracle(given, **options)
    eager, ours = run("reference", given, **options), run(backend, given, **options)
    computed_in = reference.compute_dtype(given[:2])
    assert ours[0].dtype == computed_in
    assert ours[0].shape == ()
    for i, leaf in enumerate((None, *given[:2])):
        tolerance = TOLERANCE[computed_in][min(i, 1)]
        if leaf is not None:
            assert ours[i].dtype == leaf.dtype
            assert ours[i].shape == leaf.shape
        assert relative_error(ours[i], truth[i]) <= relative_error(eager[i], truth[i]) + tolerance


@pytest.mark.parametrize("l2_weight", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_reference_is_the_formula(kind: str, l2_weight: float) -> None:
    given = inputs(dtypes="float64")
    truth = oracle(given, kind, l2_weight)
    for ours, exact in zip(
        run("reference", given, kind=kind, l2_weight=l2_weight), truth, strict=True
    ):
        assert relative_error(ours, exact) < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_value_is_that_of_the_released_code(kind: str) -> None:
    """An nn.Linear for the hashes, and torch's own criteria."""
    given = inputs()
    linear = torch.nn.Linear(67, 43)
    linear.load_state_dict({"weight": given.weight, "bias": given.bias})
    hash_s, hash_t = linear(given.student), linear(given.teacher)
    if kind == "bce":
        hashed = F.binary_cross_entropy_with_logits(hash_s, (hash_t > 0).float())
    else:
        hashed = {"l2": F.mse_loss, "l1": F.l1_loss}[kind](hash_s, hash_t)
    released = (hashed + F.mse_loss(given.student, given.teacher)).detach()
    torch.testing.assert_close(lsh_loss(*given, kind=kind), released)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtypes", embeddings.DTYPES)
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_every_kind_in_every_dtype(backend: str, dtypes: str, kind: str) -> None:
    check(backend, inputs(dtypes=dtypes), kind=kind)


@pytest.mark.parametrize("layout", embeddings.LAYOUTS)
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_every_layout(backend: str, layout: str) -> None:
    given = inputs(layout=layout)
    weight = embeddings.LAYOUTS[layout](given.weight)
    check(backend, given._replace(weight=weight), l2_weight=0.5)


# Hashes: one; narrower than a vector; a block of Triton's and one; two tiles of C++ and a rest.
@pytest.mark.parametrize("hashes", [1, 5, 1025, 4099])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtypes", ["float32", "float64"])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_any_number_of_hashes(backend: str, hashes: int, with_bias: bool, dtypes: str) -> None:
    given = inputs((3, 9), hashes, dtypes)
    check(backend, given if with_bias else given._replace(bias=None), l2_weight=0.0)


@pytest.mark.parametrize("size", [(1, 1), (131, 33)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_any_size(backend: str, size: tuple[int, int], kind: str) -> None:
    check(backend, inputs(size, 10), kind=kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_a_few_rows_at_a_time_are_the_whole(
    backend: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lsh, "HASH_BYTES", 0)
    monkeypatch.setattr(lsh, "LEAST_ROWS", 3)  # of 7: the last chunk is one row
    check(backend, inputs(), kind=kind)
    check(backend, inputs(dtypes="float32 and bfloat16"), kind=kind, l2_weight=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_hash_values_of_the_whole_batch_are_never_held(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[512, 4096] of them would be 8 MiB. Allowed: two matrices of 64 rows, and what is [B, D]."""
    assert lsh.chunk_rows(8192, torch.float32) == 1024
    assert lsh.chunk_rows(1 << 20, torch.float32) == 64
    monkeypatch.setattr(lsh, "HASH_BYTES", 1 << 20)
    given = inputs((512, 16), 4096)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run("cpp", given, kind=kind)
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes = [e.nbytes() for e in events if e.name() == "[memory]" and e.nbytes() > 0]
    assert 0 < max(sizes) <= 2 * 64 * 4096 * 4


@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_value_and_gradient_by_hand(backend: str) -> None:
    """Hyperplanes x > 1 and y > 0; the teacher is on the far side of the first alone."""
    given = Inputs(
        torch.tensor([[1.0, math.log(3.0)]]),
        torch.tensor([[2.0, -1.0]]),
        torch.eye(2),
        torch.tensor([-1.0, 0.0]),
    )
    loss, by_s, by_t = run(backend, given, l2_weight=0.0)
    # Logits 0 and log 3, sides 1 and 0: (log 2 + log 4) / 2; slopes (1/2 - 1) / 2 and (3/4) / 2.
    torch.testing.assert_close(loss, torch.tensor(1.5 * math.log(2)))
    torch.testing.assert_close(by_s, torch.tensor([[-0.25, 0.375]]))
    assert (by_t == 0).all()


@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_hashes_far_from_their_hyperplane_keep_their_digits(backend: str) -> None:
    """Right sides: exp(-30) each, which log(1 + e) in float32 calls 0. Wrong sides: 200."""
    teacher = torch.tensor([[1.0], [-1.0]])
    weight, options = torch.ones(1, 1), {"l2_weight": 0.0}
    right, by_s, _ = run(backend, Inputs(30 * teacher, teacher, weight, None), **options)
    if backend != "reference":  # torch's own are differences of nearly equal numbers
        truth = torch.tensor([[-0.5], [0.5]]) * math.exp(-30)
        torch.testing.assert_close(right, torch.tensor(math.exp(-30)), rtol=1e-6, atol=0)
        torch.testing.assert_close(by_s, truth, rtol=1e-6, atol=0)
    wrong, by_s, _ = run(backend, Inputs(-200 * teacher, teacher, weight, None), **options)
    assert wrong == 200
    torch.testing.assert_close(by_s, torch.tensor([[-0.5], [0.5]]))


@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_a_teacher_on_the_hyperplane_is_not_beyond_it(backend: str) -> None:
    given = Inputs(torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1), None)
    loss, by_s, _ = run(backend, given, l2_weight=0.0)
    torch.testing.assert_close(loss, torch.tensor(math.log1p(math.e)))
    torch.testing.assert_close(by_s, torch.tensor([[1 / (1 + math.exp(-1))]]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ALL, indirect=True)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
def test_nan_and_inf_reach_the_loss(backend: str, kind: str, side: int, bad: float) -> None:
    given = inputs()
    given[side][2, 3] = bad
    loss, by_s, _ = run(backend, given, kind=kind, l2_weight=0.0)
    assert not loss.isfinite()
    if kind == "bce":
        assert by_s.isnan().any(1).tolist() == [b == 2 for b in range(7)]
