"""`make gpu` in its dry form: every step that needs no GPU runs, on a CPU and in Triton's
interpreter."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from benchmarks import gpu, steps
from benchmarks.__main__ import COMMANDS
from benchmarks.steps import Outcome

ROOT = Path(__file__).parents[2]
RAN = {
    "a": ("smoke", "losses", "core"),
    "b": ("tests", "peers", "training", "siblings", "host", "small-set"),
}
TESTS = {"a": ("smoke", "core"), "b": ("tests",)}

pytest.importorskip("triton", reason="the dry form runs in Triton's interpreter")


# Steps of both kinds, tests and benchmarks, and one that is left out; whole stages are exhaustive.
@pytest.fixture(
    scope="module",
    params=[
        ("a", ("build", "smoke", "losses")),
        pytest.param(("a", gpu.STAGES["a"]), marks=pytest.mark.exhaustive),
        pytest.param(("b", gpu.STAGES["b"]), marks=pytest.mark.exhaustive),
    ],
    ids=["few", "a", "b"],
)
def finished(request, tmp_path_factory):
    """Stage, steps, process, its log, and what it packed: by the part of a name that tells what it
    is."""
    folder = tmp_path_factory.mktemp("gpu") / "new"
    stage, chosen = request.param
    command = [sys.executable, "-m", "benchmarks", "gpu", stage, "--dry-run"]
    command += [] if chosen == gpu.STAGES[stage] else ["--steps", *chosen]
    done = subprocess.run(
        [*command, "--out", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    (log,) = folder.glob("*.log")
    packed = folder / f"{log.stem}-results.tar.gz"
    assert sorted(folder.iterdir()) == sorted([log, packed])
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    files = {path.name.removeprefix(log.stem): path for path in folder.iterdir()}
    return stage, chosen, done, log.read_text(), files


def test_every_step_runs_or_says_why_not(finished):
    stage, chosen, done, _, files = finished
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(files["-summary.json"].read_text())
    assert (summary["dry_run"], summary["stage"]) == (True, stage)
    assert summary["environment"]["torch"] == torch.__version__
    ran = {step["name"]: step for step in summary["steps"]}
    assert tuple(ran) == chosen
    assert {name for name, step in ran.items() if step["status"] == "ok"} == {*RAN[stage]} & {
        *chosen
    }
    left_out = [step for name, step in ran.items() if name not in RAN[stage]]
    assert all((s["status"], s["note"]) == ("left out", "dry run") for s in left_out)


def test_tests_of_the_gpu_run_and_none_is_skipped_in_silence(finished):
    stage, chosen, _, _, files = finished
    for name in set(TESTS[stage]) & set(chosen):
        suite = ElementTree.parse(files[f"-{name}.xml"]).getroot().find("testsuite")
        assert int(suite.get("tests")) >= 10
        assert suite.get("failures") == suite.get("errors") == "0"
        skipped = [case.find("skipped") for case in suite.iter("testcase")]
        reasons = [skip.get("message") for skip in skipped if skip is not None]
        # Where there was no compiler for the C++ kernel.
        assert all("cpp is" in reason for reason in reasons)


def test_benchmarks_write_what_they_measured(finished):
    stage, chosen, _, _, files = finished
    for name in set(RAN[stage]) & set(chosen) - set(TESTS[stage]) - {"small-set"}:
        result = json.loads(files[f"-{name}.json"].read_text())
        assert result["finished"] is True
        assert result["environment"]["device_type"] == "cpu"
        assert result["cases"]


def test_triton_backend_is_what_the_dry_form_takes(finished):
    stage, _, _, _, files = finished
    name = {"a": "losses", "b": "peers"}[stage]
    (case,) = json.loads(files[f"-{name}.json"].read_text())["cases"]
    titles = {v["key"]: (v["title"], v["status"]) for v in case["variants"]}
    assert titles["amd_fused"] == ("amd_fused (triton)", "ok")


def test_summary_is_printed_last_and_the_log_has_every_step(finished):
    stage, chosen, done, log, _ = finished
    names = list(chosen)
    tail = done.stdout.splitlines()[-2 - len(names) : -2]
    assert [line.split("|")[1].strip() for line in tail] == names
    assert all(f"=== {name}: " in log for name in set(RAN[stage]) & set(chosen))


def test_exit_status_tells_a_failed_step(tmp_path, monkeypatch, capsys):
    outcomes = {"tests": Outcome("tests", "failed", "exit status 1")}
    monkeypatch.setattr(
        steps, "run", lambda step, left, log: outcomes.get(step.name, Outcome(step.name, "ok"))
    )
    ran = ["b", "--dry-run", "--out", str(tmp_path), "--steps"]
    assert gpu.main([*ran, "host", "training"]) == 0
    assert gpu.main([*ran, "host", "tests"]) == 1
    assert "exit status 1" in capsys.readouterr().out


def test_results_are_packed_after_every_step(tmp_path, monkeypatch):
    """A machine that is taken away early leaves what was known by then."""
    seen = []

    def run(step, left, log):
        packed = list(tmp_path.glob("*.tar.gz"))
        seen.append(json.loads(_summary(packed[0]))["steps"] if packed else [])
        return Outcome(step.name, "ok")

    monkeypatch.setattr(steps, "run", run)
    gpu.main(["b", "--dry-run", "--out", str(tmp_path), "--steps", "host", "training", "tests"])
    assert [[step["name"] for step in known] for known in seen] == [
        [],
        ["host"],
        ["host", "training"],
    ]


def _summary(packed):
    with tarfile.open(packed) as archive:
        (name,) = [name for name in archive.getnames() if name.endswith("summary.json")]
        return archive.extractfile(name).read()


def test_benchmarks_need_none_of_the_trainer_s_packages():
    """On a lent machine nothing can be installed."""
    missing = ("accelerate", "rich", "torchmetrics", "sklearn", "matplotlib", "PIL", "torchvision")
    modules = ", ".join(COMMANDS.values())
    code = f"import sys, torch._dynamo; sys.modules |= dict.fromkeys({missing}); import {modules}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert gpu.main(["a", "--out", str(tmp_path)]) == 1
    assert "torch sees no CUDA device here; --dry-run needs none" in capsys.readouterr().out


@pytest.fixture
def real(tmp_path, monkeypatch):
    """Steps of the real form by name, as far as they can be looked at here."""
    properties = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return {step.name: step for step in gpu.all_steps(False, tmp_path / "stem")}


def test_steps_on_a_gpu_are_those_of_the_dry_run(real, tmp_path):
    assert set(real) == set(gpu.STEPS)
    assert real["build"].variables == {"TORCH_CUDA_ARCH_LIST": "9.0"}
    for name in ("losses", "peers", "siblings", "training", "host"):
        *_, module, command = real[name].command[:4]
        assert (module, command) == ("benchmarks", "losses" if name == "peers" else name)
        parser = importlib.import_module(COMMANDS[command]).parser()
        given = [part.replace(steps.SECONDS, "9") for part in real[name].command[4:]]
        parsed = parser.parse_args(given)
        assert parsed.device == torch.device("cuda")
        assert parsed.output == tmp_path / f"stem-{name}.json"
    for name in ("smoke", "core", "tests", "large"):
        assert f"--junitxml={tmp_path / f'stem-{name}.xml'}" in real[name].command
    assert real["large"].command[real["large"].command.index("-n") + 1] == "2"
    assert (ROOT / gpu.SMALL_SET).exists()


@pytest.mark.parametrize("stage", gpu.STAGES)
def test_limits_of_a_stage_s_steps_fit_into_the_stage(real, stage):
    """So that none is cut because those before it took all that they may."""
    limits = [real[name].seconds for name in gpu.STAGES[stage]]
    assert sum(limits) <= gpu.STAGE_SECONDS[stage]
    # Less than a command may last, and than both stages and a machine's start.
    assert gpu.STAGE_SECONDS[stage] < 600
    assert sum(gpu.STAGE_SECONDS.values()) <= 840


def test_every_test_of_the_gpu_is_in_one_stage(tmp_path):
    """By their markers: none is run twice, none is left."""
    made = {step.name: step for step in gpu.all_steps(True, tmp_path / "stem")}
    which = {
        n: made[n].command[made[n].command.index("-m", 3) + 1]
        for n in ("smoke", "core", "tests", "large")
    }
    marks = ("smoke", "core", "large")
    for held in [{m} for m in marks] + [set(), {"core", "smoke"}]:
        names = {mark: mark in held for mark in marks}
        chosen = [name for name, expression in which.items() if eval(expression, {}, names)]
        assert len(chosen) == 1
