"""FeatureHooks keeps what ``capture`` makes of a layer's output instead of the output."""

from __future__ import annotations

import copy
import pickle
import weakref
from typing import Any

import hooked_net
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from amd_fused import FeatureHooks, amd_loss, attention_map

LAYERS = ["stem", "block"]


def first_channel(a: Tensor) -> Tensor:
    return a[:, :1]


def kept(capture: Any, layers: list[str] = LAYERS) -> list[Tensor]:
    model = hooked_net.net()
    with FeatureHooks(model, layers, capture=capture) as hooks:
        model(hooked_net.images())
        assert [hooks[path] is a for path, a in zip(layers, hooks.features, strict=True)]
        return hooks.features


def expected() -> dict[str, Tensor]:
    return hooked_net.outputs(hooked_net.net(), hooked_net.images())


def test_one_function_serves_all_layers() -> None:
    for path, a in zip(LAYERS, kept(attention_map), strict=True):
        assert torch.equal(a, attention_map(expected()[path]))


@pytest.mark.parametrize(
    "capture",
    [[None, attention_map], (None, attention_map), {"block": attention_map}],
    ids=["list", "tuple", "dict"],
)
def test_layers_have_functions_of_their_own_or_none(capture: Any) -> None:
    stem, block = kept(capture)
    assert torch.equal(stem, expected()["stem"])
    assert torch.equal(block, attention_map(expected()["block"]))


def test_modules_are_functions() -> None:
    pooled = nn.AdaptiveAvgPool2d(1)
    assert torch.equal(kept(pooled)[1], pooled(expected()["block"]))


def test_a_teacher_of_maps_gives_the_loss_and_gradients_of_its_features() -> None:
    teacher = hooked_net.net()
    torch.nn.init.normal_(teacher.block[0].weight)
    results = []
    for capture in (None, attention_map):
        student = hooked_net.net()
        hooks_s = FeatureHooks(student, LAYERS)
        with FeatureHooks(teacher, LAYERS, capture=capture) as hooks_t:
            with torch.no_grad():
                teacher(hooked_net.images())
            student(hooked_net.images())
            loss = amd_loss(hooks_s.features, hooks_t.features)
            loss.backward()
        results.append([loss.detach(), student.stem.conv.weight.grad])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-8)


