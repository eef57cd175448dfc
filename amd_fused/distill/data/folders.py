"""Data sets published as folders of images: CINIC-10, Tiny-ImageNet, ImageNet, and any other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amd_fused.distill.config import Settings
from amd_fused.distill.data.files import CROP, RESIZED, Files, decode, transforms
from amd_fused.distill.data.images import DataSet, Split
from amd_fused.distill.data.locate import base_folder, find_folder
from amd_fused.distill.errors import UsageError
from amd_fused.distill.vision import load_torchvision

# Means and deviations of the training pixels: constants, so that nothing needs to be decoded to
# know them and a network's weights mean the same wherever they are used.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, of ImageNet's models
_CINIC10 = (0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)  # its README
_TINY_IMAGENET = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)  # the usual ones

_Part = tuple[Path, NDArray[np.bytes_], Tensor]
_Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


def load_cinic10(settings: Settings) -> DataSet:
    """CINIC-10: 90,000 training and 90,000 test images of 32 x 32; its third part is not used.

    Source: Darlow et al., "CINIC-10 is not ImageNet or CIFAR-10", 2018.
    """
    published = "CINIC-10, with train/ and test/"
    folder = find_folder(
        settings.data_dir, ("CINIC-10", "cinic-10", "cinic10"), ("train", "test"), published
    )
    return _of_class_folders(settings, folder / "train", folder / "test", 32, _CINIC10)


def load_imagenet(settings: Settings) -> DataSet:
    """ImageNet (ILSVRC 2012): the shorter side is resized to 256, the middle 224 x 224 are taken.

    Source: Deng et al., "ImageNet: A large-scale hierarchical image database", CVPR 2009.
    """
    published = "ImageNet (ILSVRC 2012), with a folder for each class in train/ and in val/"
    folder = find_folder(settings.data_dir, ("imagenet",), ("train", "val"), published)
    return _of_class_folders(settings, folder / "train", folder / "val", CROP, _IMAGENET)


def load_folder(settings: Settings) -> DataSet:
    """Any folder with `train/<class>/` and `test/<class>/` or `val/<class>/`.

    Images become squares as large as the shorter side of the first one, and are normalised as
    ImageNet's are.
    """
    folder = base_folder(settings.data_dir, "train/<class>/ and test/<class>/ with images")
    parts = {name: folder / name for name in ("train", "test", "val") if (folder / name).is_dir()}
    if "train" not in parts or len(parts) < 2:
        raise UsageError(
            f"--data-dir: {folder} must hold train/<class>/ and test/<class>/ (or val/<class>/) "
            f"with images, but has {' and '.join(f'{name}/' for name in parts) or 'neither'}"
        )
    test = parts.get("test") or parts["val"]
    return _of_class_folders(settings, parts["train"], test, None, _IMAGENET)


def load_tiny_imagenet(settings: Settings) -> DataSet:
    """Tiny-ImageNet: 200 classes of 64 x 64; tested on `val/`, as `test/` has no labels.

    Source: Le and Yang, "Tiny ImageNet visual recognition challenge", 2015.
    """
    published = "Tiny-ImageNet as published (tiny-imagenet-200)"
    annotations = "val/val_annotations.txt"
    needs = ("wnids.txt", "words.txt", "train", "val/images", annotations)
    folder = find_folder(settings.data_dir, ("tiny-imagenet-200",), needs, published)
    classes = sorted(_text(folder / "wnids.txt").split())
    _require_same(folder / "train", _class_folders(folder / "train"), classes, "wnids.txt")
    train = _class_images(folder / "train", classes)
    test = _annotated(folder / "val" / "images", folder / annotations, classes)
    lines = _text(folder / "words.txt").splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    # "goldfish, Carassius auratus": the first of the synonyms.
    names = tuple(words.get(wnid, wnid).split(",")[0] for wnid in classes)
    return _data_set(settings, names, train, test, 64, _TINY_IMAGENET)


def _of_class_folders(
    settings: Settings, train: Path, test: Path, image_size: int | None, statistics: _Statistics
) -> DataSet:
    classes = _class_folders(train)
    _require_same(test, _class_folders(test), classes, f"{train.name}/")
    parts = [_class_images(folder, classes) for folder in (train, test)]
    return _data_set(settings, tuple(classes), parts[0], parts[1], image_size, statistics)


def _data_set(
    settings: Settings,
    class_names: tuple[str, ...],
    train: _Part,
    test: _Part,
    image_size: int | None,
    statistics: _Statistics,
) -> DataSet:
    if settings.augment == "imagenet":
        image_size = CROP
    elif image_size is None:
        root, names, _ = train
        image_size = min(decode(root / os.fsdecode(names[0])).size)
    resized = RESIZED if "imagenet" in (settings.data, settings.augment) else image_size
    prepare, randomly = transforms(image_size, resized, settings.augment)
    splits = [
        Split(Files(root, names, prepare, randomly), labels, *statistics, settings.augment)
        for root, names, labels in (train, test)
    ]
    return DataSet(settings.data, class_names, splits[0], splits[1], 3, image_size, *statistics)


def _class_folders(part: Path) -> list[str]:
    inside = part.iterdir() if part.is_dir() else ()
    classes = sorted(x.name for x in inside if x.is_dir() and not x.name.startswith("."))
    if len(classes) < 2:
        raise UsageError(
            f"{part} must hold a folder for each of at least 2 classes, got {len(classes)}"
        )
    return classes


def _require_same(part: Path, got: Sequence[str], classes: Sequence[str], of: str) -> None:
    for problem, names in (
        ("lacks", sorted(set(classes) - set(got))),
        ("also has", sorted(set(got) - set(classes))),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UsageError(
                f"{part} must hold the classes of {of}, but {problem} {', '.join(names[:3])}{more}"
            )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} must be a text file, but cannot be read ({error})") from None


def _class_images(part: Path, classes: Sequence[str]) -> _Part:
    """Images at any depth of each class's folder, in the order of their paths."""
    load_torchvision()
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    index = {name: number for number, name in enumerate(classes)}
    found = make_dataset(str(part), index, extensions=IMG_EXTENSIONS, allow_empty=True)
    labels = torch.tensor([label for _, label in found], dtype=torch.int64)
    counts = labels.bincount(minlength=len(classes))
    if not counts.all():
        empty = part / classes[int(counts.argmin())]
        raise UsageError(f"{empty} must hold images ({', '.join(IMG_EXTENSIONS)}), but has none")
    names = np.array([os.fsencode(os.path.relpath(path, part)) for path, _ in found])
    return part, names, labels


def _annotated(images: Path, annotations: Path, classes: Sequence[str]) -> _Part:
    """Images of one folder, whose classes a file tells: name and class first in each line."""
    index = {name: number for number, name in enumerate(classes)}
    present = set(os.listdir(images))
    names, labels = [], []
    for number, line in enumerate(_text(annotations).splitlines(), 1):
        name, wnid = (*line.split("\t"), "")[:2]
        if wnid not in index:
            raise UsageError(
                f"{annotations}, line {number}: class must be of wnids.txt, got {wnid!r}"
            )
        if name not in present:
            raise UsageError(f"{annotations}, line {number}: there is no {images / name}")
        names.append(os.fsencode(name))
        labels.append(index[wnid])
    if not names:
        raise UsageError(f"{annotations} must name at least one image, but is empty")
    return images, np.array(names), torch.tensor(labels, dtype=torch.int64)
