"""What is measured as sizes grow, all at once (`make bench`), and by pytest-benchmark."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import all as everything
from benchmarks import amd, environment, report, results, scaling, steps
from benchmarks.subject import COMPILED, EAGER, Variant

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_batch_and_map_sizes_are_those_worked_by_hand():
    batch = scaling.shape_of("batch", 16)
    # 16 samples of 128 x 28 x 28 = 100,352 elements, 4 bytes each, read twice and twice again.
    assert batch.ideal_bytes(torch.float32, CPU).total == 4 * 4 * 16 * 100_352 == 25_690_112
    side = scaling.shape_of("map", 56).ideal_bytes(torch.float32, CPU)
    # 16 samples of 64 x 56 x 56 = 200,704.
    assert side.forward == 2 * 4 * 16 * 200_704 == 25_690_112
    assert side.gradient == 4 * 16 * 200_704


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sizes_span_a_factor_of_64_in_elements(device):
    for sweep, sizes in scaling.SIZES[device].items():
        assert len(sizes) >= 4
        assert sizes == tuple(sorted(sizes))
        elements = [
            scaling.shape_of(sweep, size).elements(torch.device(device))[0]
            for size in (sizes[0], sizes[-1])
        ]
        assert elements[1] >= 64 * elements[0]


@pytest.mark.parametrize(("device", "cache"), [("cpu", 32 << 20), ("cuda", 50 << 20)])
def test_rotated_inputs_exceed_the_cache_at_every_size(monkeypatch, device, cache):
    """Of a server CPU's last level and of an H200's L2: no call finds its inputs there."""
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: cache)
    device = torch.device(device)
    for sweep, sizes in scaling.SIZES[device.type].items():
        for size in sizes:
            ideal = scaling.shape_of(sweep, size).ideal_bytes(torch.float32, device)
            sets = amd.input_sets(ideal.forward, device)
            case = {"input_sets": sets, "ideal_bytes": {"forward": ideal.forward}}
            assert not report.fits_cache(case, {"last_level_cache_bytes": cache}), (sweep, size)


def test_ends_of_each_sweep_come_first_when_time_is_short():
    parse = scaling.parser().parse_args
    in_order = [(e.more["sweep"], e.more["size"]) for e in scaling.entries(parse(["--device=cpu"]))]
    sizes = scaling.SIZES["cpu"]
    assert in_order == [(sweep, size) for sweep in sizes for size in sizes[sweep]]
    short = [
        (e.more["sweep"], e.more["size"])
        for e in scaling.entries(parse(["--device=cpu", "--seconds=9"]))
    ]
    assert short[:4] == [("batch", 1), ("batch", 64), ("map", 7), ("map", 112)]
    assert sorted(short) == sorted(in_order)


def test_scaling_writes_sweep_and_size_of_each_case(tmp_path, monkeypatch):
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: 2**20)
    output = tmp_path / "scaling.json"
    arguments = ["--device=cpu", "--tiny", "--min-time=0", f"--output={output}"]
    assert scaling.main([*arguments, "--variants", "amd_fused", EAGER]) == 0
    cases = results.read(output)["cases"]
    assert [(c["sweep"], c["size"]) for c in cases] == [
        ("batch", 1),
        ("batch", 2),
        ("map", 2),
        ("map", 3),
    ]
    assert cases[3]["pairs"] == [{"student": [2, 3, 3, 3], "teacher": [2, 3, 3, 3]}]


def test_all_steps_fit_into_six_minutes_and_end_with_the_report(tmp_path):
    made = everything.all_steps("cpu", False, tmp_path / "stem")
    names = [step.name for step in made]
    assert names == [
        *("losses", "losses-bfloat16", "host", "micro", "siblings", "scaling", "report")
    ]
    seconds = everything.parser().parse_args([]).seconds
    assert seconds <= 350
    # Enough is left to the first, for the peers that compile.
    reserved = sum(step.reserved for step in made)
    assert made[0].seconds > 120
    assert reserved < seconds - 120
    written = [step.command[-1] for step in made if "benchmarks" in step.command][:-1]
    assert made[-1].command[-len(written) :] == tuple(written)
    assert all(path.startswith(str(tmp_path / "stem-")) for path in written)


def test_all_runs_its_steps_and_fails_with_one_of_them(tmp_path, monkeypatch, capsys):
    outcomes = {}
    monkeypatch.setattr(everything, "STORAGE", tmp_path / "storage")
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


class Recorder:
    """Stands in for pytest-benchmark: runs the rounds and notes their arguments."""

    def __init__(self):
        self.extra_info, self.group, self.rounds, self.seen = {}, "", 0, []

    def pedantic(self, target, setup, rounds, warmup_rounds):
        for _ in range(warmup_rounds + 2):
            arguments, options = setup()
            self.seen.append(arguments)
            target(*arguments, **options)
        self.rounds = rounds


@pytest.fixture
def bench_loss(monkeypatch):
    """The module, which lists its variants when imported, on the backend that is everywhere."""
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    return importlib.import_module("benchmarks.bench_loss")


@pytest.fixture
def micro(bench_loss, monkeypatch):
    """Runs one microbenchmark of a tiny case, among the variants given."""
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: 2**10)
    monkeypatch.setattr(bench_loss, "DEVICE", CPU)
    bench_loss.case_of.cache_clear()

    def run(key, stage, *variants):
        if variants:
            monkeypatch.setattr(amd, "variants", lambda device: list(variants))
        recorder = Recorder()
        bench_loss.test_loss(recorder, "tiny", "nchw", "float32", key, stage)
        return recorder

    yield run
    bench_loss.case_of.cache_clear()


def squares(student, teacher):
    return sum(a.square().sum() for a in student)


def doubled(student, teacher):
    return 2 * squares(student, teacher)


def test_microbenchmark_times_each_stage_on_inputs_in_turn(bench_loss, micro):
    right = Variant("ours", "ours", squares, squares, peer=False)
    forward = micro("ours", "forward", right)
    # Different sets of features, one after the other.
    firsts = [id(arguments[0]) for arguments in forward.seen]
    assert firsts[0] != firsts[1]
    assert forward.group == "whole of the loss, tiny, nchw, float32: forward"
    assert forward.extra_info["variant"] == "ours"
    assert forward.extra_info["environment"]["torch"] == torch.__version__
    fewest, most = bench_loss._ROUNDS
    assert fewest <= forward.rounds <= most
    # The backward pass is given the loss of a forward pass that is not timed.
    for inputs, value in micro("ours", "backward", right).seen:
        assert value.item() == pytest.approx(squares(inputs.student, None).item())
    assert len(micro("ours", "both", right).seen[0]) == 1


def test_microbenchmark_of_a_wrong_variant_fails_and_of_a_wrong_peer_is_skipped(micro):
    wrong = Variant("ours", "ours", doubled, squares, peer=False)
    peer = Variant("peer", "peer", doubled, squares)
    with pytest.raises(pytest.fail.Exception, match="ours: refused, loss off by 1"):
        micro("ours", "both", wrong, peer)
    with pytest.raises(pytest.skip.Exception, match="peer: refused, loss off by 1"):
        micro("peer", "both", wrong, peer)


def test_microbenchmarks_cover_every_variant_stage_layout_and_dtype(bench_loss):
    named = [parameter.values for parameter in bench_loss._parameters()]
    keys = {v.key for v in amd.variants(bench_loss.DEVICE)}
    assert {EAGER, COMPILED, "released", "at"} <= keys
    for shape in ("cifar-wrn", "imagenet-resnet"):
        for layout in amd.LAYOUTS:
            for dtype in ("float32", "bfloat16"):
                found = {values[3:] for values in named if values[:3] == (shape, layout, dtype)}
                assert found >= {(k, s) for k in keys for s in ("forward", "backward", "both")}


@pytest.mark.skipif(
    importlib.util.find_spec("pytest_benchmark") is None, reason="pytest-benchmark is not installed"
)
def test_pytest_benchmark_writes_its_file(tmp_path):
    output = tmp_path / "loss.json"
    step = everything._micro("cpu", True, "unused")
    command = [
        f"--benchmark-json={output}" if part.startswith("--benchmark-json") else part
        for part in step.command
    ]
    command[command.index("-k") + 1] += " and both"
    # In a worker of pytest-xdist, the plugin measures nothing.
    outside = {name: v for name, v in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**outside, **step.variables, "AMD_FUSED_BACKEND": "reference"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    groups = {b["group"] for b in json.loads(output.read_text())["benchmarks"]}
    assert "whole of the loss, tiny, nchw, float32: both" in groups
    assert command[0] == sys.executable


def test_microbenchmarks_are_left_out_where_the_plugin_is_missing(tmp_path, monkeypatch):
    nothing = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(everything, "importlib", nothing)
    monkeypatch.setattr(everything, "STORAGE", tmp_path / "storage")
    assert everything._micro("cpu", True, "stem").missing.startswith("pytest-benchmark is not")
