"""FeatureHooks finds layers by path, through wrappers, and says what is wrong with a bad path."""

from __future__ import annotations

import hooked_net
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from amd_fused import FeatureHooks


class DenseBlock(nn.ModuleDict):
    """A container that is called, as DenseNet's blocks are."""

    def forward(self, x):
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x


def test_a_container_with_a_forward_of_its_own_is_hooked():
    block = DenseBlock({"a": nn.Conv2d(3, 2, 1), "b": nn.Conv2d(5, 2, 1)})
    model = nn.Sequential(block, nn.ReLU())
    hooks = FeatureHooks(model, ["0"])
    model(hooked_net.images())
    assert torch.equal(hooks["0"], block(hooked_net.images()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_modules_are_refused_by_name():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    scripts = [torch.jit.script(net), torch.jit.trace(net, hooked_net.images())]
    for script in scripts:
        with pytest.raises(TypeError, match="model must be a Python module, got a TorchScript"):
            FeatureHooks(script, ["0"])
        with pytest.raises(TypeError, match="got '0', a TorchScript module"):
            FeatureHooks(nn.Sequential(script, nn.ReLU()), ["0"])


def test_networks_that_compute_with_channels_last_axes():
    class Swin(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage = nn.Linear(3, 5)

        def forward(self, x):
            return self.stage(x.permute(0, 2, 3, 1)).mean((1, 2))

    model = Swin()
    hooks = FeatureHooks(model, ["stage"], layout="NHWC")
    expected = model.stage(hooked_net.images().permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    model(hooked_net.images())
    assert hooks["stage"].shape == (2, 5, 8, 8)
    assert torch.equal(hooks.features[0], expected)
    with pytest.raises(ValueError, match="layout must be one of 'NCHW', 'NHWC', got 'BHWC'"):
        FeatureHooks(model, ["stage"], layout="BHWC")
    tokens = nn.Sequential(nn.Linear(3, 5))
    flat = FeatureHooks(tokens, ["0"], layout="NHWC")
    tokens(torch.ones(2, 7, 3))
    with pytest.raises(ValueError, match=r"must be 4-D for layout=\"NHWC\", got shape \(2, 7, 5\)"):
        flat["0"]


WRAPPERS = {
    "bare": lambda model: model,
    "data parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    "averaged": AveragedModel,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_paths_with_and_without_prefixes_on_models_with_and_without_wrappers(wrapper, prefix):
    model = hooked_net.net()
    wrapped = WRAPPERS[wrapper](model)
    expected = hooked_net.outputs(model, hooked_net.images())
    with FeatureHooks(wrapped, [prefix + "block", prefix + "stem.norm"]) as hooks:
        wrapped(hooked_net.images())
        torch.testing.assert_close(hooks.features, [expected["block"], expected["stem.norm"]])


@pytest.mark.parametrize("wrapper", ["bare", "data parallel", "compiled", "both"])
def test_a_model_wrapped_after_hooking(wrapper):
    model = hooked_net.net()
    expected = hooked_net.outputs(model, hooked_net.images())
    hooks = FeatureHooks(model, ["stem"])
    WRAPPERS[wrapper](model)(hooked_net.images())
    torch.testing.assert_close(hooks["stem"], expected["stem"])


def test_the_inner_model_may_be_called_without_its_wrapper():
    model = hooked_net.net()
    hooks = FeatureHooks(nn.DataParallel(model), ["stem"])
    for seed in (1, 2):
        expected = hooked_net.outputs(model, hooked_net.images(seed))
        model(hooked_net.images(seed))
        assert torch.equal(hooks["stem"], expected["stem"])


def test_wrappers_inside_the_model():
    model = hooked_net.net()
    expected = hooked_net.outputs(model, hooked_net.images())
    model.block = nn.DataParallel(model.block)
    hooks = FeatureHooks(model, ["block.0"])
    model(hooked_net.images())
    assert torch.equal(hooks["block.0"], expected["block"])


def test_a_module_that_is_really_called_module_is_found_by_its_full_path():
    inner = nn.Sequential()
    inner.add_module("module", nn.Flatten())
    model = nn.Sequential()
    model.add_module("block", inner)
    with FeatureHooks(model, ["block.module"]) as hooks:
        model(hooked_net.images())
        assert hooks["block.module"].ndim == 2


def test_a_path_with_two_meanings_is_refused():
    class Confusing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Identity()
            self.module = nn.ModuleDict({"conv": nn.ReLU()})

    with pytest.raises(ValueError, match=r"must name one module each, got 'module.conv', which"):
        FeatureHooks(nn.DataParallel(Confusing()), ["module.conv"])


def test_features_come_in_the_order_of_layers_and_by_path():
    model = hooked_net.net()
    expected = hooked_net.outputs(model, hooked_net.images())
    hooks = FeatureHooks(model, iter(["block", "stem"]))
    model(hooked_net.images())
    assert hooks.layers == ("block", "stem")
    assert len(hooks) == 2
    assert isinstance(hooks.features, list)
    assert [torch.equal(f, expected[p]) for f, p in zip(hooks.features, hooks.layers, strict=True)]
    assert hooks["stem"] is hooks.features[1]
    assert repr(hooks) == "FeatureHooks(['block', 'stem'])"


def test_a_path_that_does_not_exist_is_named_with_near_matches():
    model = nn.DataParallel(hooked_net.net())
    with pytest.raises(
        ValueError, match=r"module paths of Net, got 'stem.nrom'; near matches:"
    ) as e:
        FeatureHooks(model, ["stem", "stem.nrom"])
    assert "'stem.norm'" in str(e.value)
    assert "module." not in str(e.value)
    with pytest.raises(
        ValueError, match=r"nothing is near; its children: \['stem', 'block', 'head'\]"
    ):
        FeatureHooks(model, ["xyzzy"])


def test_a_failed_construction_leaves_no_hook_behind():
    model = hooked_net.net()
    with pytest.raises(ValueError, match="xyzzy"):
        FeatureHooks(model, ["stem", "xyzzy"])
    assert not model._forward_pre_hooks
    assert not model.stem._forward_hooks


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("stem", TypeError, r"got the string 'stem'; pass \['stem'\]"),
        (7, TypeError, "layers must be a list of module paths, got int"),
        ([1], TypeError, r"list of module paths \(strings\), got int in it"),
        ([], ValueError, "layers must have at least one module path, got none"),
        (["stem", "block", "stem"], ValueError, r"distinct, got \['stem'\] more than once"),
        (["stem", "module.stem"], ValueError, "got 'stem' and 'module.stem', which are the same"),
        ([""], ValueError, "module paths of Net, got ''"),
    ],
)
def test_bad_layers_are_named(layers, error, message):
    with pytest.raises(error, match=f"^FeatureHooks: .*{message}"):
        FeatureHooks(hooked_net.net(), layers)


def test_a_container_that_is_never_called_is_refused():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.ReLU()])})
    with pytest.raises(
        ValueError, match="got 'blocks', a ModuleList, which has no forward; name one of"
    ):
        FeatureHooks(model, ["blocks"])


def test_a_model_must_be_a_module():
    with pytest.raises(TypeError, match="FeatureHooks: model must be a module, got function"):
        FeatureHooks(hooked_net.net, ["stem"])


def test_an_unknown_path_in_brackets_is_a_key_error_and_handles_do_not_iterate():
    hooks = FeatureHooks(hooked_net.net(), ["stem"])
    with pytest.raises(KeyError, match=r"'block' is not one of the layers \['stem'\]"):
        hooks["block"]
    with pytest.raises(TypeError, match="not iterable"):
        list(hooks)
