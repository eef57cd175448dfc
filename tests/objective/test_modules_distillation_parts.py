"""DistillationLoss with a logit loss of the caller's and several weighted feature losses."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amd_fused import (
    AMDLoss,
    ATLoss,
    DistillationLoss,
    KDLoss,
    NDLoss,
    RKDLoss,
    SphericalKDLoss,
    SPLoss,
    amd_loss,
    kd_loss,
    sp_loss,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*no fused backend")


def batch() -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    return {
        "student_logits": torch.randn(4, 10, generator=g),
        "teacher_logits": 3 * torch.randn(4, 10, generator=g),
        "target": torch.tensor([1, 0, 9, 4]),
        "student_features": [torch.randn(4, 3, 8, 8, generator=g)],
        "teacher_features": [torch.randn(4, 5, 8, 8, generator=g)],
    }


def l1_of_logits(student: Tensor, teacher: Tensor) -> Tensor:
    return F.l1_loss(student, teacher)


class Decoupled(nn.Module):
    """A logit loss that needs the labels, as decoupled KD does."""

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        rows = torch.arange(len(target))
        return (student[rows, target] - teacher[rows, target]).square().mean()


AMD_AND_SP = {"amd": (5000.0, AMDLoss()), "sp": (3000.0, SPLoss())}


@pytest.mark.parametrize(
    "feature_loss",
    [AMD_AND_SP, [("amd", 5000.0, AMDLoss()), ("sp", 3000.0, SPLoss())]],
    ids=["dict", "list"],
)
def test_several_feature_losses_are_added_up_under_their_names(feature_loss: Any) -> None:
    data = batch()
    data["student_features"][0].requires_grad_()
    criterion = DistillationLoss(feature_loss=feature_loss)
    total = criterion(**data)
    features = data["student_features"], data["teacher_features"]
    amd, sp = amd_loss(*features), sp_loss(*features)
    ce = F.cross_entropy(data["student_logits"], data["target"])
    kd = kd_loss(data["student_logits"], data["teacher_logits"], 4.0)
    parts = criterion.parts
    assert list(parts) == ["ce", "kd", "amd", "sp"]
    torch.testing.assert_close(list(parts.values()), [ce, kd, amd.detach(), sp.detach()])
    expected = 0.1 * ce + 0.9 * kd + 5000 * amd + 3000 * sp
    torch.testing.assert_close(total, expected)
    student = data["student_features"][0]
    torch.testing.assert_close(
        torch.autograd.grad(total, student), torch.autograd.grad(expected, student)
    )


def test_one_loss_in_a_dict_keeps_its_name_and_weight() -> None:
    criterion = DistillationLoss(0, 0, feature_loss={"mse": (3.0, F.mse_loss)})
    total = criterion(None, None, None, torch.tensor([1.0]), torch.tensor([3.0]))
    assert total.item() == 12
    assert {name: part.item() for name, part in criterion.parts.items()} == {
        "ce": 0,
        "kd": 0,
        "mse": 4,
    }


def test_weights_may_change_from_call_to_call_and_0_skips_a_loss() -> None:
    calls = []

    def counted(student: Tensor, teacher: Tensor) -> Tensor:
        calls.append(1)
        return F.mse_loss(student, teacher)

    criterion = DistillationLoss(
        0, 0, feature_loss={"a": (1.0, F.l1_loss), "b": (0.0, counted), "c": (1.0, F.mse_loss)}
    )
    inputs = None, None, None, torch.tensor([1.0]), torch.tensor([4.0])
    assert criterion(*inputs).item() == 12
    assert (criterion.parts["b"].item(), calls) == (0, [])
    criterion.feature_loss.weights["b"] = 2.0
    assert criterion(*inputs).item() == 30
    assert criterion.parts["b"].item() == 9
    criterion.feature_loss.weights.update(a=0.0, b=0.0, c=0.0)
    with pytest.raises(ValueError, match=r"^DistillationLoss: a weight must be > 0"):
        criterion(*inputs)


def test_feature_weight_0_switches_all_of_them_off() -> None:
    data = batch()
    criterion = DistillationLoss(feature_weight=0, feature_loss=AMD_AND_SP)
    total = criterion(data["student_logits"], data["teacher_logits"], data["target"])
    plain = DistillationLoss(feature_weight=0)
    assert torch.equal(total, plain(data["student_logits"], data["teacher_logits"], data["target"]))
    assert criterion.parts["amd"] == criterion.parts["sp"] == 0


def test_each_loss_may_have_features_of_its_own() -> None:
    data = batch()
    embeddings = torch.randn(4, 6), torch.randn(4, 9)
    maps = data["student_features"], data["teacher_features"]
    criterion = DistillationLoss(feature_loss={"amd": (5000.0, AMDLoss()), "rkd": (1.0, RKDLoss())})
    for i, side in enumerate(("student_features", "teacher_features")):
        data[side] = {"amd": maps[i], "rkd": embeddings[i]}
    criterion(**data)
    assert torch.equal(criterion.parts["amd"], amd_loss(*maps))
    assert torch.equal(criterion.parts["rkd"], RKDLoss()(*embeddings))
    del data["teacher_features"]["rkd"]
    with pytest.raises(
        ValueError, match=r"^DistillationLoss: teacher_features must have an entry .* for 'rkd'"
    ):
        criterion(**data)


def test_a_dict_of_features_is_left_to_a_single_loss() -> None:
    criterion = DistillationLoss(
        0, 0, feature_weight=2.0, feature_loss=lambda s, t: F.mse_loss(s["x"], t["x"])
    )
    found = criterion(None, None, None, {"x": torch.zeros(2)}, {"x": torch.ones(2)})
    assert found.item() == 2


def test_losses_that_need_the_labels_are_given_them() -> None:
    data = batch()
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    nd = NDLoss(torch.randn(10, 6))
    data["student_features"], data["teacher_features"] = student, teacher
    expected = nd(student, teacher, data["target"])
    for feature_loss, weight in ((nd, 2.0), ({"nd": (2.0, nd), "sp": (1.0, SPLoss())}, 5000.0)):
        criterion = DistillationLoss(
            feature_weight=weight, feature_loss=feature_loss, logit_loss=Decoupled()
        )
        criterion(**data)
        parts = criterion.parts
        assert torch.equal(parts["nd" if "nd" in parts else "feature"], expected)
        logits = data["student_logits"], data["teacher_logits"], data["target"]
        assert torch.equal(parts["kd"], Decoupled()(*logits))
    criterion = DistillationLoss(ce_weight=0, logit_loss=Decoupled(), feature_weight=0)
    message = "^DistillationLoss: target must be given while kd_weight > 0"
    with pytest.raises(ValueError, match=message):
        criterion(data["student_logits"], data["teacher_logits"], None)


def test_the_default_logit_loss_is_kd_with_the_temperature() -> None:
    data = batch()
    logits = data["student_logits"], data["teacher_logits"]
    for temperature in (1.0, 4.0, 16.0):
        criterion = DistillationLoss(0, 1, temperature, 0)
        assert torch.equal(criterion(*logits, None), kd_loss(*logits, temperature))
        named = DistillationLoss(0, 1, feature_weight=0, logit_loss=KDLoss(temperature))
        assert torch.equal(named(*logits, None), kd_loss(*logits, temperature))


def test_any_logit_loss_takes_the_place_of_kd() -> None:
    data = batch()
    criterion = DistillationLoss(0.5, 2.0, feature_weight=0, logit_loss=l1_of_logits)
    total = criterion(data["student_logits"], data["teacher_logits"], data["target"])
    l1 = F.l1_loss(data["student_logits"], data["teacher_logits"])
    ce = F.cross_entropy(data["student_logits"], data["target"])
    assert torch.equal(criterion.parts["kd"], l1)
    torch.testing.assert_close(total, 0.5 * ce + 2 * l1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_are_widened_for_a_logit_loss_of_the_callers(dtype: torch.dtype) -> None:
    seen = []

    def logit_loss(student: Tensor, teacher: Tensor) -> Tensor:
        seen.extend([student.dtype, teacher.dtype])
        return (student - teacher).square().mean()

    criterion = DistillationLoss(0, 1, feature_weight=0, logit_loss=logit_loss)
    far = torch.full((2, 3), 1e3, dtype=dtype)
    assert criterion(far, -far, None).item() == pytest.approx(float(2 * far[0, 0]) ** 2)
    assert seen == [torch.float32, torch.float32]


@pytest.mark.parametrize("options", [{}, {"norm": "l2"}, {"multiplier": 3.0}])
def test_the_cross_entropy_sees_what_the_logit_loss_normalizes(options: Any) -> None:
    data = batch()
    data["student_logits"].requires_grad_()
    logit_loss = SphericalKDLoss(2.0, **options)
    criterion = DistillationLoss(feature_weight=0, logit_loss=logit_loss)
    logits = data["student_logits"], data["teacher_logits"]
    total = criterion(*logits, data["target"])
    seen = logit_loss.normalize(*logits)
    expected = 0.1 * F.cross_entropy(seen, data["target"]) + 0.9 * logit_loss(*logits)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(
        torch.autograd.grad(total, logits[0]), torch.autograd.grad(expected, logits[0])
    )
    # Without the logit loss there is no sphere, and no need of the teacher.
    alone = DistillationLoss(1, 0, feature_weight=0, logit_loss=logit_loss)
    found = alone(logits[0], None, data["target"])
    torch.testing.assert_close(found, F.cross_entropy(logits[0], data["target"]))


def test_parameters_and_buffers_of_every_loss_are_held() -> None:
    criterion = DistillationLoss(
        logit_loss=nn.Bilinear(2, 2, 1),
        feature_loss={"nd": (1.0, NDLoss(torch.ones(3, 2))), "mix": (1.0, nn.Bilinear(2, 3, 1))},
    )
    assert set(criterion.state_dict()) == {
        "logit_loss.weight",
        "logit_loss.bias",
        "feature_loss.nd.class_means",
        "feature_loss.mix.weight",
        "feature_loss.mix.bias",
    }


def test_copies_and_pickles_give_the_same_total() -> None:
    criterion = DistillationLoss(
        logit_loss=SphericalKDLoss(), feature_loss={**AMD_AND_SP, "l": (2.0, l1_of_maps)}
    )
    total = criterion(**batch())
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert other.parts == {}
        assert torch.equal(other(**batch()), total)
    other.feature_loss.weights["sp"] = 0.0
    assert criterion.feature_loss.weights["sp"] == 3000


def l1_of_maps(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    return F.l1_loss(student[0].mean(1), teacher[0].mean(1))


def test_prints_what_counts() -> None:
    shown = repr(DistillationLoss(logit_loss=SphericalKDLoss(2.0), feature_loss=AMD_AND_SP))
    assert "ce_weight=0.1, kd_weight=0.9\n" in shown
    assert "weights={'amd': 5000.0, 'sp': 3000.0}" in shown
    assert "(sp): SPLoss(" in shown
    assert "(logit_loss): SphericalKDLoss(temperature=2.0" in shown
    assert "logit_loss=<function l1_of" in repr(DistillationLoss(logit_loss=l1_of_logits))


def test_compiles_as_one_graph_with_all_parts() -> None:
    losses = {**AMD_AND_SP, "at": (10.0, ATLoss(p=3)), "labels": (1.0, labelled)}

    def made() -> DistillationLoss:
        return DistillationLoss(logit_loss=SphericalKDLoss(2.0), feature_loss=losses)

    criterion, eager = made(), made()
    compiled = torch.compile(criterion, backend="aot_eager", fullgraph=True)
    data = batch()
    data["student_logits"].requires_grad_()
    data["student_features"][0].requires_grad_()
    leaves = [data["student_logits"], *data["student_features"]]
    total, expected = compiled(**data), eager(**data)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(criterion.parts, eager.parts)
    torch.testing.assert_close(
        torch.autograd.grad(total, leaves), torch.autograd.grad(expected, leaves)
    )


def labelled(student: list[Tensor], teacher: list[Tensor], target: Tensor) -> Tensor:
    return (student[0].mean((1, 2, 3)) * target).mean()
