"""What the hooks of one FeatureHooks handle keep of the last forward pass, and the hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from amd_fused.hooks import passes
from amd_fused.hooks.capture import Capture
from amd_fused.losses._common import outputs

# In place of a version: inference tensors do not count the writes into them.
_UNCOUNTED = -1


class Store:
    """What the hooks of one handle have seen in the last forward pass.

    ``records`` is replaced, never emptied: a traced assignment needs no guard on the old contents.
    """

    def __init__(self) -> None:
        self.active = True
        self.begun = False
        # path -> (times run, what is kept of the output or, of no tensor, what it is; its version).
        # Version None: traced by torch.compile.
        self.records: dict[str, tuple[int, Tensor | str, int | None]] = {}
        # The same of the last pass without values, which leaves the others alone.
        self.shapes: dict[str, tuple[int, Tensor | str, int | None]] = {}

    def drop(self) -> None:
        self.records = {}
        self.shapes = {}

    def check_active(self) -> None:
        if not self.active:
            raise RuntimeError(
                "FeatureHooks: these hooks were removed, or are a copy of others; "
                "create FeatureHooks(model, layers) anew"
            )

    def read(self, path: str) -> Tensor:
        self.check_active()
        records = self.records
        if self.shapes and (passes.fakes() or not records):
            records = self.shapes
        if path not in records:
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
        runs, output, version = records[path]
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
                f"FeatureHooks: the output of {path!r} must be a tensor, got {output}; pick one "
                f"by its index, key or field, as in '{path}[0]', or hook a module inside it that "
                "returns a tensor"
            )
        if passes.is_of_ended_transform(output):
            raise RuntimeError(
                f"FeatureHooks: the output of {path!r} was made inside a transform of torch.func "
                "(grad, vmap, ...) that is over; read it inside, and return what is needed of it"
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


class _Hook:
    @property
    def __name__(self) -> str:
        # torch.jit.script asks every hook for it, and compiles none that is not a function.
        raise AttributeError(
            "FeatureHooks: a hooked model cannot be scripted; call hooks.remove() before "
            "torch.jit.script(model)"
        )


class Begin(_Hook):
    """Forward pre-hook of the model: whatever was kept is of the previous forward pass."""

    def __init__(self, store: Store | None) -> None:
        self.store = store

    def __call__(self, module: nn.Module, args: Any) -> None:
        if self.store is None or not self.store.active or passes.is_trace():
            return
        if not torch.compiler.is_compiling():
            if _is_recomputation():
                return
            _refuse_replica(module)
        self.store.begun = True
        self.store.shapes = {}
        if not passes.has_no_values(module, args):
            self.store.records = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Begin, (None,)


class Record(_Hook):
    """Forward hook of one layer: keeps its output, or what is captured of it. A copy (in a copied
    model) keeps nothing."""

    def __init__(
        self, store: Store | None, path: str, entry: outputs.Entry, capture: Capture | None
    ) -> None:
        self.store = store
        self.path = path
        self.entry = entry
        self.capture = capture

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        store = self.store
        if store is None or not store.active or passes.is_trace():
            return
        output = outputs.pick(output, self.entry)
        version: int | None = None
        if torch.compiler.is_compiling():
            # A version counter read in tracing tells nothing at run time, so the values are kept.
            # Inductor drops this clone, except where a later in-place write makes it needed, or
            # where the layer's output also leaves the graph.
            if isinstance(output, Tensor):
                output = output.clone()
                if self.capture is not None:
                    output = self.capture(output)
        else:
            if _is_recomputation():
                if self.capture is not None and isinstance(output, Tensor):
                    # Checkpointing wants saved for the backward pass what was saved before.
                    self.capture.again(output)
                return
            _refuse_replica(module)
            if isinstance(output, Tensor):
                if self.capture is not None:
                    output = self.capture(output)
                version = _UNCOUNTED if output.is_inference() else output._version
        without_values = passes.has_no_values(module, (*args, output))
        records = store.shapes if without_values else store.records
        runs = records[self.path][0] if self.path in records else 0
        records[self.path] = (runs + 1, output, version)

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, (None, self.path, self.entry, None)


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


def release(hooks: list[RemovableHandle], store: Store) -> None:
    for hook in hooks:
        hook.remove()
    store.active = False
    store.drop()
