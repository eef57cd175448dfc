"""Where a network's feature maps and its embedding are, and whether two networks' go together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from amd_fused import FeatureHooks
from amd_fused.distill.errors import UsageError
from amd_fused.distill.models import intermediates, library, mobilenet, resnet, wrn
from amd_fused.distill.models.evaluating import evaluating, example
from amd_fused.distill.models.layouts import has_channels_last

_LAYER_OPTIONS = "--teacher-layers and --student-layers"
_EMBEDDING_OPTIONS = "--teacher-embedding and --student-embedding"


@dataclass(frozen=True)
class Layers:
    """Module paths, as `FeatureHooks` takes them.

    Args:
        maps: of the feature maps, from the first to the last; or, all of them, as
            :mod:`~amd_fused.distill.models.intermediates` has them.
        embedding: of the layer whose output, flattened from dim 1, is the embedding `[B, D]`;
            empty where it is not known.
        channels_last: those of `maps` that are `[B, H, W, C]`; :func:`with_layouts` finds them.
            All others are `[B, C, H, W]`.
    """

    maps: tuple[str, ...]
    embedding: str
    channels_last: frozenset[str] = frozenset()


def layers(name: str, model: nn.Module, maps: tuple[str, ...] = (), embedding: str = "") -> Layers:
    """The layers of a network that `build(name, ...)` made.

    Args:
        maps, embedding: instead of the network's own.

    The network's own are the three groups of a WideResNet, a ResNet or a MobileNetV2 for small
    images and the four of a ResNet of torchvision or timm, and what pools the last one; of timm's
    other networks those of `feature_info`, and what comes before the classifier. For any other
    network the maps must be given; its embedding stays unknown unless it is given too.

    Raises:
        UsageError: a path does not exist or stands twice, or paths are missing.
    """
    if not maps or not embedding:
        own_maps, own_embedding = _own(model)
        maps, embedding = maps or own_maps, embedding or own_embedding
    if not maps:
        raise UsageError(
            f"{name}: which of its layers are feature maps must be said by {_LAYER_OPTIONS}; it "
            f"has {_top_levels(model)}"
        )
    if not intermediates.indices_of(maps):
        _check_paths(f"{_LAYER_OPTIONS}, {name}", model, maps)
    if embedding:
        _check_paths(f"{_EMBEDDING_OPTIONS}, {name}", model, (embedding,))
        if embedding in maps:
            raise UsageError(
                f"{_EMBEDDING_OPTIONS}, {name}: {embedding!r} is a feature map already; name the "
                "pooling behind it"
            )
    return Layers(tuple(maps), embedding)


def embedding_width(model: nn.Module, layers: Layers, channels: int, image_size: int) -> int:
    """Width D of the embedding `[B, D]`, by one forward pass; the model is left as it was.

    Raises:
        UsageError: the embedding's layer is not known, or does not run once and give a tensor.
    """
    if not layers.embedding:
        raise UsageError(
            f"{_EMBEDDING_OPTIONS} must name the layer before the classifier of "
            f"{type(model).__name__} for nd, lsh, rkd, cc and crd; it has {_top_levels(model)}"
        )
    (output,) = _outputs(model, (layers.embedding,), channels, image_size)
    return output.flatten(1).shape[1]


def with_layouts(model: nn.Module, layers: Layers, channels: int, image_size: int) -> Layers:
    """The same layers, with those found whose maps are `[B, H, W, C]`, by one forward pass.

    Where a network's own layers are modules that give no maps, as those of a ViT are, they become
    those of timm's `forward_intermediates`.

    Raises:
        UsageError: a layer gives no map, as tokens `[B, N, C]` are none.
    """
    if indices := intermediates.indices_of(layers.maps):
        intermediates.check(model, indices, channels, image_size)
        return layers
    outputs = _outputs(model, layers.maps, channels, image_size)
    own = layers.maps == _own(model)[0] and intermediates.offered_by(model)
    if own and any(output.ndim != 4 for output in outputs):
        maps = tuple(map(intermediates.path_of, intermediates.chosen(model)))
        return with_layouts(model, replace(layers, maps=maps), channels, image_size)
    last = set()
    for path, output in zip(layers.maps, outputs, strict=True):
        if output.ndim != 4:
            tokens = "tokens [B, N, C] = " if output.ndim == 3 else ""
            offered = intermediates.offered_by(model)
            remedy = "; forward_intermediates[0] and so on are its maps" if offered else ""
            raise UsageError(
                f"{_LAYER_OPTIONS} must name layers of maps [B, C, H, W] or [B, H, W, C], got "
                f"{tokens}{_shown(output.shape)} of {path!r} in {type(model).__name__}"
                f"{remedy}"
            )
        if has_channels_last(model, model.get_submodule(path), output.shape):
            last.add(path)
    return replace(layers, channels_last=frozenset(last))


def check_pair(
    teacher_model: nn.Module,
    teacher_layers: Layers,
    student_model: nn.Module,
    student_layers: Layers,
    channels: int,
    image_size: int,
) -> None:
    """Whether the maps of two networks can be compared, by one forward pass of each.

    Raises:
        UsageError: they are not equally many, one is no map as in :func:`with_layouts`, the two of
            a pair differ in H or W, or a map is smaller than 2x2, where every position's attention
            is the same and there are no quadrants.
    """
    if len(teacher_layers.maps) != len(student_layers.maps):
        raise UsageError(
            f"{_LAYER_OPTIONS} must be equally many, got {list(teacher_layers.maps)} and "
            f"{list(student_layers.maps)}; name those that belong together"
        )
    shapes_t = map_shapes(teacher_model, teacher_layers, channels, image_size)
    shapes_s = map_shapes(student_model, student_layers, channels, image_size)
    pairs = zip(teacher_layers.maps, shapes_t, student_layers.maps, shapes_s, strict=True)
    for path_t, shape_t, path_s, shape_s in pairs:
        got = (
            f"got {_shown(shape_t)} of the teacher's {path_t!r} and {_shown(shape_s)} of the "
            f"student's {path_s!r} for images of {image_size}x{image_size}"
        )
        if shape_t[2:] != shape_s[2:]:
            raise UsageError(
                f"maps of teacher and student must be of one size, {got}; name layers of one size "
                f"by {_LAYER_OPTIONS}"
            )
        if min(shape_t[2:]) < 2:
            raise UsageError(
                f"maps must be at least 2x2, {got}; name earlier layers by {_LAYER_OPTIONS}"
            )


def _own(model: nn.Module) -> tuple[tuple[str, ...], str]:
    own = {
        wrn.WideResNet: wrn.MAPS,
        resnet.CifarResNet: resnet.MAPS,
        mobilenet.MobileNetV2: mobilenet.MAPS,
    }
    if type(model) in own:
        return own[type(model)], "pool"
    return library.maps_and_embedding(model)


def _check_paths(owner: str, model: nn.Module, paths: tuple[str, ...]) -> None:
    try:
        FeatureHooks(model, paths).remove()
    except ValueError as error:
        raise UsageError(f"{owner}: {str(error).removeprefix('FeatureHooks: ')}") from None


def map_shapes(
    model: nn.Module, layers: Layers, channels: int, image_size: int
) -> list[tuple[int, ...]]:
    """As `(B, C, H, W)`, whatever the layers' layouts are, by one forward pass.

    Raises:
        UsageError: as :func:`with_layouts`.
    """
    found = with_layouts(model, layers, channels, image_size)
    outputs = _outputs(model, found.maps, channels, image_size)
    last = found.channels_last
    return [
        tuple((a.permute(0, 3, 1, 2) if path in last else a).shape)
        for path, a in zip(found.maps, outputs, strict=True)
    ]


def _outputs(
    model: nn.Module, paths: tuple[str, ...], channels: int, image_size: int
) -> list[Tensor]:
    images = example(model, channels, image_size)
    if indices := intermediates.indices_of(paths):
        with evaluating(model):
            return intermediates.forward(model, images, indices)[1]
    with evaluating(model), FeatureHooks(model, paths) as hooks:
        model(images)
        try:
            return hooks.features
        except (RuntimeError, TypeError) as error:
            raise UsageError(
                f"{_LAYER_OPTIONS} or their embeddings, {type(model).__name__}: {error}"
            ) from None


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(['B', *map(str, shape[1:])])}]"


def _top_levels(model: nn.Module) -> str:
    """Module paths of the first two levels, as many as one line can hold."""
    paths = [path for path, _ in model.named_modules() if path and path.count(".") <= 1]
    shown = ", ".join(paths[:40])
    return shown if len(paths) <= 40 else f"{shown} and {len(paths) - 40} more"
