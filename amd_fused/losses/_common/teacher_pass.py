"""One pass of a frozen teacher over its data, from which class means (ND) and hash biases (LSH) are
computed."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amd_fused.losses._common import embedding_checks, outputs

# Where a dict keeps the labels.
LABELS = ("labels", "label")
# Embeddings that are widened to float64 at once.
_ROWS = 4096


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """A module, or a bound method's, in evaluation mode and without gradients; then as before."""
    module = _module_of(model)
    modes = [(m, m.training) for m in module.modules()] if module else []
    try:
        if module:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for m, mode in modes:
            m.training = mode


def embeddings(
    owner: str, model: Any, batches: Iterable[Any], label_key: str | None = None
) -> Iterator[tuple[Tensor, Any]]:
    """``(model(inputs), labels)`` of each batch; labels are None where a batch has none.

    A batch is ``(inputs, labels, ...)``, ``(inputs,)``, the inputs alone, or a dict as Hugging
    Face's loaders give them, whose labels are "labels" or "label" or under label_key: the model is
    then called with the rest, ``model(**inputs)``. Without a model the inputs are the embeddings.
    """
    device = device_of(_module_of(model))
    for batch in batches:
        inputs, labels = _inputs_and_labels(batch, label_key)
        if isinstance(inputs, dict):
            features = _called_by_name(owner, model, {k: _on(device, a) for k, a in inputs.items()})
        else:
            inputs = _on(device, inputs)
            features = inputs if model is None else model(inputs)
        if isinstance(features, Tensor) and features.ndim > 2 and features.shape[2:].numel() == 1:
            features = features.flatten(1)
        if model is not None and not isinstance(features, Tensor):
            raise TypeError(
                f"{owner}: the model's result must be a tensor [B, D], got "
                f"{type(features).__name__}; pass a function that returns the embedding, as "
                "lambda **inputs: model(**inputs).pooler_output"
            )
        embedding_checks.embedding(
            owner, "a batch's embeddings" if model is None else "the model's result", features
        )
        yield features, labels


def _inputs_and_labels(batch: Any, label_key: str | None) -> tuple[Any, Any]:
    """Of a dict the inputs are a dict; labels are None where a batch has none."""
    if isinstance(batch, Mapping):
        known = LABELS if label_key is None else (label_key,)
        names = [name for name in known if name in batch]
        inputs = {name: a for name, a in batch.items() if name not in names}
        return inputs, batch[names[0]] if names else None
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    return parts[0], parts[1] if len(parts) > 1 else None


def _called_by_name(owner: str, model: Any, inputs: dict[str, Any]) -> Any:
    """``model(**inputs)``; a single input whatever the model calls it."""
    if model is None:
        raise TypeError(
            f"{owner}: a batch must be embeddings or begin with them, got a dict with the keys "
            f"{list(inputs)}; pass the model, or a loader of tensors"
        )
    function = model.forward if isinstance(model, nn.Module) else model
    try:
        inspect.signature(function).bind(**inputs)
    except TypeError as error:
        if len(inputs) == 1:
            return model(*inputs.values())
        raise TypeError(
            f"{owner}: the model must take the entries of a batch by name, got a batch with the "
            f"keys {list(inputs)} and a model that does not ({error}); pass a function that does"
        ) from error
    except ValueError:  # some functions written in C do not say what they take
        pass
    return model(**inputs)


def _on(device: torch.device | None, a: Any) -> Any:
    if device is None or not isinstance(a, Tensor):
        return a
    return a.to(device, non_blocking=True)


def labelled(
    owner: str,
    model_or_features: Any,
    loader: Iterable[Any] | Tensor,
    label_key: str | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Embeddings [B, D] and their labels [B], batch by batch."""
    if isinstance(model_or_features, Tensor):
        embedding_checks.embedding(owner, "model_or_features", model_or_features)
        if isinstance(loader, Tensor):
            labels = loader
        else:
            parts = [_labels_of(owner, batch, label_key) for batch in loader]
            labels = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
        embedding_checks.labels(owner, "labels", labels, len(model_or_features))
        yield from zip(model_or_features.split(_ROWS), labels.split(_ROWS), strict=True)
        return
    if not callable(model_or_features):
        raise TypeError(
            f"{owner}: model_or_features must be a module, a function or a tensor of embeddings, "
            f"got {type(model_or_features).__name__}"
        )
    checked = (_with_labels(owner, batch, label_key) for batch in loader)
    for features, labels in embeddings(owner, model_or_features, checked, label_key):
        embedding_checks.labels(owner, "labels", labels, len(features))
        yield features, labels


def _labels_of(owner: str, batch: Any, label_key: str | None) -> Tensor:
    return _inputs_and_labels(_with_labels(owner, batch, label_key), label_key)[1]


def _with_labels(owner: str, batch: Any, label_key: str | None) -> Any:
    """The batch, which has labels; before the model sees an input too many."""
    _, labels = _inputs_and_labels(batch, label_key)
    if isinstance(labels, Tensor):
        return batch
    if labels is not None:
        raise TypeError(
            f"{owner}: the labels of a batch must be a tensor, got {type(labels).__name__}"
        )
    if isinstance(batch, Mapping):
        named = '"labels" or "label"' if label_key is None else f"label_key={label_key!r}"
        raise TypeError(
            f"{owner}: a batch must have its labels under {named}, got a dict with the keys "
            f"{list(batch)}; name the one of the labels with label_key=..."
        )
    raise TypeError(
        f"{owner}: a batch must be (inputs, labels, ...) or a dict with labels, got "
        f"{outputs.describe(batch)}"
    )


def _module_of(model: Any) -> nn.Module | None:
    bound_to = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    return bound_to if isinstance(bound_to, nn.Module) else None


def device_of(module: nn.Module | None) -> torch.device | None:
    """Of the first parameter or buffer; None where there is none."""
    if module is None:
        return None
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return None if first is None else first.device
