"""Any network of timm has layers: by its `feature_info`, by hooks or by `forward_intermediates`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.tiny_runs import assert_same_run

pytest.importorskip("accelerate")

from amd_fused import attention_map
from amd_fused.distill import ImageData, engine, models, train
from amd_fused.distill.engine.objective import FeatureExtractor
from amd_fused.distill.errors import UsageError
from amd_fused.distill.models.features import with_layouts
from amd_fused.distill.run_dir import RunDir

# Behind the trainer, which makes the torchvision that it imports importable.
timm = pytest.importorskip("timm")

# What stands for each network, and the number of the entries of `feature_info`.
HOOKED = {
    "test_convnext": (("stages.0", "stages.1", "stages.2", "stages.3"), (0, 1, 2, 3)),
    "test_efficientnet": (("blocks.1", "blocks.2", "blocks.3", "blocks.4"), (1, 2, 3, 4)),
    "test_byobnet": (("stages.0", "stages.1", "stages.2", "final_conv"), (1, 2, 3, 4)),
    "test_mambaout": (("stages.0", "stages.1", "stages.2", "stages.3"), (0, 1, 2, 3)),
    "regnetx_002": (("s1", "s2", "s3", "s4"), (1, 2, 3, 4)),
    "mobilenetv3_small_050": (("blocks.0", "blocks.1", "blocks.3", "blocks.5"), (1, 2, 3, 4)),
}
# Tokens; a last stage of tokens; no such modules; one module for two maps.
GIVEN = {
    "test_vit": (1, 2, 4, 5),
    "efficientformer_l1": (0, 1, 2, 3),
    "twins_pcpvt_small": (0, 1, 2, 3),
    "crossvit_tiny_240": (1, 3),
}
# Of the large ones a small one of the same form, and its image size.
SMALL: dict[str, tuple[int, dict[str, Any]]] = {
    "efficientformer_l1": (224, {"depths": (1, 1, 1, 2), "embed_dims": (8, 16, 32, 64)}),
    "twins_pcpvt_small": (
        224,
        {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)},
    ),
    "crossvit_tiny_240": (
        240,
        {"embed_dim": (16, 32), "depth": ((1, 1, 0), (1, 1, 0)), "num_heads": (2, 2)},
    ),
}


def network(name: str) -> tuple[nn.Module, int]:
    if name in SMALL:
        size, form = SMALL[name]
        return timm.create_model(name, num_classes=5, **form).eval(), size
    size = 160
    model = models.build(f"timm/{name}", num_classes=5, channels=3, image_size=size, seed=0)
    return model.eval(), size


def found(name: str, model: nn.Module, size: int) -> models.Layers:
    return with_layouts(model, models.layers(f"timm/{name}", model), 3, size)


def classified(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and what the classifier was given."""
    inputs: list[Tensor] = []
    hook = model.get_classifier().register_forward_pre_hook(lambda _, given: inputs.append(*given))
    try:
        return model(images), inputs[0]
    finally:
        hook.remove()


@pytest.mark.parametrize("name", [*HOOKED, *GIVEN])
def test_maps_and_embedding_are_those_that_timm_gives(name: str) -> None:
    model, size = network(name)
    layers = found(name, model, size)
    indices = HOOKED[name][1] if name in HOOKED else GIVEN[name]
    if name in HOOKED:
        assert layers.maps == HOOKED[name][0]
    else:
        assert layers.maps == tuple(f"forward_intermediates[{index}]" for index in indices)
    images = torch.randn(2, 3, size, size)
    # Two classifiers have each their own.
    embedding = name not in ("efficientformer_l1", "crossvit_tiny_240")
    extractor = FeatureExtractor(model, layers, maps=layers.maps, embedding=embedding)
    with torch.no_grad():
        for _ in range(2):
            output = extractor(images)
        extractor.remove()
        logits, embedded = classified(model, images) if embedding else (model(images), None)
        maps = model.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    assert torch.equal(output.logits, logits)
    assert len(output.features.maps) == len(indices)
    for index, given in zip(indices, output.features.maps, strict=True):
        torch.testing.assert_close(given, maps[index])
    if embedded is not None:
        assert torch.equal(output.features.embedding.flatten(1), embedded.flatten(1))


