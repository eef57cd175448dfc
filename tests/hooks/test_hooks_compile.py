"""FeatureHooks under torch.compile and DistributedDataParallel."""

from __future__ import annotations

import hooked_net
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from amd_fused import FeatureHooks, amd_loss

LAYERS = ["stem.norm", "block"]


@pytest.fixture
def _one_process_group(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled(model, style, backend="aot_eager"):
    options = {"backend": backend, "fullgraph": True}
    if style == "torch.compile(model)":
        return torch.compile(model, **options)
    if style == "model.compile()":
        model.compile(**options)
        return model
    return torch.compile(lambda x: model(x), **options)


STYLES = ["torch.compile(model)", "model.compile()", "torch.compile(function)"]


# inplace: the traced stem.act overwrites the output of stem.norm, whose values must survive.
@pytest.mark.parametrize(
    ("style", "inplace"),
    [
        *((style, True) for style in STYLES),
        pytest.param(STYLES[0], False, marks=pytest.mark.exhaustive),
    ],
)
def test_one_graph_gives_fresh_features_and_the_gradients_of_the_plain_model(style, inplace):
    plain, model = hooked_net.net(), hooked_net.net(inplace)
    hooks = FeatureHooks(model, LAYERS)
    hooks_plain = FeatureHooks(plain, LAYERS)
    forward = compiled(model, style)
    for seed in (1, 2, 3):
        for m in (plain, model):
            m.zero_grad()
        logits = forward(hooked_net.images(seed))
        hooked_net.objective(logits, hooks.features).backward()
        hooked_net.objective(plain(hooked_net.images(seed)), hooks_plain.features).backward()
        torch.testing.assert_close(hooks.features, hooks_plain.features)
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.filterwarnings("ignore:amd_loss. no fused backend")
def test_a_training_step_with_features_and_loss_inside_compiles_as_one_graph():
    student, teacher = hooked_net.net(inplace=True), hooked_net.net().eval()
    torch.nn.init.normal_(student.block[0].weight)
    hooks_s, hooks_t = FeatureHooks(student, LAYERS), FeatureHooks(teacher, LAYERS)

    def step(x):
        with torch.no_grad():
            teacher(x)
        logits = student(x)
        return logits.sum() + amd_loss(hooks_s.features, hooks_t.features)

    fast = torch.compile(step, backend="aot_eager", fullgraph=True)
    plain = hooked_net.net()
    plain.load_state_dict(student.state_dict())
    for seed in (1, 2):
        x = hooked_net.images(seed)
        with FeatureHooks(plain, LAYERS) as hooks_plain, torch.no_grad():
            teacher(x)
            expected = plain(x).sum() + amd_loss(hooks_plain.features, hooks_t.features)
        torch.testing.assert_close(fast(x), expected)


@pytest.mark.parametrize("style", STYLES)
def test_hooks_made_after_the_first_compiled_call_raise_when_read(style):
    model = hooked_net.net()
    forward = compiled(model, style, "eager")
    forward(hooked_net.images())
    hooks = FeatureHooks(model, ["stem"])
    forward(hooked_net.images())
    with pytest.raises(RuntimeError, match="compiled, create FeatureHooks before its first call"):
        hooks["stem"]


@pytest.mark.parametrize("style", STYLES)
def test_hooks_made_after_compile_but_before_the_first_call_work(style):
    model = hooked_net.net()
    expected = hooked_net.outputs(model, hooked_net.images())
    forward = compiled(model, style, "eager")
    hooks = FeatureHooks(model, ["stem"])
    forward(hooked_net.images())
    torch.testing.assert_close(hooks["stem"], expected["stem"])


def test_a_compiled_part_of_the_model():
    model = hooked_net.net()
    expected = hooked_net.outputs(model, hooked_net.images())
    model.stem = torch.compile(model.stem, backend="aot_eager")
    hooks = FeatureHooks(model, ["stem", "stem.norm"])
    model(hooked_net.images())
    torch.testing.assert_close(hooks.features, [expected["stem"], expected["stem.norm"]])


# torch's own look at the inputs of a frame after a graph break, which it hides from users.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_checkpointing_in_a_compiled_model():
    plain, model = hooked_net.net(), hooked_net.net(reentrant=False)
    gradients = []
    for m, forward in ((plain, plain), (model, torch.compile(model, backend="aot_eager"))):
        hooks = FeatureHooks(m, LAYERS)
        logits = forward(hooked_net.images())
        features = hooks.features
        hooked_net.objective(logits, features).backward()
        assert hooks["stem.norm"] is features[0]
        gradients.append(m.stem.conv.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("_one_process_group")
@pytest.mark.parametrize(
    "wrap",
    [
        DistributedDataParallel,
        lambda model: DistributedDataParallel(torch.compile(model, backend="eager")),
        lambda model: torch.compile(DistributedDataParallel(model), backend="eager"),
    ],
    ids=["ddp", "ddp of compiled", "compiled ddp"],
)
@pytest.mark.parametrize("hook_first", [True, False])
def test_distributed_data_parallel(wrap, hook_first):
    model = hooked_net.net()
    if hook_first:
        hooks, wrapped = FeatureHooks(model, ["module." + p for p in LAYERS]), wrap(model)
    else:
        wrapped = wrap(model)
        hooks = FeatureHooks(wrapped, LAYERS)
    for seed in (1, 2):
        expected = hooked_net.outputs(model, hooked_net.images(seed))
        logits = wrapped(hooked_net.images(seed))
        torch.testing.assert_close(hooks.features, [expected[p] for p in LAYERS])
        hooked_net.objective(logits, hooks.features).backward()
    assert model.stem.conv.weight.grad.any()
