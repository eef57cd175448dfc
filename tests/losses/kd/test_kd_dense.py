"""KD of dense logits [B, K, ...] is that of each position, averaged over those that count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kd_oracle
import pytest
import torch
import torch.nn.functional as F
from kd_oracle import FORMS, Result
from measures import relative_error
from operator_checks import every_part, passes
from torch import Tensor

from amd_fused import (
    DistillationLoss,
    KDLoss,
    SphericalKDLoss,
    kd_loss,
    reference,
    spherical_kd_loss,
)
from amd_fused.losses.kd.operator import NORMS

VOID = 255
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-12}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
every = pytest.mark.parametrize("backend", ["reference", "cpp", "triton"], indirect=True)
fused = pytest.mark.parametrize("backend", ["cpp", "triton"], indirect=True)
cpp = pytest.mark.parametrize("backend", ["cpp"], indirect=True)

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda z: z,
    "channels_last": lambda z: z.contiguous(memory_format=torch.channels_last),
    # No stride leads through its positions.
    "cropped": lambda z: F.pad(z, (1, 2, 0, 1))[..., : z.shape[-2], 1 : 1 + z.shape[-1]],
    "transposed": lambda z: z.mT.contiguous().mT,
    "every other class": lambda z: z.repeat_interleave(2, 1)[:, ::2],
    "every other position": lambda z: z.repeat_interleave(2, 3)[..., ::2],
    "of one sample": lambda z: z[:1].expand(z.shape),
}


def maps(
    shape: tuple[int, ...], dtypes: str = "float32", layout: str = "contiguous"
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of both sides, and labels of which a third does not count."""
    flat = kd_oracle.logits((shape[0], torch.Size(shape[1:]).numel()), dtypes)
    z_s, z_t = (LAYOUTS[layout](z.reshape(shape)) for z in flat)
    labels = torch.randint(0, 3, (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1))
    return z_s, z_t, torch.where(labels == 2, VOID, labels % shape[1])


def rows(z: Tensor) -> Tensor:
    """A position a row."""
    return z.movedim(1, -1).reshape(-1, z.shape[1])


def oracle(form: dict[str, Any], z_s: Tensor, z_t: Tensor, counted: Tensor) -> Result:
    """By the formula and autograd in float64, of the rows that count."""
    leaves = [z.detach().double().requires_grad_() for z in (z_s, z_t)]
    s, t = (rows(z)[counted.flatten()] for z in leaves)
    if form:
        std = form["norm"] == "std"
        n_s, n_t = (z.std(1, keepdim=True) if std else z.norm(dim=1, keepdim=True) for z in (s, t))
        radius = form.get("multiplier") or n_t
        s, t = s / n_s * radius, t / n_t * radius
    log_p_s, log_p_t = (F.log_softmax(z / 2.5, 1) for z in (s, t))
    kl = F.kl_div(log_p_s, log_p_t, reduction="none", log_target=True)
    loss = 2.5**2 * kl.sum(1).mean()
    return Result(loss.detach(), *torch.autograd.grad(loss, leaves))


def check(
    backend: str,
    form: dict[str, Any],
    shape: tuple[int, ...],
    dtypes: str = "float32",
    layout: str = "contiguous",
) -> None:
    z_s, z_t, target = maps(shape, dtypes, layout)
    computed_in = reference.compute_dtype([z_s, z_t])
    for labels in (None, target):
        options = {"target": labels, "ignore_index": VOID, "backend": backend}
        counted = torch.ones_like(target, dtype=torch.bool) if labels is None else target != VOID
        exact = oracle(form, z_s, z_t, counted)
        found = kd_oracle.run(form, z_s, z_t, 2.5, **options)
        eager = kd_oracle.run(form, z_s, z_t, 2.5, **{**options, "backend": "reference"})
        assert found.loss.dtype == computed_in
        assert relative_error(found.loss, exact.loss) < 20 * TOLERANCE[computed_in]
        for z, a, b, truth in zip((z_s, z_t), found[1:], eager[1:], exact[1:], strict=True):
            assert (a.dtype, a.shape) == (z.dtype, z.shape)
            tolerance = TOLERANCE[computed_in]
            assert relative_error(a, truth) <= relative_error(b, truth) + tolerance
            off = ~counted.unsqueeze(1).expand_as(a)
            assert (a[off] == 0).all()


