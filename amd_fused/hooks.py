"""FeatureHooks: the feature maps of chosen layers, of the last forward pass, by module path."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from amd_fused import _checks, _module_paths

# In place of a version: inference tensors do not count the writes into them.
_UNCOUNTED = -1
LAYOUTS = ("NCHW", "NHWC")


class FeatureHooks:
    """Collects the outputs of ``layers`` at every forward pass of ``model``, without copying them.

    As ``for path in layers: model.get_submodule(path).register_forward_hook(save)``, with care::

        with FeatureHooks(student, ["layer1", "layer2"]) as hooks_s:
            logits = student(images)
            loss = amd_loss(hooks_s.features, hooks_t.features)  # a list, in the order of layers
            first = hooks_s["layer1"]

    or as a handle: ``hooks = FeatureHooks(...)``, later ``hooks.remove()``. Keep the handle: once
    it is dropped, the hooks are taken off the model and the features are freed.

    Wrappers: ``model`` may be a ``DistributedDataParallel``, ``DataParallel`` or ``torch.compile``
    module, and a path may be given with or without their prefixes ("module.", "_orig_mod."),
    whether the model is wrapped now, later or not at all. ``DataParallel`` over several devices
    runs copies of the model, whose features would overwrite one another: that forward pass raises.

    Freshness: features belong to the last ``model(...)``; a new call drops the previous ones as it
    begins. Call the model itself: ``model.forward(...)``, ``model.forward_features(...)`` or a part
    of the model alone does not begin a forward pass, so layers that run again there count as having
    run twice. Where a training step of somebody else's makes such calls, hook the module that it
    is itself (``FeatureHooks(task, ["student.layer1"])``), or call ``hooks.clear()`` before each
    step. A layer that runs twice in one forward pass (a shared module) raises when it is read. What
    ``torch.export`` runs does not count as a forward pass and leaves the features. What activation
    checkpointing computes again in the backward pass is ignored; with ``use_reentrant=True`` the
    features carry no gradient (its first pass builds no graph): use ``use_reentrant=False``.

    In-place writes: reading a feature that was modified in place after its layer returned it (by
    an ``nn.ReLU(inplace=True)`` or ``out += x`` behind it) raises. In code that ``torch.compile``
    compiled, the feature keeps the right values instead. Tensors made under
    ``torch.inference_mode()`` do not count writes, so reading them raises: use
    ``torch.no_grad()``, which serves a frozen teacher as well.

    torch.compile: hooks are traced with the model, so create them before its first compiled call
    and keep them; later ones never fire there, and reading them raises. (Taking hooks off and
    putting new ones on compiles the model again.)

    Copies: ``copy.deepcopy`` or pickling of a hooked model gives a model whose hooks keep nothing
    and never write into this handle; a copied handle is a removed one.

    Args:
        model: the module whose calls are forward passes.
        layers: module paths as in ``model.named_modules()``, each of a module that returns a
            tensor.
        layout: how the layers' outputs lie: "NCHW", or "NHWC" for networks that compute with
            [B, H, W, C] (Swin and its like): features are then views [B, C, H, W] of them. The
            losses cannot see the difference and would take H for the channels.

    Raises:
        TypeError: model is no module, layers is no list of strings, or one is a TorchScript module;
            when read: an output is no tensor.
        ValueError: layers is empty or has duplicates; a path does not exist (with near matches),
            is ambiguous, or names a container that is never called; when read: an output is not
            4-D with layout "NHWC".
        RuntimeError: when read: no forward pass yet, a layer that did not run or ran twice, an
            in-place write, inference mode, a removed handle.
        KeyError: ``hooks[path]`` with a path that is not in ``layers``.
    """

    def __init__(self, model: nn.Module, layers: Iterable[str], *, layout: str = "NCHW") -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"FeatureHooks: model must be a module, got {type(model).__name__}")
        _checks.choice("FeatureHooks", "layout", layout, LAYOUTS)
        for module in _module_paths.unwrap(model):
            _module_paths.refuse_script(
                "FeatureHooks", "model must be a Python module, got", module
            )
        self._layout = layout
        self._layers = _module_paths.check("FeatureHooks", layers)
        modules = _module_paths.resolve("FeatureHooks", model, self._layers)
        self._store = store = _Store()
        # The innermost module too: it may be called without its wrappers.
        hooks = [m.register_forward_pre_hook(_Begin(store)) for m in _module_paths.unwrap(model)]
        hooks += [
            module.register_forward_hook(_Record(store, path))
            for path, module in zip(self._layers, modules, strict=True)
        ]
        self._finalizer = weakref.finalize(self, _release, hooks, store)

    @property
    def layers(self) -> tuple[str, ...]:
        """The module paths, as they were given."""
        return self._layers

    @property
    def features(self) -> list[Tensor]:
        """The outputs of the last forward pass, in the order of ``layers``."""
        return [self[path] for path in self._layers]

    def __getitem__(self, path: str) -> Tensor:
        """The output of one layer in the last forward pass."""
        if path not in self._layers:
            raise KeyError(f"FeatureHooks: {path!r} is not one of the layers {list(self._layers)}")
        output = self._store.read(path)
        if self._layout == "NCHW":
            return output
        if output.ndim != 4:
            raise ValueError(
                f'FeatureHooks: the output of {path!r} must be 4-D for layout="NHWC", got shape '
                f"{tuple(output.shape)}"
            )
        return output.permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self._layers)

    # Without this, Python would try hooks[0], hooks[1], ... and fail with a puzzling KeyError.
    __iter__ = None

    def __repr__(self) -> str:
        state = "" if self._store.active else ", removed"
        return f"FeatureHooks({list(self._layers)}{state})"

    def clear(self) -> None:
        """Drop the features now, not at the next forward pass."""
        self._store.records = {}

    def remove(self) -> None:
        """Take the hooks off the model and drop the features; harmless when done before."""
        self._finalizer()

    def __enter__(self) -> FeatureHooks:
        self._store.check_active()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def __reduce__(self) -> tuple[Any, ...]:
        # The hooks of a copied model know nothing of a copied handle.
        return _removed_handle, (self._layers, self._layout)


class _Store:
    """What the hooks of one handle have seen in the last forward pass.

    ``records`` is replaced, never emptied: a traced assignment needs no guard on the old contents.
    """

    def __init__(self) -> None:
        self.active = True
        self.begun = False
        # path -> (times run, output or the name of its type if it is no tensor, its version then).
        # Version None: traced by torch.compile.
        self.records: dict[str, tuple[int, Tensor | str, int | None]] = {}

    def check_active(self) -> None:
        if not self.active:
            raise RuntimeError(
                "FeatureHooks: these hooks were removed, or are a copy of others; "
                "create FeatureHooks(model, layers) anew"
            )

    def read(self, path: str) -> Tensor:
        self.check_active()
        if path not in self.records:
            if self.begun:
                what = (
                    "did not run in the last forward pass, or was cleared; hook a layer that runs"
                )
            else:
                what = "has no features yet; call the model first"
            raise RuntimeError(
                f"FeatureHooks: {path!r} {what} (and if the model is compiled, create FeatureHooks "
                "before its first call)"
            )
        runs, output, version = self.records[path]
        if runs > 1:
            raise RuntimeError(
                f"FeatureHooks: {path!r} ran {runs} times since the model was last called, so "
                "which output is meant is unclear; hook a module that runs once (the block around "
                "a shared layer), and call model(...), not model.forward(...) or a part of it; "
                "where the training step does that (model.forward_features, say), give "
                'FeatureHooks the module that is called (FeatureHooks(task, ["student.layer1"])), '
                "or call hooks.clear() before each step"
            )
        if not isinstance(output, Tensor):
            raise TypeError(
                f"FeatureHooks: the output of {path!r} must be a tensor, got {output}; "
                "hook a module inside it that returns a tensor"
            )
        if version == _UNCOUNTED:
            raise RuntimeError(
                f"FeatureHooks: the output of {path!r} was made under torch.inference_mode(), "
                "where in-place writes behind the layer go unseen; use torch.no_grad() instead"
            )
        if version is not None and output._version != version:
            raise RuntimeError(
                f"FeatureHooks: the output of {path!r} was modified in place after the layer "
                "returned it, so its values are lost; set inplace=False in the module behind it "
                "(or write out = out + x for out += x), or hook the module that modifies it"
            )
        return output


class _Begin:
    """Forward pre-hook of the model: whatever was kept is of the previous forward pass."""

    def __init__(self, store: _Store | None) -> None:
        self.store = store

    def __call__(self, module: nn.Module, args: Any) -> None:
        if self.store is None or not self.store.active or torch.compiler.is_exporting():
            return
        if not torch.compiler.is_compiling():
            if _is_recomputation():
                return
            _refuse_replica(module)
        self.store.begun = True
        self.store.records = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Begin, (None,)


class _Record:
    """Forward hook of one layer: keeps its output. A copy (in a copied model) keeps nothing."""

    def __init__(self, store: _Store | None, path: str) -> None:
        self.store = store
        self.path = path

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        store = self.store
        if store is None or not store.active or torch.compiler.is_exporting():
            return
        version: int | None = None
        if torch.compiler.is_compiling():
            # A version counter read in tracing tells nothing at run time, so the values are kept.
            # Inductor drops this clone, except where a later in-place write makes it needed, or
            # where the layer's output also leaves the graph.
            if isinstance(output, Tensor):
                output = output.clone()
        else:
            if _is_recomputation():
                return
            _refuse_replica(module)
            if isinstance(output, Tensor):
                version = _UNCOUNTED if output.is_inference() else output._version
        if not isinstance(output, Tensor):
            output = type(output).__name__
        runs = store.records[self.path][0] if self.path in store.records else 0
        store.records[self.path] = (runs + 1, output, version)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Record, (None, self.path)


def _is_recomputation() -> bool:
    """Whether autograd is running: activation checkpointing calls modules again from there."""
    return torch._C._current_graph_task_id() != -1


def _refuse_replica(module: nn.Module) -> None:
    if getattr(module, "_is_replica", False):
        raise RuntimeError(
            "FeatureHooks: the model must not be replicated by nn.DataParallel over several "
            "devices, since the features of the replicas would overwrite one another; use "
            "DistributedDataParallel, or DataParallel with one device"
        )


def _release(hooks: list[RemovableHandle], store: _Store) -> None:
    for hook in hooks:
        hook.remove()
    store.active = False
    store.records = {}


def _removed_handle(layers: tuple[str, ...], layout: str) -> FeatureHooks:
    handle = object.__new__(FeatureHooks)
    handle._layers, handle._layout = layers, layout
    handle._store = _Store()
    handle._finalizer = weakref.finalize(handle, _release, [], handle._store)
    handle.remove()
    return handle
