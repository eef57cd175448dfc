"""One step's loss: the student, what it learns from, and the frozen teacher beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from amd_fused import (
    DistillationLoss,
    FeatureHooks,
    TeacherCache,
    TeacherOutputs,
    amd_loss,
    attention_map,
)
from amd_fused.distill.config import Settings
from amd_fused.distill.methods import Features, Method
from amd_fused.distill.models import Layers, intermediates


@dataclass(frozen=True)
class Output:
    """Of one network for one batch: logits `[B, K]`, and the features that were asked for."""

    logits: Tensor
    features: Features


class FeatureExtractor:
    """A network and what is asked for of its layers; features are not copied.

    Args:
        maps: those of the layers' maps that are given as they are.
        attention: those of which the attention map is given, computed by `backend`.
        embedding: whether the embedding is given.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Layers,
        *,
        maps: Sequence[str] = (),
        attention: Sequence[str] = (),
        embedding: bool = False,
        backend: str = "auto",
    ) -> None:
        self.network = network
        self._maps, self._attended, self._backend = maps, attention, backend
        self._channels_last = layers.channels_last
        self._embedding = layers.embedding if embedding else ""
        # Where no module gives the maps, timm's forward pass gives them beside the logits.
        wanted = dict.fromkeys([*maps, *attention])
        self._intermediates = intermediates.indices_of(sorted(wanted, key=layers.maps.index))
        hooked = [*(() if self._intermediates else maps)]
        hooked += [self._embedding] if embedding else []
        self._hooks = FeatureHooks(network, hooked) if hooked else None
        self._attention = None
        if attention and not self._intermediates:
            last = layers.channels_last
            capture = {
                path: partial(_attention_map, channels_last=path in last, backend=backend)
                for path in attention
            }
            self._attention = FeatureHooks(network, attention, capture=capture)

    def __call__(self, images: Tensor) -> Output:
        if self._intermediates:
            return self._from_intermediates(images)
        logits = self.network(images)
        attention = [] if self._attention is None else self._attention.features
        hooks = self._hooks
        if hooks is None:
            return Output(logits, Features([], None, attention))
        maps = [_nchw(hooks[path], path in self._channels_last) for path in self._maps]
        return Output(logits, Features(maps, self._hooked_embedding(), attention))

    def _from_intermediates(self, images: Tensor) -> Output:
        if self._hooks is not None:
            # For a pass that does not begin with the network's own call.
            self._hooks.clear()
        indices = self._intermediates
        logits, outputs = intermediates.forward(self.network, images, indices)
        found = dict(zip(map(intermediates.path_of, indices), outputs, strict=True))
        maps = [found[path] for path in self._maps]
        attention = [attention_map(found[path], backend=self._backend) for path in self._attended]
        return Output(logits, Features(maps, self._hooked_embedding(), attention))

    def _hooked_embedding(self) -> Tensor | None:
        return self._hooks[self._embedding] if self._hooks is not None and self._embedding else None

    def remove(self) -> None:
        """Takes the hooks off the network."""
        for hooks in (self._hooks, self._attention):
            if hooks is not None:
                hooks.remove()


def _attention_map(output: Tensor, *, channels_last: bool, backend: str) -> Tensor:
    return attention_map(_nchw(output, channels_last), backend=backend)


def _nchw(output: Tensor, channels_last: bool) -> Tensor:
    """`[B, C, H, W]`, in memory as the layer gave it."""
    return output.permute(0, 3, 1, 2) if channels_last else output


