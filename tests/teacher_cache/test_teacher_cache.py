"""A cache gives what the teacher gives, and runs it for batches that it does not have yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from amd_fused import IndexedDataset, TeacherCache, TeacherOutputs
from teacher_cache.cached_teachers import (
    SAMPLES,
    by_name,
    cache,
    dataset,
    expected,
    loader,
    teacher,
)


@pytest.fixture(params=["memory", "files"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "cache" if request.param == "files" else None


class Counted(nn.Module):
    """A teacher that counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.passes = teacher(), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.inner(images)


def counted(folder: Path | None, **changes: Any) -> tuple[Counted, TeacherCache]:
    model = Counted()
    return model, cache(
        folder, teacher=model, maps=["inner.0"], features=[], embedding="", **changes
    )


def test_outputs_are_the_teachers_by_sample(folder: Path | None) -> None:
    kept = cache(folder)
    assert (kept.missing, kept.complete, len(kept), kept.folder) == (50, False, 50, folder)
    kept.fill(loader(seed=1))
    assert (kept.missing, kept.complete) == (0, True)
    chosen = torch.tensor([49, 0, 17, 17])
    found = kept.get(chosen)
    assert found is not None
    assert [tuple(a.shape) for a in by_name(found).values()] == [
        *[(4, 5), (4, 1, 8, 8), (4, 1, 4, 4), (4, 4, 4, 4), (4, 4)]
    ]
    wanted = expected(dataset().tensors[0][chosen])
    for name, a in by_name(found).items():
        assert a.dtype == torch.float32
        assert not a.requires_grad
        torch.testing.assert_close(a.double(), wanted[name], rtol=1e-5, atol=1e-6)


def test_the_teacher_runs_in_the_first_epoch_alone(folder: Path | None) -> None:
    model, kept = counted(folder)
    first: dict[int, torch.Tensor] = {}
    for epoch in range(3):
        for images, _, indices in loader(seed=epoch):
            taught = kept(images, indices)
            for index, logits in zip(indices.tolist(), taught.logits, strict=True):
                assert torch.equal(first.setdefault(index, logits), logits)
        assert model.passes == 7
    assert len(first) == SAMPLES


def test_a_batch_with_one_new_sample_is_run_as_a_whole(folder: Path | None) -> None:
    model, kept = counted(folder)
    images = dataset().tensors[0]
    kept(images[:8], range(8))
    assert kept.get(range(9)) is None
    again = kept(images[1:9], torch.arange(1, 9))
    assert model.passes == 2
    assert kept.missing == 41
    found = kept.get(range(1, 9))
    assert found is not None
    torch.testing.assert_close(found.logits, again.logits)


def test_samples_that_are_there_stay_as_they_are(folder: Path | None) -> None:
    kept = cache(folder, maps=[], features=[], embedding="")
    kept.put([3, 4], TeacherOutputs(torch.ones(2, 5)))
    kept.put([4, 5], TeacherOutputs(torch.zeros(2, 5)))
    found = kept.get([3, 4, 5])
    assert found is not None
    assert found.logits.tolist() == [[1] * 5, [1] * 5, [0] * 5]
    assert found == TeacherOutputs(found.logits)


def test_a_pass_leaves_the_teacher_and_its_gradients_alone() -> None:
    model = teacher()
    model[1].eval()
    before = {name: a.clone() for name, a in model.state_dict().items()}
    kept = cache(teacher=model)
    for images, _, indices in loader():
        kept(images.requires_grad_(), indices)
        assert images.grad_fn is None
    assert [module.training for module in model] == [True, False, *[True] * 5]
    assert all(torch.equal(a, before[name]) for name, a in model.state_dict().items())
    kept.close()
    assert all(not module._forward_hooks for module in model.modules())
    assert kept.missing == SAMPLES


def test_fill_goes_on_where_it_was_left(folder: Path | None) -> None:
    model, kept = counted(folder)
    kept.fill(list(loader())[:3])
    assert (model.passes, kept.missing) == (3, 26)
    kept.fill(loader())
    assert (model.passes, kept.missing) == (7, 0)


