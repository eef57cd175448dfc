"""Folders of images are read as published, and whatever is wrong with them is said by path."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from amd_fused.distill import data
from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError
from distill.published_layouts import (
    CIFAR10_NAMES,
    plain,
    random_pixels,
    write_cinic10,
    write_image,
    write_imagenet,
    write_tiny_imagenet,
)

WNIDS = ("n01443537", "n02504458", "n07873807")


def load(folder, name, **options):
    return data.load(Settings(data=name, data_dir=str(folder), **options))


def colours(loaded, images, index):
    """Pixels 0 to 255 as [H, W, 3], the normalisation undone by hand."""
    image = images.batch([index], None)[0].double()
    mean, std = (torch.tensor(x).double().view(3, 1, 1) for x in (loaded.mean, loaded.std))
    return ((image * std + mean) * 255).permute(1, 2, 0)


def write_folder(base, test="test", sizes=((10, 12), (20, 24))):
    """Two classes of random images of `sizes` (height, width) in train and `test`."""
    for part in ("train", test):
        for class_name in ("cats", "dogs"):
            for n, size in enumerate(sizes):
                write_image(base / part / class_name / f"{n}.png", random_pixels(*size, seed=n))
    return base


@pytest.mark.parametrize("name", ["CINIC-10", "cinic-10", "cinic10"])
def test_cinic10_is_found_and_read(tmp_path, name):
    folder = write_cinic10(tmp_path, each=2, name=name)
    for data_dir in (tmp_path, folder):
        loaded = load(data_dir, "cinic10")
        assert (len(loaded.train), len(loaded.test)) == (20, 20)
        assert loaded.class_names == tuple(CIFAR10_NAMES)
        assert loaded.train.labels.tolist() == [label for label in range(10) for _ in range(2)]
        assert (loaded.channels, loaded.image_size) == (3, 32)


def test_cinic10_pixels_are_those_of_the_files(tmp_path):
    write_cinic10(tmp_path)
    loaded = load(tmp_path, "cinic10")
    pixels = torch.from_numpy(random_pixels(32, 32, seed=301)).double()
    assert torch.allclose(colours(loaded, loaded.train, 7), pixels, atol=1e-3)
    red = loaded.test.batch([7], None)[0, 0, 5, 9].item()
    assert red == pytest.approx((pixels[5, 9, 0].item() / 255 - 0.47889522) / 0.24205776, abs=1e-5)


def test_tiny_imagenet_is_tested_on_its_annotated_images(tmp_path):
    folder = write_tiny_imagenet(tmp_path, WNIDS)
    for data_dir in (tmp_path, folder):
        loaded = load(data_dir, "tiny-imagenet", augment="crop-flip")
        assert loaded.class_names == ("word 0", "word 1", "word 2")
        assert loaded.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert loaded.test.labels.tolist() == [2, 1, 0]
        assert loaded.image_size == 64
        for images in (loaded.train, loaded.test):
            for index, label in enumerate(images.labels.tolist()):
                red = colours(loaded, images, index)[..., 0]
                assert (red - (40 * label + 20)).abs().max() <= 3  # JPEG rounds


def test_imagenet_takes_the_middle_of_the_resized_image(tmp_path):
    write_imagenet(tmp_path, WNIDS, each=1)
    # Of 256 pixels nothing is resized: rows and columns 16 to 239 are the middle 224.
    half = plain(256, 256, (0, 0, 0))
    half[:, 128:] = 255
    half[:17] = 255
    write_image(tmp_path / "imagenet" / "train" / WNIDS[0] / "a.png", half)
    write_image(
        tmp_path / "imagenet" / "train" / WNIDS[0] / "b.png", half.repeat(2, 0).repeat(2, 1)
    )
    loaded = load(tmp_path, "imagenet")
    assert (loaded.num_classes, loaded.image_size) == (3, 224)
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 2]
    image, larger = (colours(loaded, loaded.train, index) for index in (0, 1))
    assert (image[0] - 255).abs().max() < 0.01
    assert image[1:, :112].abs().max() < 0.01
    assert (image[1:, 112:] - 255).abs().max() < 0.01
    # Twice as large it is resized to the same but for what lies near an edge.
    inner = [slice(4, None), slice(None, 108)]
    assert (larger[inner[0], inner[1]] - image[inner[0], inner[1]]).abs().max() < 0.01


@pytest.mark.parametrize("test", ["test", "val"])
def test_any_folder_takes_the_size_of_its_first_image(tmp_path, test):
    write_folder(tmp_path, test, sizes=((10, 12), (20, 24)))
    loaded = load(tmp_path, "folder")
    assert loaded.class_names == ("cats", "dogs")
    assert loaded.image_size == 10
    first = torch.from_numpy(random_pixels(10, 12, seed=0)).double()
    assert torch.allclose(colours(loaded, loaded.test, 0), first[:, 1:11], atol=1e-3)
    assert loaded.train.batch(range(4), None).shape == (4, 3, 10, 10)


def test_a_folder_of_224_pixels_is_not_enlarged_as_imagenet_is(tmp_path):
    write_folder(tmp_path, sizes=((224, 224),))
    loaded = load(tmp_path, "folder")
    pixels = torch.from_numpy(random_pixels(224, 224, seed=0)).double()
    assert torch.allclose(colours(loaded, loaded.test, 0), pixels, atol=1e-3)


def test_grey_images_and_palettes_become_colours(tmp_path):
    write_folder(tmp_path, sizes=((8, 8),))
    write_image(tmp_path / "train" / "cats" / "0.png", plain(8, 8, (9, 9, 9))[..., 0])
    loaded = load(tmp_path, "folder")
    assert torch.allclose(colours(loaded, loaded.train, 0), torch.tensor(9.0).double(), atol=1e-3)


def test_images_of_16_bits_are_refused_rather_than_cut_off(tmp_path):
    write_folder(tmp_path, sizes=((8, 8),))
    write_image(tmp_path / "train" / "cats" / "0.png", np.full((8, 8), 30000, np.uint16))
    with pytest.raises(UsageError, match=r"0\.png .* \(more than 8 bits a channel, mode I"):
        load(tmp_path, "folder")


def test_subsets_of_folders_are_balanced(tmp_path):
    write_cinic10(tmp_path, each=2)
    whole, part = (load(tmp_path, "cinic10", train_size=size) for size in (0, 10))
    assert part.train.labels.tolist() == list(range(10))
    assert torch.equal(part.train.batch([3], None), whole.train.batch([6], None))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cinic10", "CINIC-10, with train/ and test/, but there is no CINIC-10/ or cinic-10/ or"),
        ("tiny-imagenet", "(tiny-imagenet-200), but there is no tiny-imagenet-200/ in "),
        ("imagenet", "in train/ and in val/, but there is no imagenet/ in "),
        ("folder", "(or val/<class>/) with images, but has neither"),
    ],
)
def test_an_absent_data_set_is_told_what_belongs_where(tmp_path, name, message):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, name)
    assert str(caught.value).startswith("--data-dir")
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UsageError, match=f"but there is no folder {tmp_path / 'nowhere'}"):
        load(tmp_path / "nowhere", name)


def test_missing_parts_are_named(tmp_path):
    folder = write_tiny_imagenet(tmp_path, WNIDS)
    (folder / "words.txt").unlink()
    (folder / "val" / "val_annotations.txt").unlink()
    with pytest.raises(UsageError) as caught:
        load(tmp_path, "tiny-imagenet")
    assert str(caught.value) == (
        f"{folder} must hold Tiny-ImageNet as published (tiny-imagenet-200), but lacks words.txt, "
        "val/val_annotations.txt"
    )


def test_a_folder_without_test_images_is_refused(tmp_path):
    write_image(tmp_path / "train" / "cats" / "0.png", plain(8, 8, (0, 0, 0)))
    with pytest.raises(UsageError, match=r"\(or val/<class>/\) with images, but has train/$"):
        load(tmp_path, "folder")


def test_an_empty_class_folder_is_named(tmp_path):
    write_folder(tmp_path)
    for file in (tmp_path / "test" / "dogs").iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(UsageError, match="but has none") as caught:
        load(tmp_path, "folder")
    assert str(caught.value).startswith(f"{tmp_path / 'test' / 'dogs'} must hold images (.jpg")


def test_a_file_in_a_folders_place_is_refused(tmp_path):
    folder = write_cinic10(tmp_path, each=1)
    (folder / "train").rename(folder / "elsewhere")
    (folder / "train").write_bytes(b"")
    with pytest.raises(UsageError, match="train must hold a folder for each of at least 2 classes"):
        load(tmp_path, "cinic10")


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_lists_that_are_no_text_are_named(tmp_path, name):
    file = write_tiny_imagenet(tmp_path, WNIDS) / name
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="must be a text file, but cannot be read") as caught:
        load(tmp_path, "tiny-imagenet")
    assert str(caught.value).startswith(str(file))


def test_a_single_class_is_refused(tmp_path):
    for part in ("train", "test"):
        write_image(tmp_path / part / "cats" / "0.png", plain(8, 8, (0, 0, 0)))
    with pytest.raises(UsageError, match="a folder for each of at least 2 classes, got 1"):
        load(tmp_path, "folder")


def test_parts_must_have_the_same_classes(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "test" / "cats").rename(tmp_path / "test" / "birds")
    with pytest.raises(UsageError, match="must hold the classes of train/, but lacks cats") as lack:
        load(tmp_path, "folder")
    assert str(lack.value).startswith(str(tmp_path / "test"))
    write_image(tmp_path / "test" / "cats" / "0.png", plain(8, 8, (0, 0, 0)))
    with pytest.raises(UsageError, match="classes of train/, but also has birds"):
        load(tmp_path, "folder")


def test_many_differing_classes_are_named_in_one_line(tmp_path):
    folder = write_tiny_imagenet(tmp_path, WNIDS)
    (folder / "wnids.txt").write_text("\n".join([*WNIDS, "n1", "n2", "n3", "n4", "n5"]))
    with pytest.raises(UsageError, match=r"lacks n1, n2, n3 and 2 more$"):
        load(tmp_path, "tiny-imagenet")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_1.JPEG\tn00000000\t0\t0\t1\t1", "class must be of wnids.txt, got 'n00000000'"),
        ("val_1.JPEG", "class must be of wnids.txt, got ''"),
        (f"val_9.JPEG\t{WNIDS[0]}\t0\t0\t1\t1", "there is no "),
    ],
)
def test_wrong_annotations_are_named_by_line(tmp_path, line, message):
    annotations = write_tiny_imagenet(tmp_path, WNIDS) / "val" / "val_annotations.txt"
    annotations.write_text(f"val_0.JPEG\t{WNIDS[0]}\t0\t0\t1\t1\n{line}\n")
    with pytest.raises(UsageError) as caught:
        load(tmp_path, "tiny-imagenet")
    assert str(caught.value).startswith(f"{annotations}, line 2: {message}")


def test_annotations_of_no_image_are_refused(tmp_path):
    (write_tiny_imagenet(tmp_path, WNIDS) / "val" / "val_annotations.txt").write_text("")
    with pytest.raises(UsageError, match="must name at least one image, but is empty"):
        load(tmp_path, "tiny-imagenet")


# Python from 3.12 on warns of any fork beside threads, and torch has threads.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("how", ["cut short", "no image"])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, workers, how):
    folder = write_cinic10(tmp_path, each=1)
    broken = folder / "test" / "frog" / "cifar10-test-0.png"
    broken.write_bytes(broken.read_bytes()[:500] if how == "cut short" else b"<html></html>")
    images = load(tmp_path, "cinic10").test
    with pytest.raises(UsageError) as caught:
        list(data.all_batches(images, batch_size=5, workers=workers))
    message = str(caught.value)
    assert message.startswith(f"{broken} must be an image file, but cannot be decoded (")
    assert "\n" not in message
