"""`amd-fused` says in one line, with exit code 2, what it cannot do, and does the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from forks import Forks

from amd_fused.distill import recipes, summary
from amd_fused.distill.cli import main
from amd_fused.distill.config import Settings
from amd_fused.distill.run_dir import SCHEMA, RunDir

pytest.importorskip("accelerate")

TINY = ["--train-size=40", "--batch-size=20", "--epochs=1"]
NETWORKS = {"teacher": "--teacher=wrn10-1", "student": "--student=wrn10-1"}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line that a command ends with when it ends with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("amd-fused")
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "invalid choice: 'distil'"),
        (["distill", "--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["distill", "--epochs", "two"], "argument --epochs: invalid int value: 'two'"),
        (["distill", "--recipe", "cifar10"], "got 'cifar10'; perhaps cifar10-"),
        (["train-teacher", "--batch-size", "0"], "--batch-size must be at least 2, got 0"),
        (["train-teacher", "--lr", "nan"], "--lr must be finite, got nan"),
        (["train-teacher", "--data", "svhn"], "--data must be one of digits, mnist, f"),
        (["train-teacher", "--teacher", "wrn17-1"], "wrn17-1"),
        (["distill"], "--teacher-run or --teacher-weights must be given for --method amd-gl; `amd"),
        (["distill", "--teacher-run", "missing"], "--teacher-run must be the folder of a teacher"),
        (["distill", "--method", "scratch", "--teacher-epoch", "3"], "needs --teacher-run"),
        (["evaluate", "missing"], "RUN must be the folder of a run, got missing"),
        (["table", "missing"], "DIR must be a folder with runs, got missing"),
        (["train-teacher", "--recipe", "none"], "got 'none'"),
        (["train-teacher", "--seed", str(1 << 70)], "--seed must be at least 0 and below 2^62"),
        (["distill", "--method", "Scratch", "--student", "wrn17-1"], "got 'wrn17-1'"),
        (["sweep", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["sweep", "--seed", "3"], "unrecognized arguments: --seed 3"),
        (["sweep", "--student", "wrn17-1"], "got 'wrn17-1'"),
        (["sweep", "--teacher-epoch", "4"], "--teacher-epoch must be the last one, 10, or a mult"),
        (["sweep", "--methods", "kd", "KD"], "--methods must differ, got kd kd"),
        (["sweep", "--methods", "amd-g+sp", "sp+amd-g"], "must differ, got amd-g+sp amd-g+sp"),
        (["sweep", "--methods", "amd"], "amd"),
        (["sweep", "--gamma", "1", "1"], "--gamma must differ, got 1 1"),
        (["recipes", "none"], "got 'none'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_folder_that_is_a_file_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    line = refused(capsys, "train-teacher", "--output-dir", str(file))
    assert "--output-dir must be a folder to write into" in line


def test_folder_without_a_run_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(capsys, "distill", "--teacher-run", str(tmp_path))
    assert f"{tmp_path} must be the folder of a finished run, but has no config.json" in line


def test_run_of_another_schema_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"schema": SCHEMA + 1}))
    line = refused(capsys, "distill", "--teacher-run", str(tmp_path))
    assert f"schema must be {SCHEMA}, got {SCHEMA + 1}" in line


def test_every_option_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for command in ("train-teacher", "distill", "sweep"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        shown[command] = capsys.readouterr().out
    for name in Settings.__dataclass_fields__:
        assert any(f"--{name.replace('_', '-')} " in text for text in shown.values()), name
    assert "--gamma" not in shown["train-teacher"]
    assert "--teacher-weights " in shown["distill"]
    assert "angular margin m (Eq. 6)" in shown["distill"]


def test_help_needs_none_of_the_trainers_packages(with_torch: Forks) -> None:
    """Nor their time, nor torch's compiler: they are looked for when a command runs."""
    program = (
        "import sys\n"
        "for name in (\n"
        "    'accelerate', 'matplotlib', 'rich', 'sklearn', 'torch._dynamo', 'torchvision'\n"
        "):\n"
        "    sys.modules[name] = None\n"
        "from amd_fused.distill.cli import main\n"
        "main(['recipes', 'digits'])\n"
        "raise SystemExit(main(['train-teacher', '--output-dir', sys.argv[1], '--quiet']))\n"
    )
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = with_torch.run(program, os.devnull + "-folder", env=os.environ | path)
    assert "lsh_hashes: 512" in done.stdout
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "teacher"
    arguments = ["train-teacher", *TINY, NETWORKS["teacher"], "--output-dir", str(path), "--quiet"]
    assert main([*arguments, "--no-report"]) == 0
    return path


@pytest.mark.usefixtures("undrawn")
def test_teacher_student_and_what_is_shown_after(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "student"
    arguments = ["distill", "--teacher-run", str(teacher), *TINY, NETWORKS["student"], "--quiet"]
    assert main([*arguments, "--method=kd", "--output-dir", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"Run: {path}" in said
    assert f"Report: {path / 'report.html'}" in said
    config = RunDir(path).config()
    assert config["settings"]["teacher"] == RunDir(teacher).config()["settings"]["teacher"]
    assert config["settings"]["method"] == "kd"
    top1 = RunDir(path).result()["test"]["top1"]

    assert main(["evaluate", str(path)]) == 0
    assert f"top-1 {top1:.2f} %" in capsys.readouterr().out
    assert main(["table", str(teacher), str(tmp_path), "--output-dir", str(tmp_path / "t")]) == 0
    assert "KD" in capsys.readouterr().out
    assert (tmp_path / "t" / "table.csv").exists()


@pytest.mark.usefixtures("undrawn")
def test_finished_run_is_not_trained_again(
    teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = {**RunDir(teacher).result(), "seconds": -1.0}
    RunDir(teacher).result_file.write_text(json.dumps(mark))
    assert not (teacher / "report.html").exists()
    assert main(["train-teacher", "--resume", "--output-dir", str(teacher), "--quiet"]) == 0
    assert RunDir(teacher).result() == mark
    # It was trained without a report, and asked for one now; a report that is there stays.
    (teacher / "report.html").write_text("kept")
    assert main(["train-teacher", "--resume", "--output-dir", str(teacher), "--quiet"]) == 0
    assert (teacher / "report.html").read_text() == "kept"
    assert "Test: top-1" in capsys.readouterr().out
    line = refused(capsys, "train-teacher", *TINY, "--output-dir", str(teacher))
    assert "--resume" in line


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # A heading, and a line that says how tables are listed.
    assert len(lines) == 1 + len(recipes.RECIPES) + 2
    assert main(["recipes", "cifar10-a"]) == 0
    text = capsys.readouterr().out
    assert "amd-gl 86.36 ± 0.1" in text
    assert "temperature: 4.0" in text
    assert "vid_weight 1: HobbitLong/RepDistiller" in text
    assert "afds does not run: AFDS compares channel by channel" in text
    assert "gamma: 5000.0" in text
    assert main(["recipes", "cifar10-b-mixup"]) == 0
    assert "ECE 1.853, NLL 55.15: amd-gl" in capsys.readouterr().out
    assert main(["recipes", "imagenet"]) == 0
    top5 = capsys.readouterr().out.partition("top-5 (%) in the paper, Table 6:")[2]
    assert top5.split()[:2] == ["teacher", "91.42"]


def test_backends_are_shown_with_what_they_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "_BATCH", 2)
    assert main(["backends", "--time"]) == 0
    text = capsys.readouterr().out
    assert "reference" in text
    assert "1.0" in text
