"""Small data sets laid out as the real ones are published."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

CIFAR10_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and the numpy of its time wrote into the CIFAR archives."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_str(self, value: str) -> None:
        self.save_bytes(value.encode())

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{value.__name__}\n".encode())
        self.memoize(value)

    def reducer_override(self, value):
        if isinstance(value, np.dtype):
            call, (kind, _, _), state = value.__reduce__()
            return call, (kind, 0, 1), state
        return NotImplemented


def python2_pickle(content) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def cifar_rows(count: int, seed: int) -> np.ndarray:
    """Random images as CIFAR stores them."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def write_cifar10(base: Path, per_file: int = 4, dump=python2_pickle) -> Path:
    """`cifar-10-batches-py` in `base`: labels run 0, 1, ..., 9, 0, ... over the training files."""
    folder = base / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]):
        content = {
            b"batch_label": name.encode(),
            b"labels": [(number * per_file + n) % 10 for n in range(per_file)],
            b"data": cifar_rows(per_file, seed=number),
            b"filenames": [f"image_{n}.png".encode() for n in range(per_file)],
        }
        (folder / name).write_bytes(dump(content))
    names = [name.encode() for name in CIFAR10_NAMES]
    meta = {b"num_cases_per_batch": per_file, b"label_names": names, b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(dump(meta))
    return folder


def write_cifar100(base: Path, train: int = 200, test: int = 100, dump=python2_pickle) -> Path:
    """`cifar-100-python` in `base`: fine labels run 0, 1, ..., 99, 0, ..."""
    folder = base / "cifar-100-python"
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train", train), ("test", test))):
        content = {
            b"filenames": [f"image_{n}.png".encode() for n in range(count)],
            b"batch_label": b"training batch 1 of 1",
            b"fine_labels": [n % 100 for n in range(count)],
            b"coarse_labels": [n % 20 for n in range(count)],
            b"data": cifar_rows(count, seed),
        }
        (folder / name).write_bytes(dump(content))
    meta = {
        b"fine_label_names": [f"fine_{n:02d}".encode() for n in range(100)],
        b"coarse_label_names": [f"coarse_{n}".encode() for n in range(20)],
    }
    (folder / "meta").write_bytes(dump(meta))
    return folder


def pack(folder: Path, archive: str) -> Path:
    """The folder as a `.tar.gz` beside it, in its place."""
    path = folder.parent / archive
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return path


def write_image(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Pixels `[H, W, 3]` uint8 as a file of the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def random_pixels(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(height: int, width: int, colour: Sequence[int]) -> np.ndarray:
    """An image of one colour, which JPEG keeps but for a rounding."""
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def write_cinic10(base: Path, each: int = 2, name: str = "CINIC-10") -> Path:
    """`CINIC-10` in `base`: `each` random 32 x 32 PNGs a class in train, valid and test."""
    for part in ("train", "valid", "test"):
        for label, class_name in enumerate(CIFAR10_NAMES):
            for number in range(each):
                file = base / name / part / class_name / f"cifar10-{part}-{number}.png"
                write_image(file, random_pixels(32, 32, seed=100 * label + number))
    return base / name


def write_imagenet(base: Path, classes: Sequence[str], each: int = 2, side: int = 260) -> Path:
    """`imagenet` in `base`: `each` JPEGs of `side` x `side` pixels a class, all of one colour."""
    for label, wnid in enumerate(classes):
        for part in ("train", "val"):
            for number in range(each):
                file = base / "imagenet" / part / wnid / f"{wnid}_{number}.JPEG"
                write_image(file, plain(side, side, (40 * label + 20, 100, 200)))
    return base / "imagenet"


def write_tiny_imagenet(base: Path, classes: Sequence[str], each: int = 2) -> Path:
    """`tiny-imagenet-200` in `base`; images have one colour, whose red tells the class.

    The classes of the validation images run backwards.
    """
    folder = base / "tiny-imagenet-200"
    for label, wnid in enumerate(classes):
        for number in range(each):
            file = folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG"
            write_image(file, plain(64, 64, (40 * label + 20, 100, 200)))
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
    lines = []
    for number, label in enumerate(reversed(range(len(classes)))):
        write_image(
            folder / "val" / "images" / f"val_{number}.JPEG",
            plain(64, 64, (40 * label + 20, 100, 200)),
        )
        lines.append(f"val_{number}.JPEG\t{classes[label]}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    write_image(folder / "test" / "images" / "test_0.JPEG", plain(64, 64, (0, 0, 0)))
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in reversed(classes)))
    words = [f"{wnid}\tword {n}, synonym {n}\n" for n, wnid in enumerate(classes)]
    (folder / "words.txt").write_text("".join([*words, "n99999999\tsomething else\n"]))
    return folder


def idx(values: np.ndarray) -> bytes:
    """An IDX file: type 8 (bytes), the number of dimensions, their sizes, the values."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def grey_pixels(count: int, seed: int) -> np.ndarray:
    """Random images as MNIST stores them."""
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def write_mnist(folder: Path, train: int = 20, test: int = 10, zipped: bool = True) -> Path:
    """The four files of MNIST or Fashion-MNIST in `folder`; the classes take turns."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (part, count) in enumerate((("train", train), ("t10k", test))):
        for name, values in (
            (f"{part}-images-idx3-ubyte", grey_pixels(count, seed)),
            (f"{part}-labels-idx1-ubyte", np.arange(count) % 10),
        ):
            content = idx(values)
            path = folder / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(content) if zipped else content)
    return folder
