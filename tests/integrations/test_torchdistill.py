"""Importing the module registers every loss, and a configuration file names it in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import stand_ins
import torch
import yaml

import amd_fused

EXAMPLE = Path(__file__).parents[2] / "examples" / "torchdistill_cifar10.yaml"
NAME = "amd_fused.integrations.torchdistill"
LAYERS = ["layer1", "layer2"]


def maps(seed: int, channels: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, channels, size, size, generator=generator) for size in (8, 4, 4)]


MAPS_S, MAPS_T = maps(0, 3), maps(1, 5)
LOGITS_S, LOGITS_T = torch.randn(4, 7), torch.randn(4, 7)
TARGETS = torch.tensor([0, 1, 2, 6])
NAMES = ["layer1", "layer2", "layer3"]


def collected(features: list[torch.Tensor], logits: torch.Tensor) -> dict:
    found = {name: {"output": a} for name, a in zip(NAMES, features, strict=True)}
    embedding = features[2].mean((2, 3))[:, :3]
    return {**found, ".": {"output": logits}, "fc": {"input": embedding, "output": logits}}


IO_S, IO_T = collected(MAPS_S, LOGITS_S), collected(MAPS_T, LOGITS_T)
E_S, E_T = IO_S["fc"]["input"], IO_T["fc"]["input"]
EMBEDDING = {"path": "fc", "io": "input"}
MEANS = torch.randn(7, 3)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> stand_ins.TorchdistillRegistry:
    registry = stand_ins.TorchdistillRegistry()
    parents = [stand_ins.module(name) for name in ("torchdistill", "torchdistill.losses")]
    stand_in = stand_ins.module(
        "torchdistill.losses.registry", register_mid_level_loss=registry.register_mid_level_loss
    )
    stand_ins.imported(NAME, monkeypatch, *parents, stand_in)
    return registry


@pytest.mark.parametrize(
    ("key", "kwargs", "expected"),
    [
        (
            "AMDLoss",
            {"student": LAYERS, "margin": 1.2},
            lambda: amd_fused.amd_loss(MAPS_S[:2], MAPS_T[:2], margin=1.2),
        ),
        (
            "AMDLoss",
            {"student": "layer1", "teacher": "layer2", "align": "adaptive_avg"},
            lambda: amd_fused.amd_loss(MAPS_S[0], MAPS_T[1], align="adaptive_avg"),
        ),
        ("ATLoss", {"student": LAYERS}, lambda: amd_fused.at_loss(MAPS_S[:2], MAPS_T[:2])),
        ("SPLoss", {"student": ["layer3"]}, lambda: amd_fused.sp_loss(MAPS_S[2:], MAPS_T[2:])),
        ("RKDLoss", {"student": EMBEDDING}, lambda: amd_fused.rkd_loss(E_S, E_T)),
        ("KDLoss", {}, lambda: amd_fused.kd_loss(LOGITS_S, LOGITS_T)),
        (
            "KDLoss",
            {"student": "fc", "temperature": 2.0},
            lambda: amd_fused.kd_loss(LOGITS_S, LOGITS_T, 2.0),
        ),
        ("SphericalKDLoss", {}, lambda: amd_fused.spherical_kd_loss(LOGITS_S, LOGITS_T)),
        (
            "NDLoss",
            {"student": EMBEDDING, "class_means": MEANS},
            lambda: amd_fused.nd_loss(E_S, E_T, TARGETS, MEANS),
        ),
    ],
)
def test_every_loss_is_called_on_what_the_hooks_collected(registry, key, kwargs, expected):
    loss = registry.get_mid_level_loss({"key": f"amd_fused.{key}", "kwargs": kwargs})
    torch.testing.assert_close(loss(IO_S, IO_T, TARGETS), expected())


def test_all_modules_of_the_package_are_registered_and_torchdistill_s_own_names_left(registry):
    modules = {name for name in amd_fused.__all__ if name.endswith("Loss")}
    trained = {"AFDLoss", "AFDSLoss", "CCLoss", "CRDLoss", "VIDLoss"}
    modules -= {"DistillationLoss", *trained}
    assert set(registry.losses) == {f"amd_fused.{name}" for name in modules}


def test_layers_that_nobody_would_train_are_refused(registry):
    kwargs = {"student": EMBEDDING, "in_features": 3, "num_hashes": 16, "student_features": 2}
    config = {"key": "amd_fused.LSHLoss", "kwargs": kwargs}
    with pytest.raises(ValueError, match=r"LSHLoss: it must have no layers .* got adapter\.weight"):
        registry.get_mid_level_loss(config)


def test_lsh_is_a_module_with_its_own_hashes(registry):
    kwargs = {"student": EMBEDDING, "in_features": 3, "num_hashes": 16, "bias": "zero"}
    loss = registry.get_mid_level_loss({"key": "amd_fused.LSHLoss", "kwargs": kwargs})
    torch.testing.assert_close(loss(IO_S, IO_T, TARGETS), loss.loss(E_S, E_T))


def test_class_means_may_be_a_file(registry, tmp_path):
    torch.save(MEANS, tmp_path / "means.pt")
    kwargs = {"student": EMBEDDING, "class_means": str(tmp_path / "means.pt")}
    loss = registry.get_mid_level_loss({"key": "amd_fused.NDLoss", "kwargs": kwargs})
    torch.testing.assert_close(
        loss(IO_S, IO_T, TARGETS), amd_fused.nd_loss(E_S, E_T, TARGETS, MEANS)
    )


class Loader(yaml.SafeLoader):
    """torchdistill's tags (!import_call and others) as the plain values behind them."""


