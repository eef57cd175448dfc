"""MNIST and Fashion-MNIST from their published IDX files: 28 x 28 grey images, padded to 32 x 32.

Not by torchvision's reader: it takes a file that is cut short or another's for what it is asked,
looks in one folder only, and is an extra of this package.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amd_fused.distill.config import Settings
from amd_fused.distill.data.images import DataSet, InMemory, Split
from amd_fused.distill.data.locate import lacking
from amd_fused.distill.errors import UsageError

# The maps of the paper's networks have the sizes that they have for CIFAR's images then.
SIZE = 32
_PUBLISHED_SIZE = 28
_CLASSES = 10
# Where Debian's packages put data sets, each in a folder of its own.
INSTALLED = Path("/usr/share/datasets")
# IDX: two zero bytes, the type of the values (8: bytes), the number of dimensions.
_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801


@dataclass(frozen=True)
class _Version:
    published: str
    # Below --data-dir, in this order; torchvision's is the first.
    folders: tuple[str, ...]
    remedy: str
    class_names: tuple[str, ...]
    # Of the training images' pixels before they are padded.
    mean: float
    std: float


_VERSIONS = {
    "mnist": _Version(
        published="MNIST",
        folders=("MNIST/raw", "mnist"),
        remedy="",
        class_names=tuple("0123456789"),
        mean=0.1307,
        std=0.3081,
    ),
    "fashion-mnist": _Version(
        published="Fashion-MNIST",
        folders=("FashionMNIST/raw", "fashion-mnist"),
        remedy="; Debian and Ubuntu have it as the package dataset-fashion-mnist",
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        mean=0.2860,
        std=0.3530,
    ),
}
_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


def load_mnist(settings: Settings) -> DataSet:
    """MNIST or Fashion-MNIST, all of it in memory: 60,000 training and 10,000 test images.

    The files lie in torchvision's layout below `--data-dir`, in a folder `mnist` or `fashion-mnist`
    there, in `--data-dir` itself, or else where Debian's package of Fashion-MNIST puts them; each
    may be gzipped or not.

    Raises:
        UsageError: a file is missing, broken or holds something else.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998; Xiao et
    al., "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017.
    """
    version = _VERSIONS[settings.data]
    if settings.augment == "imagenet":
        raise UsageError(f"--augment must be none or crop-flip for {settings.data}, got 'imagenet'")
    folder = _folder(settings, version)
    mean, std = (version.mean,), (version.std,)
    train, test = (
        Split(InMemory(pixels), labels, mean, std, settings.augment)
        for pixels, labels in (_part(folder, part, version) for part in ("train", "t10k"))
    )
    return DataSet(settings.data, version.class_names, train, test, 1, SIZE, mean, std)


def _folder(settings: Settings, version: _Version) -> Path:
    """Where all four files are: below `--data-dir`, else where they are installed."""
    base = Path(settings.data_dir).expanduser().resolve()
    for folder in (*(base / name for name in version.folders), base, INSTALLED / settings.data):
        missing = _lacking(folder)
        if not missing:
            return folder
        if len(missing) < len(_FILES):
            raise UsageError(
                f"{folder} must hold {version.published}, but lacks {', '.join(missing)} (or .gz)"
            )
    published = f"{version.published} ({version.folders[0]}/{_FILES[0]}.gz and so on)"
    raise UsageError(
        f"--data-dir must be the folder that holds {published}, but there is none in {base}"
        f"{version.remedy}"
    )


def _lacking(folder: Path) -> list[str]:
    return [name for name in lacking(folder, _FILES) if not (folder / f"{name}.gz").exists()]


def _part(folder: Path, part: str, version: _Version) -> tuple[Tensor, Tensor]:
    """Pixels `[N, 1, 32, 32]`, uint8, and labels `[N]`, int64."""
    path = _present(folder, f"{part}-images-idx3-ubyte")
    images = _read_idx(path, _IMAGES_MAGIC, "images", version)
    if images.shape[1:] != (_PUBLISHED_SIZE, _PUBLISHED_SIZE) or not len(images):
        raise UsageError(
            f"{path} must hold images of {_PUBLISHED_SIZE} x {_PUBLISHED_SIZE}, got "
            f"{list(images.shape)}"
        )
    path = _present(folder, f"{part}-labels-idx1-ubyte")
    labels = _read_idx(path, _LABELS_MAGIC, "labels", version)
    if len(labels) != len(images):
        raise UsageError(
            f"{path} must hold {len(images)} labels, as many as there are images beside it, got "
            f"{len(labels)}"
        )
    if labels.max() >= _CLASSES:
        raise UsageError(f"{path}: labels must be between 0 and {_CLASSES - 1}, got {labels.max()}")
    border = (SIZE - _PUBLISHED_SIZE) // 2
    padded = np.pad(images, ((0, 0), (border, border), (border, border)))
    return torch.from_numpy(padded).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def _present(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else folder / f"{name}.gz"


def _read_idx(path: Path, magic: int, what: str, version: _Version) -> NDArray[np.uint8]:
    """The array of bytes in an IDX file: big-endian 32-bit numbers say magic and shape.

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
    """
    remedy = f"get {version.published} again"
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); it may be cut short: {remedy}"
        ) from None
    dimensions = magic & 0xFF
    size = 4 * (1 + dimensions)
    got = int.from_bytes(content[:4], "big")
    if got != magic or len(content) < size:
        raise UsageError(
            f"{path} must be an IDX file of {what}, which begins with {magic:#010x}, got "
            f"{got:#010x}; is it another one's? {remedy}"
        )
    shape = tuple(np.frombuffer(content, ">u4", dimensions, offset=4).tolist())
    if len(content) - size != math.prod(shape):
        raise UsageError(
            f"{path} must hold {math.prod(shape)} bytes of {what} {list(shape)}, got "
            f"{len(content) - size}; it may be cut short: {remedy}"
        )
    return np.frombuffer(content, np.uint8, offset=size).reshape(shape)
