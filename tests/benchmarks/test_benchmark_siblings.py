"""`python -m benchmarks siblings`: bytes worked by hand, right answers only, records and report."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import benchmark_files as files
import pytest
import torch

import amd_fused
from benchmarks import (
    at,
    common,
    compare,
    environment,
    harness,
    kd,
    lsh,
    nd,
    report,
    results,
    rkd,
    siblings,
    sp,
    table,
)
from benchmarks.budget import Budget, Guess
from benchmarks.harness import Copy, Settings
from benchmarks.shapes import Flops, IdealBytes, Rows
from benchmarks.subject import COMPILED, EAGER, Case, Inputs, Variant, input_sets

CPU = torch.device("cpu")
ONCE = Settings(min_time=0.0, min_rounds=2, calls_per_turn=2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The backend that is everywhere, and small buffers."""
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: 2**20)


@pytest.mark.parametrize(
    ("got", "forward", "backward", "gradient"),
    [
        # 256 x 1000 = 256,000 logits of 4 bytes: two sides; both again and the gradient.
        (kd.ideal_bytes(Rows(256, 1000), torch.float32), 2_048_000, 3_072_000, 1_024_000),
        (kd.ideal_bytes(Rows(256, 1000), torch.bfloat16), 1_024_000, 1_536_000, 512_000),
        # 256 x 2048 = 524,288 numbers: 2,097,152 bytes a side, and as many class means as samples.
        (nd.ideal_bytes(Rows(256, 2048, 1000), torch.float32), 6_291_456, 8_388_608, 2_097_152),
        # 128 samples of 100 classes: 131,072 bytes a side, 102,400 of means; float32 with bfloat16.
        (nd.ideal_bytes(Rows(128, 256, 100), torch.float32), 364_544, 495_616, 131_072),
        (nd.ideal_bytes(Rows(128, 256, 100), torch.bfloat16), 233_472, 299_008, 65_536),
        # 128 x 64: 32,768 bytes a side; 2048 hyperplanes of 64 and a bias: 532,480.
        (lsh.ideal_bytes(Rows(128, 64, 2048), torch.float32), 598_016, 630_784, 32_768),
        # As worked out for the AMD loss in test_benchmark_harness.
        (at.SHAPES[0].ideal_bytes(torch.float32, CPU), 58_720_256, 29_360_128, 14_680_064),
        # 128 x 64 x 8 x 8 = 524,288 numbers, the teacher thrice that.
        (sp.SHAPES[0].ideal_bytes(torch.float32, CPU), 8_388_608, 4_194_304, 2_097_152),
        # 128 x 512 = 65,536 numbers a side.
        (rkd.ideal_bytes(Rows(128, 512), torch.float32), 524_288, 524_288, 262_144),
    ],
)
def test_ideal_bytes_are_those_counted_by_hand(got, forward, backward, gradient):
    assert got == IdealBytes(forward, backward, gradient)


def test_flops_are_those_counted_by_hand():
    # A product of 128 x 64 x 2048 multiplications is 33,554,432 operations.
    assert lsh.flops(Rows(128, 64, 2048)) == Flops(67_108_864, 33_554_432, (128, 64, 2048))
    # Half of 32 x 32 and the diagonal are 528 inner products of 25,088 numbers, of two sides; the
    # gradient takes all of a product with [32, 32].
    found = sp.flops(sp.SHAPES[1], CPU)
    assert found.forward == 2 * 2 * 528 * 25_088 == 52_985_856
    assert found.backward == 2 * 32 * 32 * 25_088 == 51_380_224


def run(tmp_path, *arguments):
    output = tmp_path / "siblings.json"
    line = ["--device=cpu", "--shapes=tiny", "--min-time=0", f"--output={output}", *arguments]
    return siblings.main(line), output


