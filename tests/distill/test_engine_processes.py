"""Two processes train as one with the whole batch would, and count each test image once; a process
that is killed leaves what the next goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forks import Forks
from torch import nn

from distill.processes import said
from distill.tiny_runs import assert_same_run, tiny, weights
from distill.two_trainers import LAYERS, SIZE, images, normalisation, normalised

pytest.importorskip("accelerate")

from amd_fused.distill import engine
from amd_fused.distill.engine.batchnorm import share_statistics
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import RunDir

# What both import, they import once.
PROCESSES = """
import sys
from pathlib import Path
from distill import killed_trainer, two_trainers
folder = Path(sys.argv[1])
killed_trainer.main(folder / "killing", int(sys.argv[2]), cached=False)
two_trainers.main(folder, sys.argv[3])
"""
KILLS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a teacher, a student that one process trained, and whatever the two will write."""
    folder = tmp_path_factory.mktemp("processes")
    quiet: dict[str, Any] = {"show_progress": False}
    engine.train_teacher(tiny(), folder / "teacher", **quiet)
    choice = engine.TeacherChoice(folder / "teacher")
    engine.distill(tiny(train_size=SIZE), folder / "one", choice, **quiet)
    engine.distill(tiny(train_size=SIZE, **LAYERS), folder / "one-layers", choice, **quiet)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path, with_torch: Forks) -> list[dict[str, Any]]:
    """What every case of two_trainers.py gave, by process; to the first also, how many were killed
    in the middle."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    # A port that is held, and not one that was free a moment ago: the two join this store.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    killed = said(with_torch, PROCESSES, str(folder), str(KILLS), str(store.port))
    gave = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    gave[0]["stderr"] = (folder / "0.stderr").read_text()
    gave[0]["killed"] = int(killed)
    return gave


def test_batch_normalisation_is_that_of_the_whole_batch(found: list[dict[str, Any]]) -> None:
    whole = normalised(nn.Sequential(normalisation().double()), images().double())
    first, second = (gave["normalisation"] for gave in found)
    for name in ("output", "x"):
        both = torch.cat([first[name], second[name]]).double()
        torch.testing.assert_close(both, whole[name], rtol=1e-5, atol=3e-5)
    for name in ("0.weight", "0.bias"):
        # Each has the gradient of its own loss, and DDP takes their mean.
        both = (first[name] + second[name]).double()
        torch.testing.assert_close(both, whole[name], rtol=1e-4, atol=1e-3)
    for name in ("0.running_mean", "0.running_var"):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name].double(), whole[name], rtol=1e-5, atol=1e-5)
    assert first["0.num_batches_tracked"] == 1


@pytest.mark.parametrize(("layers", "epochs"), [("", 2), ("-layers", 1)])
def test_two_processes_have_the_losses_and_weights_of_one(
    folder: Path, found: list[dict[str, Any]], layers: str, epochs: int
) -> None:
    one, two = (RunDir(folder / f"{name}{layers}") for name in ("one", "two"))
    assert len(one.epochs()) == len(two.epochs()) == epochs
    for line_1, line_2 in zip(one.epochs(), two.epochs(), strict=True):
        assert line_2["step"] == line_1["step"]
        assert line_2["loss"] == pytest.approx(line_1["loss"], rel=1e-4)
        assert line_2["parts"] == pytest.approx(line_1["parts"], rel=1e-3)
        assert line_2["test"]["nll"] == pytest.approx(line_1["test"]["nll"], rel=1e-2)
    weights_2 = weights(two.path, epochs)
    for name, value in weights(one.path, epochs).items():
        torch.testing.assert_close(weights_2[name], value, rtol=1e-2, atol=1e-3)
    assert one.config()["processes"] == 1
    assert two.config()["processes"] == 2


def test_two_processes_share_a_teachers_cache(folder: Path, found: list[dict[str, Any]]) -> None:
    assert_same_run(folder / "two", folder / "cached")
    kept = {name: RunDir(folder / name).config()["teacher_cache"] for name in ("two", "cached")}
    assert kept["two"] == {"kept": None, "reason": "2 processes, which could share a folder"}
    assert kept["cached"] == {"kept": str(folder / "cache"), "reason": None}
    flags = (folder / "cache" / "filled.npy").read_bytes()
    assert flags[-SIZE:] == b"\1" * SIZE
    for gave in found:
        assert "--teacher-cache must be auto, off or a folder for 2 processes" in gave["memory"]


def test_statistics_apart_are_another_training(folder: Path, found: list[dict[str, Any]]) -> None:
    losses = {name: RunDir(folder / name).epochs()[0]["loss"] for name in ("one", "apart")}
    assert abs(losses["apart"] / losses["one"] - 1) > 1e-3


def test_every_process_has_the_result(folder: Path, found: list[dict[str, Any]]) -> None:
    written = RunDir(folder / "two").result()
    for gave in found:
        assert gave["run"]["test"] == written["test"]
        assert gave["run"]["amd_distance"] == written["amd_distance"]


def test_each_of_an_odd_number_of_test_images_counts_once(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    one = engine.evaluate(folder / "teacher")
    assert sum(one["reliability"]["count"]) == 101
    for gave in found:
        two = gave["evaluate"]
        for name in ("top1", "top5", "epoch", "network"):
            assert two[name] == one[name]
        for name in ("nll", "ece"):
            assert two[name] == pytest.approx(one[name], rel=1e-5)
        assert two["reliability"]["count"] == one["reliability"]["count"]
        assert two["reliability"] == {
            name: pytest.approx(values, rel=1e-6) for name, values in one["reliability"].items()
        }


def test_a_signal_to_one_stops_both_after_the_same_step(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    assert [gave["stopped"] for gave in found] == [{"steps": 2, "resumed": 4}] * 2
    assert_same_run(folder / "two", folder / "stopped")
    assert "after step 2, which is saved" in found[0]["stderr"]


def test_an_error_is_everyones(found: list[dict[str, Any]]) -> None:
    for gave in found:
        assert "UsageError: --output-dir must be a folder without a run" in gave["again"]
        assert "--batch-size must be a multiple of the 2 processes, got 15" in gave["odd"]
        assert gave["broken"].startswith("TrainingError: the loss became nan at step 1: the studen")


def test_runs_killed_at_random_points_end_like_the_undisturbed_one(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    assert found[0]["killed"] >= KILLS - 1
    runs = folder / "killing"
    assert_same_run(runs / "whole", runs / "killed", epoch=3)


def test_layers_that_cannot_be_shared_are_named() -> None:
    class More(nn.BatchNorm2d):
        pass

    for layer in (More(3), nn.BatchNorm1d(3)):
        name = type(layer).__name__
        with pytest.raises(UsageError, match=rf"--sync-batchnorm: 0 is a {name}, which cannot"):
            share_statistics(nn.Sequential(layer), torch.device("cpu"))
