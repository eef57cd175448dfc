"""What is trained is what the paper says, and the run's folder tells it."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from distill.tiny_runs import Crash, crash, in_step, tiny, weights

pytest.importorskip("accelerate")

from amd_fused import FeatureHooks, KDLoss, reference
from amd_fused.distill import data, engine, models
from amd_fused.distill.config import Settings
from amd_fused.distill.engine import loop
from amd_fused.distill.engine.metrics import Measures
from amd_fused.distill.errors import TrainingError
from amd_fused.distill.run_dir import RunDir

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with the weights of both its epochs."""
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    engine.train_teacher(tiny(save_every=1), folder, **QUIET)
    return folder


def distill(
    teacher: Path | None, path: Path, settings: Settings, epoch: int | None = None, **options: Any
) -> dict[str, Any]:
    choice = None if teacher is None else engine.TeacherChoice(teacher, epoch)
    return engine.distill(settings, path, choice, **(QUIET | options))


def maps(model: torch.nn.Module, images: torch.Tensor, layers: models.Layers) -> Any:
    with FeatureHooks(model, layers.maps) as hooks:
        return model(images), hooks.features


def test_the_student_descends_eq_8_by_sgd(teacher: Path, tmp_path: Path) -> None:
    settings = tiny(method="amd-g", margin=1.5)
    result = distill(teacher, tmp_path, settings)
    dataset = data.load(settings)
    saved = engine.load_saved_network(RunDir(teacher), dataset, None)
    model_t, layers_t = saved.network, saved.layers()
    model = models.build("wrn10-1", num_classes=10, channels=1, image_size=8, seed=0)
    layers = models.layers("WRN10-1", model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    for epoch, rate in enumerate([0.1, 0.02]):
        losses = []
        batches = data.train_batches(dataset.train, batch_size=10, seed=0, epoch=epoch)
        for images, labels, _ in batches:
            with torch.no_grad():
                logits_t, maps_t = maps(model_t, images, layers_t)
            logits, maps_s = maps(model, images, layers)
            # Eqs. 3 and 8
            kd = 16 * F.kl_div(
                F.log_softmax(logits / 4, 1), F.softmax(logits_t / 4, 1), reduction="batchmean"
            )
            amd = reference.amd_loss(maps_s, maps_t, margin=1.5, local_weight=0.0)
            loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * kd + 100 * amd
            losses.append(loss.item())
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        line = RunDir(tmp_path).epochs()[epoch]
        assert line["loss"] == pytest.approx(sum(losses) / 6, rel=1e-4)
        parts = line["parts"]
        total = 0.1 * parts["ce"] + 0.9 * parts["kd"] + 100 * parts["amd"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert line["lr"] == pytest.approx(rate)
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-2, atol=1e-3)
    model.load_state_dict(weights(tmp_path))
    images = dataset.test.batch(range(101), None)
    with torch.no_grad():
        logits, maps_s = maps(model.eval(), images, layers)
        _, maps_t = maps(model_t, images, layers_t)
    right = (logits.argmax(1) == dataset.test.labels).sum().item()
    assert result["test"]["top1"] == pytest.approx(100 * right / 101, abs=1e-4)
    distance = reference.amd_loss(maps_s, maps_t, margin=1.5, local_weight=0.0)
    assert result["amd_distance"] == pytest.approx(distance.item(), rel=1e-4)


def test_the_teacher_is_left_as_it_was(teacher: Path, tmp_path: Path) -> None:
    before = RunDir(teacher).weights_file(2).read_bytes()
    config = RunDir(teacher).config()
    distill(teacher, tmp_path, tiny(method="nd", train_size=30))
    assert RunDir(teacher).weights_file(2).read_bytes() == before
    assert RunDir(teacher).config() == config


def test_a_run_tells_what_it_was(teacher: Path, tmp_path: Path) -> None:
    settings = tiny(method="kd", teacher="wrn16-3", checkpoint_steps=3)
    result = distill(teacher, tmp_path, settings, epoch=1)
    run = RunDir(tmp_path)
    config = run.config()
    file = RunDir(teacher).weights_file(1)
    assert config["teacher"] == {
        "run": str(teacher),
        "network": "WRN10-2",
        "epoch": 1,
        "epochs": 2,
        "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "top1": RunDir(teacher).epochs()[0]["test"]["top1"],
    }
    # The network of the teacher's run, whatever the settings named.
    assert run.settings() == settings.changed(teacher="WRN10-2")
    assert (config["role"], config["network"]) == ("student", "WRN10-1")
    assert config["parameters"] == result["parameters"] == 77562
    assert config["versions"]["torch"] == torch.__version__
    assert (config["processes"], config["device"]) == (1, "cpu")
    assert run.result() == result
    assert [line["step"] for line in run.epochs()] == [6, 12]
    assert run.epochs()[1]["test"] == result["test"]
    assert run.epochs()[1]["parts"].keys() == {"ce", "kd"}
    assert run.epochs()[1]["seconds"] >= run.epochs()[0]["seconds"] > 0
    assert result["epochs"] == 2
    assert result["images_per_second"] > 0
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


def test_weights_are_kept_of_the_last_epoch_the_best_and_every_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([50.0, 70.0, 70.0, 60.0, 65.0])

    def scripted(*_: Any) -> Measures:
        test = {"top1": next(accuracies), "top5": 90.0, "nll": 1.0, "ece": 2.0}
        return Measures(test, {"edges": [], "count": [], "confidence": [], "accuracy": []})

    monkeypatch.setattr(loop, "measure", scripted)
    settings = tiny(epochs=5, save_every=3, train_size=20)
    result = engine.train_teacher(settings, tmp_path, **QUIET)
    assert RunDir(tmp_path).saved_epochs() == [2, 3, 5]
    assert result["best"] == {"epoch": 2, "top1": 70.0}


def test_evaluate_repeats_the_test(teacher: Path) -> None:
    lines = RunDir(teacher).epochs()
    for epoch, line in [(1, lines[0]), (2, lines[1]), (None, lines[1])]:
        found = engine.evaluate(teacher, epoch=epoch, data_dir="anywhere")
        assert {name: found[name] for name in line["test"]} == line["test"]
        assert (found["epoch"], found["network"]) == (line["epoch"], "WRN10-2")
    assert found["reliability"] == RunDir(teacher).result()["reliability"]


def test_a_network_is_loaded_as_it_was_saved(teacher: Path) -> None:
    loaded = engine.load_saved_network(RunDir(teacher), data.load(tiny()), 1)
    assert not loaded.network.training
    assert loaded.name == "WRN10-2"
    assert len(loaded.layers().maps) == 3
    saved = weights(teacher, epoch=1)
    assert all(torch.equal(value, saved[key]) for key, value in loaded.network.state_dict().items())


def test_a_student_from_scratch_may_be_compared_with_a_teacher(
    teacher: Path, tmp_path: Path
) -> None:
    settings = tiny(method="scratch", train_size=20)
    alone = distill(None, tmp_path / "alone", settings.changed(teacher="wrn10-2"))
    beside = distill(teacher, tmp_path / "beside", settings)
    assert alone["amd_distance"] is None
    assert beside["amd_distance"] > 0
    assert alone["test"] == beside["test"]
    assert RunDir(tmp_path / "alone").epochs()[0]["parts"].keys() == {"ce"}
    assert RunDir(tmp_path / "alone").config()["teacher"] is None


def test_the_distance_asks_for_no_backend_that_the_training_did_not_try(
    teacher: Path, tmp_path: Path
) -> None:
    # Knowledge distillation has no CUDA C++ kernel, and does without on any machine.
    settings = tiny(method="kd", backend="cuda", epochs=1, train_size=10)
    assert distill(teacher, tmp_path, settings)["amd_distance"] > 0


def test_layers_that_nothing_needs_need_not_be_known(teacher: Path, tmp_path: Path) -> None:
    settings = tiny(method="kd", student="torchvision/mobilenet_v3_small", epochs=1, train_size=10)
    assert distill(teacher, tmp_path, settings)["amd_distance"] is None


@pytest.mark.parametrize(
    "changes", [{"mixed_precision": "bf16"}, {"channels_last": True}], ids=lambda c: next(iter(c))
)
def test_half_precision_and_channels_last_train_alike(
    teacher: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    # Not amd-gl: in 2x2 maps it compares quadrants of one position, whose logarithms near 0 jump.
    settings = tiny(method="amd-g+sp", lr=0.01, epochs=1)
    distill(teacher, tmp_path / "plain", settings)
    distill(teacher, tmp_path / "other", settings.changed(**changes))
    plain, other = (RunDir(tmp_path / name).epochs()[0] for name in ("plain", "other"))
    assert other["loss"] == pytest.approx(plain["loss"], rel=0.05)
    if "mixed_precision" in changes:
        assert other["loss"] != plain["loss"]
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path / "other", 1).values())


