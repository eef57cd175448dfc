"""AMDLoss is amd_loss with its options fixed, and a well-behaved module."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch

from amd_fused import AMDLoss, amd_loss

pytestmark = pytest.mark.filterwarnings("ignore:amd_loss. no fused backend")
# Every option away from its default; the pair differs in size, which align must mend.
OPTIONS = {
    "margin": 2.0,
    "scale": 30.0,
    "local_weight": 0.5,
    "formula": "released",
    "component_weights": [1.0, 2.0, 0.5],
    "mask_threshold": 0.5,
    "layer_weights": [1.0, 3.0],
    "eps": 1e-3,
    "reduction": "none",
    "align": "adaptive_avg",
    "layout": "NLC",
    "prefix_tokens": 1,
    "grid": (2, 2),
    "backend": "reference",
}


def features() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    student = [torch.randn(3, 4, 8, 8, generator=g), torch.randn(3, 5, 4, 4, generator=g)]
    return student, [torch.randn(3, 6, 10, 8, generator=g), torch.randn(3, 5, 4, 4, generator=g)]


def test_takes_the_keywords_of_amd_loss_with_its_defaults():
    def keywords(callable_):
        parameters = inspect.signature(callable_).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY]

    assert keywords(AMDLoss) == keywords(amd_loss)
    assert set(OPTIONS) == {name for name, _ in keywords(AMDLoss)}


def test_computes_amd_loss_with_its_options():
    student, teacher = features()
    loss = AMDLoss(**OPTIONS)(student, teacher)
    assert loss.shape == (3,)
    assert torch.equal(loss, amd_loss(student, teacher, **OPTIONS))
    assert torch.equal(AMDLoss()(student[1], teacher[1]), amd_loss(student[1], teacher[1]))


def test_passes_every_option_on(monkeypatch):
    received = {}
    monkeypatch.setattr(
        "amd_fused.losses.amd.module.amd_loss", lambda *_, **options: received.update(options)
    )
    AMDLoss(**OPTIONS)(None, None)
    assert received == OPTIONS


def test_prints_all_its_settings_in_the_order_of_the_signature():
    assert repr(AMDLoss(layer_weights=[1.0, 2.0])) == (
        "AMDLoss(margin=1.35, scale=64.0, local_weight=0.2, formula='paper', "
        "component_weights=[1.0, 1.0, 1.0], mask_threshold=None, layer_weights=[1.0, 2.0], "
        "eps=1e-06, reduction='mean', align='error', layout=None, "
        "prefix_tokens=0, grid=None, backend='auto')"
    )


def test_copies_and_pickles_are_the_same_loss():
    loss = AMDLoss(**OPTIONS)
    student, teacher = features()
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(other) == repr(loss)
        assert torch.equal(other(student, teacher), loss(student, teacher))


def test_has_no_parameters_and_no_buffers():
    assert not list(AMDLoss().parameters())
    assert not list(AMDLoss().buffers())
    assert not AMDLoss().state_dict()


def test_does_not_share_a_list_with_its_caller():
    weights = [1.0, 2.0]
    loss = AMDLoss(layer_weights=weights)
    weights[0] = -1.0
    assert loss.layer_weights == [1.0, 2.0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"margin": 0.0}, ValueError, "margin must be"),
        ({"scale": float("inf")}, ValueError, "scale must be"),
        ({"local_weight": 1.5}, ValueError, "local_weight must be"),
        ({"formula": "papers"}, ValueError, "formula must be"),
        ({"component_weights": 1.0}, TypeError, "component_weights must be"),
        ({"layer_weights": "ab"}, TypeError, "layer_weights must be"),
        ({"backend": "gpu"}, ValueError, "backend must be"),
    ],
)
def test_bad_options_are_named_at_construction(options, error, message):
    with pytest.raises(error, match=f"^AMDLoss: {message}"):
        AMDLoss(**options)


def test_compiles_as_one_graph():
    (_, student), (_, teacher) = features()
    compiled = torch.compile(AMDLoss(), backend="aot_eager", fullgraph=True)
    gradients = []
    for loss in (compiled, AMDLoss()):
        a_s = student.clone().requires_grad_()
        loss(a_s, teacher).backward()
        gradients.append(a_s.grad)
    torch.testing.assert_close(*gradients)
