"""The benchmark's other commands: host time, training steps, and steps that may fail or hang."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import amd_fused
from benchmarks import __main__, budget, host, losses, networks, results, steps, training
from benchmarks.harness import Settings
from benchmarks.steps import Step
from benchmarks.subject import AUTOTUNED, COMPILED, Variant

CPU = torch.device("cpu")
QUICK = Settings(min_time=0.0, min_rounds=2, calls_per_turn=2)
AUTO = amd_fused.backends()


def python(name, code, seconds=30.0, **options):
    return Step(name, (sys.executable, "-c", code), seconds, **options)


def test_step_is_ok_or_failed_by_its_exit_status_and_its_output_is_logged(capfd):
    log = io.StringIO()
    fine = steps.run(python("fine", "print('a line')"), 100, log)
    assert (fine.status, fine.note, fine.failed) == ("ok", "", False)
    broken = steps.run(python("broken", "raise SystemExit(3)"), 100, log)
    assert (broken.status, broken.note, broken.failed) == ("failed", "exit status 3", True)
    assert "a line" in log.getvalue()
    assert "a line" in capfd.readouterr().out


def test_failure_that_does_not_count_is_none_of_the_run():
    outcome = steps.run(python("build", "raise SystemExit(1)", counts=False), 100, io.StringIO())
    assert outcome.status == "failed"
    assert not outcome.failed


def test_step_that_lasts_too_long_is_interrupted_with_its_children():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; "
    code += "time.sleep(60)'])"
    start = time.monotonic()
    outcome = steps.run(python("hangs", code, seconds=2.0), 100, io.StringIO())
    assert (outcome.status, outcome.note) == ("timed out", "after 2 s")
    assert outcome.failed
    assert time.monotonic() - start < 2 + steps.GRACE_SECONDS + 20


def test_step_gets_the_time_that_is_left_or_is_left_out():
    step = python("late", "raise SystemExit(1)")
    outcome = steps.run(step, steps.LEAST_SECONDS - 1, io.StringIO())
    assert (outcome.status, outcome.note, outcome.failed) == ("left out", "no time left", False)


def test_step_is_told_the_time_it_has():
    code = f"raise SystemExit('{steps.SECONDS}' != '20')"
    assert steps.run(python("measures", code, seconds=50.0), 30, io.StringIO()).status == "ok"


def test_steps_leave_what_later_ones_have_reserved(monkeypatch):
    given = {}
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: 50.0))
    monkeypatch.setattr(steps, "run", lambda step, left, log: given.update({step.name: left}))
    chosen = [
        python("first", ""),
        python("second", "", reserved=20.0),
        python("absent", "", reserved=30.0, missing="not here"),
        python("last", "", reserved=5.0),
    ]
    steps.run_all(chosen, 100.0, io.StringIO(), lambda outcome: None)
    assert given == {"first": 75.0, "second": 95.0, "absent": 95.0, "last": 100.0}


def test_step_that_cannot_run_here_is_left_out_with_the_reason():
    missing = python("tool", "raise SystemExit(1)", missing="it is not installed")
    assert steps.run(missing, 100, io.StringIO()).note == "it is not installed"
    code = "print('Error: Device not supported'); raise SystemExit(1)"
    refused = python("tool", code, refused="Device not supported")
    outcome = steps.run(refused, 100, io.StringIO())
    assert (outcome.status, outcome.note) == ("left out", "Device not supported")


def variant(key, compiles=True):
    return Variant(key, key, lambda s, t: s[0].sum(), lambda s, t: s[0].sum(), compiles=compiles)


@pytest.fixture
def now(monkeypatch):
    """Moves on as the test says."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    return clock


def test_compiled_peers_are_left_out_when_time_is_short(now):
    assert budget.Budget(None, 100).refusal(variant(AUTOTUNED)) == ""
    short = budget.Budget(51, 2)  # beside two cases of 6 s, 39 are left
    assert short.refusal(variant(COMPILED)) == "about 40 s to compile, 39 s left"
    assert short.refusal(variant("ours", compiles=False)) == ""
    assert budget.Budget(52, 2).refusal(variant(COMPILED)) == ""