@forms
@every
def test_every_form_is_that_of_the_positions_that_count(backend: str, form: dict[str, Any]) -> None:
    check(backend, form, (2, 3, 2, 3))


@pytest.mark.parametrize("dtypes", ["bfloat16", "float16 and float64", "float64"])
@every
def test_dtypes(backend: str, dtypes: str) -> None:
    check(backend, FORMS["std to 2.5"], (2, 3, 3, 2), dtypes)
    check(backend, FORMS["kd"], (2, 3, 3, 2), dtypes)


@pytest.mark.parametrize("layout", LAYOUTS)
@every
def test_layouts(backend: str, layout: str) -> None:
    check(backend, FORMS["kd"], (2, 3, 2, 3), layout=layout)


@pytest.mark.parametrize("dtypes", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
@cpp
def test_blocks_of_every_layout(backend: str, layout: str, dtypes: str) -> None:
    """More positions than a block has, vectors and a remainder."""
    check(backend, FORMS["l2"], (2, 5, 13, 131), dtypes, layout)


@pytest.mark.parametrize(
    "shape",
    [(3, 4), (2, 3, 1), (1, 2, 33), (2, 3, 2, 2, 3), (2, 70, 3, 50), (1, 2100, 2), (1, 65, 300)],
)
@cpp
def test_any_number_of_dimensions_classes_and_positions(
    backend: str, shape: tuple[int, ...]
) -> None:
    check(backend, FORMS["kd"], shape)
    if shape[1] > 2:
        check(backend, FORMS["std"], shape)


@pytest.mark.parametrize("shape", [(3, 4), (1, 2, 5), (1, 3, 2, 1, 2)])
@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_triton_with_any_number_of_dimensions(backend: str, shape: tuple[int, ...]) -> None:
    check(backend, FORMS["kd"], shape)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_triton_with_more_classes_than_registers_hold(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amd_fused.losses.kd.triton import launcher

    monkeypatch.setattr(launcher, "MAX_TILE", dict.fromkeys(launcher.MAX_TILE, 4))
    monkeypatch.setattr(launcher, "WIDE_TILE", dict.fromkeys(launcher.WIDE_TILE, 4))
    monkeypatch.setattr(launcher, "BWD_TILE", 4)
    for form in ("kd", "std"):
        check(backend, FORMS[form], (2, 5, 2))


@cpp
def test_is_torchs_divergence_of_the_positions_that_count(backend: str) -> None:
    z_s, z_t, target = maps((2, 21, 9, 11))
    log_p_s, log_p_t = (F.log_softmax(z.double() / 3, 1) for z in (z_s, z_t))
    kl = F.kl_div(log_p_s, log_p_t, reduction="none", log_target=True).sum(1)
    loss = kd_loss(z_s, z_t, 3.0, target=target, ignore_index=VOID, backend=backend)
    assert relative_error(loss, 9 * kl[target != VOID].mean()) < 1e-6


@pytest.mark.parametrize("loss", [kd_loss, spherical_kd_loss])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
@every
def test_where_no_position_counts_loss_and_gradients_are_0(backend: str, loss: Any) -> None:
    """Whatever the logits are there."""
    z_s, z_t, target = maps((2, 3, 2, 2))
    z_s[0, 1], z_t[1] = torch.nan, torch.inf
    leaves = [z.requires_grad_() for z in (z_s, z_t)]
    value = loss(*leaves, target=torch.full_like(target, -100), backend=backend)
    assert value.item() == 0
    for gradient in torch.autograd.grad(value, leaves):
        assert (gradient == 0).all()


@every
def test_what_is_not_finite_is_heard_where_it_counts_alone(backend: str) -> None:
    z_s, z_t, target = maps((2, 3, 2, 2))
    off = target == VOID
    b, y, x = off.nonzero()[0].tolist()
    clean = kd_loss(z_s, z_t, target=target, ignore_index=VOID, backend=backend)
    z_s[b, 0, y, x] = torch.nan
    assert kd_loss(z_s, z_t, target=target, ignore_index=VOID, backend=backend) == clean
    assert kd_loss(z_s, z_t, backend=backend).isnan()
    on = (~off).nonzero()[0].tolist()
    z_t[on[0], 1, on[1], on[2]] = torch.nan
    assert kd_loss(z_s, z_t, target=target, ignore_index=VOID, backend=backend).isnan()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
@every
def test_a_class_that_the_teacher_masks_adds_nothing(backend: str) -> None:
    z_s, z_t, _ = maps((2, 4, 3))
    z_t[:, 1] = -torch.inf
    found = kd_oracle.run({}, z_s, z_t, 2.5, backend=backend)
    exact = kd_oracle.run({}, rows(z_s), rows(z_t), 2.5, backend="reference")
    torch.testing.assert_close(found.loss, exact.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(rows(found.by_student), exact.by_student, rtol=1e-4, atol=1e-7)
    assert (found.by_teacher[:, 1] == 0).all()


@pytest.mark.parametrize("form", ["kd", "std", "l2 to 7"])
@pytest.mark.parametrize("backend", ["reference", "cpp"], indirect=True)
def test_gradcheck(backend: str, form: str) -> None:
    z_s, z_t, target = maps((2, 3, 2, 3), "float64")

    def loss(z_s: Tensor, z_t: Tensor) -> Tensor:
        function = spherical_kd_loss if FORMS[form] else kd_loss
        return function(
            z_s, z_t, 2.5, **FORMS[form], target=target, ignore_index=VOID, backend=backend
        )

    assert torch.autograd.gradcheck(loss, (z_s.requires_grad_(), z_t.requires_grad_()))


@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last])
@fused
def test_gradients_have_the_memory_format_of_the_logits(backend: str, fmt: Any) -> None:
    z_s, z_t, _ = maps((2, 3, 2, 2))
    z_s = z_s.contiguous(memory_format=fmt).requires_grad_()
    (gradient,) = torch.autograd.grad(kd_loss(z_s, z_t, backend=backend), z_s)
    assert gradient.is_contiguous(memory_format=fmt)


@cpp
def test_the_same_bits_for_any_number_of_threads(backend: str) -> None:
    z_s, z_t, target = maps((2, 19, 33, 47))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            options = {"target": target, "ignore_index": VOID, "backend": backend}
            found.append(kd_oracle.run(FORMS["std"], z_s, z_t, **options))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@cpp
def test_gradients_past_the_caches(backend: str) -> None:
    """More than 8 MB of them are written around the caches."""
    z_s, z_t, _ = maps((2, 9, 370, 330))
    found, exact = (
        torch.autograd.grad(kd_loss(z, z_t, backend=chosen), z)[0]
        for z in (z_s.requires_grad_(),)
        for chosen in (backend, "reference")
    )
    assert relative_error(found, exact) < 1e-5


@every_part(
    ("backend", "form", "dtypes"),
    [
        (backend, *case)
        for backend in ("cpp", "triton")
        for case in (("kd", "float32"), ("std to 2.5", "bfloat16"))
    ],
)
def test_opcheck_passes(backend: str, form: str, dtypes: str, part: str) -> None:
    z_s, z_t, target = maps((2, 3, 2), dtypes)
    forward, backward = (
        getattr(torch.ops.amd_fused, f"kd_map_{step}_{backend}").default for step in ("fwd", "bwd")
    )
    multiplier = FORMS[form].get("multiplier")
    numbers = torch.tensor([4.0, multiplier or 0.0], dtype=torch.float64)
    options = (numbers, NORMS[FORMS[form].get("norm")], multiplier is not None)
    for counted in (None, target != VOID):
        arguments = (z_s, z_t, counted, *options)
        loss, of_rows = forward(*arguments)
        assert passes(forward, arguments, part)
    arguments = (torch.ones_like(loss), z_s, z_t, of_rows, numbers, True, True)
    assert passes(backward, arguments, part)


@pytest.mark.parametrize(
    "loss", [KDLoss, pytest.param(SphericalKDLoss, marks=pytest.mark.exhaustive)]
)
@cpp
def test_compiles_to_one_graph_for_shapes_that_change(backend: str, loss: Any) -> None:
    module = loss(ignore_index=VOID, backend=backend)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 5, 3, 4), (3, 7, 2, 5)):
        z_s, z_t, target = maps(shape)
        results = []
        for function in (module, compiled):
            leaf = z_s.clone().requires_grad_()
            total = function(leaf, z_t, target=target)
            results.append((total.detach(), *torch.autograd.grad(total, leaf)))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_the_objective_leaves_positions_out_of_both_terms() -> None:
    z_s, z_t, target = maps((2, 5, 3, 4))
    criterion = DistillationLoss(0.4, 0.6, 2.0, feature_weight=0, ignore_index=VOID)
    leaf = z_s.double().requires_grad_()
    total = criterion(leaf, z_t.double(), target)
    ce = F.cross_entropy(leaf, target, ignore_index=VOID)
    kd = reference.kd_loss(leaf, z_t.double(), 2.0, target=target, ignore_index=VOID)
    torch.testing.assert_close(total, 0.4 * ce + 0.6 * kd)
    torch.testing.assert_close(criterion.parts["kd"], kd.detach())
    nothing = criterion(leaf, z_t.double(), torch.full_like(target, VOID))
    assert nothing.item() == 0
    assert (torch.autograd.grad(nothing, leaf)[0] == 0).all()


