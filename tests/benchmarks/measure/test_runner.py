"""What the measuring commands share: result files, their keys and types, options, time limits."""

from __future__ import annotations

import json
import re
from datetime import datetime
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__
from benchmarks.cases import amd, host, losses
from benchmarks.measure import budget, environment, results, runner
from benchmarks.measure.budget import Budget, Guess
from benchmarks.measure.subject import AUTOTUNED, COMPILED, Variant

# Names of the fields in their order; what report and compare read has types in show/schema.py.
SPREAD = "median q1 q3 min n"
PARTS = "forward backward total"
RESULT = "schema command environment finished settings cases"
ENVIRONMENT = (
    "device device_type cuda processor cores threads last_level_cache_bytes cpu_capability system "
    "python torch triton amd_fused backends commit date load_average"
)
CASE = (
    "subject shape layout dtype pairs input_sets upstream tolerance ideal_bytes gradient_bytes "
    "copy floor_ms flops product note variants"
)
VARIANT = (
    "key title peer part status reason loss_error gradient_error first_call_ms peak_extra_bytes "
    "launches kernels forward_ms backward_ms total_ms rounds_ms host_ms graph ratios"
)


@pytest.fixture
def tiny(monkeypatch):
    """A run without compiling, on the backend that is everywhere, with small buffers."""
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: 2**20)
    every_variant = amd.variants
    monkeypatch.setattr(
        amd, "variants", lambda device: [v for v in every_variant(device) if v.key != COMPILED]
    )
    return ["--device", "cpu", "--shapes", "tiny", "--min-time", "0"]


def test_result_file_has_the_keys_and_types_of_its_schema(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "new")
    assert __main__.main(tiny) == 0
    # By default it is named by device, threads and date.
    (output,) = results.FOLDER.iterdir()
    stem = r"[a-z0-9-]+-\d+-threads-\d{4}-\d\d-\d\d-\d{4}"
    assert re.fullmatch(rf"{stem}-losses\.json", output.name)
    assert str(output) in capsys.readouterr().out
    result = json.loads(output.read_text())
    (case, _), (timed, *_) = result["cases"], result["cases"][0]["variants"]
    for found, names in (
        (result, RESULT),
        (result["environment"], ENVIRONMENT),
        (result["settings"], "min_time min_rounds calls_per_turn"),
        (case, CASE),
        (case["copy"], "buffer_bytes ms rounds_ms bytes_per_second"),
        (case["copy"]["ms"], SPREAD),
        (case["ideal_bytes"], PARTS),
        (case["floor_ms"], PARTS),
        (timed, VARIANT),
        (timed["total_ms"], SPREAD),
        (timed["rounds_ms"], PARTS),
        (timed["ratios"], "speedup_over_eager speedup_over_compile times_floor"),
    ):
        assert " ".join(found) == names
    for error in ("loss_error", "gradient_error", "first_call_ms"):
        assert isinstance(timed[error], float)
    # These run on a CPU, compile nothing and multiply no matrices.
    nothing = (timed["launches"], timed["kernels"], timed["host_ms"], timed["graph"])
    assert {*nothing, timed["ratios"]["speedup_over_compile"], case["flops"]} == {None}

    assert result["schema"] == results.SCHEMA == 3
    assert result["command"] == "losses"
    assert results.read(output) == result
    assert result["finished"] is True
    assert datetime.fromisoformat(result["environment"]["date"]).utcoffset() is not None
    assert result["environment"]["torch"] == torch.__version__
    named = [(c["shape"], c["layout"], c["dtype"]) for c in result["cases"]]
    assert named == [("tiny", "nchw", "float32"), ("tiny", "channels_last", "float32")]
    assert result["cases"][0]["pairs"] == [
        {"student": [2, 3, 7, 7], "teacher": [2, 5, 7, 7]},
        {"student": [2, 4, 4, 5], "teacher": [2, 6, 4, 5]},
    ]
    variants = result["cases"][0]["variants"]
    assert [v["key"] for v in variants] == ["amd_fused", "eager", "released", "attention", "at"]
    assert [v["part"] for v in variants] == ["whole"] * 3 + ["attention"] * 2
    # The eager reference computes more than the attention part.
    eager = [v["ratios"]["speedup_over_eager"] is not None for v in variants]
    assert eager == [True] * 3 + [False] * 2
    # Without time, two calls each.
    assert [len(v["rounds_ms"]["total"]) for v in variants] == [2] * 5
    assert len(result["cases"][0]["copy"]["rounds_ms"]) == 2


def test_run_fails_when_our_own_variant_is_wrong(tiny, tmp_path, monkeypatch, capsys):
    right = amd.amd_fused.reference.amd_loss
    wrong = Variant("amd_fused", "ours", lambda s, t: 2 * right(s, t), right, peer=False)
    monkeypatch.setattr(amd, "variants", lambda device: [wrong])
    output = tmp_path / "result.json"
    assert __main__.main([*tiny, "--layouts", "nchw", "--output", str(output)]) == 1
    out = capsys.readouterr().out
    assert re.search(r"\| ours +\| +refused \|", out)
    assert "ours: refused, loss off by 1 and gradient off by 1 against float64" in out