def test_budget_learns_from_what_compiling_took(now):
    left = budget.Budget(400, 2)
    assert left.refusal(variant(COMPILED)) == ""
    now.seconds = 100.0
    left.spent({"variants": [{"key": COMPILED, "first_call_ms": 292e3}]}, 300)
    # Of the 300 s that are left, 8 are the next case's besides what it compiles.
    assert left.refusal(variant(COMPILED)) == ""
    now.seconds = 101.0
    assert left.refusal(variant(COMPILED)) == "about 292 s to compile, 291 s left"
    assert left.refusal(variant(AUTOTUNED)) == ""  # as long as nothing else is known


def test_budget_takes_the_mean_of_the_cases_it_saw(now):
    left = budget.Budget(100, 3)
    left.spent({"variants": []}, 10)
    left.spent({"variants": []}, 30)
    # One case is left, for 20 s.
    now.seconds = 40.0
    assert left.refusal(variant(COMPILED)) == ""
    now.seconds = 41.0
    assert left.refusal(variant(COMPILED)) == "about 40 s to compile, 39 s left"


def test_variants_are_chosen_by_key():
    variants = [variant("amd_fused"), variant("eager"), variant(COMPILED)]
    assert losses.chosen(variants, None) == variants
    assert losses.chosen(variants, ["compile", "amd_fused"]) == [variants[0], variants[2]]
    with pytest.raises(SystemExit, match="--variants must be of amd_fused, eager, compile, got a"):
        losses.chosen(variants, ["a"])


def test_cases_differ_most_at_first_when_time_is_short():
    parse = losses.parser().parse_args
    grid = ["--layouts", "nchw", "channels_last", "--dtypes", "float32", "bfloat16"]
    shapes = ["--shapes", "cifar-wrn", "detection"]
    in_order = [case[1:] for case in losses.cases(parse([*shapes, *grid]))]
    assert in_order[:3] == [
        ("cifar-wrn", "nchw", "float32"),
        ("cifar-wrn", "nchw", "bfloat16"),
        ("cifar-wrn", "channels_last", "float32"),
    ]
    short = [case[1:] for case in losses.cases(parse([*shapes, *grid, "--seconds", "9"]))]
    assert short[:4] == [
        ("cifar-wrn", "nchw", "float32"),
        ("detection", "nchw", "float32"),
        ("cifar-wrn", "channels_last", "bfloat16"),
        ("detection", "channels_last", "bfloat16"),
    ]
    assert sorted(short) == sorted(in_order)


@pytest.mark.parametrize(
    ("arguments", "module", "rest"),
    [
        (["host", "--device", "cpu"], "host", ["--device", "cpu"]),
        (["--shapes", "tiny"], "losses", ["--shapes", "tiny"]),
        ([], "losses", []),
    ],
)
def test_first_argument_names_the_command(monkeypatch, arguments, module, rest):
    seen = []
    modules = {"benchmarks.host": host, "benchmarks.losses": losses}
    monkeypatch.setattr(__main__.importlib, "import_module", modules.get)
    monkeypatch.setattr(modules[f"benchmarks.{module}"], "main", lambda a: seen.append(a) or 5)
    assert __main__.main(arguments) == 5
    assert seen == [rest]


def test_device_that_is_not_there_is_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        host.main(["--device", "cuda"])
    assert "torch sees no CUDA device here; use cpu" in capsys.readouterr().err


def by_key(record):
    return {v["key"]: v for v in record["variants"]}


def test_host_time_of_every_way_that_can_be_taken_here(monkeypatch):
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    variants = by_key(host.measure(CPU, QUICK))
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


