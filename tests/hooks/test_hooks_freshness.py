"""FeatureHooks gives the features of the last forward pass, right and alive, or raises."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import hooked_net
import pytest
import torch
from torch import nn

from amd_fused import FeatureHooks


def test_every_forward_pass_has_its_own_features_and_none_is_a_copy():
    model = hooked_net.net()
    seen = []
    model.stem.register_forward_hook(lambda module, args, output: seen.append(output))
    hooks = FeatureHooks(model, ["stem", "block"])
    for seed in (1, 2, 3):
        expected = hooked_net.outputs(model, hooked_net.images(seed))
        model(hooked_net.images(seed))
        assert torch.equal(hooks["stem"], expected["stem"])
        assert torch.equal(hooks["block"], expected["block"])
        assert hooks["stem"] is seen[-1]


def test_gradients_flow_through_features():
    model = hooked_net.net()
    expected = hooked_net.outputs(model, hooked_net.images())["stem"].square().sum()
    hooks = FeatureHooks(model, ["stem"])
    model(hooked_net.images())
    loss = hooks["stem"].square().sum()
    assert loss == expected
    loss.backward()
    assert model.stem.conv.weight.grad.any()


def test_reading_before_a_forward_pass_raises():
    hooks = FeatureHooks(hooked_net.net(), ["stem"])
    with pytest.raises(RuntimeError, match="FeatureHooks: 'stem' has no features yet; call the"):
        hooks["stem"]
    with pytest.raises(RuntimeError, match="'stem' has no features yet"):
        _ = hooks.features


def test_a_layer_that_did_not_run_this_time_raises_instead_of_giving_the_last_batch():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Identity(), nn.Identity()

        def forward(self, x, left):
            return self.left(x) if left else self.right(x)

    model = Branches()
    hooks = FeatureHooks(model, ["left", "right"])
    model(torch.ones(1), left=True)
    model(torch.zeros(1), left=False)
    assert hooks["right"] == 0
    with pytest.raises(RuntimeError, match="'left' did not run in the last forward pass"):
        _ = hooks.features


def test_a_forward_pass_that_fails_midway_leaves_nothing_of_the_last_batch():
    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem", "block"])
    model(hooked_net.images())
    with pytest.raises(RuntimeError, match="expected input"):
        model(torch.ones(2, 4, 8, 8))
    with pytest.raises(RuntimeError, match="'stem' did not run in the last forward pass"):
        hooks["stem"]


def test_the_last_features_are_freed_as_the_next_forward_pass_begins():
    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem"])
    with torch.no_grad():
        model(hooked_net.images())
        last = weakref.ref(hooks["stem"])
        alive = []
        model.stem.register_forward_pre_hook(lambda module, args: alive.append(last()))
        model(hooked_net.images())
    assert alive == [None]


def test_a_layer_that_runs_twice_in_one_forward_pass_raises():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu)
    hooks = FeatureHooks(model, ["1", "2"])
    model(hooked_net.images())
    assert hooks["2"].shape == (2, 3, 8, 8)
    with pytest.raises(RuntimeError, match="'1' ran 2 times since the model was last called"):
        hooks["1"]


def test_calling_forward_past_the_hooks_raises_instead_of_mixing_batches():
    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem", "block"])
    model(hooked_net.images(1))
    model.stem(hooked_net.images(2))
    with pytest.raises(RuntimeError, match=r"'stem' ran 2 times .* not model.forward"):
        _ = hooks.features


@pytest.mark.parametrize("grad", [True, False])
def test_an_output_overwritten_by_an_inplace_relu_raises(grad):
    model = hooked_net.net(inplace=True)
    hooks = FeatureHooks(model, ["stem.norm", "block"])
    with torch.set_grad_enabled(grad):
        model(hooked_net.images())
    assert hooks["block"].shape == (2, 5, 4, 4)
    message = (
        "output of 'stem.norm' was modified in place .* set inplace=False in the module behind"
    )
    with pytest.raises(RuntimeError, match=message):
        hooks["stem.norm"]


def test_an_output_overwritten_through_a_view_or_an_augmented_assignment_raises():
    class Residual(nn.Module):
        def __init__(self, write):
            super().__init__()
            self.conv, self.write = nn.Conv2d(3, 3, 1), write

        def forward(self, x):
            out = self.conv(x)
            self.write(out)
            return out

    for write in (lambda out: out.__iadd__(1), lambda out: out[:, 1:].zero_()):
        model = Residual(write)
        hooks = FeatureHooks(model, ["conv"])
        model(hooked_net.images())
        with pytest.raises(RuntimeError, match="'conv' was modified in place"):
            hooks["conv"]


def test_the_module_that_writes_in_place_can_itself_be_hooked():
    model = hooked_net.net(inplace=True)
    expected = hooked_net.outputs(model, hooked_net.images())
    hooks = FeatureHooks(model, ["stem.act"])
    model(hooked_net.images())
    assert torch.equal(hooks["stem.act"], expected["stem"])


def test_inference_mode_raises_when_read_since_it_hides_inplace_writes():
    model = hooked_net.net(inplace=True)
    hooks = FeatureHooks(model, ["stem.norm"])
    with torch.inference_mode():
        model(hooked_net.images())
    with pytest.raises(RuntimeError, match=r"torch.inference_mode\(\), .* use torch.no_grad\(\)"):
        hooks["stem.norm"]


def test_an_output_that_is_no_tensor_raises_naming_its_type():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    model = nn.Sequential(Pair())
    hooks = FeatureHooks(model, ["0"])
    model(torch.ones(1))
    message = r"the output of '0' must be a tensor, got tuple of 2 \(Tensor, Tensor\); pick"
    with pytest.raises(TypeError, match=message):
        hooks["0"]


def test_checkpointing_gives_the_same_features_and_gradients():
    plain, checkpointed = hooked_net.net(), hooked_net.net(reentrant=False)
    gradients = []
    for model in (plain, checkpointed):
        hooks = FeatureHooks(model, ["stem.norm", "block"])
        logits = model(hooked_net.images())
        features = hooks.features
        hooked_net.objective(logits, features).backward()
        # The backward pass of the checkpointed model has run stem.norm again.
        assert hooks["stem.norm"] is features[0]
        gradients.append(model.stem.conv.weight.grad)
    assert torch.equal(*gradients)


def test_clear_drops_the_features_now():
    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem"])
    with torch.no_grad():
        model(hooked_net.images())
    feature = weakref.ref(hooks["stem"])
    hooks.clear()
    assert feature() is None
    with pytest.raises(RuntimeError, match=r"'stem' did not run .* or was cleared"):
        hooks["stem"]
    model(hooked_net.images())
    assert hooks["stem"].shape == (2, 4, 6, 6)


def test_remove_takes_the_hooks_off_frees_the_features_and_may_be_called_twice():
    model = hooked_net.net()
    with torch.no_grad(), FeatureHooks(model, ["stem"]) as hooks:
        model(hooked_net.images())
        feature = weakref.ref(hooks["stem"])
    assert feature() is None
    assert not model._forward_pre_hooks
    assert not model.stem._forward_hooks
    hooks.remove()
    hooks.remove()
    assert repr(hooks) == "FeatureHooks(['stem'], removed)"
    for use in (lambda: hooks["stem"], lambda: hooks.features, hooks.__enter__):
        with pytest.raises(RuntimeError, match="FeatureHooks: these hooks were removed"):
            use()


def test_an_error_inside_the_with_block_removes_the_hooks_and_passes_on():
    model = hooked_net.net()
    with pytest.raises(ZeroDivisionError), FeatureHooks(model, ["stem"]):
        1 / 0  # noqa: B018
    assert not model.stem._forward_hooks


def test_a_dropped_handle_leaves_no_hooks_and_no_features():
    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem"])
    with torch.no_grad():
        model(hooked_net.images())
    feature = weakref.ref(hooks["stem"])
    del hooks
    gc.collect()
    assert feature() is None
    assert not model._forward_pre_hooks
    assert not model.stem._forward_hooks


def test_handles_on_one_model_are_independent():
    model = hooked_net.net()
    first, second = FeatureHooks(model, ["stem"]), FeatureHooks(model, ["stem", "block"])
    model(hooked_net.images())
    first.remove()
    assert second["stem"].shape == (2, 4, 6, 6)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_hooked_model_never_writes_into_the_handle(copy_of):
    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem"])
    model(hooked_net.images(1))
    kept = hooks["stem"]
    twin = copy_of(model)
    twin(hooked_net.images(2))
    assert hooks["stem"] is kept
    with FeatureHooks(twin, ["stem"]) as own:
        twin(hooked_net.images(2))
        assert not torch.equal(own["stem"], kept)
    assert hooks["stem"] is kept


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda h: pickle.loads(pickle.dumps(h))])
def test_a_copied_handle_is_a_removed_one(copy_of):
    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem"])
    model(hooked_net.images())
    twin = copy_of(hooks)
    assert twin.layers == ("stem",)
    with pytest.raises(RuntimeError, match="removed, or are a copy"):
        twin["stem"]
    assert hooks["stem"].shape == (2, 4, 6, 6)


def test_replicas_of_data_parallel_are_refused():
    # What nn.DataParallel calls on each of several devices.
    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem"])
    with pytest.raises(RuntimeError, match=r"replicated by nn.DataParallel .* DistributedDataPar"):
        model._replicate_for_data_parallel()(hooked_net.images())
    with pytest.raises(RuntimeError, match=r"replicated by nn.DataParallel"):
        model.stem._replicate_for_data_parallel()(hooked_net.images())
    hooks.remove()


def test_an_export_between_forward_and_reading_changes_nothing():
    model = hooked_net.net().eval()
    hooks = FeatureHooks(model, ["stem"])
    model(hooked_net.images())
    kept = hooks["stem"]
    for strict in (False, True):
        torch.export.export(model, (hooked_net.images(2),), strict=strict)
        assert hooks["stem"] is kept


def test_steps_that_never_call_the_model_are_told_what_helps():
    """As timm's FeatureDistillationTask, which calls student.forward_features alone."""
    model = hooked_net.net()
    hooks = FeatureHooks(model, ["stem"])
    for seed in (1, 2):
        hooks.clear()
        model.stem(hooked_net.images(seed))
        assert hooks["stem"].shape == (2, 4, 6, 6)
    model.stem(hooked_net.images())
    with pytest.raises(RuntimeError, match=r"the module that is called .* hooks\.clear\(\) before"):
        hooks["stem"]
