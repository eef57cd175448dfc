"""A cache of another teacher or of other images is refused by name; one of the same is found."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from distill.processes import said
from forks import Forks
from torch import nn
from torch.utils.data import Subset, TensorDataset

from amd_fused import TeacherCache
from teacher_cache.cached_teachers import cache, dataset, loader, teacher


class Named(TensorDataset):
    """As a data set of torchvision: with a transform."""

    def __init__(self, transform: Any, images: torch.Tensor | None = None) -> None:
        super().__init__(dataset().tensors[0] if images is None else images)
        self.transform = transform


def changed_teacher(change: Any) -> nn.Module:
    model = teacher()
    with torch.no_grad():
        change(model)
    return model


def other_image(place: int) -> TensorDataset:
    images, labels = dataset().tensors
    images = images.clone()
    images[place, 0, 0, 0] += 1e-6
    return TensorDataset(images, labels)


WEIGHTS = r"weights \([0-9a-f]{12} there, [0-9a-f]{12} here\)"


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"teacher": teacher(1)}, WEIGHTS),
        ({"teacher": changed_teacher(lambda m: m[6].bias[4].add_(1e-7))}, WEIGHTS),
        ({"teacher": changed_teacher(lambda m: m[1].running_var.mul_(2))}, WEIGHTS),
        ({"teacher": changed_teacher(lambda m: m[1].register_buffer("more", m[6].bias))}, WEIGHTS),
        (
            {"teacher": changed_teacher(lambda m: setattr(m[1], "eps", 1e-3))},
            r"modules \([0-9a-f]{12} there, [0-9a-f]{12} here\)",
        ),
        (
            {"maps": ["0"]},
            r"outputs \(logits, map of 0, map of 2, features of 2, embedding of 3 there, "
            r"logits, map of 0, features of 2, embedding of 3 here\)",
        ),
        ({"maps": ["2", "0"]}, r"outputs \(.*map of 0, map of 2, .* there, .*map of 2, map of 0,"),
        ({"dtype": torch.float16}, r"dtype \(float32 there, float16 here\)"),
        ({"dataset": dataset(1)}, r"images \([0-9a-f]{12} there, [0-9a-f]{12} here\)"),
        ({"dataset": other_image(0)}, r"images \("),
        ({"dataset": other_image(49)}, r"images \("),
        (
            {"dataset": Subset(dataset(), range(40))},
            r"dataset \(.*\), size \(50 there, 40 here\), ",
        ),
        ({"dataset": Named("centre crop")}, r"dataset .*, transforms \(none there, 'centre crop' "),
        ({"transforms": "flip"}, r"transforms \(none there, 'flip' here\)"),
        (
            {"dataset": "digits", "size": 50},
            r"dataset \(TensorDataset there, digits here\), images",
        ),
        ({"extra": {"autocast": "bf16"}}, r"autocast \(none there, bf16 here\)"),
    ],
)
def test_another_cache_is_refused_by_the_parts_that_differ(
    tmp_path: Path, changes: dict[str, Any], differs: str
) -> None:
    cache(tmp_path).fill(loader())
    with pytest.raises(ValueError, match=rf"got {tmp_path}, which differs in {differs}") as caught:
        cache(tmp_path, **changes)
    assert str(caught.value).startswith("TeacherCache: folder must hold what this teacher computes")
    assert str(caught.value).endswith("; name another folder, or delete it")
    # The other one's files stay as they were.
    assert cache(tmp_path).complete


def test_a_cache_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache(tmp_path).fill(loader())
    monkeypatch.setattr("amd_fused.teacher_cache.fingerprint.FORMAT", 2)
    with pytest.raises(ValueError, match=r"which differs in format \(1 there, 2 here\);"):
        cache(tmp_path)


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"teacher": torch.compile(teacher(), backend="eager")},
        {"teacher": nn.DataParallel(teacher())},
        {"teacher": teacher().train()},
        {"teacher": teacher().eval().requires_grad_(False)},
        {"teacher": teacher().to(memory_format=torch.channels_last)},
    ],
)
def test_the_same_teacher_is_known_however_it_is_wrapped(
    tmp_path: Path, same: dict[str, Any]
) -> None:
    cache(tmp_path).fill(loader())
    assert cache(tmp_path, **same).complete


def test_a_teacher_that_was_trained_on_is_refused(tmp_path: Path) -> None:
    model = teacher()
    with cache(tmp_path, teacher=model) as kept:
        kept.fill(loader())
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    model(dataset().tensors[0]).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match=f"which differs in {WEIGHTS}; name"):
        cache(tmp_path, teacher=model)


class Loud:
    """A transform that names its address."""


def test_transforms_are_found_below_a_subset_and_without_addresses() -> None:
    whole = Named(Loud())
    below = cache(dataset=Subset(whole, range(50)), teacher=teacher())
    again = cache(dataset=Named(Loud()), teacher=teacher())
    text = f"<{__name__}.Loud object>"
    assert below.fingerprint["transforms"] == again.fingerprint["transforms"] == text
    assert below.fingerprint["dataset"] == "Subset"


def test_another_process_computes_the_same_fingerprint(with_torch: Forks) -> None:
    program = "from teacher_cache.cached_teachers import cache; print(cache().fingerprint)"
    # Also one in which strings have other hashes.
    assert said(with_torch, "print(hash('a'))") != f"{hash('a')}\n"
    assert said(with_torch, program).strip() == str(cache().fingerprint)


class Flipped(TensorDataset):
    """Changes its images at random, by one generator or the other."""

    draw = staticmethod(torch.rand)

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image * float(self.draw(1)), label


@pytest.mark.parametrize("draw", [torch.rand, lambda count: random.random()])
def test_random_images_are_refused_and_no_generator_moves(
    draw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flipped, "draw", staticmethod(draw))
    states = torch.get_rng_state(), random.getstate()
    with pytest.raises(ValueError, match=r"must give the same image .* got two for index 0; a"):
        cache(dataset=Flipped(*dataset().tensors))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_images_are_hashed_by_kind_and_shape_too() -> None:
    np = pytest.importorskip("numpy")
    pixels = torch.arange(48, dtype=torch.uint8)
    kinds: list[Any] = [
        pixels.view(3, 4, 4),
        pixels.view(4, 3, 4),
        pixels.view(4, 12),
        pixels.view(torch.int8).view(3, 4, 4),
        np.arange(48, dtype=np.uint8).reshape(3, 4, 4),
        np.arange(48, dtype=np.uint8).reshape(4, 3, 4),
        bytes(range(48)),
        list(range(48)),
        {"pixels": pixels.view(3, 4, 4)},
        {"other": pixels.view(3, 4, 4)},
    ]
    # The whole of a dict, the image alone of a tuple.
    found = [cache(dataset=[(kind, 0)]).fingerprint["images"] for kind in kinds]
    assert len(set(found)) == len(kinds)
    assert cache(dataset=[(kinds[0], 1)]).fingerprint["images"] == found[0]


def test_empty_and_narrow_weights_and_extra_state_are_hashed() -> None:
    class Extra(nn.Module):
        def __init__(self, state: int) -> None:
            super().__init__()
            self.state = state
            self.empty = nn.Parameter(torch.empty(0, 3))
            self.narrow = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))

        def get_extra_state(self) -> dict[str, int]:
            return {"state": self.state}

    def weights(state: int) -> str:
        model = nn.Sequential(teacher(), Extra(state))
        return TeacherCache(None, teacher=model, dataset=dataset()).fingerprint["weights"]

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)
