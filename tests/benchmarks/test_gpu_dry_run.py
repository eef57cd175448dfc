"""`make gpu` in its dry form: every step that needs no GPU runs, on a CPU and in Triton's
interpreter."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from benchmarks import gpu, host, losses, scaling, steps, training
from benchmarks.steps import SECONDS, Outcome

ROOT = Path(__file__).parents[2]
RUN = ("tests", "host", "losses", "training", "small-set", "scaling", "report")
LEFT_OUT = ("build", "memcheck", "racecheck")

pytest.importorskip("triton", reason="the dry form runs in Triton's interpreter")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The process, and what it wrote: files by the part of their names that tells what they are."""
    folder = tmp_path_factory.mktemp("gpu") / "new"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu", "--dry-run", "--out", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    stem = next(folder.glob("*.log")).stem
    return done, {path.name.removeprefix(stem): path for path in folder.iterdir()}


def test_every_step_runs_or_says_why_not(finished):
    done, files = finished
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(files["-summary.json"].read_text())
    assert summary["dry_run"] is True
    assert summary["environment"]["torch"] == torch.__version__
    ran = {step["name"]: step for step in summary["steps"]}
    assert tuple(ran) == gpu.STEPS
    assert all(ran[name]["status"] == "ok" for name in RUN)
    assert all(ran[name]["status"] == "left out" for name in LEFT_OUT)
    assert all(ran[name]["note"] == "dry run" for name in LEFT_OUT)


def test_tests_of_the_gpu_run_and_none_is_skipped_in_silence(finished):
    _, files = finished
    suite = ElementTree.parse(files["-tests.xml"]).getroot().find("testsuite")
    assert int(suite.get("tests")) >= 30
    assert suite.get("failures") == suite.get("errors") == "0"
    ran = list(suite.iter("testcase"))
    modules = {case.get("classname").rpartition(".")[2] for case in ran}
    assert modules >= {"test_gpu_parity", "test_gpu_contracts", "test_gpu_autograd"}
    skipped = [case.get("name") for case in ran if case.find("skipped") is not None]
    # Where there was no compiler for the C++ kernel.
    assert all(name.startswith("test_both_backends_agree") for name in skipped)


@pytest.mark.parametrize(
    ("command", "subject"), [("losses", "amd"), ("host", "host"), ("training", "training")]
)
def test_benchmarks_write_what_they_measured(finished, command, subject):
    _, files = finished
    result = json.loads(files[f"-{command}.json"].read_text())
    assert result["finished"] is True
    assert result["environment"]["device_type"] == "cpu"
    (case,) = result["cases"]
    assert case["subject"] == subject


def test_scaling_and_the_report_of_all_files_are_among_the_results(finished):
    _, files = finished
    sizes = [
        (case["sweep"], case["size"])
        for case in json.loads(files["-scaling.json"].read_text())["cases"]
    ]
    assert sorted(sizes) == [("batch", 1), ("batch", 2), ("map", 2), ("map", 3)]
    folder = files["-scaling.json"].parent
    text = (folder / "report.md").read_text()
    for command in ("losses", "scaling", "host", "training"):
        assert f"`{files[f'-{command}.json'].name}`" in text
    if importlib.util.find_spec("matplotlib") is not None:
        assert {f"{what}.png" in text for what in ("floor", "memory", "cost")} == {True}
        assert {"-losses-floor.png", "-losses-memory.png", "-scaling-cost.png"} <= set(files)


def test_triton_backend_is_what_the_dry_form_takes(finished):
    _, files = finished
    (case,) = json.loads(files["-losses.json"].read_text())["cases"]
    titles = {v["key"]: (v["title"], v["status"]) for v in case["variants"]}
    assert titles["amd_fused"] == ("amd_fused (triton)", "ok")
    assert titles["compile"] == ("torch.compile reference", "left out")


def test_summary_is_printed_last_and_the_log_has_every_step(finished):
    done, files = finished
    tail = done.stdout.splitlines()[-2 - len(gpu.STEPS) : -2]
    assert [line.split("|")[1].strip() for line in tail] == list(gpu.STEPS)
    log = files[".log"].read_text()
    assert [f"=== {name}: " in log for name in RUN] == [True] * len(RUN)


def test_exit_status_tells_a_failed_step(tmp_path, monkeypatch, capsys):
    outcomes = {"tests": Outcome("tests", "failed", "exit status 1")}
    monkeypatch.setattr(
        steps, "run", lambda step, left, log: outcomes.get(step.name, Outcome(step.name, "ok"))
    )
    ran = ["--dry-run", "--out", str(tmp_path), "--steps"]
    assert gpu.main([*ran, "host", "losses"]) == 0
    assert gpu.main([*ran, "host", "tests"]) == 1
    assert "exit status 1" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert "torch sees no CUDA device here; --dry-run needs none" in capsys.readouterr().out


def test_steps_on_a_gpu_are_those_of_the_dry_run(tmp_path, monkeypatch):
    """The commands of the real form, as far as they can be looked at here."""
    properties = SimpleNamespace(total_memory=140 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = {step.name: step for step in gpu.all_steps(False, tmp_path / "stem")}
    assert tuple(made) == gpu.STEPS
    assert not any(step.variables for step in made.values())
    for module in (host, losses, scaling, training):
        name = module.__name__.rpartition(".")[2]
        assert made[name].command[1:4] == ("-m", "benchmarks", name)
        options = [part.replace(SECONDS, "100") for part in made[name].command[4:]]
        parsed = module.parser().parse_args(options)
        assert parsed.device == torch.device("cuda")
        assert parsed.output == tmp_path / f"stem-{name}.json"
    assert f"--junitxml={tmp_path / 'stem-tests.xml'}" in made["tests"].command
    assert (ROOT / gpu.SMALL_SET).exists()
