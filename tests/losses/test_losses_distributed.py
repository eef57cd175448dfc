"""Class means, hash biases and banks over the shards of two processes are those over all data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from two_processes import CLASSES, contrasted, data

from amd_fused import LSHLoss

SCRIPT = Path(__file__).parents[1] / "support" / "two_processes.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-2000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", ["means", "one has no data"])
def test_both_get_the_means_of_all_data(results: list[dict[str, Any]], case: str) -> None:
    features, labels = data()
    truth = [features[labels == k].double().mean(0) for k in range(CLASSES)]
    assert torch.equal(results[0][case], results[1][case])
    torch.testing.assert_close(results[0][case], torch.stack(truth).float(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("case", ["median", "median in chunks", "median, one has no data", "mean"])
def test_both_get_the_bias_of_all_data(results: list[dict[str, Any]], case: str) -> None:
    weight = LSHLoss(7, 11, generator=torch.Generator().manual_seed(1)).weight
    hashes = data()[0].double() @ weight.double().T
    truth = hashes.mean(0) if case == "mean" else hashes.median(0).values
    assert torch.equal(results[0][case], results[1][case])
    torch.testing.assert_close(results[0][case], -truth.float(), rtol=1e-5, atol=1e-5)


def test_errors_are_raised_in_both(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert "ValueError: class_means: loader must give at" in result["neither has data"]
        assert "got none of 2 classes: 5, 6" in result["a class is missing"]
    assert "RuntimeError: class_means: it failed in another" in results[0]["one process fails"]
    assert "TypeError: class_means: the model's result" in results[1]["one process fails"]


def test_both_have_the_banks_and_normalisers_of_all_samples(results: list[dict[str, Any]]) -> None:
    whole, values = contrasted(0, 8)
    shares = [result["contrast"] for result in results]
    for name, a in whole.state_dict().items():
        assert torch.equal(shares[0][name], shares[1][name])
        torch.testing.assert_close(shares[0][name], a)
    mean = (3 * shares[0]["values"] + 5 * shares[1]["values"]) / 8
    torch.testing.assert_close(mean, values)
