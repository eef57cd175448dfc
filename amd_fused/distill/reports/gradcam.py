"""Grad-CAM (Selvaraju et al., 2017) of a teacher and its students on the same test images (5.5).

Low, middle and high levels are the first, middle and last of a network's feature maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amd_fused.distill import models
from amd_fused.distill.errors import UsageError
from amd_fused.distill.reports.groups import TEACHER_KEY, Group, Setup
from amd_fused.distill.reports.runs import Run

if TYPE_CHECKING:
    from amd_fused.distill.data import DataSet

LEVELS = ("low", "middle", "high")


@dataclass(frozen=True)
class NetworkCams:
    """One network's maps: by level, `layers` by name, `maps` `[n, h, w]` as Grad-CAM gives them."""

    label: str
    folder: str
    network: str
    layers: list[str]
    maps: list[Tensor]
    predicted: list[int]


@dataclass(frozen=True)
class GradCam:
    """Of one setup: `images` `[n, C, H, W]` in [0, 1]; `notes` say what is missing."""

    indices: list[int]
    labels: list[int]
    class_names: list[str]
    images: Tensor
    networks: list[NetworkCams]
    notes: list[str]


@dataclass(frozen=True)
class _Shown:
    """A network of a picture: where it comes from, as config.json says it of a teacher, and its
    maps, where its own are not meant."""

    label: str
    identity: dict[str, Any]
    maps: tuple[str, ...] = ()


def grad_cam(
    model: nn.Module, layer: str, images: Tensor, labels: Tensor, *, channels_last: bool = False
) -> Tensor:
    """Grad-CAM `[B, h, w]` of a layer, given by module path, at the layer's own resolution.

    Equivalent to `relu((dy.mean((2, 3), keepdim=True) * a).sum(1))`, where `a` is the layer's
    output and `dy` the gradient of the label's logit by it, both `[B, C, h, w]`. The model must be
    in eval mode; its parameters' gradients are left as they are.

    Args:
        channels_last: the layer's output is `[B, h, w, C]`.

    Raises:
        UsageError: the layer's output is no feature map.
    """
    outputs: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
        outputs.append(output)
        # What follows may write into its input.
        return output.clone() if isinstance(output, Tensor) else output

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = model(images.detach().requires_grad_())
            score = logits.gather(1, labels[:, None]).sum()
    finally:
        handle.remove()
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].ndim != 4:
        raise UsageError(
            f"Grad-CAM needs feature maps [B, C, H, W] or [B, H, W, C] from layer {layer}"
        )
    a = outputs[0]
    (d_a,) = torch.autograd.grad(score, a)
    channels, positions = (3, (1, 2)) if channels_last else (1, (2, 3))
    weighted = d_a.mean(positions, keepdim=True) * a.detach()
    return weighted.sum(channels).relu()


def heat(cams: Tensor, size: int) -> Tensor:
    """Maps `[B, h, w]` over the image: `[B, size, size]`, each scaled to a maximum of 1.

    A map that is zero everywhere stays so.
    """
    shown = functional.interpolate(cams.unsqueeze(1), (size, size), mode="bilinear").squeeze(1)
    highest = shown.amax((1, 2), keepdim=True)
    return torch.where(highest > 0, shown / highest.clamp_min(torch.finfo(shown.dtype).tiny), 0.0)


def levels(maps: Sequence[str]) -> list[str]:
    """First, middle and last, each once."""
    return list(dict.fromkeys((maps[0], maps[len(maps) // 2], maps[-1])))


def setup_grad_cams(setup: Setup, loaded: dict[tuple[Any, ...], DataSet]) -> GradCam | str:
    """Grad-CAM of a setup's networks, of each group the run with the lowest seed.

    `loaded` keeps data sets for the next call. Where there is nothing to show, the reason.
    """
    try:
        return _grad_cams(setup, loaded)
    except ModuleNotFoundError as error:
        return f"the package {error.name!r} is missing; pip install 'amd_fused[distill]' brings it"
    except (UsageError, OSError) as error:
        # A report is written after hours of training: what cannot be drawn does not stop it.
        return str(error)


def _grad_cams(setup: Setup, loaded: dict[tuple[Any, ...], DataSet]) -> GradCam | str:
    chosen = [(group, group.runs[0]) for group in setup.groups if group.runs]
    if not chosen:
        return f"no run of {setup.name} has weights"
    # The last is a student, where there is one.
    run = chosen[-1][1]
    data = _data(run, loaded)
    indices = spread(data.test.labels, run.settings.report_images)
    pixels = data.test.batch(indices, None)
    labels = data.test.labels[indices]
    networks, notes = [], []
    for shown in _networks(chosen):
        try:
            networks.append(_network(shown, data, pixels, labels))
        except (UsageError, OSError, RuntimeError) as error:
            notes.append(f"{shown.label}: {error}")
    if not networks:
        return "; ".join(notes)
    return GradCam(
        indices=indices,
        labels=labels.tolist(),
        class_names=[data.class_names[label] for label in labels],
        images=_visible(pixels, data),
        networks=networks,
        notes=notes,
    )


def spread(labels: Tensor, count: int) -> list[int]:
    """Indices of `count` images: the first of each class in turn, then the second, and so on."""
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        by_class.setdefault(label, []).append(index)
    depth = max(map(len, by_class.values()))
    in_turn = [
        by_class[label][nth]
        for nth in range(depth)
        for label in sorted(by_class)
        if nth < len(by_class[label])
    ]
    return in_turn[:count]


def _networks(chosen: Sequence[tuple[Group, Run]]) -> list[_Shown]:
    """Of every group's run, the teacher first, also if it is no group."""
    networks = [_Shown(group.name, {"run": run.path, "epoch": None}) for group, run in chosen]
    if not any(group.key == TEACHER_KEY for group, _ in chosen):
        for _, run in chosen:
            if run.teacher is not None:
                return [_Shown("Teacher", run.teacher, run.settings.teacher_layers), *networks]
    return networks


def _network(shown: _Shown, data: DataSet, pixels: Tensor, labels: Tensor) -> NetworkCams:
    from amd_fused.distill.engine import source_of

    source = source_of(shown.identity)
    saved = source.load(data)
    model = saved.network
    layers = models.with_layouts(model, saved.layers(shown.maps), data.channels, data.image_size)
    if models.intermediates.indices_of(layers.maps):
        raise UsageError(
            f"{saved.name} gives its maps beside the way to its logits: no gradient comes to them"
        )
    chosen = levels(layers.maps)
    with torch.no_grad():
        predicted = model(pixels).argmax(1).tolist()
    maps = [
        grad_cam(model, layer, pixels, labels, channels_last=layer in layers.channels_last)
        for layer in chosen
    ]
    return NetworkCams(shown.label, str(source), saved.name, chosen, maps, predicted)


def _data(run: Run, loaded: dict[tuple[Any, ...], DataSet]) -> DataSet:
    from amd_fused.distill import data

    settings = run.settings
    key = (settings.data, settings.data_dir, settings.train_size, settings.augment)
    if key not in loaded:
        loaded[key] = data.load(settings)
    return loaded[key]


def _visible(pixels: Tensor, data: DataSet) -> Tensor:
    shape = (1, -1, 1, 1)
    std, mean = (torch.tensor(values).reshape(shape) for values in (data.std, data.mean))
    return (pixels * std + mean).clamp(0, 1)
