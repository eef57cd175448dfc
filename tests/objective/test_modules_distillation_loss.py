"""DistillationLoss is the weighted sum of Eq. 8, and keeps its terms for logging."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import released
import torch
import torch.nn.functional as F
from distillation_batch import batch
from torch import nn

from amd_fused import AMDLoss, DistillationLoss, amd_loss

pytestmark = pytest.mark.filterwarnings("ignore:.*_loss. no fused backend")


class MSE(nn.Module):
    """A feature loss that shows whether it ran."""

    calls = 0

    def forward(self, student, teacher):
        self.calls += 1
        return F.mse_loss(student, teacher)


def test_worked_by_hand():
    # tau = 2 makes the teacher (3/4, 1/4) and the student (1/2, 1/2), in both rows:
    # CE = log 2, KL = 3/4 log(3/2) + 1/4 log(1/2), feature = mean of (2 - 1)^2 and (0 - 3)^2.
    teacher_logits = torch.tensor([[2 * math.log(3.0), 0.0], [5 + 2 * math.log(3.0), 5.0]])
    criterion = DistillationLoss(0.5, 0.25, 2.0, 10.0, F.mse_loss)
    total = criterion(
        torch.tensor([[0.0, 0.0], [7.0, 7.0]]),
        teacher_logits,
        torch.tensor([0, 1]),
        torch.tensor([2.0, 0.0]),
        torch.tensor([1.0, 3.0]),
    )
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert total.item() == pytest.approx(0.5 * math.log(2) + 0.25 * 4 * kl + 10 * 5)
    parts = {name: value.item() for name, value in criterion.parts.items()}
    assert parts == pytest.approx({"ce": math.log(2), "kd": 4 * kl, "feature": 5.0})


@pytest.mark.parametrize("case", released.cases("kd"), ids=released.name)
def test_the_kd_term_is_that_of_public_code(case):
    student = released.tensor(case["student"]).requires_grad_()
    teacher = released.tensor(case["teacher"])
    criterion = DistillationLoss(0, 1, case["options"]["temperature"], 0)
    total = criterion(student, teacher, None)
    total.backward()
    assert total.item() == pytest.approx(case["value"], rel=1e-12)
    assert student.grad.norm().item() == pytest.approx(case["grad_norm"], rel=1e-12)
    assert student.grad.flatten()[:6].tolist() == pytest.approx(case["grad_first"], rel=1e-9)


def test_defaults_are_the_papers_weights_and_the_amd_loss():
    criterion = DistillationLoss()
    assert (criterion.ce_weight, criterion.kd_weight) == (0.1, 0.9)
    assert (criterion.temperature, criterion.feature_weight) == (4.0, 5000.0)
    data = batch()
    total = criterion(**data)
    feature = amd_loss(data["student_features"], data["teacher_features"])
    assert torch.equal(criterion.parts["feature"], feature)
    parts = criterion.parts
    expected = 0.1 * parts["ce"] + 0.9 * parts["kd"] + 5000 * parts["feature"]
    torch.testing.assert_close(total, expected)


def test_gradients_reach_every_input_that_requires_one_and_no_other():
    data = batch()
    wanted = ("student_logits", "teacher_logits")
    for name in wanted:
        data[name].requires_grad_()
    for side in ("student_features", "teacher_features"):
        data[side][0].requires_grad_()
    DistillationLoss()(**data).backward()
    tensors = [data[name] for name in wanted]
    tensors += [data["student_features"][0], data["teacher_features"][0]]
    assert all(t.grad is not None and t.grad.any() for t in tensors)

    data = batch()
    data["student_logits"].requires_grad_()
    DistillationLoss()(**data).backward()
    assert data["teacher_logits"].grad is None
    assert data["student_features"][0].grad is None


def test_parts_hold_no_graph_and_are_new_at_every_call():
    criterion = DistillationLoss(feature_loss=F.mse_loss, feature_weight=1.0)
    assert criterion.parts == {}
    data = {**batch(), "student_features": torch.zeros(3, requires_grad=True)}
    data["student_logits"].requires_grad_()
    data["teacher_features"] = torch.ones(3)
    criterion(**data).backward()
    first = criterion.parts
    assert all(v.grad_fn is None and not v.requires_grad and v.ndim == 0 for v in first.values())
    kept = {name: value.item() for name, value in first.items()}
    data["teacher_features"] = 5 * torch.ones(3)
    criterion(**data)
    assert {name: value.item() for name, value in first.items()} == kept
    assert (kept["feature"], criterion.parts["feature"].item()) == (1.0, 25.0)


def test_a_term_of_weight_0_is_skipped_and_its_inputs_may_be_missing():
    data = batch()
    feature_loss = MSE()
    criterion = DistillationLoss(0.3, 0.7, feature_weight=0, feature_loss=feature_loss)
    total = criterion(data["student_logits"], data["teacher_logits"], data["target"])
    assert feature_loss.calls == 0
    assert criterion.parts["feature"].item() == 0
    torch.testing.assert_close(total, 0.3 * criterion.parts["ce"] + 0.7 * criterion.parts["kd"])

    criterion = DistillationLoss(kd_weight=0, feature_weight=0)
    total = criterion(data["student_logits"], None, data["target"])
    torch.testing.assert_close(total, 0.1 * F.cross_entropy(data["student_logits"], data["target"]))

    criterion = DistillationLoss(0, 0, feature_weight=2.0, feature_loss=feature_loss)
    total = criterion(None, None, None, torch.ones(2), torch.zeros(2))
    assert (total.item(), feature_loss.calls) == (2.0, 1)
    assert {name: value.item() for name, value in criterion.parts.items()} == {
        "ce": 0,
        "kd": 0,
        "feature": 1,
    }


def test_targets_may_be_probabilities_as_mixup_makes_them():
    data = batch()
    labels = F.one_hot(data["target"], 10).double()
    mixed = 0.25 * labels + 0.75 * labels.roll(1, 0)
    criterion = DistillationLoss(1, 0, feature_weight=0)
    log_p = F.log_softmax(data["student_logits"], 1)
    expected = -(mixed * log_p).sum(1).mean().float()
    torch.testing.assert_close(criterion(data["student_logits"], None, mixed), expected)


def test_integer_targets_of_any_width_are_class_indices():
    data = batch()
    criterion = DistillationLoss(1, 0, feature_weight=0)
    narrow = data["target"].to(torch.int32)
    assert criterion(data["student_logits"], None, narrow) == criterion(
        data["student_logits"], None, data["target"]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened_before_the_softmax(dtype):
    data = batch(dtype)
    wide = {
        name: value.float() if "logits" in name else value for name, value in batch(dtype).items()
    }
    criterion = DistillationLoss()
    total = criterion(**data)
    assert total.dtype == torch.float32
    assert torch.equal(total, criterion(**wide))
    # KL of these logits is their distance, 120000: more than float16 holds.
    far = torch.tensor([[6e4, -6e4]], dtype=dtype)
    kd = DistillationLoss(0, 1, 1.0, 0)(far, -far, None)
    assert kd.item() == pytest.approx(2 * far[0, 0].item())


def test_autocast_changes_nothing():
    data = batch()
    criterion = DistillationLoss()
    expected = criterion(**data)
    with torch.autocast("cpu", torch.bfloat16):
        total = criterion(**data)
    assert total.dtype == torch.float32
    assert torch.equal(total, expected)


@pytest.mark.parametrize("double", ["student_logits", "teacher_logits", "teacher_features", "all"])
def test_one_float64_input_makes_a_float64_total(double):
    data = batch(torch.float64 if double == "all" else torch.float32)
    if double == "teacher_features":
        data[double] = [a.double() for a in data[double]]
    elif double != "all":
        data[double] = data[double].double()
    assert DistillationLoss()(**data).dtype == torch.float64


def test_nan_in_the_logits_reaches_the_total():
    data = batch()
    data["student_logits"][2, 3] = torch.nan
    assert DistillationLoss()(**data).isnan()


def test_the_parameters_of_a_feature_loss_are_trained_with_it():
    criterion = DistillationLoss(feature_loss=nn.Bilinear(2, 3, 1))
    assert len(list(criterion.parameters())) == 2


def test_copies_and_pickles_start_without_parts():
    criterion = DistillationLoss(0.2, 0.8, 2.0, 10.0, AMDLoss(margin=2.0))
    total = criterion(**batch())
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert repr(other) == repr(criterion)
        assert other.parts == {}
        assert torch.equal(other(**batch()), total)
    assert criterion.parts


def test_prints_its_weights_and_its_feature_loss():
    criterion = DistillationLoss(0.2, 0.8, 2.0, 10.0, AMDLoss(margin=2.0))
    shown = "ce_weight=0.2, kd_weight=0.8, temperature=2.0, feature_weight=10.0"
    assert shown in repr(criterion)
    assert "(feature_loss): AMDLoss(margin=2.0" in repr(criterion)
    assert "feature_loss=<function mse_loss" in repr(DistillationLoss(feature_loss=F.mse_loss))


def test_a_replica_of_data_parallel_does_not_write_into_the_original():
    criterion = DistillationLoss()
    criterion(**batch())
    before = criterion.parts
    replica = criterion._replicate_for_data_parallel()
    other = batch()
    other["target"] = other["target"].flip(0)
    replica(**other)
    assert replica.parts["ce"] != before["ce"]
    assert criterion.parts is before


def test_compiles_as_one_graph_with_its_parts():
    criterion, eager = DistillationLoss(), DistillationLoss()
    compiled = torch.compile(criterion, backend="aot_eager", fullgraph=True)
    for shift in (0, 1):
        data = batch()
        data["target"] = data["target"].roll(shift)
        data["student_logits"].requires_grad_()
        total = compiled(**data)
        torch.testing.assert_close(total, eager(**data))
        torch.testing.assert_close(criterion.parts, eager.parts)
        assert not any(part.requires_grad for part in criterion.parts.values())
        total.backward()
        assert data["student_logits"].grad.any()
