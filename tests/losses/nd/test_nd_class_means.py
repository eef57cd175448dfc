"""class_means: exact means in one pass over the data, a teacher left as it was, clear errors."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amd_fused import LSHLoss, NDLoss, class_means

CLASSES, WIDTH = 4, 6


class Teacher(nn.Module):
    """With a normalisation frozen by the user, and dropout that would change the features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.Dropout(0.5))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(WIDTH, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return self.pool(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def batches(count: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, 3, 5, 5, generator=generator), torch.arange(8 * i, 8 * i + 8) % CLASSES)
        for i in range(count)
    ]


def by_hand(features: Tensor, labels: Tensor) -> Tensor:
    sums = torch.zeros(CLASSES, features.shape[1], dtype=torch.float64)
    counts = torch.zeros(CLASSES, 1, dtype=torch.float64)
    for feature, label in zip(features.double(), labels.tolist(), strict=True):
        sums[label] += feature
        counts[label] += 1
    return (sums / counts).float()


def test_means_of_a_bound_method_and_the_teacher_as_it_was() -> None:
    teacher = Teacher().train()
    teacher.body[1].eval()
    modes = [m.training for m in teacher.modules()]
    state = {name: a.clone() for name, a in teacher.state_dict().items()}
    means = class_means(teacher.features, iter(batches()), CLASSES)

    assert [m.training for m in teacher.modules()] == modes
    assert all(torch.equal(a, state[name]) for name, a in teacher.state_dict().items())
    assert not means.requires_grad
    assert means.dtype == torch.float32
    with torch.no_grad():
        features = [teacher.eval().features(x).flatten(1) for x, _ in batches()]
    labels = torch.cat([y for _, y in batches()])
    torch.testing.assert_close(means, by_hand(torch.cat(features), labels), rtol=1e-6, atol=1e-7)


