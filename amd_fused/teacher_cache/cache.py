"""TeacherCache: a frozen teacher's outputs by sample index, computed once and then read."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from amd_fused.hooks import module_paths
from amd_fused.hooks.feature_hooks import LAYOUTS
from amd_fused.losses._common import teacher_pass, value_checks
from amd_fused.teacher_cache import arguments, files, fingerprint
from amd_fused.teacher_cache.files import FileRows
from amd_fused.teacher_cache.outputs import OWNER, TeacherOutputs, TeacherPass, Wanted
from amd_fused.teacher_cache.rows import Rows

DTYPES = (torch.float32, torch.float16)


class TeacherCache:
    """Keeps what a frozen teacher computes of each sample: the teacher runs once, not every epoch.

    As ``kept = {}; kept[i] = teacher(x_i)`` over the samples of a data set whose images are the
    same in every epoch, in memory or in files::

        cache = TeacherCache("cache", teacher=teacher, dataset=train_set, maps=["layer2", "layer3"])
        for images, labels, indices in loader:                 # of IndexedDataset(train_set)
            taught = cache(images, indices)                    # the teacher runs in the first epoch
            loss = criterion(student(images), taught.logits, labels, hooks.features, taught.maps)

    or in one pass before the training, ``cache.fill(loader)``. AMD and AT see of the teacher's
    features only their attention maps (:func:`attention_map`), which are ``C`` times smaller. KD
    takes logits, RKD, ND and LSH the embedding, SP the features of a layer.

    The teacher runs on whole batches, as the caller made them, whenever one of their samples is not
    there yet. So with batches of one size a run with a cache gets bit for bit what it would get
    without one, wherever a kernel's result for a sample does not depend on the other samples of its
    batch; that is so of PyTorch's convolutions on the CPU in batches of some tens of images. It
    need not be so where batch sizes differ, as they do between a pass of 256 and a training of 128.

    Files: see ``teacher_cache/files.py``. ``header.json`` holds a fingerprint of the teacher's
    modules, weights and layers, of the data set, of some of its images and of its transforms. Where
    a folder's is another one, the cache is refused and the message says in which parts. Several
    processes of one machine may fill and read one folder at once; each fills what its own batches
    hold. A killed process loses at most the last 64 MiB, which are computed again. Room for all
    samples is taken when the files are made, so that a full disk is an error then and not later.

    Args:
        folder: where the files lie or shall lie, on a disk of this machine; None: in memory.
        teacher: the frozen module; it is put into evaluation mode for each pass and back again.
        dataset: what indices count in, with ``len()`` and ``dataset[i]``, an image or a tuple that
            begins with one or a dict; or a text that names it, where it cannot be read so.
        maps: module paths, as :class:`FeatureHooks` takes them, whose attention maps are kept.
        features: module paths whose outputs are kept as they are.
        embedding: module path whose output, flattened from dim 1, is kept; empty: none.
        logits: whether the teacher's own output, or its ``logits``, is kept.
        layout: of the layers of ``maps`` and ``features``, as FeatureHooks's.
        dtype: as which numbers are kept: torch.float32, or torch.float16, which halves the room and
            rounds to 11 bits. They are given back in float32.
        size: number of samples; needed where ``dataset`` is a text.
        transforms: those of the data set, or anything whose ``repr`` says what they are; None:
            ``dataset.transforms`` or ``dataset.transform``.
        extra: whatever else the outputs depend on, by name, as ``{"autocast": "bfloat16"}``; part
            of the fingerprint.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the data set's images differ from one
            reading to the next; the folder holds another teacher's cache, or other images', or a
            file of it is broken.
        OSError: as :meth:`allocate`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        *,
        teacher: nn.Module,
        dataset: Any,
        maps: Sequence[str] = (),
        features: Sequence[str] = (),
        embedding: str = "",
        logits: bool = True,
        layout: str = "NCHW",
        dtype: torch.dtype = torch.float32,
        size: int | None = None,
        transforms: Any = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(teacher, nn.Module):
            raise TypeError(f"{OWNER}: teacher must be a module, got {type(teacher).__name__}")
        value_checks.choice(OWNER, "layout", layout, LAYOUTS)
        if dtype not in DTYPES:
            raise ValueError(f"{OWNER}: dtype must be torch.float32 or torch.float16, got {dtype}")
        self._teacher, self._layout, self._dtype = teacher, layout, dtype
        maps, features = arguments.layers("maps", maps), arguments.layers("features", features)
        self._wanted = Wanted(logits, maps, features, embedding)
        if not self._wanted.names:
            raise ValueError(f"{OWNER}: there must be maps, features, embedding or logits to keep")
        if self._wanted.layers:
            module_paths.resolve(OWNER, teacher, self._wanted.layers)
        self._size = arguments.count(dataset, size)
        self._folder = None if folder is None else Path(folder)
        self._fingerprint = fingerprint.of(
            *(teacher, dataset, self._size, transforms, extra or {}),
            outputs=arguments.listed(self._wanted, layout),
            dtype=str(dtype).removeprefix("torch."),
        )
        self._rows: Rows | None = None
        self._pass: TeacherPass | None = None
        self._flush: weakref.finalize[..., Any] | None = None
        header = None if self._folder is None else files.read_header(self._folder)
        if header is not None:
            self._open(header)

    def __len__(self) -> int:
        """The number of samples of the data set."""
        return self._size

    @property
    def folder(self) -> Path | None:
        """Where the files lie; None: in memory."""
        return self._folder

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the cache is of, part by part."""
        return dict(self._fingerprint)

    @property
    def missing(self) -> int:
        """How many samples are not there yet."""
        return self._size if self._rows is None else self._rows.missing()

    @property
    def complete(self) -> bool:
        """Whether all samples are there, so that the teacher is not needed any more."""
        return self.missing == 0

    def __call__(
        self, inputs: Tensor | Mapping[str, Any], indices: Tensor | Sequence[int]
    ) -> TeacherOutputs:
        """The teacher's outputs for a batch: kept ones, or its own, which are kept then.

        The teacher is run, on the whole batch, where one of its samples is missing. Hooks are put
        on it before its first pass here, and taken off by :meth:`close`.

        Args:
            inputs: what the teacher is called with; of a dict ``teacher(**inputs)``.
            indices: integers [B] in the data set.

        Returns:
            On the inputs' device, in float32, without gradients.

        Raises:
            TypeError, ValueError, OSError: as :meth:`put`; as FeatureHooks.
        """
        found = self.get(indices, device=arguments.device_of(inputs))
        if found is not None:
            return found
        if self._pass is None:
            self._pass = TeacherPass(self._teacher, self._wanted, self._layout)
        return self.put(indices, self._pass(inputs))

    def get(
        self, indices: Tensor | Sequence[int], *, device: torch.device | str | None = None
    ) -> TeacherOutputs | None:
        """The outputs of these samples in float32, in this order; None where one is missing."""
        rows = arguments.rows_of(indices, self._size)
        if self._rows is None or not self._rows.has(rows):
            return None
        found = {
            name: a.float().to(device or "cpu", non_blocking=True)
            for name, a in self._rows.read(rows).items()
        }
        return self._wanted.of_names(found)

    def put(self, indices: Tensor | Sequence[int], outputs: TeacherOutputs) -> TeacherOutputs:
        """Keeps the outputs of these samples; samples that are there stay as they are.

        Args:
            indices: integers [B] in the data set.
            outputs: of these samples in this order, of any floating dtype, on any device. What the
                cache was not asked for must not be there.

        Returns:
            What :meth:`get` would give now for samples that were new: the outputs in float32,
            rounded where the cache's dtype is narrower, on their own device.

        Raises:
            TypeError, ValueError: an output is missing, or is no floating tensor with B rows, or
                its shape differs from that of other samples; with float16, a number is too large.
            OSError: as :meth:`allocate`.
        """
        rows = arguments.rows_of(indices, self._size)
        given = self._wanted.by_name(outputs)
        values = {name: arguments.narrowed(name, a, self._dtype) for name, a in given.items()}
        self._allocate(values)
        assert self._rows is not None
        for name, shape in self._rows.shapes.items():
            if tuple(values[name].shape) != (len(rows), *shape):
                raise ValueError(
                    f"{OWNER}: {name} must have the shape {[len(rows), *shape]}, one row an index "
                    f"and each sample's as before, got {list(values[name].shape)}"
                )
        self._rows.write(rows, {name: a.cpu() for name, a in values.items()})
        return self._wanted.of_names({name: a.float() for name, a in values.items()})

    def allocate(self, outputs: TeacherOutputs) -> None:
        """Takes the room for all samples now, which the first :meth:`put` does otherwise.

        Args:
            outputs: of any batch, for their shapes.

        Raises:
            OSError: the folder cannot be written into, or the disk has too little room; the message
                says how many bytes are needed and how many are free.
        """
        self._allocate(self._wanted.by_name(outputs))

    def bytes_needed(self, outputs: TeacherOutputs) -> int:
        """Bytes that all samples take, by the shapes of any batch's outputs."""
        values = self._wanted.by_name(outputs).values()
        return self._size * self._dtype.itemsize * sum(a[0].numel() for a in values)

    def fill(self, loader: Iterable[Any]) -> None:
        """One pass: runs the teacher on every batch of which a sample is missing.

        Args:
            loader: gives tuples ``(inputs, ..., indices)`` or dicts with the entries "index" and
                the teacher's inputs by name, as loaders of an :class:`IndexedDataset` do (of whose
                dicts "label" and "labels" are left out). In any order, in part or in whole:
                :attr:`missing` says what is left.

        Raises:
            TypeError: a batch has no indices. Else as :meth:`put`.
        """
        device = teacher_pass.device_of(self._teacher)
        for batch in loader:
            inputs, indices = arguments.batch(batch)
            rows = arguments.rows_of(indices, self._size)
            if self._rows is None or not self._rows.has(rows):
                self(arguments.moved(inputs, device), rows)
        self.flush()

    def flush(self) -> None:
        """Puts what this process wrote on the disk, where others and later ones find it."""
        if self._rows is not None:
            self._rows.flush()

    def close(self) -> None:
        """Flushes, takes the hooks off the teacher and lets go of files and memory."""
        if self._flush is not None:
            self._flush()
        if self._pass is not None:
            self._pass.remove()
        self._rows, self._pass = None, None

    def __enter__(self) -> TeacherCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "in memory" if self._folder is None else repr(str(self._folder))
        return f"TeacherCache({where}, {self._wanted.names}, {self._size} samples)"

    def _allocate(self, values: Mapping[str, Tensor]) -> None:
        if self._rows is not None:
            return
        shapes = {name: tuple(a.shape[1:]) for name, a in values.items()}
        if self._folder is None:
            self._rows = Rows.in_memory(shapes, self._size, self._dtype)
            return
        self._open(files.create(self._folder, self._fingerprint, shapes, self._size, self._dtype))

    def _open(self, header: Mapping[str, Any]) -> None:
        assert self._folder is not None
        other = fingerprint.differences(header["fingerprint"], self._fingerprint)
        if other:
            raise ValueError(
                f"{OWNER}: folder must hold what this teacher computes of these images, got "
                f"{self._folder}, which differs in {', '.join(other)}; name another folder, or "
                "delete it"
            )
        self._rows = rows = FileRows(self._folder, header, self._dtype)
        # Also when nobody calls close().
        self._flush = weakref.finalize(self, rows.flush)
