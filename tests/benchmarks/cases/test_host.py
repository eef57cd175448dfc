"""Host time: every way that can be taken here, its launches left out, wrong losses refused."""

from __future__ import annotations

import pytest
import torch

import amd_fused
from amd_fused.distill.clock import Settings
from benchmarks.cases import host
from benchmarks.measure.runner import Bench
from benchmarks.show import table

QUICK = Settings(min_time=0.0, min_rounds=2, calls_per_turn=2)
BENCH = Bench(torch.device("cpu"), QUICK, lambda variant: "")
TRITON = amd_fused.backends()["triton"]


@pytest.fixture(autouse=True)
def reference(monkeypatch):
    """The backend that is everywhere."""
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")


def by_key(record):
    return {v["key"]: v for v in record["variants"]}


def test_host_time_of_every_way_that_can_be_taken_here():
    variants = by_key(host.measure(BENCH))
    peers = ["eager", "released", "attention", "at"]
    assert list(variants) == ["amd_fused", *peers, *host.UNLAUNCHED]
    assert variants["eager"]["times_eager"] == pytest.approx(1.0)
    assert variants["at"]["times_eager"] is None
    for timed in variants.values():
        if timed["status"] != "ok":
            assert timed["reason"].startswith("Triton cannot be imported")
            continue
        assert timed["total_us"]["n"] == 4
        assert len(timed["rounds_ms"]["total"]) == 2
        assert timed["total_us"]["median"] >= timed["forward_us"]["min"] > 0
        # Rounds are in milliseconds, spreads in microseconds.
        assert min(timed["rounds_ms"]["total"]) >= 0.99e-3 * timed["total_us"]["min"]


@pytest.mark.skipif(TRITON.startswith("not usable, because Triton cannot"), reason=TRITON)
def test_nothing_is_launched_where_launches_are_left_out(monkeypatch):
    from amd_fused.losses.amd.triton import launcher as kernels

    operators = kernels.amd_fwd_triton, kernels.amd_bwd_triton

    def launched(launches):
        raise AssertionError(f"launched {launches}")

    monkeypatch.setattr(kernels, "run_all", launched)
    variants = by_key(host.measure(BENCH))
    assert all(variants[key]["status"] == "ok" for key in host.UNLAUNCHED)
    assert (kernels.amd_fwd_triton, kernels.amd_bwd_triton) == operators


def test_host_time_of_a_wrong_loss_is_refused(monkeypatch):
    right = amd_fused.amd_loss
    monkeypatch.setattr(amd_fused, "amd_loss", lambda s, t, **options: 2 * right(s, t, **options))
    record = host.measure(BENCH)
    assert by_key(record)["amd_fused"]["status"] == "refused"
    assert by_key(record)["amd_fused"]["total_us"] is None
    assert "amd_fused (reference): refused, loss off by 1" in table.render_case(record)
