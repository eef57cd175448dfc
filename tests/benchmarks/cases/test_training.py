"""Training steps: each objective timed, wrong ones refused, networks that are missing left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import amd_fused
from amd_fused.distill.clock import Settings
from benchmarks.cases import networks, training
from benchmarks.measure import results
from benchmarks.measure.budget import Budget
from benchmarks.measure.runner import Bench
from benchmarks.measure.subject import Variant
from benchmarks.show import table

CPU = torch.device("cpu")
TINY = replace(networks.SETTINGS["tiny-amp"], batch=2)
QUICK = Settings(min_time=0.0, min_rounds=2, calls_per_turn=2)


@pytest.fixture(autouse=True)
def reference(monkeypatch):
    """The backend that is everywhere, and one thread: so small networks are slower on several."""
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_training_step_is_timed_with_each_objective():
    """No time: the compiled peers are left out."""
    record = training.measure(TINY, Bench(CPU, QUICK, Budget(0.0, 1).refusal))
    assert record["status"] == "ok"
    variants = {v["key"]: v for v in record["variants"]}
    losses = ["amd_fused", "eager", "compile", "released", "attention", "at"]
    assert list(variants) == [*losses, "amd_fused_cached", "kd", "scratch"]
    assert variants["compile"]["status"] == "left out"
    assert variants["compile"]["step_ms"] is None
    for key in ("amd_fused", "eager", "at", "amd_fused_cached", "kd", "scratch"):
        median = variants[key]["step_ms"]["median"]
        assert variants[key]["images_per_second"] == pytest.approx(1e3 * 2 / median)
        assert variants[key]["peak_extra_bytes"] > 0
        assert len(variants[key]["rounds_ms"]["total"]) == 2
    rows = table.render_case(record).splitlines()
    assert rows[0] == "### tiny-amp: 2 images of 3 x 8 x 8, mixed precision, channels_last"
    assert rows[11].startswith("| KD alone ")
    assert rows[14].startswith("KD + torch.compile reference: left out, about ")


def test_training_changes_the_student_and_not_the_teacher():
    run = training.Training(TINY, amd_fused.amd_loss, CPU)
    student, teacher = (
        [p.detach().clone() for p in network.parameters()] for network in (run.student, run.teacher)
    )
    run.step()
    assert not all(map(torch.equal, student, run.student.parameters()))
    assert all(map(torch.equal, teacher, run.teacher.parameters()))
    assert run.verdict(amd_fused.reference.amd_loss).status == "ok"


def test_a_cached_teacher_does_not_run_and_teaches_the_same():
    live, cached = (
        training.Training(TINY, amd_fused.amd_loss, CPU, teacher) for teacher in ("live", "cached")
    )
    for run in (live, cached):
        run.step()
    cached.teacher.register_forward_pre_hook(lambda *_: pytest.fail("the teacher ran"))
    for run in (live, cached):
        run.step()
    torch.testing.assert_close(live.objective.parts, cached.objective.parts, rtol=1e-2, atol=0)
    assert cached.verdict(amd_fused.reference.amd_loss).status == "ok"


def run_tiny(monkeypatch, tmp_path, setting):
    monkeypatch.setitem(networks.SETTINGS, "tiny-amp", setting)
    output = tmp_path / "training.json"
    arguments = ["--device=cpu", "--settings=tiny-amp", f"--output={output}", "--min-time=0"]
    return training.main(arguments), output


def test_training_with_a_wrong_loss_is_refused_and_fails_the_run(monkeypatch, tmp_path):
    right = amd_fused.reference.amd_loss
    wrong = Variant("amd_fused", "ours", lambda s, t: 2 * right(s, t), right, peer=False)
    monkeypatch.setattr(training.amd, "variants", lambda device: [wrong])
    status, output = run_tiny(monkeypatch, tmp_path, TINY)
    assert status == 1
    (case,) = results.read(output)["cases"]
    refused, cached, alone, _ = case["variants"]
    assert cached["status"] == "refused"
    assert (refused["status"], refused["reason"]) == ("refused", "loss off by 1, tolerance 0.005")
    assert refused["step_ms"] is None
    assert alone["status"] == "ok"


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ImportError("No module named 'torchvision'"), 0, "left out: No module named 'torchvisi"),
        (RuntimeError("no memory\nat all"), 1, "failed: RuntimeError: no memory"),
    ],
)
def test_networks_that_cannot_be_made_are_told(tmp_path, monkeypatch, capsys, error, status, told):
    def fails():
        raise error

    setting = replace(TINY, networks=fails)
    assert run_tiny(monkeypatch, tmp_path, setting)[0] == status
    assert told in capsys.readouterr().out
