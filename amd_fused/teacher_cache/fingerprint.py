"""What a cache is of, part by part, so that another teacher's or other images' is refused by name.

Hashes are SHA-256. Memory addresses in a `repr` are left out: they differ from process to process.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amd_fused.hooks import module_paths

OWNER = "TeacherCache"
# Raised when what is kept, or how, changes its meaning.
FORMAT = 1
# Samples whose images are hashed, spread evenly from the first to the last.
_SAMPLES = 16
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

Fingerprint = dict[str, str]


def of(
    teacher: nn.Module,
    dataset: Any,
    size: int,
    transforms: Any,
    extra: Mapping[str, Any],
    **more: str,
) -> Fingerprint:
    """All parts; `more` are those of the cache itself, `extra` the user's.

    Raises:
        TypeError, ValueError: as :func:`of_dataset`; `extra` has a name that is taken.
    """
    own = of_dataset(dataset, size, transforms)
    own = {"format": str(FORMAT), **of_teacher(teacher), **own, **more}
    for name in extra:
        if name in own:
            raise ValueError(f"{OWNER}: extra must have names besides {list(own)}, got {name!r}")
    return {**own, **{name: str(value) for name, value in extra.items()}}


def of_teacher(teacher: nn.Module) -> Fingerprint:
    """modules: what it is built of; weights: names, dtypes, shapes and bytes of its parameters and
    buffers. Wrappers (DDP, torch.compile) change neither."""
    core = module_paths.unwrap(teacher)[-1]
    digest = hashlib.sha256()
    # Buffers that are not saved are part of what is computed too.
    values: dict[str, Any] = dict(core.named_buffers(remove_duplicate=False))
    values |= core.state_dict()
    for name, value in sorted(values.items(), key=lambda entry: _bare(entry[0])):
        digest.update(_bare(name).encode() + b"\0")
        _add(digest, f"the teacher's {name}", value)
    return {"modules": _short(_plain_repr(core)), "weights": digest.hexdigest()}


def of_dataset(dataset: Any, size: int, transforms: Any) -> Fingerprint:
    """dataset: its type, or the text that names it; size; images: of samples at fixed places;
    transforms: theirs.

    Raises:
        ValueError: a sample is another at every reading, as under random changes.
        TypeError: a sample holds something that cannot be hashed.
    """
    named = isinstance(dataset, str)
    if transforms is None and not named:
        transforms = _transforms(dataset)
    return {
        "dataset": dataset if named else type(dataset).__qualname__,
        "size": str(size),
        "images": "" if named else _images(dataset, size),
        "transforms": "" if transforms is None else _plain_repr(transforms),
    }


def differences(kept: Mapping[str, str], own: Mapping[str, str]) -> list[str]:
    """A text for each part in which two fingerprints differ."""
    names = list(dict.fromkeys([*own, *kept]))
    return [
        f"{name} ({_shown(kept.get(name))} there, {_shown(own.get(name))} here)"
        for name in names
        if kept.get(name) != own.get(name)
    ]


def _images(dataset: Any, size: int) -> str:
    places = sorted({place * (size - 1) // (_SAMPLES - 1) for place in range(_SAMPLES)})
    digest = hashlib.sha256()
    # Reading must not change what a seeded program draws next.
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            for place in places:
                first, again = (_sample(dataset, place) for _ in range(2))
                if first != again:
                    raise ValueError(
                        f"{OWNER}: dataset must give the same image for an index every time, got "
                        f"two for index {place}; a teacher's outputs can only be kept without "
                        "random changes of the images"
                    )
                digest.update(first)
    finally:
        random.setstate(state)
    return digest.hexdigest()


def _sample(dataset: Any, place: int) -> bytes:
    """The hash of one sample's image: the first entry of a tuple, all of a dict or of anything
    else."""
    sample = dataset[place]
    image = sample[0] if isinstance(sample, (tuple, list)) else sample
    digest = hashlib.sha256()
    _add(digest, f"dataset[{place}]", image)
    return digest.digest()


def _transforms(dataset: Any) -> Any:
    """Of a data set of torchvision's kind, also below a Subset."""
    while dataset is not None:
        for name in ("transforms", "transform"):
            found = getattr(dataset, name, None)
            if found is not None:
                return found
        dataset = getattr(dataset, "dataset", None)
    return None


def _add(digest: Any, what: str, value: Any) -> None:
    """Kind and content of a value, so that two that differ never give the same bytes."""
    if isinstance(value, Tensor):
        dense = value.detach().cpu().contiguous()
        digest.update(f"tensor {dense.dtype} {tuple(dense.shape)}\0".encode())
        size = dense.numel() * dense.element_size()
        if size:
            # Not numpy(), which the package does without.
            digest.update((ctypes.c_char * size).from_address(dense.data_ptr()))
    elif isinstance(value, (str, int, float, bytes, type(None))):
        digest.update(f"{type(value).__name__} {value!r}\0".encode())
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}\0".encode())
        for name in sorted(value, key=str):
            _add(digest, what, name)
            _add(digest, what, value[name])
    elif isinstance(value, Sequence):
        digest.update(f"sequence {len(value)}\0".encode())
        for entry in value:
            _add(digest, what, entry)
    elif callable(getattr(value, "tobytes", None)):
        # Arrays of NumPy, images of PIL.
        about = [getattr(value, name, None) for name in ("dtype", "shape", "mode", "size")]
        digest.update(f"array {about}\0".encode())
        digest.update(value.tobytes())
    else:
        raise TypeError(
            f"{OWNER}: {what} must hold tensors, arrays, images, numbers or texts, got "
            f"{type(value).__name__}; name the data set by a text, dataset='cifar10 train', instead"
        )


def _bare(name: str) -> str:
    """Without what torch.compile puts before the names of a module inside."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _plain_repr(value: Any) -> str:
    return _ADDRESS.sub("", repr(value))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _shown(value: str | None) -> str:
    if value is None:
        return "none"
    # A hash is told by its beginning.
    shown = value[:12] if re.fullmatch(r"[0-9a-f]{64}", value) else value
    return " ".join(shown.split())[:80] or "none"