def test_module_and_function_and_embeddings_agree() -> None:
    teacher = Teacher()
    logits = class_means(teacher, batches(), CLASSES)
    assert teacher.training
    assert logits.shape == (CLASSES, CLASSES)
    same = class_means(lambda x: teacher.eval()(x), batches(), CLASSES)
    with torch.no_grad():
        features = torch.cat([teacher(x) for x, _ in batches()])
    labels = torch.cat([y for _, y in batches()])
    torch.testing.assert_close(same, logits)
    torch.testing.assert_close(class_means(features, labels, CLASSES), logits)
    torch.testing.assert_close(class_means(features, batches(), CLASSES), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_sums_do_not_lose_digits(dtype: torch.dtype) -> None:
    """40,000 numbers around 1000: their float32 sum is off in the fourth digit of the deviation."""
    features = (1000 + torch.randn(40_000, 3, dtype=torch.float64)).to(dtype)
    labels = torch.arange(40_000) % CLASSES
    truth = torch.stack([features[labels == k].double().mean(0) for k in range(CLASSES)])
    means = class_means(lambda x: x, zip(features.split(100), labels.split(100), strict=True), 4)
    assert means.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(means, truth.to(means.dtype), rtol=1e-7, atol=0)


def test_features_are_not_held() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def model(x: Tensor) -> Tensor:
        assert sum(ref() is not None for ref in alive) <= 2  # the last, and its shape's check
        features = x.flatten(1) + 0
        alive.append(weakref.ref(features))
        return features

    class_means(model, batches(12), CLASSES)
    assert len(alive) == 12


def test_works_with_the_loss() -> None:
    teacher = Teacher().eval()
    criterion = NDLoss(class_means(teacher.features, batches(), CLASSES))
    x, y = batches()[0]
    t = teacher.features(x).flatten(1).detach()
    student = t.clone().requires_grad_()
    criterion(student, t, y).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


class Failing(Teacher):
    def features(self, x: Tensor) -> Tensor:
        raise RuntimeError("no features today")


def test_an_error_of_the_model_comes_through_and_modes_come_back() -> None:
    teacher = Failing().train()
    with pytest.raises(RuntimeError, match="no features today"):
        class_means(teacher.features, batches(), CLASSES)
    assert all(m.training for m in teacher.modules())
    assert torch.is_grad_enabled()


def endless(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield x, y
    yield x[:, :5], y


ROWS, LABELS = torch.ones(6, 9), torch.tensor([0, 1, 2, 3, 0, 1])
ERRORS: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "one class missing": ((ROWS, LABELS, 5), ValueError, "every class, got none of class 4$"),
    "classes missing": (
        (ROWS, LABELS * 2, 8), ValueError, "got none of 4 classes: 1, 3, 5, 7$",
    ),
    "many classes missing": ((ROWS, LABELS, 1000), ValueError, r"996 classes: 4, .*, 23, \.\.\.$"),
    "label too large": (
        (ROWS, LABELS, 3), ValueError, "labels must be between 0 and num_classes - 1 = 2, got 1",
    ),
    "label below 0": ((ROWS, LABELS - 1, 3), ValueError, "got 2 outside"),
    "no data": ((lambda x: x, [], 3), ValueError, "at least one batch, got none"),
    "not finite": (
        (torch.where(LABELS == 2, torch.nan, ROWS.T).T, LABELS, 4), ValueError,
        "must be finite, got NaN or Inf of class 2",
    ),
    "labels of another length": ((ROWS, LABELS[1:], 4), ValueError, r"with B = 6, got .*\(5,\)"),
    "float labels": ((ROWS, LABELS.float(), 4), TypeError, "labels must have an integer dtype"),
    "no labels": (
        (lambda x: x, [ROWS], 4), TypeError, r"a batch must be \(inputs, labels, .* got Tensor",
    ),
    "loader without labels": (
        (ROWS, [ROWS], 4), TypeError, r"a batch must be \(inputs, labels, .* got Tensor",
    ),
    "a list of outputs": ((lambda x: [x], [(ROWS, LABELS)], 4), TypeError, "the model's result"),
    "feature maps": (
        (lambda x: x[..., None, None].expand(6, 9, 2, 2), [(ROWS, LABELS)], 4), ValueError,
        r"the model's result must be 2-D \[B, D\].*pool and flatten",
    ),
    "changing width": ((lambda x: x, endless(ROWS, LABELS), 4), ValueError, "one width"),
    "no model": (("teacher", [(ROWS, LABELS)], 4), TypeError, "must be a module, a function or a"),
    "no classes": ((ROWS, LABELS, 0), ValueError, "num_classes must be >= 1, got 0"),
    "half a class": ((ROWS, LABELS, 1.5), TypeError, "num_classes must be an integer, got float"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_message_names_what_is_wrong(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        class_means(*arguments)


class Encoder(nn.Module):
    """Takes its inputs by name, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Buffer(torch.ones(()))

    def forward(self, pixel_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return (pixel_values + self.shift) * attention_mask


def dict_batch(labels: str) -> dict[str, torch.Tensor]:
    pixels = torch.arange(160.0).view(20, 8)
    mask = torch.full((20, 1), 2.0)
    return {"pixel_values": pixels, "attention_mask": mask, labels: torch.arange(20) % 10}


@pytest.mark.parametrize("labels", ["labels", "label"])
def test_batches_that_are_dicts(labels: str) -> None:
    batch = dict_batch(labels)
    embeddings = 2 * (batch["pixel_values"] + 1)
    expected = (embeddings[:10] + embeddings[10:]) / 2
    assert torch.equal(class_means(Encoder(), [batch], np.int64(10)), expected)
    assert torch.equal(class_means(embeddings, [batch], 10), expected)
    bias = LSHLoss(8, 16)
    bias.init_bias([batch], Encoder())
    plain = LSHLoss(8, 16)
    plain.load_state_dict(bias.state_dict())
    plain.init_bias(embeddings)
    assert torch.equal(plain.bias, bias.bias)


def test_a_single_input_needs_no_name_and_others_are_said() -> None:
    batch = dict_batch("labels")
    one = {"pixel_values": batch["pixel_values"], "labels": batch["labels"]}
    assert class_means(nn.Flatten(), [one], 10).shape == (10, 8)
    with pytest.raises(TypeError, match=r"keys \['pixel_values', 'attention_mask'\] and a model"):
        class_means(nn.Flatten(), [batch], 10)
    with pytest.raises(TypeError, match=r"must be a tensor \[B, D\], got dict; pass a function"):
        class_means(lambda **inputs: inputs, [batch], 10)
    with pytest.raises(TypeError, match=r"got a dict with the keys .*; pass the model"):
        LSHLoss(8, 16).init_bias([batch])
    with pytest.raises(TypeError, match="num_classes must be an integer, got float64"):
        class_means(nn.Flatten(), [one], np.float64(10))
