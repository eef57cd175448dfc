"""Every loss runs on tensors without data, as estimates of memory use them (FakeTensorMode)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import amd_fused

LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "amd": lambda s, t, y: amd_fused.amd_loss(s[:, :, None, None].expand(-1, -1, 2, 2), t[
        :, :, None, None].expand(-1, -1, 2, 2)),
    "at": lambda s, t, y: amd_fused.at_loss(s[:, :, None, None].expand(-1, -1, 2, 2), t[
        :, :, None, None].expand(-1, -1, 2, 2)),
    "kd": lambda s, t, y: amd_fused.kd_loss(s, t),
    "skd": lambda s, t, y: amd_fused.spherical_kd_loss(s, t),
    "nd": lambda s, t, y: amd_fused.nd_loss(s, t, y, torch.randn(10, 8)),
    "lsh": lambda s, t, y: amd_fused.lsh_loss(s, t, torch.randn(16, 8)),
    "sp": lambda s, t, y: amd_fused.sp_loss(s, t),
    "rkd": lambda s, t, y: amd_fused.rkd_loss(s, t),
    "vid": lambda s, t, y: amd_fused.VIDLoss(8, 8)(s[:, :, None, None], t[:, :, None, None]),
    "cc": lambda s, t, y: amd_fused.CCLoss(8, 8)(s, t),
    "crd": lambda s, t, y: amd_fused.CRDLoss(8, 8, 20, 5)(s, t, y),
    "afd": lambda s, t, y: amd_fused.AFDLoss(8, 8)(s[:, :, None, None], t[:, :, None, None]),
    "afds": lambda s, t, y: amd_fused.AFDSLoss((8, 1, 1))(s[:, :, None, None], t[
        :, :, None, None]),
    "sum": lambda s, t, y: amd_fused.DistillationLoss(
        feature_loss=amd_fused.NDLoss(torch.randn(10, 8)))(s, t, y, s, t),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_have_their_shapes_under_fake_tensor_mode(name: str) -> None:
    with FakeTensorMode():
        s, t = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
        loss = LOSSES[name](s, t, torch.randint(0, 8, (4,)))
        loss.backward()
        assert loss.shape == ()
        assert s.grad is not None
        assert s.grad.shape == s.shape


def test_labels_are_still_looked_at_where_they_have_values() -> None:
    with pytest.raises(ValueError, match="target must be between 0 and 9"):
        amd_fused.nd_loss(
            torch.randn(1, 8), torch.randn(1, 8), torch.tensor([10]), torch.randn(10, 8)
        )
