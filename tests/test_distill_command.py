"""`python -m amd_fused.distill` trains, prints, writes its report and picture, refuses nonsense."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("rich")
image = pytest.importorskip("matplotlib.image")

from amd_fused.distill.__main__ import main  # noqa: E402
from amd_fused.distill.config import Config  # noqa: E402
from amd_fused.distill.report import summarise, write_json  # noqa: E402
from amd_fused.distill.timing import WARMUP, _interleaved  # noqa: E402
from amd_fused.distill.train import Epoch, Run  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:amd_loss. no fused backend:UserWarning")

METHODS = ["teacher", "student", "kd", "amd-g", "amd-gl"]
TINY = ["--teacher=10-1", "--student=10-1", "--seeds=1", "--epochs=1", "--teacher-epochs=1"]
TINY += ["--train-size=20", "--batch-size=20", "--timing-steps=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run as a user starts it, with its output in pipes: (process, output directory)."""
    directory = tmp_path_factory.mktemp("run") / "new" / "folder"
    done = command(*TINY, "--output-dir", str(directory))
    assert done.returncode == 0, done.stderr
    return done, directory


def command(*arguments):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-m", "amd_fused.distill", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


def test_report_is_complete_and_valid_json(finished):
    _, directory = finished
    report = json.loads((directory / "report.json").read_text(), parse_constant=pytest.fail)
    assert [run["method"] for run in report["runs"]] == METHODS
    assert [row["method"] for row in report["summary"]] == METHODS
    for run in report["runs"]:
        (epoch,) = run["epochs"]
        assert run["seed"] == 0
        assert run["seconds"] > 0
        assert 0 <= run["test_accuracy"] == epoch["test_accuracy"] <= 100
        assert (epoch["kd"] > 0) == (run["method"] in ("kd", "amd-g", "amd-gl"))
        assert (epoch["feature"] > 0) == (run["method"] in ("amd-g", "amd-gl"))
    assert report["config"] | {"teacher": "10-1", "seeds": 1, "train_size": 20} == report["config"]
    assert set(report["config"]) == set(Config.__dataclass_fields__)
    assert report["data"]["test_images"] == 899
    # test_distill_networks' 77042 by hand, with 10 classes in place of 2.
    assert report["parameters"] == {"10-1": 77042 - (64 * 2 + 2) + (64 * 10 + 10)}
    assert report["environment"]["torch"].startswith("2.")
    assert report["environment"]["backends"]["reference"] == "usable"
    assert report["default_backend"] in ("cpp", "reference")
    for subject in ("training step", "loss alone"):
        for backend in ("auto", "reference"):
            timing = report["timings"][subject][backend]
            assert timing["repetitions"] == 2
            low, median, high = (
                timing[key] for key in ("lower_quartile_ms", "median_ms", "upper_quartile_ms")
            )
            assert 0 < low <= median <= high


def test_picture_is_a_png_with_content(finished):
    _, directory = finished
    pixels = image.imread(directory / "learning_curves.png", format="png")
    height, width, _ = pixels.shape
    assert height >= 600
    assert width >= 1000
    assert pixels[..., :3].std() > 0.05


def test_output_in_a_pipe_is_plain_lines(finished):
    done, directory = finished
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert done.stdout.count("seed 0, ") == len(METHODS)
    for label in ("Teacher", "Student from scratch", "KD", "AMD (g)", "AMD (g+l)"):
        assert f"seed 0, {label}: " in done.stdout
        assert f"│ {label} " in done.stdout
    for subject in ("training step", "loss alone"):
        assert f"│ {subject} " in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()[:-2]) <= 80
    assert done.stdout.splitlines()[-2:] == [
        f"Report:  {directory / 'report.json'}",
        f"Picture: {directory / 'learning_curves.png'}",
    ]


