"""The KD operators behave as PyTorch's own do, and the modules are the functions."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from itertools import product
from typing import Any

import kd_oracle
import pytest
import torch
import torch.nn.functional as F
from exhaustive import every_compiler
from kd_oracle import FORMS
from operator_checks import every_part, passes

from amd_fused import KDLoss, SphericalKDLoss, _backends, kd_loss, reference, spherical_kd_loss
from amd_fused.losses.kd.operator import NORMS

fused = pytest.mark.parametrize("backend", ["cpp", "triton"], indirect=True)
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


@every_part(
    ("backend", "name", "dtypes", "wanted"),
    [
        (backend, *case)
        for backend in ("cpp", "triton")
        for case in (
            ("kd", "float32", (True, False)),
            ("std to 2.5", "float16 and float64", (True, True)),
            ("l2", "bfloat16", (False, True)),
        )
    ],
)
def test_opcheck_passes(
    backend: str, name: str, dtypes: str, wanted: tuple[bool, bool], part: str
) -> None:
    form = FORMS[name]
    z_s, z_t = kd_oracle.logits((3, 7), dtypes)
    z_t = z_t.T.contiguous().T
    forward, backward = (
        getattr(torch.ops.amd_fused, f"kd_{step}_{backend}").default for step in ("fwd", "bwd")
    )
    multiplier = form.get("multiplier")
    numbers = torch.tensor([4.0, multiplier or 0.0], dtype=torch.float64)
    options = (numbers, NORMS[form.get("norm")], multiplier is not None)
    loss, rows = forward(z_s, z_t, *options)
    for operator, arguments in (
        (forward, (z_s, z_t, *options)),
        (backward, (torch.ones_like(loss), z_s, z_t, rows, numbers, *wanted)),
    ):
        assert passes(operator, arguments, part)


@pytest.mark.parametrize(
    ("backend", "compiler", "loss"),
    [
        # Code generated from the reference would add in an order of its own.
        ("reference", "aot_eager", KDLoss),
        ("reference", "aot_eager", SphericalKDLoss),
        ("cpp", "aot_eager", SphericalKDLoss),
        ("triton", "aot_eager", KDLoss),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in [
                ("cpp", "aot_eager", KDLoss),
                ("triton", "aot_eager", SphericalKDLoss),
                *product(["cpp", "triton"], ["inductor"], [KDLoss, SphericalKDLoss]),
            ]
        ),
    ],
    indirect=["backend"],
)
def test_compiles_to_one_graph_with_the_same_result(backend: str, compiler: str, loss: Any) -> None:
    module = loss(backend=backend)
    compiled = torch.compile(module, fullgraph=True, backend=compiler)
    results = []
    for function in (module, compiled):
        leaves = [z.requires_grad_() for z in kd_oracle.logits((3, 37))]
        total = function(*leaves)
        results.append((total.detach(), *torch.autograd.grad(total, leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@every_compiler
def test_compiles_with_shapes_and_temperatures_that_change(compiler: str) -> None:
    compiled = torch.compile(kd_loss, fullgraph=True, dynamic=True, backend=compiler)
    for shape, temperature in (((2, 7), 4.0), ((3, 9), 2.5), ((5, 8), 1.0)):
        z_s, z_t = kd_oracle.logits(shape)
        assert torch.equal(
            compiled(z_s, z_t, temperature, backend="cpp"),
            kd_loss(z_s, z_t, temperature, backend="cpp"),
        )


def test_normalize_compiles() -> None:
    module = SphericalKDLoss(multiplier=3.0)
    z_s, z_t = kd_oracle.logits((3, 37))
    compiled = torch.compile(module.normalize, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z_s, z_t), module.normalize(z_s, z_t))


@forms
@fused
def test_second_derivative_raises_and_names_the_remedy(backend: str, form: dict[str, Any]) -> None:
    z_s, z_t = kd_oracle.logits((3, 7))
    z_s.requires_grad_()
    loss = kd_oracle.loss_of(form)(z_s, z_t, **form, backend=backend)
    (grad,) = torch.autograd.grad(loss, z_s, create_graph=True)
    owner = "spherical_kd_loss" if form else "kd_loss"
    with pytest.raises(RuntimeError, match=f'^{owner}: .* use backend="reference"'):
        grad.square().sum().backward()


@pytest.mark.parametrize("loss", [kd_loss, spherical_kd_loss])
def test_forward_mode_is_refused(loss: Any) -> None:
    z_s, z_t = kd_oracle.logits((3, 7))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z_s, torch.ones_like(z_s))
        with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
            loss(dual, z_t, backend="cpp")


def test_inputs_changed_before_backward_are_noticed() -> None:
    z_s, z_t = kd_oracle.logits((3, 7))
    student = z_s.requires_grad_() * 2
    loss = kd_loss(student, z_t, backend="cpp")
    student.mul_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_auto_is_the_fused_kernel_on_cpu_without_a_warning() -> None:
    z_s, z_t = kd_oracle.logits((3, 37))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(kd_loss(z_s, z_t), kd_loss(z_s, z_t, backend="cpp"))


def test_a_backend_without_kernels_of_the_loss_is_refused_where_it_is_named(
    cuda_on_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment variable is for the whole package, and leaves such a loss alone."""
    z_s, z_t = kd_oracle.logits((3, 7))
    for loss in (kd_loss, spherical_kd_loss):
        message = "backend 'cuda' has no kernels of this loss; use backend=\"auto\" or one of"
        with pytest.raises(RuntimeError, match=message):
            loss(z_s, z_t, backend="cuda")
    monkeypatch.setenv(_backends.ENVIRONMENT_VARIABLE, "cuda")
    assert torch.equal(kd_loss(z_s, z_t), kd_loss(z_s, z_t, backend="cpp"))
    monkeypatch.setenv(_backends.ENVIRONMENT_VARIABLE, "reference")
    assert torch.equal(kd_loss(z_s, z_t), reference.kd_loss(z_s, z_t))


