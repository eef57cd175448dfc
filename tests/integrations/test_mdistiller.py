"""The distiller registers itself, and its two losses add up to the paper's objective."""

from __future__ import annotations

from types import ModuleType

import pytest
import stand_ins
import torch

import amd_fused

NAME = "amd_fused.integrations.mdistiller"


@pytest.fixture
def mdistiller(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, dict, stand_ins.Node]:
    """Our module, and mdistiller's distillers and configuration after its import."""
    distillers, configuration = {}, stand_ins.Node()
    ours = stand_ins.imported(
        NAME,
        monkeypatch,
        stand_ins.module("mdistiller"),
        stand_ins.module("mdistiller.distillers", distiller_dict=distillers),
        stand_ins.module("mdistiller.distillers._base", Distiller=stand_ins.Distiller),
        stand_ins.module("mdistiller.engine"),
        stand_ins.module("mdistiller.engine.cfg", CFG=configuration),
    )
    return ours, distillers, configuration


# The second pair's maps differ in size, as those of ResNet50 and MobileNetV2 do.
@pytest.mark.parametrize("stride", [1, 2])
def test_the_losses_are_eq_8(mdistiller, stride):
    _, distillers, configuration = mdistiller
    torch.manual_seed(0)
    student, teacher = stand_ins.Network(4, stride), stand_ins.Network(6, 1)
    distiller = distillers["AMD"](student, teacher, configuration)
    image, target = torch.randn(3, 3, 8, 8), torch.tensor([0, 4, 2])
    logits, losses = distiller(image=image, target=target, epoch=1)
    (z_s, f_s), (z_t, f_t) = student(image), teacher(image)
    criterion = amd_fused.DistillationLoss(feature_loss=amd_fused.AMDLoss(align="adaptive_avg"))
    expected = criterion(z_s, z_t, target, f_s["feats"][1:], f_t["feats"][1:])
    torch.testing.assert_close(sum(losses.values()), expected)
    torch.testing.assert_close(losses["loss_ce"], 0.1 * criterion.parts["ce"])
    torch.testing.assert_close(logits, z_s)
    losses["loss_kd"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.stem.weight.grad.any()


def test_the_configuration_s_values_are_those_of_the_loss(mdistiller):
    _, distillers, configuration = mdistiller
    configuration.AMD.update(MARGIN=2.0, LOCAL_WEIGHT=0.5, FORMULA="released", TEMPERATURE=2.0)
    networks = stand_ins.Network(4, 1), stand_ins.Network(4, 1)
    distiller = distillers["AMD"](*networks, configuration)
    loss = distiller.loss
    assert (loss.margin, loss.local_weight, loss.formula) == (2.0, 0.5, "released")
    assert distiller.temperature == 2.0
    configuration.AMD.update(ALIGN="pool")
    with pytest.raises(ValueError, match="align must be"):
        distillers["AMD"](*networks, configuration)
