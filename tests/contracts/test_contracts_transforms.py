"""torch.func and tensor subclasses, on every loss: they work, or the message says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from every_loss import FORMS, LOSSES, PLAIN, Loss, gradient, made
from torch import Tensor
from torch.func import grad, jvp, vmap

from amd_fused import reference

REFERENCES = [form for form in FORMS if form.endswith("reference") or form in PLAIN]
FUSED = [form for form in FORMS if form not in REFERENCES]


def of(form: str) -> tuple[str, Loss, dict[str, str], Tensor, Tensor]:
    name, options = FORMS[form]
    loss = LOSSES[name]
    return name, loss, options, made(loss.kind, 1), made(loss.kind, 2)


TRANSFORMS: dict[str, Callable[[Callable[..., Tensor], Tensor, Tensor], Any]] = {
    "grad": lambda f, s, t: grad(f)(s, t),
    "vmap": lambda f, s, t: vmap(f)(s[None], t[None]),
    "vmap of grad": lambda f, s, t: vmap(grad(f))(s[None], t[None]),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("form", FUSED)
def test_transforms_of_a_fused_loss_are_refused_with_the_remedy(form: str, transform: str) -> None:
    name, loss, options, student, teacher = of(form)
    remedy = 'backend="reference"' if options else f"amd_fused.reference.{name}"
    with pytest.raises(RuntimeError, match=rf"^{name}: .* torch.func .* use {remedy}.* there"):
        TRANSFORMS[transform](lambda s, t: loss.function(s, t, **options), student, teacher)


@pytest.mark.parametrize("form", REFERENCES)
def test_the_remedy_works(form: str) -> None:
    _, loss, options, student, teacher = of(form)
    _check_transforms(lambda s, t: loss.function(s, t, **options), student, teacher)


@pytest.mark.parametrize("name", ["sp_loss", "rkd_loss"])
def test_the_remedy_of_losses_without_backends_works(name: str) -> None:
    student, teacher = made(LOSSES[name].kind, 1), made(LOSSES[name].kind, 2)
    _check_transforms(getattr(reference, name), student, teacher)


def _check_transforms(f: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> None:
    leaf = student.clone().requires_grad_()
    expected = gradient(f(leaf, teacher), leaf)
    torch.testing.assert_close(grad(f)(student, teacher), expected)
    both = vmap(grad(f))(torch.stack([student, student]), torch.stack([teacher, student]))
    torch.testing.assert_close(both[0], expected)


@pytest.mark.parametrize("form", FORMS)
def test_forward_mode_works_or_is_refused_by_the_loss(form: str) -> None:
    name, loss, options, student, teacher = of(form)

    def f(x: Tensor) -> Tensor:
        return loss.function(x, teacher, **options)

    if form in FUSED or name == "amd_loss":
        with pytest.raises(RuntimeError, match=f"^{name}: .* no forward-mode derivatives"):
            jvp(f, (student,), (teacher,))
        return
    leaf = student.clone().requires_grad_()
    expected = (gradient(f(leaf), leaf) * teacher).sum()
    found = jvp(f, (student,), (teacher,))[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("form", FORMS)
def test_several_upstream_gradients_at_once_work_or_are_refused(form: str) -> None:
    name, loss, options, student, teacher = of(form)
    student.requires_grad_()
    value = loss.function(student, teacher, **options)
    upstream = torch.tensor([1.0, -2.0])
    if form.endswith("cpp") and name not in ("lsh_loss", "crd_loss"):
        with pytest.raises(RuntimeError, match=rf"^{name}: .*is_grads_batched=True"):
            torch.autograd.grad(value, student, upstream, is_grads_batched=True)
        return
    (found,) = torch.autograd.grad(value, student, upstream, is_grads_batched=True)
    expected = gradient(loss.function(student, teacher, **options), student)
    torch.testing.assert_close(found, torch.stack([expected, -2 * expected]))


class Tagged(Tensor):
    """A subclass by name alone, as torchvision's tv_tensors are."""


@pytest.mark.parametrize("form", FORMS)
def test_a_subclass_without_rules_of_its_own_is_a_tensor(form: str) -> None:
    _, loss, options, student, teacher = of(form)
    leaf = student.clone().requires_grad_()
    expected = loss.function(leaf, teacher, **options)
    tagged = student.as_subclass(Tagged).requires_grad_()
    value = loss.function(tagged, teacher, **options)
    assert torch.equal(value.as_subclass(Tensor), expected)
    assert torch.equal(gradient(value, tagged).as_subclass(Tensor), gradient(expected, leaf))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_masked_tensors_are_refused(form: str) -> None:
    name, loss, options, student, teacher = of(form)
    masked = torch.masked.masked_tensor(student, student > 0)
    message = f"^{name}: student.* must be an ordinary tensor, got a MaskedTensor; convert it with"
    with pytest.raises(TypeError, match=message):
        loss.function(masked, teacher, **options)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not dist.is_available():
        pytest.skip("torch was built without torch.distributed")
    from torch.distributed.tensor import init_device_mesh

    store = dist.FileStore(str(tmp_path_factory.mktemp("mesh") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("form", FORMS)
def test_distributed_tensors_are_refused_with_the_way_to_plain_ones(form: str, mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    name, loss, options, student, teacher = of(form)
    spread = distribute_tensor(student, mesh, [Shard(0)])
    for pair in ((spread, teacher), (student, spread), (spread, spread)):
        with pytest.raises(TypeError, match=rf"^{name}: .* got a DTensor; .*full_tensor\(\)"):
            loss.function(*pair, **options)
    expected = loss.function(student, teacher, **options)
    assert torch.equal(loss.function(spread.full_tensor(), teacher, **options), expected)


def test_features_of_a_network_under_fsdp2_are_plain_tensors(mesh: Any, tmp_path: Path) -> None:
    import hooked_net
    from torch.distributed.fsdp import fully_shard

    from amd_fused import FeatureHooks, amd_loss

    results = []
    for sharded in (False, True):
        net = hooked_net.net()
        if sharded:
            fully_shard(net.block, mesh=mesh)
            fully_shard(net, mesh=mesh)
        with FeatureHooks(net, ["stem", "block"]) as hooks:
            net(hooked_net.images())
            loss = amd_loss(hooks.features, [a.detach().flip(0) for a in hooks.features])
            loss.backward()
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        assert gradients
        plain = [g.full_tensor() if sharded else g for g in gradients]
        results.append([loss.detach(), *plain])
    torch.testing.assert_close(results[1], results[0])
