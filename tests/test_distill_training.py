"""One training: the right objective, a teacher left alone, a schedule, the same bits each time."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")

from amd_fused import AMDLoss, FeatureHooks
from amd_fused.distill import experiment
from amd_fused.distill.config import Config, Recipe
from amd_fused.distill.data import Images, load_digits
from amd_fused.distill.train import Run, Trainer, accuracy, train
from amd_fused.distill.wrn import FEATURE_LAYERS

# Where no kernel is built, the default backend says that it is the reference.
pytestmark = pytest.mark.filterwarnings("ignore:amd_loss. no fused backend:UserWarning")

CONFIG = Config(teacher="10-2", student="10-1", batch_size=10, train_size=20)
RECIPE = Recipe(epochs=2, batch_size=10, lr=0.1, momentum=0.9, weight_decay=1e-4)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return replace(data, train=data.train.subset(40), test=data.test.subset(50))


def distil(data, method, seed=0):
    """A student of an untrained teacher, and its run."""
    teacher = experiment.build("10-2", data, seed)
    student = experiment.build("10-1", data, seed)
    loss = experiment.objective(method, CONFIG)
    run = train(Run(method.key, seed), student, loss, data, RECIPE, teacher=teacher)
    return student, run


def test_objectives_are_those_of_eq_8():
    objectives = {m.key: experiment.objective(m, CONFIG) for m in experiment.METHODS}
    weights = {
        key: (loss.ce_weight, loss.kd_weight, loss.feature_weight)
        for key, loss in objectives.items()
    }
    assert weights == {
        "teacher": (1, 0, 0),
        "student": (1, 0, 0),
        "kd": (0.1, 0.9, 0),
        "amd-g": (0.1, 0.9, 5000 / 16),
        "amd-gl": (0.1, 0.9, 5000 / 16),
    }
    for key, local_weight in (("amd-g", 0.0), ("amd-gl", 0.2)):
        feature_loss = objectives[key].feature_loss
        assert isinstance(feature_loss, AMDLoss)
        assert (feature_loss.local_weight, feature_loss.backend) == (local_weight, "auto")
        assert objectives[key].temperature == 4


@pytest.mark.parametrize("method", experiment.METHODS[2:], ids=lambda method: method.key)
def test_teacher_is_left_as_it_was(digits, method):
    teacher = experiment.build("10-2", digits, seed=0).train()
    before = copy.deepcopy(teacher.state_dict())
    student = experiment.build("10-1", digits, seed=0)
    loss = experiment.objective(method, CONFIG)
    train(Run(method.key, 0), student, loss, digits, RECIPE, teacher=teacher)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(module._forward_hooks for m in (student, teacher) for module in m.modules())


def test_step_descends_the_gradient_of_the_whole_objective(digits):
    student = experiment.build("10-1", digits, seed=0).double()
    teacher = experiment.build("10-2", digits, seed=1).double().eval()
    images, labels = digits.train.images[:10].double(), digits.train.labels[:10]
    expected = copy.deepcopy(student)
    with (
        FeatureHooks(expected, FEATURE_LAYERS) as hooks_s,
        FeatureHooks(teacher, FEATURE_LAYERS) as hooks_t,
    ):
        z_s, z_t = expected(images), teacher(images).detach()
        features_t = [feature.detach() for feature in hooks_t.features]
        amd = AMDLoss(local_weight=0.2, backend="reference")(hooks_s.features, features_t)
    ce = -z_s.log_softmax(1)[range(10), labels].mean()
    p_t, p_s = (z_t / 4).softmax(1), (z_s / 4).softmax(1)
    kd = 16 * (p_t * (p_t / p_s).log()).sum(1).mean()
    total = 0.1 * ce + 0.9 * kd + 312.5 * amd
    total.backward()

    recipe = replace(RECIPE, momentum=0.0, weight_decay=0.0, lr=0.01)
    loss = experiment.objective(experiment.AMD_GL, CONFIG, backend="reference")
    with Trainer(student, loss, recipe, 5, teacher=teacher) as trainer:
        values = trainer.step(images, labels)
    torch.testing.assert_close(values, torch.stack([total, ce, kd, amd]).detach())
    for moved, parameter in zip(student.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(moved, parameter - 0.01 * parameter.grad)


def test_learning_rate_falls_to_zero_along_a_cosine(digits):
    model = experiment.build("10-1", digits, seed=0)
    loss = experiment.objective(experiment.SCRATCH, CONFIG)
    trainer = Trainer(model, loss, RECIPE, total_steps=4)
    rates = []
    for _ in range(4):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.step(digits.train.images[:10], digits.train.labels[:10])
    rates.append(trainer.optimizer.param_groups[0]["lr"])
    expected = [0.05 * (1 + math.cos(math.pi * k / 4)) for k in range(5)]
    assert rates == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("method", experiment.METHODS[1:], ids=lambda method: method.key)
def test_same_seed_gives_the_same_bits(digits, method):
    first, first_run = distil(digits, method)
    torch.manual_seed(77)  # the global state must not matter
    second, second_run = distil(digits, method)
    assert first_run.epochs == second_run.epochs
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_another_seed_gives_another_result(digits):
    first, _ = distil(digits, experiment.KD, seed=0)
    second, _ = distil(digits, experiment.KD, seed=1)
    assert not torch.equal(first.fc.weight, second.fc.weight)


def test_students_of_a_seed_start_from_the_same_weights(digits):
    first, second = (experiment.build("10-1", digits, seed=3) for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_network_learns_digits():
    data = load_digits()
    model = experiment.build("10-1", data, seed=0)
    loss = experiment.objective(experiment.SCRATCH, CONFIG)
    recipe = replace(RECIPE, epochs=3, batch_size=32)
    seen = []
    run = train(
        Run("student", 0), model, loss, data, recipe, on_epoch=lambda r: seen.append(len(r.epochs))
    )
    assert seen == [1, 2, 3]
    assert run.test_accuracy > 80
    assert run.epochs[-1].loss < run.epochs[0].loss
    assert run.epochs[-1].loss == pytest.approx(run.epochs[-1].ce)
    assert run.epochs[-1].kd == run.epochs[-1].feature == 0
    assert not model.training


def test_accuracy_is_the_percentage_of_right_answers():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [1.0, 2.0]])
    model = nn.Identity().train()
    assert accuracy(model, Images(logits, torch.tensor([0, 1, 1, 1]))) == 75
    assert not model.training
