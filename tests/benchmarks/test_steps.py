"""Runs of several commands: steps that may fail, hang or be left out; and `make bench`."""

from __future__ import annotations

import importlib
import io
import sys
from dataclasses import replace
from types import SimpleNamespace

from benchmarks import all as everything
from benchmarks import steps
from benchmarks.__main__ import COMMANDS
from benchmarks.steps import Step

# More than the slowest machine takes to start Python.
LONG = 3600.0


def python(name, code, seconds=LONG, **options):
    return Step(name, (sys.executable, "-c", code), seconds, **options)


def test_step_is_ok_or_failed_by_its_exit_status_and_its_output_is_logged(capfd):
    log = io.StringIO()
    fine = steps.run(python("fine", "print('a line')"), LONG, log)
    assert (fine.status, fine.note, fine.failed) == ("ok", "", False)
    broken = steps.run(python("broken", "raise SystemExit(3)"), LONG, log)
    assert (broken.status, broken.note, broken.failed) == ("failed", "exit status 3", True)
    assert "a line" in log.getvalue()
    assert "a line" in capfd.readouterr().out


def test_failure_that_does_not_count_is_none_of_the_run():
    outcome = steps.run(python("build", "raise SystemExit(1)", counts=False), LONG, io.StringIO())
    assert outcome.status == "failed"
    assert not outcome.failed


def test_step_that_lasts_too_long_is_ended_with_its_children(tmp_path):
    """Its output ends only when the last process that writes to it has ended."""
    child = "import time; print('child', flush=True); time.sleep(1000)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    outcome = steps.run(python("hangs", code, seconds=2.0), LONG, io.StringIO())
    assert (outcome.status, outcome.note) == ("timed out", "after 2 s")
    assert outcome.failed


def test_step_gets_the_time_that_is_left_or_is_left_out():
    step = python("late", "raise SystemExit(1)")
    outcome = steps.run(step, steps.LEAST_SECONDS - 1, io.StringIO())
    assert (outcome.status, outcome.note, outcome.failed) == ("left out", "no time left", False)


def test_step_is_told_the_time_it_has():
    code = f"raise SystemExit('{steps.SECONDS}' != '2990')"
    assert steps.run(python("measures", code), 3000, io.StringIO()).status == "ok"


def test_steps_leave_what_later_ones_have_reserved(tmp_path, monkeypatch):
    given, kept = {}, []
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: 50.0))

    def run(step, left, log):
        given[step.name] = left
        return steps.Outcome(step.name, "ok")

    monkeypatch.setattr(steps, "run", run)
    chosen = [
        python("first", ""),
        python("second", "", reserved=20.0),
        python("absent", "", reserved=30.0, missing="not here"),
        python("last", "", reserved=5.0),
    ]
    outcomes = steps.run_all(chosen, 100.0, tmp_path / "new" / "run", lambda o: kept.append(len(o)))
    assert given == {"first": 75.0, "second": 95.0, "absent": 95.0, "last": 100.0}
    assert kept == [1, 2, 3, 4]
    assert [outcome.name for outcome in outcomes] == list(given)
    assert (tmp_path / "new" / "run.log").exists()


def test_step_that_cannot_run_here_is_left_out_with_the_reason():
    missing = python("tool", "raise SystemExit(1)", missing="it is not installed")
    assert steps.run(missing, LONG, io.StringIO()).note == "it is not installed"
    code = "print('Error: Device not supported'); raise SystemExit(1)"
    refused = python("tool", code, refused="Device not supported")
    outcome = steps.run(refused, LONG, io.StringIO())
    assert (outcome.status, outcome.note) == ("left out", "Device not supported")


def measuring(made):
    """With what they are told of their time filled in."""
    return [
        replace(step, command=tuple(part.replace(steps.SECONDS, "9") for part in step.command))
        for step in made[:-1]
    ]


def main_of(step):
    return importlib.import_module(COMMANDS[step.command[3]])


def test_all_steps_fit_into_six_minutes_and_end_with_the_report(tmp_path):
    made = everything.all_steps("cpu", False, tmp_path / "stem")
    names = [step.name for step in made]
    assert names == [*("losses", "losses-bfloat16", "host", "siblings", "scaling", "report")]
    seconds = everything.parser().parse_args([]).seconds
    assert seconds <= 350
    # Enough is left to the first, for the peers that compile.
    reserved = sum(step.reserved for step in made)
    assert made[0].seconds > 120
    assert reserved < seconds - 120
    parsed = [main_of(step).parser().parse_args(step.command[4:]) for step in measuring(made)]
    written = [tmp_path / f"stem-{name}.json" for name in names[:-1]]
    assert [options.output for options in parsed] == written
    assert made[-1].command[-len(written) :] == tuple(map(str, written))


def test_all_runs_its_steps_and_fails_with_one_of_them(tmp_path, monkeypatch, capsys):
    outcomes = {}
    monkeypatch.setattr(
        steps,
        "run",
        lambda step, left, log: steps.Outcome(step.name, outcomes.get(step.name, "ok")),
    )
    ran = ["--device=cpu", "--tiny", f"--out={tmp_path}"]
    assert everything.main(ran) == 0
    outcomes["scaling"] = "failed"
    assert everything.main(ran) == 1
    assert "| scaling " in capsys.readouterr().out
