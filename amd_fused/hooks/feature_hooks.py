"""FeatureHooks: the feature maps of chosen layers, of the last forward pass, by module path."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from amd_fused.hooks import module_paths
from amd_fused.hooks.capture import as_nchw, by_layer
from amd_fused.hooks.feature_store import Begin, Record, Store, release
from amd_fused.losses._common import value_checks

LAYOUTS = ("NCHW", "NHWC")
_Function = Callable[[Tensor], Tensor]
Captures = _Function | Sequence[_Function | None] | Mapping[str, _Function | None] | None


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
    ``torch.export``, ``torch.jit.trace``, ``torch.fx`` and ``make_fx`` run does not count as a
    forward pass and leaves the features. So do passes without values, under ``FakeTensorMode`` or
    on the meta device, whose features can be read in that mode. What activation
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
            tensor. Of one that returns a tuple, a dict or a dataclass the path says which:
            ``"lstm[0]"``, ``"encoder[last_hidden_state]"``, ``"blocks.2[1][maps]"``.
        capture: None keeps the outputs themselves. A function of a tensor that returns a tensor
            has its result kept instead, so that under ``torch.no_grad()`` the network frees each
            output as it goes on: ``capture=amd_fused.attention_map`` for a frozen teacher (what is
            kept of ResNet34's four stages at B = 64, 224x224: 1.0 MiB instead of 91.9 MiB). One
            function for all layers, a list with one a layer, or a dict by path; where there is None
            or no key the output is kept. It is called in the forward pass, once a run of the layer.
        layout: how the layers' outputs lie: "NCHW", or "NHWC" for networks that compute with
            [B, H, W, C] (Swin and its like): features are then views [B, C, H, W] of them. The
            losses cannot see the difference and would take H for the channels. ``capture`` is
            given such views.

    Raises:
        TypeError: model is no module, layers is no list of strings, or one is a TorchScript module;
            capture is none of the above; when the model is called: capture returned no tensor;
            when read: an output is no tensor.
        ValueError: layers is empty or has duplicates; a path does not exist (with near matches),
            is ambiguous, or names a container that is never called; capture has another length or
            other keys; when read (or captured): an output is not 4-D with layout "NHWC".
        RuntimeError: when the model is called: capture raised; when read: no forward pass yet, a
            layer that did not run or ran twice, an in-place write, inference mode, a removed
            handle.
        KeyError: ``hooks[path]`` with a path that is not in ``layers``.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[str],
        *,
        capture: Captures = None,
        layout: str = "NCHW",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"FeatureHooks: model must be a module, got {type(model).__name__}")
        value_checks.choice("FeatureHooks", "layout", layout, LAYOUTS)
        for module in module_paths.unwrap(model):
            module_paths.refuse_script("FeatureHooks", "model must be a Python module, got", module)
        self._layout = layout
        self._layers = module_paths.check("FeatureHooks", layers)
        found = module_paths.resolve("FeatureHooks", model, self._layers)
        self._captures = by_layer("FeatureHooks", capture, self._layers, layout)
        self._store = store = Store()
        # The innermost module too: it may be called without its wrappers.
        hooks = [m.register_forward_pre_hook(Begin(store)) for m in module_paths.unwrap(model)]
        hooks += [
            module.register_forward_hook(Record(store, path, entry, self._captures[path]))
            for path, (module, entry) in zip(self._layers, found, strict=True)
        ]
        self._finalizer = weakref.finalize(self, release, hooks, store)

    @property
    def layers(self) -> tuple[str, ...]:
        """The module paths, as they were given."""
        return self._layers

    @property
    def features(self) -> list[Tensor]:
        """The outputs of the last forward pass, or what was captured of them, in the order of
        ``layers``."""
        return [self[path] for path in self._layers]

    def __getitem__(self, path: str) -> Tensor:
        """The output of one layer in the last forward pass, or what was captured of it."""
        if path not in self._layers:
            raise KeyError(f"FeatureHooks: {path!r} is not one of the layers {list(self._layers)}")
        output = self._store.read(path)
        if self._layout == "NCHW" or self._captures[path] is not None:
            return output
        return as_nchw(path, output)

    def __len__(self) -> int:
        return len(self._layers)

    # Without this, Python would try hooks[0], hooks[1], ... and fail with a puzzling KeyError.
    __iter__ = None

    def __repr__(self) -> str:
        state = "" if self._store.active else ", removed"
        return f"FeatureHooks({list(self._layers)}{state})"

    def clear(self) -> None:
        """Drop the features now, not at the next forward pass."""
        self._store.drop()

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
        return _removed_handle, (self._layers,)


def _removed_handle(layers: tuple[str, ...]) -> FeatureHooks:
    handle = object.__new__(FeatureHooks)
    handle._layers = layers
    handle._store = Store()
    handle._finalizer = weakref.finalize(handle, release, [], handle._store)
    handle.remove()
    return handle