Loader.add_multi_constructor("!", lambda loader, _, node: loader.construct_mapping(node, deep=True))


def test_the_example_s_criteria_are_the_paper_s_objective(registry):
    config = yaml.load(EXAMPLE.read_text(), Loader)
    assert config["dependencies"] == [{"name": NAME}]
    train = config["train"]
    hooked = [train[side]["forward_hook"]["output"] for side in ("student", "teacher")]
    assert hooked == [NAMES, NAMES]
    terms = train["criterion"]["kwargs"]["sub_terms"]
    total = terms["ce"]["weight"] * torch.nn.functional.cross_entropy(LOGITS_S, TARGETS)
    for name in ("kd", "amd"):
        loss = registry.get_mid_level_loss(terms[name]["criterion"])
        total = total + terms[name]["weight"] * loss(IO_S, IO_T, TARGETS)
    criterion = amd_fused.DistillationLoss()
    torch.testing.assert_close(total, criterion(LOGITS_S, LOGITS_T, TARGETS, MAPS_S, MAPS_T))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"student": []}, ValueError, "student must name at least one module, got an empty list"),
        ({"student": 3}, TypeError, "student must be a module path or .*, got 3"),
        ({"student": "a", "teacher": {"io": "input"}}, TypeError, "teacher must be a module path"),
        ({"student": {"path": "a", "io": "in"}}, ValueError, "io of student must be 'input' or"),
        ({"student": "a", "aling": "error"}, TypeError, "aling"),
    ],
)
def test_bad_configurations_are_named(registry, kwargs, error, message):
    with pytest.raises(error, match=message):
        registry.get_mid_level_loss({"key": "amd_fused.AMDLoss", "kwargs": kwargs})


def test_a_module_that_was_not_collected_is_named(registry):
    config = {"key": "amd_fused.AMDLoss", "kwargs": {"student": "layer1", "teacher": "layer9"}}
    loss = registry.get_mid_level_loss(config)
    message = "the output of 'layer9' must be collected from the teacher, got layer1 .*name it in"
    with pytest.raises(ValueError, match=message):
        loss(IO_S, IO_T, TARGETS)