def test_every_subject_writes_a_record_that_report_and_compare_take(tmp_path, capsys):
    status, output = run(tmp_path, "--seconds=0")
    assert status == 0
    cases = results.read(output)["cases"]
    assert [(c["subject"], c["shape"], c["layout"], c["dtype"]) for c in cases] == [
        ("kd", "4x5", "rows", "float32"),
        ("kd", "4x5", "rows", "bfloat16"),
        ("skd", "4x5", "rows", "float32"),
        ("skd", "4x5", "rows", "bfloat16"),
        ("nd", "4x5x3", "rows", "float32"),
        ("lsh", "4x5x6", "rows", "float32"),
        ("at", "tiny", "nchw", "float32"),
        ("sp", "tiny", "nchw", "float32"),
        ("sp", "tiny", "nchw", "float16"),
        ("rkd", "5x4", "rows", "float32"),
    ]
    for case in cases:
        variants = {v["key"]: v for v in case["variants"]}
        assert list(variants)[:3] == ["amd_fused", EAGER, COMPILED]
        assert variants["amd_fused"]["status"] == "ok"
        assert variants[EAGER]["status"] == "ok" or case["dtype"] == "float16"
        assert variants[COMPILED]["status"] == "left out"
        assert (case["flops"] is not None) == (case["subject"] in ("lsh", "sp"))
    assert cases[4]["pairs"] == [{"student": [4, 5], "teacher": [4, 5]}]
    assert cases[5]["flops"] == {"forward": 480, "backward": 240, "total": 720}
    assert "GFLOP at torch.mm's" in capsys.readouterr().out

    assert report.main([str(output), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "### Sibling losses, forward and backward" in text
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    heads = [row[1] for row in rows if row[2:3] == ["floor"]]
    assert heads == list(siblings.SUBJECTS)
    assert "says little." in text
    assert compare.main([str(output), str(output)]) == 0
    assert "kd, 4x5, rows, float32, B = 4" in capsys.readouterr().out


def test_wrong_loss_of_rows_is_refused_and_fails_the_run(tmp_path, monkeypatch, capsys):
    right = amd_fused.reference.nd_loss
    monkeypatch.setattr(amd_fused, "nd_loss", lambda *arguments: 2 * right(*arguments))
    status, output = run(tmp_path, "--subjects", "nd", "--variants", "amd_fused", EAGER)
    assert status == 1
    (case,) = results.read(output)["cases"]
    assert [v["status"] for v in case["variants"]] == ["refused", "ok"]
    assert "refused, loss off by 1 and gradient off by 1" in capsys.readouterr().out


def test_wrong_labels_are_refused(tmp_path, monkeypatch):
    """What the loss takes besides features reaches variants and oracle alike."""
    right = amd_fused.reference.nd_loss

    def other_class(student, teacher, target, means):
        return right(student, teacher, (target + 1) % len(means), means)

    monkeypatch.setattr(amd_fused, "nd_loss", other_class)
    assert run(tmp_path, "--subjects", "nd", "--variants", "amd_fused")[0] == 1


def test_oracle_gets_all_floating_inputs_in_float64():
    labels = torch.tensor([1, 0])
    inputs = Inputs([torch.ones(2, 3).half()], [torch.ones(2, 3)], (labels, torch.ones(4)))
    (student,), (teacher,), *constants = inputs.in_float64().arguments
    assert student.requires_grad
    dtypes = [a.dtype for a in (student, teacher, *constants)]
    assert dtypes == [torch.float64, torch.float64, torch.int64, torch.float64]


def test_command_that_lacks_time_measures_the_middle_sizes_first():
    parse = siblings.parser().parse_args
    names = [e.name for e in siblings.entries(parse(["--device=cpu"]))]
    assert names[0] == "kd: 128x100, rows, float32"
    assert names[1:3] == ["kd: 128x100, rows, bfloat16", "kd: 256x1000, rows, float32"]
    short = [e.name for e in siblings.entries(parse(["--device=cpu", "--seconds=9"]))]
    assert sorted(short) == sorted(names)
    middle = [e.name for e in siblings.entries(parse(["--device=cpu", "--shapes=middle"]))]
    assert short[: len(middle)] == middle
    assert {name.split(":")[0] for name in middle} == set(siblings.SUBJECTS)
    chosen = parse(["--device=cpu", "--subjects", "rkd", "--dtypes", "bfloat16"])
    assert [e.name for e in siblings.entries(chosen)] == [
        f"rkd: {name}, rows, bfloat16" for name in ("64x64", "128x512", "256x512")
    ]


def test_first_guess_of_small_graphs_is_shorter(monkeypatch):
    monkeypatch.setattr("benchmarks.budget.time", SimpleNamespace(monotonic=lambda: 0.0))
    peer = Variant(COMPILED, "peer", min, min, compiles=True)
    assert Budget(20, 10).refusal(peer) == "about 40 s to compile, 0 s left"
    assert Budget(20, 10, Guess(compile=5, case=1.5)).refusal(peer) == ""
    assert Budget(19, 10, Guess(compile=5, case=1.5)).refusal(peer) != ""


def test_fused_backends_are_those_that_have_kernels_of_the_loss(monkeypatch):
    monkeypatch.delenv("AMD_FUSED_BACKEND")
    monkeypatch.setattr(common._backends, "choose", lambda *_: "triton")
    monkeypatch.setattr(amd_fused, "backends", lambda: {"triton": "usable", "cuda": "usable"})

    def keys(among):
        loss = amd_fused.kd_loss
        return [v.key for v in common.ours(loss, loss, torch.device("cuda"), among)]

    assert keys(("triton", "cpp")) == ["amd_fused"]
    assert keys(("triton", "cuda", "cpp")) == ["amd_fused", "amd_fused_cuda"]


def test_labels_are_of_as_many_classes_as_there_can_be():
    for shape in (Rows(8, 4, 3), Rows(3, 4, 8)):
        case = nd.case(shape, common.ROWS, torch.float32, CPU)
        assert len(case.inputs) == input_sets(case.ideal.forward, CPU) == 128
        for inputs in case.inputs:
            assert len(inputs.constants[0].unique()) == min(shape.batch, shape.count)


def test_no_hash_of_a_teacher_is_decided_by_rounding():
    weight, bias = torch.tensor([[1.0, -1.0], [3.0, 0.0]]), torch.zeros(2)
    teacher = torch.tensor([[2.0, 2.0], [2.0, 1.0]])
    assert lsh._undecided(teacher, weight, bias).tolist() == [True, False]
    case = lsh.case(Rows(64, 16, 512), common.ROWS, torch.bfloat16, CPU)
    for inputs in case.inputs[:3]:
        (drawn,), constants = inputs.teacher, inputs.constants
        assert drawn.dtype == torch.bfloat16
        assert not lsh._undecided(drawn, *constants).any()


def test_floor_is_the_longer_of_the_bytes_and_the_products(monkeypatch):
    speed = {"flops_per_second": 1e9, "ms": files.spread(1.0), "rounds_ms": [1.0, 1.0]}
    monkeypatch.setattr(harness.Product, "record", lambda *_: speed)
    monkeypatch.setattr(Copy, "record", lambda *_: {"bytes_per_second": 1e9})

    def half_square(student, teacher):
        return student[0].square().sum() / 2

    inputs = [Inputs([torch.ones(2, 3, requires_grad=True)], [torch.ones(2, 3)])] * 2
    # Forward 4000 bytes and 9000 operations, backward 1000 bytes and 500 operations.
    case = Case(
        *("test", "2x3", "rows", torch.float32),
        inputs,
        IdealBytes(4000, 1000, 24),
        [Variant(EAGER, "eager", half_square, half_square)],
        flops=Flops(9000, 500, (2, 3, 2)),
    )
    record = harness.measure(case, Copy(CPU), ONCE)
    floor = {"forward": 9e-3, "backward": 1e-3, "total": 10e-3}
    assert record["floor_ms"] == pytest.approx(floor)
    assert record["flops"] == {"forward": 9000, "backward": 500, "total": 9500}


def siblings_result():
    """Two subjects, of which one has products: 16 GFLOP in 2 ms are 8000 a second."""
    product = {"ms": files.spread(1.0), "rounds_ms": [1.0], "flops_per_second": 1e13}
    flops = {"forward": 10**10, "backward": 6 * 10**9, "total": 16 * 10**9}
    cases = [files.case("a"), files.case("b"), copy.deepcopy(files.case("a"))]
    cases[2] |= {"subject": "lsh", "flops": flops, "product": product}
    return files.result("siblings", cases)


def test_operations_a_second_are_shown_beside_those_of_a_plain_product():
    lines = table.render_case(siblings_result()["cases"][2]).splitlines()
    assert lines[2].endswith("; 16.0 GFLOP at torch.mm's 10000 GFLOP/s")
    cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
    ours = [cell.strip() for cell in lines[6].strip("|").split("|")]
    assert ours[cells.index("GFLOP/s")] == "8000"
    assert "GFLOP/s" not in table.render_case(siblings_result()["cases"][0])


@pytest.mark.parametrize(
    ("value", "shown"), [(0.002, "0.00200"), (2, "2.00"), (99.97, "100"), (1208.4, "1208")]
)
def test_digits_are_three_and_all_before_the_point(value, shown):
    assert table.digits(value) == shown


def test_summary_has_a_table_a_subject():
    lines = report.summary(siblings_result()["cases"]).splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    rows = [row for row in rows if not row.startswith("-")]
    of_a, of_b = ("a, nchw, float32", "b, nchw, float32")
    assert rows == ["amd", of_a, of_b, "lsh", of_a]


def test_picture_marks_each_variant_and_the_floor_in_units_of_ours():
    pytest.importorskip("matplotlib")
    from benchmarks import pictures

    result = siblings_result()
    del result["cases"][1]["variants"][0]  # --variants eager, say
    figure = pictures.siblings_figure(result)
    (axes,) = figure.axes
    assert axes.get_yticklabels()[2].get_text() == "lsh: a, nchw, float32 (2.00 ms)"
    assert axes.get_yticklabels()[1].get_text() == "amd: b, nchw, float32 (no time)"
    of_last = sorted(x for line in axes.get_lines()[:-1] for x, y in [line.get_data()] if y[0] == 2)
    # Ours takes 2 ms, the floor 1.6, the attention part 1.5 and 6, the others 8, 4 and 10.
    assert of_last == pytest.approx([0.75, 0.8, 1.0, 2.0, 3.0, 4.0, 5.0])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["amd_fused", "eager"]
    assert {"torch.compile", "floor"} <= set(names)
    assert "Test CPU" in figure.get_supxlabel()
