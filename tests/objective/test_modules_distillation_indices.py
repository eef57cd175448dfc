"""DistillationLoss hands samples' indices in the data to the losses that take them, by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amd_fused import AFDLoss, CCLoss, CRDLoss, DistillationLoss, NDLoss, VIDLoss

B, N, D = 4, 20, 6
INDICES = torch.tensor([3, 19, 0, 7])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LOGITS = drawn(B, 5, seed=1), drawn(B, 5, seed=2), torch.tensor([0, 4, 2, 2])
ROWS = drawn(B, D, seed=3), drawn(B, D, seed=4)
MAPS = drawn(B, D, 4, 4, seed=5), drawn(B, D, 4, 4, seed=6)


class Seen(nn.Module):
    """What it was called with."""

    def forward(
        self, student: Tensor, teacher: Tensor, target: Tensor, *, indices: Tensor
    ) -> Tensor:
        self.seen = target, indices
        return (student - teacher).square().mean()


def test_a_single_loss_gets_indices_and_labels_by_their_names() -> None:
    criterion = DistillationLoss(feature_loss=Seen())
    criterion(*LOGITS, *ROWS, indices=INDICES)
    assert criterion.feature_loss.seen[0] is LOGITS[2]
    assert criterion.feature_loss.seen[1] is INDICES


def test_crd_alone_is_its_weighted_term() -> None:
    torch.manual_seed(1)
    crd = CRDLoss(D, D, N, 9)
    expected = copy.deepcopy(crd)(*ROWS, INDICES)
    criterion = DistillationLoss(0.0, 0.0, feature_weight=0.8, feature_loss=crd)
    value = criterion(None, None, None, *ROWS, indices=INDICES)
    torch.testing.assert_close(value, 0.8 * expected)
    torch.testing.assert_close(criterion.parts["feature"], expected.detach())


def test_among_several_losses_only_those_that_take_indices_get_them() -> None:
    def plain(student: Tensor, teacher: Tensor, indices: Tensor | None = None) -> Tensor:
        assert indices is None
        return (student - teacher).abs().mean()

    def by_name(student: Tensor, teacher: Tensor, *, indices: Tensor) -> Tensor:
        assert indices is INDICES
        return student.sum() * 0

    losses: dict[str, tuple[float, Any]] = {
        "crd": (0.8, CRDLoss(D, D, N, 9)),
        "cc": (0.02, CCLoss(D, D)),
        "vid": (1.0, VIDLoss(D, D)),
        "afd": (200.0, AFDLoss(D, D)),
        "nd": (1.0, NDLoss(drawn(5, D))),
        "plain": (1.0, plain),
        "named": (1.0, by_name),
    }
    criterion = DistillationLoss(feature_loss=losses)
    maps = {"vid", "afd"}
    sides = [
        {name: (m if name in maps else r) for name in losses}
        for r, m in zip(ROWS, MAPS, strict=True)
    ]
    assert criterion(*LOGITS, *sides, indices=INDICES).isfinite()
    assert {"crd", "cc", "vid", "afd", "nd"} < criterion.parts.keys()
    trained = {name.split(".")[1] for name, _ in criterion.named_parameters()}
    assert trained == {"crd", "cc", "vid", "afd"}


def test_missing_indices_and_blended_targets_are_named() -> None:
    crd = CRDLoss(D, D, N, 9)
    blended = torch.full((B, 5), 0.2)
    for losses in (crd, {"crd": (0.8, crd)}):
        criterion = DistillationLoss(feature_loss=losses)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^DistillationLoss: indices must be given while"):
            criterion(*LOGITS, *ROWS)
        with pytest.raises(
            ValueError, match=r"^DistillationLoss: target must be class indices \[B\]"
        ):
            criterion(*LOGITS[:2], blended, *ROWS, indices=INDICES)
    # Nobody asks for them: indices do no harm.
    other = DistillationLoss(feature_loss=CCLoss(D, D))
    assert other(*LOGITS, *ROWS, indices=INDICES).isfinite()


def test_compiles_to_one_graph_with_indices() -> None:
    criterion = DistillationLoss(feature_loss=CRDLoss(D, D, N, 9)).eval()
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    found = compiled(*LOGITS, *ROWS, indices=INDICES)
    torch.testing.assert_close(found, criterion(*LOGITS, *ROWS, indices=INDICES))
