"""What training loops do with autograd, on every loss and backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from every_loss import FORMS, LOSSES, Loss, gradient, made
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

every_form = pytest.mark.parametrize("form", FORMS)


def of(form: str) -> tuple[Loss, dict[str, str], Tensor, Tensor]:
    """The loss, its options, and inputs."""
    name, options = FORMS[form]
    loss = LOSSES[name]
    return loss, options, made(loss.kind, 1).requires_grad_(), made(loss.kind, 2)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@every_form
def test_two_backward_calls_over_one_graph_add_up(form: str) -> None:
    loss, options, student, teacher = of(form)
    once = gradient(loss.function(student, teacher, **options), student)
    value = loss.function(student, teacher, **options)
    value.backward(retain_graph=True)
    value.backward()
    assert student.grad is not None
    assert torch.equal(student.grad, 2 * once)
    if "reference" not in form:
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            value.backward()


@every_form
def test_gradients_accumulate_over_micro_batches(form: str) -> None:
    loss, options, student, _ = of(form)
    batches = [made(loss.kind, seed) for seed in (2, 3)]
    for teacher in batches:
        (loss.function(student, teacher, **options) / 2).backward()
    alone = [gradient(loss.function(student, t, **options) / 2, student) for t in batches]
    torch.testing.assert_close(student.grad, alone[0] + alone[1])


@every_form
def test_deterministic_algorithms_and_anomaly_detection_change_nothing(
    form: str, deterministic: None
) -> None:
    loss, options, student, teacher = of(form)
    results = []
    for mode in (False, True):
        with torch.autograd.set_detect_anomaly(mode):
            value = loss.function(student, teacher, **options)
            results.append((value.detach(), gradient(value, student)))
    torch.use_deterministic_algorithms(False)
    value = loss.function(student, teacher, **options)
    results.append((value.detach(), gradient(value, student)))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("nd_loss")])
def test_anomaly_detection_names_the_loss_where_nan_goes_backward(form: str) -> None:
    """The upstream gradient is NaN: torch says so, with the traceback of the forward pass."""
    loss, options, student, teacher = of(form)
    with (
        torch.autograd.set_detect_anomaly(True),
        pytest.warns(UserWarning, match="Error detected"),
        pytest.raises(RuntimeError, match="returned nan values"),
    ):
        (loss.function(student, teacher, **options) * torch.nan).backward()


@every_form
def test_a_default_dtype_of_float64_leaves_float32_losses_alone(form: str) -> None:
    loss, options, student, teacher = of(form)
    expected = loss.function(student, teacher, **options)
    torch.set_default_dtype(torch.float64)
    try:
        value = loss.function(student, teacher, **options)
        found = gradient(value, student)
    finally:
        torch.set_default_dtype(torch.float32)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(found, gradient(expected, student))


@every_form
def test_a_default_device_gets_no_tensor_of_a_loss(form: str) -> None:
    """A device whose tensors have no values: what lands there is noticed."""
    loss, options, student, teacher = of(form)
    expected = gradient(loss.function(student, teacher, **options), student)
    torch.set_default_device("meta")
    try:
        found = gradient(loss.function(student, teacher, **options), student)
    finally:
        torch.set_default_device(None)
    assert torch.equal(found, expected)


class Net(nn.Module):
    """Its output under activation checkpointing, or not."""

    def __init__(self, width: int, again: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Linear(width, width)
        self.again = again

    def part(self, x: Tensor) -> Tensor:
        return F.gelu(self.layer(x))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.part, x, use_reentrant=False) if self.again else self.part(x)


@every_form
def test_features_and_losses_that_are_computed_again_in_the_backward_pass(form: str) -> None:
    loss, options, student, teacher = of(form)
    gradients = []
    for again in (False, True):
        net = Net(student.shape[-1], again)
        value = loss.function(net(student), teacher, **options)
        gradients.append(torch.autograd.grad(value, list(net.parameters())))
        # The loss itself inside a checkpointed part.
        value = checkpoint(
            lambda x, net=net: loss.function(net(x), teacher, **options),
            student,
            use_reentrant=False,
        )
        gradients.append(torch.autograd.grad(value, list(net.parameters())))
    for other in gradients[1:]:
        assert all(map(torch.equal, gradients[0], other))


@pytest.mark.parametrize("form", [form for form in FORMS if form.endswith("cpp")])
def test_a_second_derivative_names_the_loss_that_was_called(form: str) -> None:
    loss, options, student, teacher = of(form)
    value = loss.function(student, teacher, **options)
    (grad,) = torch.autograd.grad(value, student, create_graph=True)
    with pytest.raises(RuntimeError, match=f"^{FORMS[form][0]}: backend 'cpp' has no second"):
        torch.autograd.grad(grad.sum(), student)