class FrozenTeacher:
    """A teacher in evaluation mode, without gradients; not wrapped, so that nothing trains it.

    Of its features it gives what the method's losses take: attention maps, all maps or the
    last, the embedding. With a `cache` it runs for batches that have an image which is not there
    yet.
    """

    def __init__(self, network: nn.Module, layers: Layers, method: Method, backend: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.maps = layers.maps if method.all_maps else layers.maps[-1:] if method.last_map else ()
        self.attention = layers.maps if method.attention else ()
        self.embedding_layer = layers.embedding if method.embedding else ""
        self._extractor = FeatureExtractor(
            network,
            layers,
            maps=self.maps,
            attention=self.attention,
            embedding=method.embedding,
            backend=backend,
        )
        self.cache: TeacherCache | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor, indices: Tensor | None = None) -> Output:
        """Args:
        indices: of the training images `[B]` that these are, unchanged; None: whatever they are.
        """
        if self.cache is None or indices is None:
            return self._extractor(images)
        found = self.cache.get(indices, device=images.device)
        if found is None:
            found = self.cache.put(indices, to_keep(self._extractor(images)))
        assert found.logits is not None
        return Output(found.logits, Features(found.features, found.embedding, found.maps))

    def flush(self) -> None:
        """What a cache in files was given, to the disk."""
        if self.cache is not None:
            self.cache.flush()

    def close(self) -> None:
        """Takes the hooks off the network and lets go of the cache."""
        self._extractor.remove()
        if self.cache is not None:
            self.cache.close()

    def embedding(self, images: Tensor) -> Tensor:
        """`[B, D]`, for class means."""
        embedding = self(images).features.embedding
        assert embedding is not None
        return embedding.flatten(1)


def to_keep(output: Output) -> TeacherOutputs:
    """A teacher's output as a cache takes it."""
    features = output.features
    return TeacherOutputs(output.logits, features.attention, features.maps, features.embedding)


class Objective(nn.Module):
    """The student with its criterion, so that all that is trained is in one module for DDP.

    Called with images `[B, C, H, W]`, labels `[B]` or class probabilities `[B, K]`, the teacher's
    output for these images, None for training from scratch, and their indices `[B]` among the
    training images, on the same device. Returns the loss, and detached values
    `[1 + len(names) + 1]`: the loss, its parts, and 0, or NaN where a logit of the student is NaN
    or infinite.
    """

    def __init__(
        self, student: nn.Module, layers: Layers, criterion: DistillationLoss, method: Method
    ) -> None:
        super().__init__()
        self.student = student
        self.criterion = criterion
        self._method = method
        maps = layers.maps if method.maps else ()
        self._extractor = FeatureExtractor(student, layers, maps=maps, embedding=method.embedding)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the loss's parts, in the order of the values."""
        return self._method.parts

    def forward(
        self, images: Tensor, target: Tensor, teacher: Output | None, indices: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        own = self._extractor(images)
        features: tuple[object, ...] = ()
        if teacher is not None and self._method.losses:
            features = self._method.feature_inputs(own.features, teacher.features)
        logits = None if teacher is None else teacher.logits
        loss = self.criterion(own.logits, logits, target, *features, indices=indices)
        parts = self.criterion.parts
        # derived: 0 times NaN or infinity is NaN
        broken = (own.logits.detach() * 0).sum()
        values = [loss.detach(), *(parts[name] for name in self.names), broken]
        return loss, torch.stack([value.float() for value in values])

    def remove_hooks(self) -> None:
        self._extractor.remove()


def amd_distance(
    student: FeatureExtractor,
    teacher: FeatureExtractor,
    batches: Iterable[tuple[Tensor, Tensor]],
    settings: Settings,
    accelerator: Accelerator,
    backend: str,
) -> float:
    """L_A between student and teacher over the batches of all processes: the x axis of Fig. 6.

    The AMD loss on whole maps, by the settings' margin and scale, averaged over the images.
    """
    sums = torch.zeros(2, device=accelerator.device)
    sums = sums if sums.device.type == "mps" else sums.double()
    with torch.no_grad():
        for images, _ in batches:
            images = images.to(accelerator.device, non_blocking=True)
            with accelerator.autocast():
                maps_s, maps_t = (side(images).features.maps for side in (student, teacher))
                losses = amd_loss(
                    maps_s,
                    maps_t,
                    margin=settings.margin,
                    scale=settings.scale,
                    local_weight=0.0,
                    reduction="none",
                    backend=backend,
                )
            sums += torch.stack([losses.sum(), losses.new_tensor(len(images))])
    total, count = accelerator.reduce(sums, "sum").tolist()
    return total / count
