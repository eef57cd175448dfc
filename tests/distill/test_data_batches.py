"""Which images are seen when depends on seed, epoch and step: not on processes or workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from amd_fused.distill import data
from amd_fused.distill.config import Settings
from amd_fused.distill.data import all_batches, mix_seed, mixup, train_batches, train_steps
from amd_fused.distill.data import batches as batches_module
from amd_fused.distill.errors import UsageError
from distill.published_layouts import write_cifar10

# Python from 3.12 on warns of any fork beside threads, and torch has threads.
forks = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class Numbers:
    """Images whose one pixel is their index, and that remember what was asked for."""

    def __init__(self, count):
        self.labels = torch.arange(count) % 7
        self.asked = []

    def __len__(self):
        return len(self.labels)

    def batch(self, indices, augment_seed):
        self.asked.append((list(indices), augment_seed))
        return torch.tensor(indices, dtype=torch.float32).view(-1, 1, 1, 1)


def order(batches):
    """Indices by batch, as images say; labels and indices must be theirs."""
    found = []
    for images, labels, places in batches:
        indices = images.flatten().int().tolist()
        assert places.tolist() == indices
        assert labels.tolist() == [index % 7 for index in indices]
        found.append(indices)
    return found


def test_an_epoch_has_every_image_once_but_for_the_rest():
    batches = order(train_batches(Numbers(23), batch_size=5, seed=0, epoch=0))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    seen = [index for batch in batches for index in batch]
    assert len(set(seen)) == 20
    assert set(seen) <= set(range(23))
    assert train_steps(Numbers(23), 5) == 4
    assert train_steps(Numbers(23), 23) == 1


def test_the_order_depends_on_seed_and_epoch_alone():
    def epoch(seed, number):
        return order(train_batches(Numbers(40), batch_size=8, seed=seed, epoch=number))

    first = epoch(1, 2)
    torch.manual_seed(77)
    np.random.seed(77)  # noqa: NPY002
    assert epoch(1, 2) == first
    assert epoch(1, 3) != first
    assert epoch(2, 2) != first
    # Not the same pair in another way.
    assert epoch(2, 1) != first


def test_batches_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    list(train_batches(Numbers(20), batch_size=5, seed=0, epoch=0))
    list(all_batches(Numbers(20), batch_size=5))
    mixup(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), 2, 0.2, 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_share_the_batch_of_one(processes):
    options = {"batch_size": 6, "seed": 3, "epoch": 1}
    alone = order(train_batches(Numbers(32), **options))
    ranks = [
        order(train_batches(Numbers(32), rank=rank, processes=processes, **options))
        for rank in range(processes)
    ]
    together = [sum(shares, []) for shares in zip(*ranks, strict=True)]  # noqa: RUF017
    assert together == alone


def test_first_step_skips_without_loading():
    whole = order(train_batches(Numbers(30), batch_size=4, seed=0, epoch=5))
    images = Numbers(30)
    assert order(train_batches(images, batch_size=4, seed=0, epoch=5, first_step=4)) == whole[4:]
    assert [indices for indices, _ in images.asked] == whole[4:]
    assert order(train_batches(images, batch_size=4, seed=0, epoch=5, first_step=7)) == []


def test_every_epoch_changes_its_images_by_another_seed():
    def seeds(epoch, **options):
        images = Numbers(12)
        list(train_batches(images, batch_size=4, seed=0, epoch=epoch, **options))
        return {seed for _, seed in images.asked}

    assert len(seeds(0)) == 1
    assert seeds(0) == seeds(0, first_step=2) == seeds(0, rank=1, processes=2)
    assert not seeds(0) & seeds(1)
    assert seeds(0, augment=False) == {None}


@pytest.mark.parametrize("processes", [1, 2, 3, 11])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_test_image_is_seen_once_over_all_ranks(processes, batch_size):
    ranks = []
    for rank in range(processes):
        images = Numbers(10)
        batches = order(all_batches(images, batch_size=batch_size, rank=rank, processes=processes))
        assert all(len(batch) <= max(1, batch_size // processes) for batch in batches)
        assert all(seed is None for _, seed in images.asked)
        ranks.append([index for batch in batches for index in batch])
        assert ranks[-1] == list(range(rank, 10, processes))
    assert sorted(sum(ranks, [])) == list(range(10))  # noqa: RUF017


@forks
def test_workers_change_nothing(tmp_path):
    write_cifar10(tmp_path)
    loaded = data.load(Settings(data="cifar10", data_dir=str(tmp_path), augment="crop-flip"))
    options = {"batch_size": 4, "seed": 2, "epoch": 0, "first_step": 1}
    alone = list(train_batches(loaded.train, **options))
    before = torch.get_rng_state()
    helped = list(train_batches(loaded.train, workers=2, **options))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(alone) == len(helped) == 4
    for batch, other in zip(alone, helped, strict=True):
        assert all(map(torch.equal, batch, other))


def from_elsewhere(which, pid):
    """A signal of another process than the trainer, as a scheduler's is."""
    subprocess.run(["kill", f"-{which.name.removeprefix('SIG')}", str(pid)], check=True)


