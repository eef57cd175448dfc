"""LSHLoss: seeded frozen hyperplanes, exact biases, an adapter that learns, buffers that follow."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amd_fused import LSHLoss, lsh_loss
from amd_fused.losses.lsh.hash_bias import lower_median


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(count: int = 100, width: int = 8) -> Tensor:
    return torch.randn(count, width, generator=seeded(5)) + torch.arange(width)


def test_hyperplanes_are_normal_seeded_and_frozen() -> None:
    criterion = LSHLoss(64, 500, std=0.5, generator=seeded())
    assert torch.equal(criterion.weight, LSHLoss(64, 500, std=0.5, generator=seeded()).weight)
    assert not torch.equal(criterion.weight, LSHLoss(64, 500, std=0.5, generator=seeded(1)).weight)
    assert criterion.weight.shape == (500, 64)
    assert abs(criterion.weight.std() - 0.5) < 0.01
    assert abs(criterion.weight.mean()) < 0.01
    assert list(criterion.state_dict()) == ["weight", "bias"]
    assert not list(criterion.parameters())


def test_without_a_generator_the_global_seed_decides() -> None:
    torch.manual_seed(3)
    first = LSHLoss(4, 5).weight
    torch.manual_seed(3)
    assert torch.equal(first, LSHLoss(4, 5).weight)


def test_is_the_function_with_its_buffers() -> None:
    criterion = LSHLoss(8, 20, l2_weight=0.3, generator=seeded())
    criterion.init_bias(features())
    student, teacher = features(6).flip(0), features(6)
    expected = lsh_loss(student, teacher, criterion.weight, criterion.bias, l2_weight=0.3)
    assert torch.equal(criterion(student, teacher), expected)


@pytest.mark.parametrize("count", [1, 2, 99, 100])
@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_bias_is_minus_the_statistic_of_the_teachers_hashes(statistic: str, count: int) -> None:
    criterion = LSHLoss(8, 20, bias=statistic, generator=seeded())
    criterion.init_bias(features(count))
    hashes = features(count).double() @ criterion.weight.double().T
    truth = hashes.median(0).values if statistic == "median" else hashes.mean(0)
    torch.testing.assert_close(criterion.bias, -truth.float(), rtol=1e-5, atol=1e-5)


def test_median_puts_half_of_the_data_beyond_each_hyperplane() -> None:
    criterion = LSHLoss(8, 20, generator=seeded())
    criterion.init_bias(features(100))
    beyond = F.linear(features(100).double(), criterion.weight.double(), criterion.bias.double())
    # The median itself lies on its hyperplane, on either side of it by rounding.
    assert ((beyond > 1e-5).sum(0) == 50).all()
    assert ((beyond < -1e-5).sum(0) == 49).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lower_median_is_exact(dtype: torch.dtype) -> None:
    """Signs, zeros, ties, numbers that differ in the last digit, the smallest and the largest."""
    info = torch.finfo(dtype)
    numbers = [-info.max, -1, -info.tiny, 0, info.tiny, 1, 1 + info.eps, 1, info.max]
    column = torch.tensor(numbers, dtype=dtype)
    generator = seeded()
    values = torch.stack(
        [column[torch.randperm(9, generator=generator)] * k for k in (1, -1, 0)], dim=1
    )
    for count in (1, 2, 5, 8, 9):
        found = lower_median(values[:count], count)
        assert torch.equal(found, values[:count].median(0).values)


class Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_bias_of_a_loader_of_features_or_of_a_teachers_inputs(statistic: str) -> None:
    teacher, x = Teacher(), torch.randn(40, 3)
    with torch.no_grad():
        whole = teacher.eval()(x)
    teacher.train()
    criteria = [LSHLoss(8, 20, bias=statistic, generator=seeded()) for _ in range(4)]
    criteria[0].init_bias(whole)
    criteria[1].init_bias(iter(whole.split(7)))
    criteria[2].init_bias([(batch, "label") for batch in whole.split(7)])
    criteria[3].init_bias(((batch, 0, "index") for batch in x.split(7)), teacher)
    assert all(m.training for m in teacher.modules())
    for criterion in criteria[1:]:
        torch.testing.assert_close(criterion.bias, criteria[0].bias, rtol=1e-5, atol=1e-5)
    assert criteria[0].bias.norm() > 0


def test_a_forgotten_bias_is_warned_of_once() -> None:
    criterion = LSHLoss(8, 20)
    with pytest.warns(UserWarning, match='init_bias was not called.*pass bias="zero"') as caught:
        criterion(features(), features())
    assert caught[0].filename == __file__
    quiet: list[Any] = [criterion, LSHLoss(8, 20, bias="zero"), LSHLoss(8, 20, kind="l2")]
    loaded = LSHLoss(8, 20)
    loaded.load_state_dict(criterion.state_dict())
    ready = LSHLoss(8, 20)
    ready.init_bias(features())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (*quiet, loaded, ready, copy.deepcopy(ready)):
            other(features(), features())


def test_zero_bias_stays_zero() -> None:
    criterion = LSHLoss(8, 20, bias="zero")
    criterion.init_bias(features())
    assert (criterion.bias == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapter_maps_a_student_of_another_width_and_learns(dtype: torch.dtype) -> None:
    criterion = LSHLoss(8, 64, bias="zero", student_features=5, generator=seeded())
    assert sorted(n for n, _ in criterion.named_parameters()) == ["adapter.bias", "adapter.weight"]
    teacher = torch.randn(32, 8, generator=seeded(5))
    student = (teacher @ torch.randn(8, 5, generator=seeded(1))).to(dtype).requires_grad_()
    weight, losses = criterion.weight.clone(), []
    for _ in range(10):
        loss = criterion(student, teacher)
        loss.backward()
        losses.append(loss.item())
        for parameter in criterion.parameters():
            assert parameter.grad is not None
            parameter.data -= 0.1 * parameter.grad
            parameter.grad = None
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(criterion.weight, weight)
    assert student.grad is not None
    assert student.grad.dtype == dtype


def test_no_adapter_where_widths_agree() -> None:
    assert LSHLoss(8, 20, student_features=8).adapter is None
    assert LSHLoss(8, 20).adapter is None


def test_adapter_works_under_autocast() -> None:
    criterion = LSHLoss(8, 16, bias="zero", student_features=5)
    student = torch.randn(3, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(student, torch.randn(3, 8))
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad is not None


def test_buffers_and_adapter_follow_the_embeddings() -> None:
    criterion = LSHLoss(8, 20, bias="zero", student_features=5, backend="reference")
    # Another device than the CPU that every machine has; no loss is computed on it.
    loss = criterion(torch.ones(3, 5, device="meta"), torch.ones(3, 8, device="meta"))
    held = [*criterion.buffers(), *criterion.parameters()]
    assert {a.device.type for a in (loss, *held)} == {"meta"}


def test_compiles_to_one_graph_with_the_same_result() -> None:
    criterion = LSHLoss(8, 20, student_features=5, generator=seeded())
    criterion.init_bias(features())
    student, teacher = torch.randn(6, 5), features(6)
    compiled = torch.compile(criterion, fullgraph=True)
    torch.testing.assert_close(compiled(student, teacher), criterion(student, teacher))


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no width": ({"in_features": 0}, ValueError, "in_features must be >= 1, got 0"),
    "half a hash": ({"num_hashes": 1.5}, TypeError, "num_hashes must be an integer, got float"),
    "no spread": ({"std": 0.0}, ValueError, "std must be finite and > 0, got 0.0"),
    "a number for the bias": ({"bias": 0}, ValueError, "bias must be one of 'median', 'mean', 'z"),
    "an unknown kind": ({"kind": "L2"}, ValueError, "kind must be one of"),
    "a negative weight": ({"l2_weight": -0.1}, ValueError, "l2_weight must be finite and >= 0"),
    "no student": ({"student_features": -1}, ValueError, "student_features must be >= 1, got -1"),
    "a seed": ({"generator": 7}, TypeError, "generator must be a torch.Generator, got int"),
    "a backend": ({"backend": "gpu"}, ValueError, "backend must be one of"),
}


@pytest.mark.parametrize(("changes", "error", "message"), OPTIONS.values(), ids=OPTIONS.keys())
def test_message_names_the_option(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="LSHLoss: " + message):
        LSHLoss(**({"in_features": 8, "num_hashes": 20} | changes))


def test_message_names_what_is_wrong_with_the_features() -> None:
    criterion = LSHLoss(8, 20, student_features=5)
    with pytest.raises(ValueError, match=r"width in_features = 8, got shape \(4, 7\)"):
        criterion.init_bias(torch.ones(4, 7))
    with pytest.raises(ValueError, match="at least one sample, got none"):
        criterion.init_bias([])
    with pytest.raises(TypeError, match="model must be a module or a function, got str"):
        criterion.init_bias(features(), "teacher")  # type: ignore[arg-type]
    for statistic in ("median", "mean"):
        with pytest.raises(ValueError, match="must be finite, got NaN or Inf"):
            LSHLoss(8, 20, bias=statistic).init_bias(torch.full((4, 8), torch.nan))
    with (
        pytest.warns(UserWarning, match="init_bias"),
        pytest.raises(ValueError, match=r"width student_features = 5, got shape \(3, 8\)"),
    ):
        criterion(torch.ones(3, 8), torch.ones(3, 8))