def test_the_objective_of_dense_logits_without_labels_to_leave_out() -> None:
    z_s, z_t, target = maps((2, 5, 3, 4))
    target = target.clamp_max(4)
    criterion = DistillationLoss(0.4, 0.6, 2.0, feature_weight=0)
    expected = 0.4 * F.cross_entropy(z_s, target) + 0.6 * reference.kd_loss(z_s, z_t, 2.0)
    torch.testing.assert_close(criterion(z_s, z_t, target), expected)
    soft = F.one_hot(target, 5).movedim(-1, 1).float()
    torch.testing.assert_close(criterion(z_s, z_t, soft), expected)


def test_spherical_kd_in_the_objective_leaves_the_same_positions_out() -> None:
    z_s, z_t, target = maps((2, 5, 3, 4))
    criterion = DistillationLoss(
        feature_weight=0, logit_loss=SphericalKDLoss(ignore_index=VOID), ignore_index=VOID
    )
    criterion(z_s, z_t, target)
    kd = reference.spherical_kd_loss(z_s, z_t, target=target, ignore_index=VOID)
    torch.testing.assert_close(criterion.parts["kd"], kd)
    seen = SphericalKDLoss().normalize(z_s, z_t)
    ce = F.cross_entropy(seen, target, ignore_index=VOID)
    torch.testing.assert_close(criterion.parts["ce"], ce)
    with pytest.raises(ValueError, match="ignore_index must be that of logit_loss, -100, got 255"):
        DistillationLoss(feature_weight=0, logit_loss=SphericalKDLoss(), ignore_index=VOID)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"target": [1]}, TypeError, "target must be a tensor or None, got list"),
        (
            {"target": torch.zeros(2, 3, 3)},
            TypeError,
            "target must be class indices of an integer dtype, got torch.float32",
        ),
        (
            {"target": torch.zeros(2, 3, dtype=torch.int64)},
            ValueError,
            r"target must have shape \(2, 3, 3\), a class index for each position of",
        ),
        (
            {"target": torch.zeros(2, 3, 3, dtype=torch.int64, device="meta")},
            ValueError,
            r"target must be on the device of student_logits \(cpu\), got meta",
        ),
        ({"ignore_index": 1.0}, TypeError, "ignore_index must be an int, got float"),
        ({"ignore_index": True}, TypeError, "ignore_index must be an int, got bool"),
    ],
)
@pytest.mark.parametrize("loss", [kd_loss, spherical_kd_loss])
def test_wrong_labels_are_refused(
    loss: Any, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    z = torch.ones(2, 4, 3, 3)
    with pytest.raises(kind, match=f"{loss.__name__}: {message}"):
        loss(z, z, **arguments)


def test_the_objective_refuses_probabilities_where_labels_are_left_out() -> None:
    z = torch.ones(2, 4, 3)
    criterion = DistillationLoss(feature_weight=0, ignore_index=VOID)
    with pytest.raises(TypeError, match=r"target must be class indices where ignore_index is give"):
        criterion(z, z, torch.ones(2, 4, 3) / 4)
    with pytest.raises(TypeError, match="ignore_index must be an int, got float"):
        DistillationLoss(ignore_index=255.0)
    with pytest.raises(ValueError, match=r"target must be class indices \[B, \.\.\.\] with shape"):
        criterion(z, z, torch.ones(2, dtype=torch.int64))