def test_modules_are_the_functions() -> None:
    z_s, z_t = kd_oracle.logits((3, 37))
    assert torch.equal(KDLoss(2.0)(z_s, z_t), kd_loss(z_s, z_t, 2.0))
    options = {"norm": "l2", "multiplier": 7.0, "backend": "reference"}
    module = SphericalKDLoss(2.0, **options)
    assert torch.equal(module(z_s, z_t), spherical_kd_loss(z_s, z_t, 2.0, **options))
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(again(z_s, z_t), module(z_s, z_t))
    assert repr(module) == (
        "SphericalKDLoss(temperature=2.0, norm='l2', multiplier=7.0, ignore_index=-100, "
        "backend='reference')"
    )
    assert repr(KDLoss()) == "KDLoss(temperature=4.0, ignore_index=-100, backend='auto')"


@pytest.mark.parametrize(
    ("module", "function"), [(KDLoss, kd_loss), (SphericalKDLoss, spherical_kd_loss)]
)
def test_modules_take_the_functions_options(module: Any, function: Any) -> None:
    parameters = list(inspect.signature(function).parameters.values())[2:]
    options = [parameter for parameter in parameters if parameter.name != "target"]
    assert list(inspect.signature(module).parameters.values()) == options
    assert "target" in inspect.signature(module.forward).parameters


@pytest.mark.parametrize("multiplier", [None, 5.0])
@pytest.mark.parametrize("norm", ["std", "l2"])
def test_normalize_gives_the_logits_that_the_loss_sees(norm: str, multiplier: float | None) -> None:
    z_s, z_t = kd_oracle.logits((3, 37), "float64")
    module = SphericalKDLoss(norm=norm, multiplier=multiplier)
    rescaled = module.normalize(z_s, z_t)
    length = (lambda z: z.std(1)) if norm == "std" else (lambda z: z.norm(dim=1))
    radius = length(z_t) if multiplier is None else torch.full((3,), multiplier)
    torch.testing.assert_close(length(rescaled), radius.double())
    teacher = z_t * (radius / length(z_t))[:, None]
    torch.testing.assert_close(kd_loss(rescaled, teacher), module(z_s, z_t))


def test_normalize_is_differentiable_and_widens_half_precision() -> None:
    z_s, z_t = (z.requires_grad_() for z in kd_oracle.logits((2, 5), "float64"))
    module = SphericalKDLoss()
    assert torch.autograd.gradcheck(module.normalize, (z_s, z_t))
    rescaled = module.normalize(z_s.detach().half().requires_grad_(), z_t.detach().half())
    assert rescaled.dtype == torch.float32
    F.cross_entropy(rescaled, torch.tensor([1, 3])).backward()


def test_normalize_of_equal_logits_is_0_with_zero_gradient() -> None:
    student = torch.full((2, 5), 0.1, requires_grad=True)
    rescaled = SphericalKDLoss().normalize(student, torch.randn(2, 5))
    F.cross_entropy(rescaled, torch.tensor([1, 3])).backward()
    assert not rescaled.any()
    assert student.grad is not None
    assert not student.grad.any()