@pytest.mark.skipif(
    AUTO["triton"].startswith("not usable, because Triton cannot"), reason=AUTO["triton"]
)
def test_nothing_is_launched_where_launches_are_left_out(monkeypatch):
    from amd_fused.losses.amd.triton import launcher as kernels

    operators = kernels.amd_fwd_triton, kernels.amd_bwd_triton

    def launched(launches):
        raise AssertionError(f"launched {launches}")

    monkeypatch.setattr(kernels, "run_all", launched)
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    variants = by_key(host.measure(CPU, QUICK))
    assert all(variants[key]["status"] == "ok" for key in host.UNLAUNCHED)
    assert (kernels.amd_fwd_triton, kernels.amd_bwd_triton) == operators


def test_host_time_of_a_wrong_loss_is_refused(monkeypatch):
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    right = amd_fused.amd_loss
    monkeypatch.setattr(amd_fused, "amd_loss", lambda s, t, **options: 2 * right(s, t, **options))
    record = host.measure(CPU, QUICK)
    assert by_key(record)["amd_fused"]["status"] == "refused"
    assert by_key(record)["amd_fused"]["total_us"] is None
    assert "amd_fused (reference): refused, loss off by 1" in host.render(record)


TINY = replace(networks.SETTINGS["tiny-amp"], batch=2)


def no_time():
    """Leaves the compiled peers out."""
    return budget.Budget(0.0, 1)


def test_training_step_is_timed_with_each_objective(monkeypatch):
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    record = training.measure(TINY, CPU, QUICK, no_time())
    assert record["status"] == "ok"
    variants = by_key(record)
    assert list(variants) == ["amd_fused", "eager", "compile", "released", "attention", "at", "kd"]
    assert variants["compile"]["status"] == "left out"
    assert variants["compile"]["step_ms"] is None
    for key in ("amd_fused", "eager", "at", "kd"):
        median = variants[key]["step_ms"]["median"]
        assert variants[key]["images_per_second"] == pytest.approx(1e3 * 2 / median)
        assert variants[key]["peak_extra_bytes"] > 0
        assert len(variants[key]["rounds_ms"]["total"]) == 2
    rows = training.render(record).splitlines()
    assert rows[0] == "### tiny-amp: 2 images of 3 x 8 x 8, mixed precision, channels_last"
    assert rows[10].startswith("| KD alone ")
    assert rows[12].startswith("KD + torch.compile reference: left out, about ")


def test_training_changes_the_student_and_not_the_teacher(monkeypatch):
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    run = training.Training(TINY, amd_fused.amd_loss, CPU)
    student, teacher = (
        [p.detach().clone() for p in network.parameters()] for network in (run.student, run.teacher)
    )
    run.step()
    assert not all(map(torch.equal, student, run.student.parameters()))
    assert all(map(torch.equal, teacher, run.teacher.parameters()))
    assert run.verdict(amd_fused.reference.amd_loss).status == "ok"


def test_training_with_a_wrong_loss_is_refused_and_fails_the_run(monkeypatch, tmp_path):
    right = amd_fused.reference.amd_loss
    wrong = Variant("amd_fused", "ours", lambda s, t: 2 * right(s, t), right, peer=False)
    monkeypatch.setattr(training.amd, "variants", lambda device: [wrong])
    monkeypatch.setitem(networks.SETTINGS, "tiny-amp", TINY)
    output = tmp_path / "training.json"
    arguments = ["--device=cpu", "--settings=tiny-amp", f"--output={output}", "--min-time=0"]
    assert training.main(arguments) == 1
    (case,) = results.read(output)["cases"]
    refused, alone = case["variants"]
    assert (refused["status"], refused["reason"]) == ("refused", "loss off by 1, tolerance 0.005")
    assert refused["step_ms"] is None
    assert alone["status"] == "ok"


def test_training_of_networks_that_are_not_installed_is_left_out(tmp_path, monkeypatch, capsys):
    def missing():
        raise ImportError("No module named 'torchvision'")

    monkeypatch.setitem(networks.SETTINGS, "tiny-amp", replace(TINY, networks=missing))
    output = tmp_path / "training.json"
    arguments = ["--device=cpu", "--settings=tiny-amp", f"--output={output}", "--min-time=0"]
    assert training.main(arguments) == 0
    assert "left out: No module named 'torchvision'" in capsys.readouterr().out