@forks
def test_a_signal_to_all_processes_does_not_fail_the_loading():
    batches = train_batches(Numbers(40), batch_size=4, seed=0, epoch=0, workers=1)
    first = next(batches)
    (worker,) = multiprocessing.active_children()
    from_elsewhere(signal.SIGINT, worker.pid)
    second = next(batches)
    from_elsewhere(signal.SIGTERM, worker.pid)
    alone = order(train_batches(Numbers(40), batch_size=4, seed=0, epoch=0))
    assert order([first, second, *batches]) == alone
    # The trainer has ended it.
    worker.join()
    assert worker.exitcode == 0


@forks
def test_a_signal_before_the_workers_are_ready_does_not_fail_the_loading(monkeypatch):
    """It comes when a worker has not yet said what it does with signals."""

    def signalled(worker):
        from_elsewhere(signal.SIGTERM, os.getpid())
        ready(worker)

    ready = batches_module._leave_signals_to_the_trainer
    monkeypatch.setattr(batches_module, "_leave_signals_to_the_trainer", signalled)
    helped = train_batches(Numbers(40), batch_size=4, seed=0, epoch=0, workers=2)
    assert order(helped) == order(train_batches(Numbers(40), batch_size=4, seed=0, epoch=0))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@forks
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_workers_end_when_the_trainer_says_so(end):
    batches = train_batches(Numbers(40), batch_size=4, seed=0, epoch=0, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    if end == "terminate":
        worker.terminate()
        worker.join()
    batches.close()
    worker.join()
    assert worker.exitcode == 0


class Broken(Numbers):
    def batch(self, indices, augment_seed):
        raise UsageError("no image")


@forks
def test_workers_end_with_the_error_of_one():
    try:
        next(train_batches(Broken(40), batch_size=4, seed=0, epoch=0, workers=1))
    except UsageError:
        # Within the traceback's reach.
        assert multiprocessing.active_children() == []
    else:
        pytest.fail("nothing was raised")


def test_too_large_batches_are_refused():
    message = "--batch-size must be at most the 20 training images, got 21"
    with pytest.raises(UsageError, match=message):
        train_steps(Numbers(20), 21)
    with pytest.raises(UsageError, match=message):
        train_batches(Numbers(20), batch_size=21, seed=0, epoch=0)


def test_batches_that_processes_cannot_share_are_refused_at_once():
    with pytest.raises(
        UsageError, match="--batch-size must be a multiple of the 3 processes, got 16"
    ):
        train_batches(Numbers(20), batch_size=16, seed=0, epoch=0, processes=3)


@dataclass(frozen=True)
class FixedDraws:
    """Stands for numpy's generator."""

    lam: float
    order: list[int]

    def beta(self, a, b):
        assert a == b == 0.2
        return self.lam

    def permutation(self, count):
        assert count == len(self.order)
        return np.array(self.order)


def test_mixup_blends_images_and_labels_by_the_same_share(monkeypatch):
    monkeypatch.setattr(np.random, "default_rng", lambda seed: FixedDraws(0.75, [2, 0, 1]))
    images = torch.tensor([0.0, 4.0, 8.0]).view(3, 1, 1, 1)
    mixed, target = mixup(images, torch.tensor([0, 3, 1]), 4, 0.2, seed=0)
    # 3/4 of each and 1/4 of its partner: 0 with 8, 4 with 0, 8 with 4.
    assert mixed.flatten().tolist() == [2.0, 3.0, 7.0]
    assert target.tolist() == [[0.75, 0.25, 0, 0], [0.25, 0, 0, 0.75], [0, 0.75, 0, 0.25]]
    assert target.dtype == torch.float32


def test_mixup_depends_on_its_seed_alone_and_draws_from_beta():
    images, labels = torch.arange(6.0).view(6, 1, 1, 1), torch.arange(6)
    first = mixup(images, labels, 6, 0.2, seed=4)
    assert all(map(torch.equal, first, mixup(images, labels, 6, 0.2, seed=4)))
    assert images.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    # A share above 1/2 is the larger part of a row. Beta(a, a) has variance 1 / (4 (2 a + 1)).
    for alpha in (0.2, 5.0):
        shares = []
        for seed in range(400):
            _, target = mixup(images, labels, 6, alpha, seed)
            assert torch.allclose(target.sum(1), torch.ones(6))
            mixed = target.diagonal()[target.diagonal() < 1]
            shares.append(mixed[0].item() if len(mixed) else 1.0)
        spread = np.mean((np.array(shares) - 0.5) ** 2)
        assert spread == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def test_seeds_are_those_of_splitmix64():
    # First outputs of the published generator for states 0 and 1234567, shifted to 63 bits.
    assert mix_seed(0) == 0xE220A8397B1DCDAF >> 1
    assert mix_seed(1234567) == 6457827717110365317 >> 1


def test_seeds_differ_by_value_order_and_number_of_their_parts():
    parts = [(0,), (0, 0), (0, 0, 0), (1,), (1, 0), (0, 1), (1, 2), (2, 1), (2**40, 1), (-1, 1)]
    seeds = [mix_seed(*part) for part in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Neighbours share no more bits than chance lets them: 31.5 of 63 differ, give or take 4.
    apart = [bin(mix_seed(n) ^ mix_seed(n + 1)).count("1") for n in range(500)]
    assert np.mean(apart) == pytest.approx(31.5, abs=1)