def test_run_that_is_stopped_leaves_what_it_measured_unfinished(tmp_path):
    seen = []

    def stopped(bench):
        seen.append(json.loads((tmp_path / "r.json").read_text()))
        raise KeyboardInterrupt

    first = {"subject": "host", "shape": "s", "variants": []}
    entries = [runner.Entry("a", lambda bench: first), runner.Entry("b", stopped)]
    options = host.parser().parse_args(["--device=cpu", f"--output={tmp_path / 'r.json'}"])
    with pytest.raises(KeyboardInterrupt):
        host.COMMAND.run(entries, options)
    (left,) = seen
    assert left["cases"] == [first]
    assert left["finished"] is False


def test_file_is_replaced_whole_and_numbers_of_a_list_share_a_line(tmp_path):
    path = tmp_path / "new" / "result.json"
    content = {"rounds": [1.5, 2e-05, 3], "text": "[\n 1,\n 2]", "names": ["a"], "none": []}
    results.write(content, path)
    text = path.read_text()
    assert '"rounds": [ 1.5, 2e-05, 3 ]' in text
    assert json.loads(text) == content
    with pytest.raises(ValueError, match="Out of range float"):
        results.write({"a": float("nan")}, path)
    assert path.read_text() == text


def test_file_of_a_gpu_is_named_by_device_and_date():
    record = {"device": "NVIDIA H200", "device_type": "cuda", "date": "2026-11-21T03:04:05+00:00"}
    assert environment.file_stem(record) == "nvidia-h200-2026-11-21-0304"


@pytest.mark.parametrize(
    ("arguments", "module", "rest"),
    [
        (["host", "--device", "cpu"], host, ["--device", "cpu"]),
        (["--shapes", "tiny"], losses, ["--shapes", "tiny"]),
        ([], losses, []),
    ],
)
def test_first_argument_names_the_command(monkeypatch, arguments, module, rest):
    seen = []
    monkeypatch.setattr(module, "main", lambda given: seen.append(given) or 5)
    assert __main__.main(arguments) == 5
    assert seen == [rest]


@pytest.mark.parametrize("command", ["siblings", "scaling", "training", "report", "compare", "all"])
def test_every_command_has_its_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main([command, "--help"])
    assert ended.value.code == 0
    assert f"python -m benchmarks {command} " in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit):
        host.main(["--device", "cuda"])
    assert "torch sees no CUDA device here; use cpu" in capsys.readouterr().err


def variant(key, compiles=True):
    return Variant(key, key, min, min, compiles=compiles)


def test_variants_are_chosen_by_key():
    variants = [variant("amd_fused"), variant("eager"), variant(COMPILED)]
    assert runner.chosen(variants, None) == variants
    assert runner.chosen(variants, ["compile", "amd_fused"]) == [variants[0], variants[2]]
    # A backend of ours that cannot run here is no error.
    assert runner.chosen(variants, ["amd_fused_cuda"]) == []
    with pytest.raises(SystemExit, match="--variants must be of amd_fused, eager, compile, got a"):
        runner.chosen(variants, ["a"])


@pytest.fixture
def now(monkeypatch):
    """Moves on as the test says."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    return clock


def test_compiled_peers_are_left_out_when_time_is_short(now):
    assert Budget(None, 100).refusal(variant(AUTOTUNED)) == ""
    short = Budget(51, 2)  # beside two cases of 6 s, 39 are left
    assert short.refusal(variant(COMPILED)) == "about 40 s to compile, 39 s left"
    assert short.refusal(variant("ours", compiles=False)) == ""
    assert Budget(52, 2).refusal(variant(COMPILED)) == ""
    # The guess of small graphs is shorter.
    assert Budget(20, 10, Guess(compile=5, case=1.5)).refusal(variant(COMPILED)) == ""
    assert Budget(19, 10, Guess(compile=5, case=1.5)).refusal(variant(COMPILED)) != ""


def test_budget_learns_from_what_cases_and_compiling_took(now):
    left = Budget(400, 2)
    now.seconds = 100.0
    left.spent({"variants": [{"key": COMPILED, "first_call_ms": 292e3}]}, 300)
    # Of the 300 s that are left, 8 are the next case's besides what it compiles.
    assert left.refusal(variant(COMPILED)) == ""
    now.seconds = 101.0
    assert left.refusal(variant(COMPILED)) == "about 292 s to compile, 291 s left"
    assert left.refusal(variant(AUTOTUNED)) == ""  # as long as nothing else is known

    now.seconds = 0.0
    mean = Budget(100, 3)
    mean.spent({"variants": []}, 10)
    mean.spent({"variants": []}, 30)
    # One case is left, for 20 s.
    now.seconds = 40.0
    assert mean.refusal(variant(COMPILED)) == ""
    now.seconds = 41.0
    assert mean.refusal(variant(COMPILED)) == "about 40 s to compile, 39 s left"
