"""CIFAR-10 and CIFAR-100 from their published python versions: pickled rows of 32 x 32 images.

Not by torchvision's reader: it refuses archives whose MD5 sums are not the published ones, names
neither file nor remedy, and unpickles whatever it is given.
"""

from __future__ import annotations

import posixpath
import shutil
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amd_fused.distill.config import Settings
from amd_fused.distill.data.images import DataSet, InMemory, Split
from amd_fused.distill.data.locate import base_folder, find_folder, lacking
from amd_fused.distill.data.pickles import load_pickle
from amd_fused.distill.errors import UsageError

SIZE = 32


@dataclass(frozen=True)
class _Version:
    published: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    names: bytes
    num_classes: int
    # Of the training part's pixels. Constants, so that a network's weights mean the same wherever
    # they are used; the archives never change.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


_VERSIONS = {
    "cifar10": _Version(
        published="the CIFAR-10 python version",
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        meta="batches.meta",
        labels=b"labels",
        names=b"label_names",
        num_classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": _Version(
        published="the CIFAR-100 python version",
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        train=("train",),
        test="test",
        meta="meta",
        labels=b"fine_labels",
        names=b"fine_label_names",
        num_classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
}


def load_cifar(settings: Settings) -> DataSet:
    """CIFAR-10 or CIFAR-100 (its 100 fine classes), all of it in memory.

    Raises:
        UsageError: a file is missing, broken or holds something else.

    Source: Krizhevsky and Hinton, "Learning multiple layers of features from tiny images", 2009.
    """
    version = _VERSIONS[settings.data]
    if settings.augment == "imagenet":
        raise UsageError(f"--augment must be none or crop-flip for {settings.data}, got 'imagenet'")
    folder = _folder(settings.data_dir, version)
    class_names = _class_names(folder / version.meta, version)
    parts = [_split(folder, names, version) for names in (version.train, (version.test,))]
    train, test = (
        Split(InMemory(pixels), labels, version.mean, version.std, settings.augment)
        for pixels, labels in parts
    )
    return DataSet(settings.data, class_names, train, test, 3, SIZE, version.mean, version.std)


def _folder(data_dir: str, version: _Version) -> Path:
    published = f"{version.published} ({version.folder}/ or {version.archive})"
    base = base_folder(data_dir, published)
    folder, archive = base / version.folder, base / version.archive
    if not folder.exists() and archive.is_file() and lacking(base, version.files):
        _extract(archive, folder, version)
    return find_folder(data_dir, (version.folder,), version.files, published)


def _extract(archive: Path, folder: Path, version: _Version) -> None:
    """The known files alone, by names of our own choice, and all of them or none."""
    wanted = {f"{version.folder}/{name}": name for name in version.files}
    try:
        with tempfile.TemporaryDirectory(prefix=".cifar", dir=archive.parent) as temporary:
            part = Path(temporary) / version.folder
            part.mkdir()
            # In the archive's order: going back would unpack it from its start again.
            with tarfile.open(archive) as tar:
                for member in tar:
                    name = wanted.get(posixpath.normpath(member.name))
                    source = tar.extractfile(member) if name and member.isreg() else None
                    if name and source:
                        with source, (part / name).open("wb") as target:
                            shutil.copyfileobj(source, target)
            if missing := lacking(part, version.files):
                raise UsageError(
                    f"{archive} must hold {version.published}, but lacks {', '.join(missing)}"
                )
            try:
                part.rename(folder)
            except OSError:
                # Another process has been faster.
                if lacking(folder, version.files):
                    raise
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UsageError(
            f"{archive} cannot be unpacked into {archive.parent} ({error}); it may be cut short: "
            f"get {version.published} again"
        ) from None


def _class_names(path: Path, version: _Version) -> tuple[str, ...]:
    names = load_pickle(path, version.published).get(version.names)
    if not isinstance(names, list) or len(names) != version.num_classes:
        raise UsageError(
            f"{path}: {version.names.decode()} must be a list of {version.num_classes} names"
        )
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _split(folder: Path, names: tuple[str, ...], version: _Version) -> tuple[Tensor, Tensor]:
    parts = [_rows(folder / name, version) for name in names]
    pixels = np.concatenate([rows for rows, _ in parts]).reshape(-1, 3, SIZE, SIZE)
    return torch.from_numpy(pixels), torch.from_numpy(np.concatenate([y for _, y in parts]))


def _rows(path: Path, version: _Version) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Rows `[n, 3072]`, red before green before blue, and labels `[n]` of one file."""
    content = load_pickle(path, version.published)
    rows, labels = content.get(b"data"), content.get(version.labels)
    key = version.labels.decode()
    width = 3 * SIZE * SIZE
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (width,):
        got = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else "no array"
        raise UsageError(f"{path}: data must be uint8 [n, {width}], got {got}")
    if not len(rows):
        raise UsageError(f"{path}: data must hold at least one image")
    if not isinstance(labels, list) or len(labels) != len(rows):
        got = f"{len(labels)}" if isinstance(labels, list) else "none"
        raise UsageError(
            f"{path}: {key} must be a list of {len(rows)} classes, one an image, got {got}"
        )
    for label in labels:
        if not isinstance(label, int) or not 0 <= label < version.num_classes:
            raise UsageError(
                f"{path}: {key} must be between 0 and {version.num_classes - 1}, got {label!r}"
            )
    return rows, np.array(labels, np.int64)