def test_tokens_become_maps_without_the_class_token() -> None:
    model, size = network("test_vit")
    tokens: list[Tensor] = []
    model.blocks[2].register_forward_hook(lambda _, given, output: tokens.append(output))
    layers = models.layers("timm/test_vit", model, ("forward_intermediates[2]",))
    images = torch.randn(2, 3, size, size)
    output = FeatureExtractor(model, layers, maps=layers.maps, attention=layers.maps)(images)
    side = size // 16
    expected = tokens[0][:, 1:].transpose(1, 2).reshape(2, -1, side, side)
    assert torch.equal(output.features.maps[0], expected)
    torch.testing.assert_close(output.features.attention[0], attention_map(expected))
    output.features.maps[0].sum().backward()
    assert model.blocks[2].mlp.fc1.weight.grad.abs().sum() > 0
    assert model.blocks[3].mlp.fc1.weight.grad is None


def images() -> ImageData:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 3, 160, 160), dtype=torch.uint8, generator=draw)
    labels = torch.arange(16) % 2
    return ImageData((pixels[:8], labels[:8]), (pixels[8:], labels[8:]), num_classes=2)


def test_a_vit_teaches_and_learns_by_its_maps(tmp_path: Path) -> None:
    pair = {
        "vit": ("timm/test_vit", "forward_intermediates[3]"),
        "resnet": ("timm/test_resnet", "layer3"),
    }
    options: dict[str, Any] = {
        "data": images(),
        "batch_size": 4,
        "lr": 0.01,
        "method": "amd-g+at+vid+sp",
        "log_with": ("none",),
    }

    def run(path: Path, teacher: str, student: str, cache: str, epochs: int = 2) -> RunDir:
        module = models.build(pair[teacher][0], num_classes=2, channels=3, image_size=160, seed=1)
        train(
            pair[student][0],
            teacher=module,
            output_dir=path,
            epochs=epochs,
            teacher_layers=(pair[teacher][1],),
            student_layers=(pair[student][1],),
            teacher_cache=cache,
            **options,
        )
        return RunDir(path)

    live = run(tmp_path / "live", "vit", "resnet", "off")
    kept = run(tmp_path / "kept", "vit", "resnet", "memory")
    assert kept.config()["teacher_cache"]["kept"] == "memory"
    assert_same_run(live.path, kept.path)
    learner = run(tmp_path / "learner", "resnet", "vit", "off", epochs=1)
    assert learner.epochs()[0]["parts"].keys() == {"ce", "kd", "amd", "at", "vid", "sp"}
    assert learner.result()["amd_distance"] > 0
    # Its own layers, where none are named.
    saved = engine.load_saved_network(learner, None, None)
    assert saved.layers().maps == ("forward_intermediates[3]",)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (
            ("forward_intermediates[1]", "blocks.2"),
            "must be all of forward_intermediates and in its",
        ),
        (("forward_intermediates[2]", "forward_intermediates[1]"), r"in its order, .* got \['for"),
        (("forward_intermediates[6]",), r"\[6\] must be one of the 6 maps that VisionTransformer"),
        (
            ("blocks.2",),
            r"= \[B, 101, 64\] of .* in VisionTransformer; forward_intermediates\[0\] ",
        ),
    ],
)
def test_layers_that_cannot_be_are_refused_in_one_line(maps: tuple[str, ...], message: str) -> None:
    model, size = network("test_vit")
    with pytest.raises(UsageError, match=message) as caught:
        with_layouts(model, models.layers("timm/test_vit", model, maps), 3, size)
    assert "\n" not in str(caught.value)


def test_a_network_whose_maps_lead_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, size = network("test_vit")
    head = type(model).forward_head
    monkeypatch.setattr(model, "forward_head", lambda end: head(model, 2 * end))
    message = "forward_intermediates must lead to the network's logits"
    # Its forward takes the class's own.
    monkeypatch.setattr(
        model, "forward", lambda x: head(model, model.forward_features(x)), raising=False
    )
    with pytest.raises(UsageError, match=message):
        found("test_vit", model, size)
