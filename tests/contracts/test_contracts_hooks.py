"""FeatureHooks beside tools that look at the model, and on modules that return more than a
tensor."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.fx
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad
from torch.fx.experimental.proxy_tensor import make_fx

from amd_fused import FeatureHooks, amd_loss

LAYERS = ["0", "1.conv"]


class Block(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(3, 4), Block(4, 5))


def images(seed: int = 1) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def under_fakes(model: nn.Module) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        model(torch.randn(2, 3, 8, 8))


def with_fake_parameters(model: nn.Module) -> None:
    mode = FakeTensorMode()
    with mode:
        fakes = {name: mode.from_tensor(p) for name, p in model.named_parameters()}
        functional_call(model, fakes, (torch.randn(2, 3, 8, 8),))


def on_meta(model: nn.Module) -> None:
    parameters = {name: p.to("meta") for name, p in model.named_parameters()}
    functional_call(model, parameters, (images().to("meta"),))


TOOLS: dict[str, Callable[[nn.Module], Any]] = {
    "torch.jit.trace": lambda m: torch.jit.trace(m, images(2)),
    "torch.jit.trace, unchecked": lambda m: torch.jit.trace(m, images(2), check_trace=False),
    "torch.jit.trace_module": lambda m: torch.jit.trace_module(m, {"forward": images(2)}),
    "torch.fx": torch.fx.symbolic_trace,
    "make_fx": lambda m: make_fx(m)(images(2)),
    "make_fx, symbolic": lambda m: make_fx(m, tracing_mode="symbolic", _allow_non_fake_inputs=True)(
        images(2)
    ),
    "torch.export": lambda m: torch.export.export(m, (images(2),)),
    "torch.export, strict": lambda m: torch.export.export(m, (images(2),), strict=True),
    "FakeTensorMode": under_fakes,
    "fake parameters": with_fake_parameters,
    "meta parameters": on_meta,
    "a copy's step": lambda m: copy.deepcopy(m)(images(2)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_between_forward_pass_and_loss_leaves_the_features(tool: str) -> None:
    model = net()
    hooks = FeatureHooks(model, LAYERS)
    model(images())
    kept = hooks.features
    TOOLS[tool](model)
    assert all(a is b for a, b in zip(hooks.features, kept, strict=True))
    amd_loss(hooks.features, [a.detach() + 1 for a in kept]).backward()
    model(images(3))
    assert all(a is not b for a, b in zip(hooks.features, kept, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_before_the_first_forward_pass_is_none(tool: str) -> None:
    model = net()
    hooks = FeatureHooks(model, LAYERS)
    TOOLS[tool](model)
    model(images())
    expected = net()[0](images())
    assert torch.equal(hooks["0"], expected)


def test_passes_without_values_have_features_without_values_in_their_mode() -> None:
    model = net()
    hooks = FeatureHooks(model, LAYERS)
    model(images())
    kept = hooks["0"]
    with FakeTensorMode(allow_non_fake_inputs=True):
        for _ in range(2):
            model(torch.randn(4, 3, 8, 8))
            assert hooks["0"].shape == (4, 4, 6, 6)
            assert amd_loss(hooks.features, hooks.features).shape == ()
    assert hooks["0"] is kept


def test_a_model_on_the_meta_device_has_features_there() -> None:
    with torch.device("meta"):
        model = net()
    hooks = FeatureHooks(model, LAYERS)
    model(images().to("meta"))
    assert [a.device.type for a in hooks.features] == ["meta", "meta"]


def test_features_inside_a_transform_of_torch_func_may_be_used_there_alone() -> None:
    model = net()
    hooks = FeatureHooks(model, ["0"])
    model(images())
    target = hooks["0"].detach() + 1
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        functional_call(model, parameters, (images(),))
        return amd_loss(hooks.features, [target], backend="reference")

    found = grad(loss)(parameters)
    with pytest.raises(RuntimeError, match=r"inside a transform of torch.func .* read it inside"):
        hooks["0"]
    model(images())
    expected = torch.autograd.grad(amd_loss(hooks.features, [target]), [model[0].conv.weight])
    torch.testing.assert_close(found["0.conv.weight"], expected[0])


def test_scripting_a_hooked_model_names_the_remedy() -> None:
    model = net()
    hooks = FeatureHooks(model, LAYERS)
    with pytest.raises(AttributeError, match=r"hooked model cannot be scripted; .*remove\(\)"):
        torch.jit.script(model)
    hooks.remove()
    torch.jit.script(model)


class Named(NamedTuple):
    maps: Tensor
    other: Tensor


@dataclasses.dataclass
class Output:
    maps: Tensor
    label: str = "x"


class Returning(nn.Module):
    """Its maps in whatever ``make`` puts them into."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(2 * x)


