"""Every method and sum is Eq. 8 with its own losses, weighted as the settings say."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import TERMS, Embeddings, Features, parse
from amd_fused.distill.models import embedding_width, layers
from distill.method_steps import CLASSES, IMAGES, SETTINGS, Step

KEYS = [term.key for term in TERMS]
SUMS = ["amd-gl+sp", "skd+nd", "skd+amd-masked-g+at+sp+rkd+nd+lsh", "vid+cc+crd+afd+sp"]


def kd(logits_s, logits_t, tau=4.0):
    log_p, log_q = (F.log_softmax(z.double() / tau, 1) for z in (logits_t, logits_s))
    return tau**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean().float()


def spherical(step):
    """The student's logits with the teacher's spread, and the distillation from them."""
    centred = [z - z.mean(1, keepdim=True) for z in (step.logits_s, step.logits_t)]
    spread = centred[1].std(1, keepdim=True)
    on_sphere = [z / z.std(1, keepdim=True) * spread for z in centred]
    return on_sphere[0], kd(*on_sphere)


WEIGHTS = {
    "amd": 5000.0, "at": 1000.0, "sp": 3000.0, "rkd": 1.0, "nd": 1.0, "lsh": 1.0, "cc": 0.02,
    "crd": 0.8, "vid": 1.0, "afd": 200.0, "afds": 500.0,
}  # fmt: skip


@pytest.mark.parametrize("key", [*(key for key in KEYS if key != "scratch"), *SUMS])
def test_total_is_eq_8_of_parts_worked_out_one_by_one(key):
    step = Step.of(key)
    objective = step.objective(key)
    total = step.loss(key, objective)
    logits, distilled = step.logits_s, kd(step.logits_s, step.logits_t)
    if "skd" in key:
        logits, distilled = spherical(step)
    losses = parse(key).losses
    expected = {"ce": F.cross_entropy(logits, step.target), "kd": distilled}
    expected |= {name: step.part(name, key, objective) for name in losses}
    for name, value in expected.items():
        torch.testing.assert_close(
            objective.parts[name], value.detach(), rtol=1e-4, atol=1e-6, msg=name
        )
    by_hand = 0.1 * expected["ce"] + 0.9 * expected["kd"]
    by_hand += sum(WEIGHTS[name] * expected[name] for name in losses)
    torch.testing.assert_close(total, by_hand, rtol=1e-4, atol=1e-6)


def test_the_components_of_amd_are_the_terms_of_eq_7():
    step = Step.of("amd-gl")
    found = {}
    for components in ("apn", "a", "p", "n", "pn"):
        objective = step.objective("amd-gl", SETTINGS.changed(components=components))
        step.loss("amd-gl", objective)
        found[components] = objective.parts["amd"]
    assert min(found.values()) > 0
    assert len({value.item() for value in found.values()}) == 5
    torch.testing.assert_close(found["a"] + found["p"] + found["n"], found["apn"])
    torch.testing.assert_close(found["p"] + found["n"], found["pn"])


@pytest.mark.parametrize("key", [*KEYS, *SUMS])
def test_a_step_gives_the_student_finite_gradients_and_the_teacher_none(key):
    step = Step.of(key)
    objective = step.objective(key)
    step.loss(key, objective).backward()
    trained = [*step.student.parameters(), *objective.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert all(p.grad is None for p in step.teacher.parameters())
    assert all(value.isfinite() for value in objective.parts.values())
    assert {"ce", "kd", *parse(key).losses} <= set(objective.parts)


@pytest.mark.parametrize(
    "key", ["nd", "lsh", "at", "sp", "rkd", "cc", "crd", "vid", "afd", "afds", "amd-g", "amd-gl"]
)
def test_the_feature_loss_alone_trains_the_student(key):
    step = Step.of(key)
    objective = step.objective(key, SETTINGS.changed(ce_weight=0.0, kd_weight=0.0))
    step.loss(key, objective).backward()
    assert objective.parts["ce"] == objective.parts["kd"] == 0
    assert step.student.conv1.weight.grad.abs().sum() > 0
    assert step.student.fc.weight.grad is None


def test_scratch_is_the_cross_entropy_alone_and_needs_no_teacher():
    step = Step()
    objective = parse("scratch").criterion(SETTINGS.changed(ce_weight=0.1))
    nothing = parse("scratch").feature_inputs(step.of_student, Features([], None))
    total = objective(step.logits_s, None, step.target, *nothing)
    torch.testing.assert_close(total, F.cross_entropy(step.logits_s, step.target))


@pytest.mark.parametrize(
    ("key", "weight"),
    [
        ("amd-gl", "gamma"),
        ("at", "at_weight"),
        ("sp", "sp_weight"),
        ("rkd", "rkd_weight"),
        ("nd", "nd_weight"),
        ("lsh", "lsh_weight"),
        ("cc", "cc_weight"),
        ("crd", "crd_weight"),
        ("vid", "vid_weight"),
        ("afd", "afd_weight"),
        ("afds", "afds_weight"),
    ],
)
def test_each_weight_of_the_settings_reaches_its_loss(key, weight):
    step = Step.of(key)
    (name,) = parse(key).losses
    settings = SETTINGS.changed(ce_weight=0.0, kd_weight=0.0)
    objective = step.objective(key, settings.changed(**{weight: 7.0}))
    torch.testing.assert_close(step.loss(key, objective), 7 * objective.parts[name])


def test_settings_of_the_losses_reach_them():
    settings = SETTINGS.changed(
        margin=1.2,
        scale=32.0,
        local_weight=0.4,
        mask_threshold=0.3,
        temperature=16.0,
        ce_weight=0.4,
        kd_weight=0.6,
        lsh_hashes=5,
    )
    step = Step()
    objective = step.objective("amd-masked-gl+lsh", settings)
    amd, lsh = objective.feature_loss["amd"], objective.feature_loss["lsh"]
    assert (amd.margin, amd.scale, amd.local_weight) == (1.2, 32.0, 0.4)
    assert (amd.mask_threshold, amd.backend) == (0.3, "reference")
    assert lsh.weight.shape == (5, 128)
    assert (objective.ce_weight, objective.kd_weight) == (0.4, 0.6)
    assert objective.logit_loss.temperature == 16.0
    assert objective.logit_loss.backend == "reference"
    assert step.objective("amd-g", settings).feature_loss["amd"].mask_threshold is None
    assert step.objective("amd-g", settings).feature_loss["amd"].local_weight == 0
    assert step.objective("skd", settings).logit_loss.temperature == 16.0


def test_the_cuda_backend_is_asked_of_the_losses_that_have_it():
    objective = Step().objective("amd-gl+at+nd+lsh", SETTINGS.changed(backend="cuda"))
    backends = {name: loss.backend for name, loss in objective.feature_loss.items()}
    assert backends == {"amd": "cuda", "at": "cuda", "nd": "auto", "lsh": "auto"}
    assert objective.logit_loss.backend == "auto"


@pytest.mark.parametrize("key", ["nd", "lsh"])
def test_embeddings_of_one_width_need_no_adapter(key):
    assert list(Step(width=1).objective(key).parameters()) == []
    adapter = list(Step(width=2).objective(key).parameters())
    assert [tuple(p.shape) for p in adapter] == [(128, 64), (128,)]


# A weight of each loss with layers for the features' shapes.
_DRAWN = ("embed_teacher.weight", "regressors.2.0.weight", "bilinear.0.weight", "2.hidden.weight")


@pytest.mark.parametrize("key", ["nd", "lsh", "cc", "crd", "vid", "afd", "afds"])
def test_layers_and_hyperplanes_come_from_the_seed_alone(key):
    step = Step.of(key)
    before = torch.get_rng_state()
    first = step.objective(key).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again = step.objective(key).state_dict()
    other = step.objective(key, SETTINGS.changed(seed=1)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    drawn = next(name for name in first if name.endswith((*_DRAWN, "adapter.weight")))
    assert not torch.equal(first[drawn], other[drawn])


def test_a_step_under_autocast_is_finite():
    step = Step()
    key = "amd-gl+sp+nd+lsh+rkd"
    with torch.autocast("cpu", torch.bfloat16):
        step.logits_s, step.of_student = step.features(step.student, "WRN10-1")
        loss = step.loss(key, step.objective(key))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in step.student.parameters())


def test_settings_that_leave_nothing_to_learn_are_refused():
    settings = SETTINGS.changed(ce_weight=0.0, kd_weight=0.0, gamma=0.0)
    for key in ("kd", "amd-gl"):
        with pytest.raises(UsageError, match=f"--kd-weight or the weight of a loss of {key} must"):
            parse(key).criterion(settings)


def test_mixed_images_are_refused_where_a_loss_needs_their_class():
    mixed = SETTINGS.changed(mixup=0.2)
    with pytest.raises(UsageError, match=r"--mixup must be 0 with nd, .* got 0\.2"):
        Step().objective("skd+nd", mixed)
    step = Step()
    step.target = torch.full((IMAGES, CLASSES), 1 / CLASSES)
    assert step.loss("amd-gl", step.objective("amd-gl", mixed)).isfinite()


@pytest.mark.parametrize("key", ["nd", "lsh", "skd+nd"])
def test_what_a_loss_needs_must_be_given(key):
    with pytest.raises(ValueError, match=rf"embeddings must be given for {re.escape(key)}, got N"):
        parse(key).criterion(SETTINGS)


@pytest.mark.parametrize("key", ["cc", "crd", "vid", "afd", "afds"])
def test_shapes_must_be_given_where_layers_are_made_for_them(key):
    with pytest.raises(ValueError, match=f"shapes must be given for {key}, got None"):
        parse(key).criterion(SETTINGS)


def test_class_means_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"\[K, teacher_width = 8\], got shape \(3, 7\)"):
        Embeddings(8, 8, torch.randn(3, 7))


def test_features_that_a_loss_takes_must_be_there():
    step = Step()
    with pytest.raises(ValueError, match=r"teacher\.maps must be given for sp"):
        parse("sp").feature_inputs(step.of_student, Features([], None))
    with pytest.raises(ValueError, match=r"student\.embedding must be given for rkd"):
        parse("rkd").feature_inputs(Features([], None), step.of_teacher)


def test_embedding_widths_of_the_networks_are_those_that_the_criterion_takes():
    step = Step()
    found = layers("WRN10-2", step.teacher)
    assert embedding_width(step.teacher, found, 1, 8) == step.embeddings.teacher_width
