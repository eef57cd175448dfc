"""MNIST's and Fashion-MNIST's files are read as published, and what is wrong with them is said."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from amd_fused.distill import data
from amd_fused.distill.config import Settings
from amd_fused.distill.data import mnist
from amd_fused.distill.errors import UsageError
from distill.published_layouts import grey_pixels, idx, write_mnist

TORCHVISION = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mnist, "INSTALLED", tmp_path / "installed")


def load(folder: Path, name: str = "fashion-mnist", **options) -> data.DataSet:
    return data.load(Settings(data=name, data_dir=str(folder), **options))


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("zipped", [True, False])
def test_images_are_padded_to_cifars_size_and_normalised(tmp_path, name, zipped):
    write_mnist(tmp_path / TORCHVISION[name], zipped=zipped)
    loaded = load(tmp_path, name)
    assert (len(loaded.train), len(loaded.test), loaded.num_classes) == (20, 10, 10)
    assert (loaded.name, loaded.channels, loaded.image_size) == (name, 1, 32)
    assert loaded.train.labels.tolist() == [*range(10), *range(10)]
    assert loaded.train.labels.dtype == torch.int64
    mean, std = {"mnist": (0.1307, 0.3081), "fashion-mnist": (0.2860, 0.3530)}[name]
    images = loaded.train.batch(range(20), None)
    assert images.shape == (20, 1, 32, 32)
    assert images.dtype == torch.float32
    black = np.zeros((20, 32, 32))
    black[:, 2:30, 2:30] = grey_pixels(20, seed=0)
    expected = torch.from_numpy((black / 255 - mean) / std)
    torch.testing.assert_close(images[:, 0].double(), expected, atol=1e-5, rtol=0)
    test = loaded.test.batch([9], None)[0, 0, 5, 7].item()
    assert test == pytest.approx((grey_pixels(10, seed=1)[9, 3, 5] / 255 - mean) / std, abs=1e-5)


@pytest.mark.parametrize("folder", ["FashionMNIST/raw", "fashion-mnist", "."])
def test_every_layout_is_found(tmp_path, folder):
    write_mnist(tmp_path / folder, test=7)
    assert len(load(tmp_path).test) == 7


def test_what_is_installed_is_found_unless_there_is_some_in_the_data_folder(tmp_path):
    write_mnist(tmp_path / "installed" / "fashion-mnist", test=7)
    assert len(load(tmp_path / "no such folder").test) == 7
    write_mnist(tmp_path / "own" / "FashionMNIST/raw", test=5)
    assert len(load(tmp_path / "own").test) == 5
    with pytest.raises(UsageError, match=r"MNIST/raw/train-images-idx3-ubyte.gz and so on\), but"):
        load(tmp_path, "mnist")


def test_a_missing_data_set_is_said_with_its_package(tmp_path):
    with pytest.raises(
        UsageError,
        match=r"--data-dir must be the folder that holds Fashion-MNIST \(FashionMNIST/raw/.*, but "
        rf"there is none in {tmp_path}; Debian .* package dataset-fashion-mnist",
    ):
        load(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    folder = write_mnist(tmp_path / "FashionMNIST/raw")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    # Not taken for nothing at all, whatever is installed.
    write_mnist(tmp_path / "installed" / "fashion-mnist")
    with pytest.raises(UsageError, match=r"raw must hold .*, but lacks t10k-labels-idx1-ubyte"):
        load(tmp_path)


@pytest.mark.parametrize("kept", [10, 1000])
def test_a_file_cut_short_is_named(tmp_path, kept):
    path = write_mnist(tmp_path) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte.gz cannot be read .*cut short"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (1000, r"must hold 15680 bytes of images \[20, 28, 28\], got 984; it may be cut short"),
        (12, "must be an IDX file of images, which begins with 0x00000803"),
        (0, "must be an IDX file of images, which begins with 0x00000803, got 0x00000000"),
    ],
)
def test_an_unzipped_file_cut_short_is_named(tmp_path, kept, message):
    path = write_mnist(tmp_path, zipped=False) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match=f"train-images-idx3-ubyte {message}"):
        load(tmp_path)


def test_more_bytes_than_the_header_says_are_refused(tmp_path):
    path = write_mnist(tmp_path, zipped=False) / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UsageError, match=r"must hold 10 bytes of labels \[10\], got 11"):
        load(tmp_path)


def test_swapped_files_are_named(tmp_path):
    folder = write_mnist(tmp_path)
    images, labels = (folder / f"t10k-{x}-ubyte.gz" for x in ("images-idx3", "labels-idx1"))
    content = images.read_bytes(), labels.read_bytes()
    images.write_bytes(content[1])
    labels.write_bytes(content[0])
    with pytest.raises(
        UsageError,
        match=r"t10k-images-idx3-ubyte.gz must be an IDX file of images, which begins with "
        "0x00000803, got 0x00000801",
    ):
        load(tmp_path)


def test_labels_of_the_other_part_are_refused(tmp_path):
    folder = write_mnist(tmp_path)
    labels = (folder / "t10k-labels-idx1-ubyte.gz").read_bytes()
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(UsageError, match=r"train-labels.* must hold 20 labels, .*, got 10"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("train-labels-idx1-ubyte", np.full(20, 10), "labels must be between 0 and 9, got 10"),
        (
            "train-images-idx3-ubyte",
            np.zeros((20, 32, 32)),
            r"must hold images of 28 x 28, got \[20, 32, 32\]",
        ),
        (
            "t10k-images-idx3-ubyte",
            np.zeros((0, 28, 28)),
            r"must hold images of 28 x 28, got \[0, 28, 28\]",
        ),
    ],
)
def test_files_of_other_data_are_refused(tmp_path, name, values, message):
    (write_mnist(tmp_path) / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
    with pytest.raises(UsageError, match=f"{name}.gz.*{message}"):
        load(tmp_path)


def test_crops_of_224_pixels_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--augment must be none or crop-flip for fashion-mnist"):
        load(tmp_path, augment="imagenet")