class Holder(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.block = Returning(make)

    def forward(self, x: Tensor) -> Tensor:
        self.block(x)
        return x


# What is returned, the path that picks the maps, and what is said without one.
OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str, str]] = {
    "a tuple": (lambda x: (x, -x), "block[0]", r"tuple of 2 \(Tensor, Tensor\)"),
    "from the end": (lambda x: [-x, x], "block[-1]", r"list of 2 \(Tensor, Tensor\)"),
    "a dict": (lambda x: {"maps": x}, 'block["maps"]', r"dict with the keys \['maps'\]"),
    "a key without quotes": (
        lambda x: {"maps": x},
        "block[maps]",
        r"dict with the keys \['maps'\]",
    ),
    "a number as key": (lambda x: {3: x}, "block[3]", r"dict with the keys \[3\]"),
    "a named tuple": (lambda x: Named(x, -x), "block[maps]", "Named of 2"),
    "a dataclass": (Output, "block[maps]", r"Output with the fields \['maps', 'label'\]"),
    "a tree": (lambda x: ({"a": [x]},), "block[0][a][0]", r"tuple of 1 \(dict\)"),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", OUTPUTS)
def test_a_path_picks_a_tensor_of_what_a_module_returns(case: str, compiled: bool) -> None:
    make, path, _ = OUTPUTS[case]
    model = Holder(make)
    hooks = FeatureHooks(model, [path])
    run = torch.compile(model, backend="eager") if compiled else model
    for seed in (1, 2):
        run(images(seed))
        assert torch.equal(hooks[path], 2 * images(seed))


@pytest.mark.parametrize("case", OUTPUTS)
def test_without_an_entry_the_message_says_what_was_returned(case: str) -> None:
    make, _, said = OUTPUTS[case]
    model = Holder(make)
    hooks = FeatureHooks(model, ["block"])
    model(images())
    with pytest.raises(TypeError, match=rf"'block' must be a tensor, got {said}.*; pick one"):
        hooks["block"]


WRONG = {
    "block[2]": r"no \[2\] in a tuple of 2 \(Tensor, dict\)",
    "block[-3]": r"no \[-3\] in a tuple",
    "block[maps]": r"no \[maps\] in a tuple of 2",
    "block[1][x]": r"no \[x\] in a dict with the keys \['maps'\]",
    "block[0][shape]": r"no \[shape\] in a Tensor",
    "block[1]": r"dict with the keys \['maps'\]",
}


@pytest.mark.parametrize("path", WRONG)
def test_an_entry_that_is_not_there_is_named(path: str) -> None:
    model = Holder(lambda x: (x, {"maps": x}))
    hooks = FeatureHooks(model, [path])
    model(images())
    with pytest.raises(TypeError, match=WRONG[path]):
        hooks[path]


def test_two_entries_of_one_module_and_the_states_of_an_lstm() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 5)})
    model.forward = lambda x: model["lstm"](x)[0]
    hooks = FeatureHooks(model, ["lstm[0]", "lstm[1][0]"])
    model(torch.randn(7, 2, 3))
    assert [tuple(a.shape) for a in hooks.features] == [(7, 2, 5), (1, 2, 5)]
    with pytest.raises(ValueError, match=r"'lstm\[0\]' and 'lstm\[00\]', which are the same"):
        FeatureHooks(model, ["lstm[0]", "lstm[00]"])


def test_a_module_whose_name_has_brackets_is_found_by_it() -> None:
    model = nn.Sequential()
    model.add_module("conv[0]", nn.Conv2d(3, 4, 1))
    hooks = FeatureHooks(model, ["conv[0]"])
    assert torch.equal(model(images()), hooks["conv[0]"])


def test_a_path_that_does_not_exist_is_named_without_its_entry() -> None:
    with pytest.raises(ValueError, match=r"must be module paths of Holder, got 'blok'; near"):
        FeatureHooks(Holder(Output), ["blok[0]"])