# Seen at once, or when the epoch ends.
@pytest.mark.parametrize("every", [1, 10])
def test_a_part_that_becomes_nan_is_named_and_the_last_checkpoint_stays(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(loop, "sync_interval", lambda device: every)
    calls, forward = 0, KDLoss.forward

    def broken(self: KDLoss, *logits: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        # The first call is a trial before the training.
        return forward(self, *logits) * (math.nan if calls == 1 + 11 else 1)

    monkeypatch.setattr(KDLoss, "forward", broken)
    with pytest.raises(TrainingError) as caught:
        distill(teacher, tmp_path, tiny(checkpoint_steps=4))
    run = RunDir(tmp_path)
    assert str(caught.value) == (
        "the loss became nan at step 11: kd (epoch 2); the last good checkpoint is "
        f"{run.last_checkpoint}"
    )
    progress = torch.load(run.last_checkpoint)["progress"]
    assert (progress["epoch"], progress["step"]) == (1, 2)


def test_a_sum_that_overflows_is_named(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"became inf at step 1: the sum of its .*nothing was"):
        distill(teacher, tmp_path, tiny(gamma=1e300))


# Before a checkpoint, and at an epoch's end; without either it shows in the next step's logits.
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (4, r"the gradient became NaN or infinite at step 4, and so student\."),
        (6, r"the gradient became NaN or infinite at step 6, and so student\."),
        (2, r"the loss became nan at step 3: the student's logits, and with them ce, kd"),
    ],
)
def test_a_broken_gradient_is_never_saved(
    teacher: Path, tmp_path: Path, step: int, message: str
) -> None:
    def spoil(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        steps[0] += 1
        if steps[0] == step:
            optimizer.param_groups[0]["params"][0].grad.fill_(math.inf)

    steps = [0]
    handle = register_optimizer_step_pre_hook(spoil)
    try:
        with pytest.raises(TrainingError, match=message):
            distill(teacher, tmp_path, tiny(method="kd", checkpoint_steps=4))
    finally:
        handle.remove()
    assert RunDir(tmp_path).last_checkpoint.exists() == (step == 6)


def test_progress_is_a_line_an_epoch_where_there_is_no_terminal(
    teacher: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    distill(teacher, tmp_path, tiny(method="kd", train_size=10), show_progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    top1 = RunDir(tmp_path).result()["test"]["top1"]
    assert lines[1].startswith(f"WRN10-1 kd epoch 2/2: test {top1:.2f} %, loss ")


def test_tensorboard_has_each_epoch_once_after_a_resume(teacher: Path, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    settings = tiny(method="kd", checkpoint_steps=1)
    with pytest.raises(Crash), in_step(9, crash):
        distill(teacher, tmp_path, settings)
    distill(teacher, tmp_path, settings, resume=True)
    found = event_accumulator.EventAccumulator(str(RunDir(tmp_path).tensorboard)).Reload()
    for name, of in [
        ("loss/kd", lambda line: line["parts"]["kd"]),
        ("test/top1", lambda line: line["test"]["top1"]),
    ]:
        scalars = {event.step: event.value for event in found.Scalars(name)}
        lines = RunDir(tmp_path).epochs()
        assert scalars == pytest.approx({line["step"]: of(line) for line in lines})