class ByName(nn.Module):
    """As a model of Hugging Face: called by names, with an output that has logits."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = teacher()

    def forward(self, pixels: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.inner(pixels * scale[:, None, None, None])}


def test_batches_by_name() -> None:
    images, labels = dataset().tensors
    samples = [
        {"pixels": image, "scale": torch.tensor(2.0), "labels": label}
        for image, label in zip(images, labels, strict=True)
    ]
    options = {"teacher": ByName(), "maps": ["inner.0"], "features": [], "embedding": "inner.3"}
    kept = cache(dataset=samples, **options)
    batches = torch.utils.data.DataLoader(IndexedDataset(samples), 10)
    kept.fill(batches)
    found = kept.get([7, 6])
    assert found is not None
    wanted = expected(2 * images[[7, 6]])
    given = {"logits": found.logits, "map-0": found.maps[0], "embedding": found.embedding}
    for name, a in given.items():
        torch.testing.assert_close(a.double(), wanted[name], rtol=1e-5, atol=1e-6)
    inputs = {"pixels": images[:2], "scale": torch.full((2,), 2.0)}
    torch.testing.assert_close(kept(inputs, [0, 1]).logits, kept.get([0, 1]).logits)


def test_indexed_samples_are_the_data_sets_with_their_index() -> None:
    images, labels = dataset().tensors
    pairs, alone = IndexedDataset(TensorDataset(images, labels)), IndexedDataset(images)
    assert len(pairs) == len(alone) == SAMPLES
    image, label, index = pairs[7]
    assert (torch.equal(image, images[7]), int(label), index) == (True, 2, 7)
    image, index = alone[9]
    assert (torch.equal(image, images[9]), index) == (True, 9)
    assert IndexedDataset([{"a": 1}])[0] == {"a": 1, "index": 0}


def test_a_compiled_or_wrapped_teacher_has_the_same_layers() -> None:
    model = torch.compile(teacher(), backend="eager")
    kept = cache(teacher=model)
    kept.fill(loader())
    found = kept.get([5])
    assert found is not None
    wanted = expected(dataset().tensors[0][[5]])
    torch.testing.assert_close(found.maps[1].double(), wanted["map-1"], rtol=1e-5, atol=1e-6)


def test_channels_last_layers_are_given_as_such() -> None:
    class Last(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.permute(0, 2, 3, 1)

    images = dataset().tensors[0]
    model = nn.Sequential(Last(), nn.Flatten())
    options = {"maps": ["0"], "features": ["0"], "embedding": "", "layout": "NHWC"}
    found = cache(teacher=model, **options)(images[:3], range(3))
    torch.testing.assert_close(found.features[0], images[:3])
    norm = images[:3].square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(found.maps[0], norm)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"teacher": lambda x: x}, TypeError, "teacher must be a module, got function"),
        ({"maps": "0"}, TypeError, "maps must be a list of module paths, got '0'"),
        ({"features": "2"}, TypeError, "features must be a list of module paths, got '2'"),
        ({"maps": ["conv"]}, ValueError, "layers must be module paths of Sequential, got 'conv'"),
        ({"layout": "NCH"}, ValueError, "layout must be one of 'NCHW', 'NHWC', got 'NCH'"),
        ({"dtype": torch.float64}, ValueError, "dtype must be torch.float32 or torch.float16"),
        ({"size": 49}, ValueError, "size must be that of dataset, 50, or left out, got 49"),
        ({"dataset": "digits"}, ValueError, "size must be given where dataset is a text"),
        (
            {"extra": {"weights": "mine"}},
            ValueError,
            r"extra must have names besides \['format', .*'dtype'\], got 'weights'",
        ),
        ({"dataset": []}, ValueError, "there must be at least one sample, got 0"),
        ({"dataset": [object()]}, TypeError, r"dataset\[0\] must hold tensors.*, got object; name"),
        (
            {"logits": False, "maps": [], "features": [], "embedding": ""},
            ValueError,
            "there must be maps, features, embedding or logits to keep",
        ),
    ],
)
def test_what_breaks_a_rule_is_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^TeacherCache: {message}"):
        cache(**changes)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 50], "indices must be at least 0 and below the number of samples, 50, got 0 to 50"),
        ([-1], "indices must be at least 0 and below the number of samples, 50, got -1 to -1"),
        ([0.5], r"indices must be integers \[B\], got torch.float32 of shape \[1\]"),
        ([[1]], r"indices must be integers \[B\], got torch.int64 of shape \[1, 1\]"),
        ([True], r"indices must be integers \[B\], got torch.bool"),
    ],
)
def test_indices_are_those_of_samples(indices: list[Any], message: str) -> None:
    kept = cache()
    for call in (kept.get, lambda i: kept.put(i, TeacherOutputs())):
        with pytest.raises(ValueError, match=f"^TeacherCache: {message}"):
            call(indices)


@pytest.mark.parametrize(
    ("outputs", "error", "message"),
    [
        (TeacherOutputs(), ValueError, r"outputs must be \['logits'\], got \[\]"),
        (TeacherOutputs(torch.ones(2, 5), [torch.ones(2, 1, 2, 2)]), ValueError, "outputs must be"),
        (TeacherOutputs([1.0]), TypeError, "logits must be a tensor, got list"),
        (TeacherOutputs(torch.ones(2, 5).long()), TypeError, "logits must have a floating dtype"),
        (TeacherOutputs(torch.ones(3, 5)), ValueError, r"logits must have the shape \[2, 5\], one"),
        (TeacherOutputs(torch.ones(2, 6)), ValueError, r"logits must have the shape \[2, 5\], one"),
    ],
)
def test_outputs_are_one_row_an_index(outputs: Any, error: type[Exception], message: str) -> None:
    kept = cache(maps=[], features=[], embedding="")
    kept.put([0], TeacherOutputs(torch.ones(1, 5)))
    with pytest.raises(error, match=f"^TeacherCache: {message}"):
        kept.put([1, 2], outputs)
    assert kept.missing == 49


def test_batches_without_indices_and_teachers_without_logits_are_named() -> None:
    with pytest.raises(TypeError, match=r"a batch must be \(inputs, \.\.\., indices\) or a dict"):
        cache().fill([torch.ones(1)])
    images = torch.ones(4, 3)
    kept = cache(teacher=nn.LSTM(3, 4), dataset=images, maps=[], features=[], embedding="")
    with pytest.raises(TypeError, match=r"the teacher must return logits, .* got tuple of 2"):
        kept(images, range(4))


def test_float16_halves_the_room_and_says_what_it_cannot_hold(folder: Path | None) -> None:
    kept = cache(folder, maps=[], features=[], embedding="", dtype=torch.float16)
    given = torch.tensor([[1.0, -2.5, 1 / 3, 1e4, 0.0]])
    assert kept.bytes_needed(TeacherOutputs(given)) == 50 * 5 * 2
    back = kept.put([7], TeacherOutputs(given))
    found = kept.get([7])
    assert found is not None
    assert torch.equal(found.logits, given.half().float())
    assert torch.equal(back.logits, found.logits)
    with pytest.raises(ValueError, match=r"logits must be at most 65504 in float16, got 70000; "):
        kept.put([8], TeacherOutputs(7 * given))
    kept.put([9], TeacherOutputs(torch.full((1, 5), torch.nan)))
    assert kept.get([9]).logits.isnan().all()


def test_what_is_asked_for_alone_is_kept(folder: Path | None) -> None:
    kept = cache(folder, logits=False, maps=[], features=[])
    kept.fill(loader())
    found = kept.get([0])
    assert found is not None
    assert (found.logits, found.maps, found.features) == (None, [], [])
    assert tuple(found.embedding.shape) == (1, 4)
    assert repr(kept).endswith("['embedding'], 50 samples)")