def test_same_options_give_the_same_results_and_overwrite(finished, tmp_path, capsys):
    _, directory = finished
    (tmp_path / "report.json").write_text("of an earlier run")
    assert main([*TINY, "--timing-steps", "0", "--output-dir", str(tmp_path)]) == 0
    capsys.readouterr()
    first, second = (json.loads((d / "report.json").read_text()) for d in (directory, tmp_path))
    for run in first["runs"] + second["runs"]:
        del run["seconds"]
    assert first["runs"] == second["runs"]
    assert second["timings"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epochs 0", "epochs must be at least 1, got 0"),
        ("--epochs many", "argument --epochs: invalid int value: 'many'"),
        ("--seeds 0", "seeds must be at least 1, got 0"),
        ("--teacher 17-1", "teacher must be depth-width with depth 6n + 4 and width >= 1"),
        ("--student x", "student must be depth-width"),
        ("--lr nan", "lr must be finite and > 0, got nan"),
        ("--temperature 0", "temperature must be finite and > 0, got 0.0"),
        ("--ce-weight -1", "ce_weight must be finite and >= 0, got -1.0"),
        ("--feature-weight inf", "feature_weight must be finite and > 0, got inf"),
        ("--momentum 1", "momentum must be at least 0 and below 1, got 1.0"),
        ("--local-weight 1.5", "local_weight must be above 0 and at most 1, got 1.5"),
        ("--batch-size 1", "batch_size must be at least 2, got 1"),
        ("--batch-size 301", "batch_size must be at most train_size (300), got 301"),
        ("--train-size 9", "train_size must be at least 10, one image of each digit, got 9"),
        ("--train-size 899", "train_size must be at most 898, got 899"),
        ("--timing-steps -1", "timing_steps must be at least 0, got -1"),
        ("--no-such-option", "unrecognized arguments: --no-such-option"),
    ],
)
def test_bad_options_end_with_one_line_and_code_2(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as exited:
        main([*arguments.split(), "--output-dir", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert exited.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("amd_fused.distill: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_networks_have_one_spelling():
    assert Config(teacher="WRN28-1", student=" wrn-16-1") == Config(teacher="28-1", student="16-1")


def test_output_directory_that_is_a_file_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as exited:
        main(["--output-dir", str(tmp_path / "file")])
    assert exited.value.code == 2
    assert "output-dir must be a directory to write into, got" in capsys.readouterr().err


def test_backend_that_cannot_run_is_refused_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AMD_FUSED_BACKEND", "warp")
    with pytest.raises(SystemExit) as exited:
        main(["--output-dir", str(tmp_path / "out")])
    assert exited.value.code == 2
    assert "AMD_FUSED_BACKEND must be one of" in capsys.readouterr().err


def test_missing_package_is_named_with_its_remedy(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["--output-dir", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert "'rich.console'" in printed
    assert "pip install 'amd_fused[distill]'" in printed


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as exited:
        main(["--help"])
    assert exited.value.code == 0
    printed = capsys.readouterr().out
    for name in ("output_dir", *Config.__dataclass_fields__):
        assert "--" + name.replace("_", "-") in printed


def test_summary_is_mean_and_sample_deviation_of_the_last_epochs():
    runs = [
        Run(method, seed, seconds, [epoch(0.0), epoch(accuracy)])
        for method in METHODS
        for seed, (accuracy, seconds) in enumerate([(90.0, 1.0), (92.0, 2.0), (97.0, 6.0)])
    ]
    for summary in summarise(runs):
        assert summary.mean == pytest.approx(93)
        assert summary.std == pytest.approx(math.sqrt((3**2 + 1**2 + 4**2) / 2))
        assert summary.seconds == pytest.approx(3)
    assert [summary.std for summary in summarise(runs[::3])] == [None] * 5


def test_a_diverged_training_still_gives_valid_json(tmp_path):
    content = {"runs": [{"loss": math.nan, "epochs": (math.inf, 1.5)}], "name": "x"}
    write_json(tmp_path / "report.json", content)
    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert read == {"runs": [{"loss": None, "epochs": [None, 1.5]}], "name": "x"}


def test_backends_are_timed_in_turns():
    calls = []
    timings = _interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, 4)
    assert all(set(calls[i : i + 2]) == {"a", "b"} for i in range(0, len(calls), 2))
    assert len(calls) == 2 * (4 + WARMUP)
    assert [timing.repetitions for timing in timings.values()] == [4, 4]


def epoch(accuracy):
    return Epoch(loss=1.0, ce=1.0, kd=0.0, feature=0.0, test_accuracy=accuracy)