def test_a_students_maps_carry_gradients() -> None:
    student = hooked_net.net()
    target = attention_map(torch.randn_like(expected()["block"]))
    gradients = []
    for capture in (None, attention_map):
        student.zero_grad()
        with FeatureHooks(student, ["block"], capture=capture) as hooks:
            student(hooked_net.images())
            amd_loss(hooks.features, [target]).backward()
        gradients.append(student.stem.conv.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


class Spied(nn.Module):
    """Layers whose outputs leave weak references behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
        self.alive: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        seen = weakref.ref(x)
        x = self.second(x)
        self.alive.append(seen() is not None)
        return x


@pytest.mark.parametrize(("capture", "alive"), [(None, True), (attention_map, False)])
def test_under_no_grad_an_output_is_freed_as_the_network_goes_on(capture: Any, alive: bool) -> None:
    model = Spied()
    with FeatureHooks(model, ["first"], capture=capture), torch.no_grad():
        model(hooked_net.images())
    assert model.alive == [alive]


def test_an_output_overwritten_later_leaves_a_map_of_its_own() -> None:
    model = hooked_net.net(inplace=True)
    with FeatureHooks(model, ["stem.norm"], capture=attention_map) as hooks, torch.no_grad():
        model(hooked_net.images())
        assert torch.equal(hooks["stem.norm"], attention_map(expected()["stem.norm"]))
    model = hooked_net.net(inplace=True)
    with FeatureHooks(model, ["stem.norm"], capture=first_channel) as hooks:
        model(hooked_net.images())
        with pytest.raises(RuntimeError, match=r"'stem\.norm' was modified in place"):
            hooks["stem.norm"]


def test_a_layer_that_returns_a_tuple_and_one_that_returns_no_tensor() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 5)})
    model.forward = lambda x: model["lstm"](x)[0]
    hooks = FeatureHooks(model, ["lstm[0]", "lstm[1]"], capture=lambda a: a.mean(2))
    out = model(torch.randn(7, 2, 3))
    assert torch.equal(hooks["lstm[0]"], out.mean(2))
    with pytest.raises(TypeError, match=r"output of 'lstm\[1\]' must be a tensor, got tuple"):
        hooks["lstm[1]"]


def test_channels_last_axes_are_turned_before_the_capture() -> None:
    model = nn.Sequential(nn.Linear(3, 5))
    hooks = FeatureHooks(model, ["0"], capture=attention_map, layout="NHWC")
    out = model(torch.randn(2, 7, 8, 3))
    assert torch.equal(hooks["0"], attention_map(out.permute(0, 3, 1, 2)))
    with pytest.raises(ValueError, match=r"output of '0' must be 4-D for layout=\"NHWC\""):
        model(torch.randn(2, 7, 3))


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_are_computed_again_in_the_backward_pass(reentrant: bool) -> None:
    """Of a whole checkpointed model and of a part; a reentrant one builds no graph at first."""
    plain = hooked_net.net()
    hooks = FeatureHooks(plain, ["stem"], capture=attention_map)
    hooked_net.objective(plain(hooked_net.images()), hooks.features).backward()
    expected = plain.stem.conv.weight.grad
    for whole in (False, True):
        model = hooked_net.net(reentrant=None if whole else reentrant)
        hooks = FeatureHooks(model, ["stem"], capture=attention_map)
        x = hooked_net.images().requires_grad_()
        logits = checkpoint(model, x, use_reentrant=reentrant) if whole else model(x)
        kept = hooks["stem"]
        assert torch.equal(kept, attention_map(hooked_net.outputs(plain, x)["stem"]))
        hooked_net.objective(logits, hooks.features).backward()
        assert hooks["stem"] is kept
        if not reentrant:
            torch.testing.assert_close(model.stem.conv.weight.grad, expected)


@pytest.mark.parametrize(
    ("capture", "inplace"),
    [
        (attention_map, True),
        (first_channel, True),
        ({"block": attention_map}, True),
        pytest.param(attention_map, False, marks=pytest.mark.exhaustive),
        pytest.param(first_channel, False, marks=pytest.mark.exhaustive),
        pytest.param({"block": attention_map}, False, marks=pytest.mark.exhaustive),
    ],
)
def test_one_compiled_graph_keeps_what_the_plain_model_keeps(capture: Any, inplace: bool) -> None:
    plain, model = hooked_net.net(), hooked_net.net(inplace)
    layers = ["stem.norm", "block"]
    hooks = FeatureHooks(model, layers, capture=capture)
    hooks_plain = FeatureHooks(plain, layers, capture=capture)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for seed in (1, 2):
        for m in (plain, model):
            m.zero_grad()
        logits = compiled(hooked_net.images(seed))
        hooked_net.objective(logits, hooks.features).backward()
        hooked_net.objective(plain(hooked_net.images(seed)), hooks_plain.features).backward()
        torch.testing.assert_close(hooks.features, hooks_plain.features)
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def test_copies_and_pickles_of_a_hooked_model_capture_nothing() -> None:
    calls: list[int] = []

    def capture(a: Tensor) -> Tensor:
        calls.append(1)
        return a

    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem"], capture=capture)
    copy.deepcopy(model)(hooked_net.images())
    pickle.loads(pickle.dumps(model))(hooked_net.images())
    assert calls == []
    with pytest.raises(RuntimeError, match="removed, or are a copy"):
        copy.deepcopy(hooks)["stem"]


def test_an_error_in_the_capture_names_the_layer() -> None:
    model = hooked_net.net()
    FeatureHooks(model, ["stem"], capture={"stem": lambda a: a @ a[:1, :1, :1]})

    def refuse(a: Tensor) -> Tensor:
        raise LookupError("no such key")

    hooks = FeatureHooks(model, ["stem", "block"], capture=[None, refuse])
    message = (
        r"capture of 'block', given a tensor of shape \(2, 5, 4, 4\), raised LookupError: no s"
    )
    with pytest.raises(RuntimeError, match=f"^FeatureHooks: {message}") as raised:
        model(hooked_net.images())
    assert isinstance(raised.value.__cause__, LookupError)
    hooks.remove()
    model(hooked_net.images())


@pytest.mark.parametrize(
    ("returned", "said"), [(None, "NoneType"), ((1, 2), r"tuple of 2 \(int, int\)"), (3.0, "float")]
)
def test_a_capture_that_returns_no_tensor_names_the_layer(returned: Any, said: str) -> None:
    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem"], capture=lambda a: returned)
    with pytest.raises(TypeError, match=f"^FeatureHooks: capture of 'stem' must .* got {said}"):
        model(hooked_net.images())
    hooks.remove()


@pytest.mark.parametrize(
    ("capture", "error", "message"),
    [
        ("map", TypeError, "must be a function of a tensor, a list .* got str"),
        ([attention_map, 3], TypeError, "must be a function of a tensor, .* got int"),
        ({"stem": "map"}, TypeError, "must be a function of a tensor, .* got str"),
        ([attention_map], ValueError, "one function for each of the 2 layers, got 1"),
        ({"head": attention_map}, ValueError, r"layers \['stem', 'block'\], got 'head'"),
    ],
)
def test_bad_captures_are_named_and_leave_no_hook(
    capture: Any, error: type[Exception], message: str
) -> None:
    model = hooked_net.net()
    with pytest.raises(error, match=f"^FeatureHooks: capture must .*{message}|{message}"):
        FeatureHooks(model, LAYERS, capture=capture)
    assert not model._forward_pre_hooks
    assert not model.stem._forward_hooks
