"""`python -m benchmarks siblings`: bytes worked by hand, right answers only, records and report."""

from __future__ import annotations

import pytest
import torch

import amd_fused
from benchmarks.cases import rows, siblings
from benchmarks.cases.shapes import Rows
from benchmarks.measure import environment, results
from benchmarks.measure.subject import COMPILED, EAGER, Flops, IdealBytes, input_sets
from benchmarks.show import compare, report

CPU = torch.device("cpu")
F32, BF16 = torch.float32, torch.bfloat16
KD, RKD = (siblings.SUBJECTS[name].ideal for name in ("kd", "rkd"))
AT, AFDS, SP = (siblings.SUBJECTS[name].shapes for name in ("at", "afds", "sp"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The backend that is everywhere, and small buffers."""
    monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: 2**20)


@pytest.mark.parametrize(
    ("got", "forward", "backward", "gradient"),
    [
        # 256 x 1000 = 256,000 logits of 4 bytes: two sides; both again and the gradient.
        (KD(Rows(256, 1000), F32), 2_048_000, 3_072_000, 1_024_000),
        (KD(Rows(256, 1000), BF16), 1_024_000, 1_536_000, 512_000),
        # 256 x 2048 = 524,288 numbers: 2,097,152 bytes a side, and as many class means as samples.
        (rows.nd_bytes(Rows(256, 2048, 1000), F32), 6_291_456, 8_388_608, 2_097_152),
        # 128 samples of 100 classes: 131,072 bytes a side, 102,400 of means; float32 with bfloat16.
        (rows.nd_bytes(Rows(128, 256, 100), F32), 364_544, 495_616, 131_072),
        (rows.nd_bytes(Rows(128, 256, 100), BF16), 233_472, 299_008, 65_536),
        # 128 x 64: 32,768 bytes a side; 2048 hyperplanes of 64 and a bias: 532,480.
        (rows.lsh_bytes(Rows(128, 64, 2048), F32), 598_016, 630_784, 32_768),
        # 4 x 16385 draws of 30 rows take all of them: 2 banks of 30 x 5 numbers, 8 bytes an index
        # of a draw; 20 numbers a side, and the gradient.
        (rows.crd_bytes(Rows(4, 5, 30), F32), 1_200 + 524_320 + 160, 80, 80),
        # 16 x 16385 = 262,160 draws of 1,281,167 rows leave 81.5 % of them out: 237,077 rows.
        (rows.crd_bytes(Rows(16, 128, 1281167), F32), 244_880_512, 8_192, 8_192),
        # As worked out for the AMD loss in test_losses.
        (AT[0].ideal_bytes(F32, CPU), 58_720_256, 29_360_128, 14_680_064),
        # 32 x (64 x 56^2 + 128 x 28^2 + 256 x 14^2 + 512 x 7^2) = 12,042,240 numbers a side, both
        # read twice, and the gradient.
        (AFDS[0].ideal_bytes(F32, CPU, True), 96_337_920, 144_506_880, 48_168_960),
        # 128 x 64 x 8 x 8 = 524,288 numbers, the teacher thrice that.
        (SP[0].ideal_bytes(F32, CPU), 8_388_608, 4_194_304, 2_097_152),
        # 128 x 512 = 65,536 numbers a side.
        (RKD(Rows(128, 512), F32), 524_288, 524_288, 262_144),
    ],
)
def test_ideal_bytes_are_those_counted_by_hand(got, forward, backward, gradient):
    assert got == IdealBytes(forward, backward, gradient)


def test_flops_are_those_counted_by_hand():
    # A product of 128 x 64 x 2048 multiplications is 33,554,432 operations.
    assert rows.lsh_flops(Rows(128, 64, 2048), CPU) == Flops(
        67_108_864, 33_554_432, (128, 64, 2048)
    )
    # Half of 32 x 32 and the diagonal are 528 inner products of 25,088 numbers, of two sides; the
    # gradient takes all of a product with [32, 32].
    found = rows.sp_flops(SP[1], CPU)
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
        ("vid", "tiny-equal", "nchw", "float32"),
        ("cc", "4x5", "rows", "float32"),
        ("crd", "4x5x30", "rows", "float32"),
        ("afd", "tiny", "nchw", "float32"),
        ("afds", "tiny-equal", "nchw", "float32"),
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
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    heads = [row[1] for row in cells if row[2:3] == ["floor"]]
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


def test_labels_are_of_as_many_classes_as_there_can_be():
    for shape in (Rows(8, 4, 3), Rows(3, 4, 8)):
        case = siblings.SUBJECTS["nd"].case("nd", shape, F32, CPU)
        assert len(case.inputs) == input_sets(case.ideal.forward, CPU) == 128
        for inputs in case.inputs:
            assert len(inputs.constants[0].unique()) == min(shape.batch, shape.count)


def test_no_hash_of_a_teacher_is_decided_by_rounding():
    weight, bias = torch.tensor([[1.0, -1.0], [3.0, 0.0]]), torch.zeros(2)
    teacher = torch.tensor([[2.0, 2.0], [2.0, 1.0]])
    assert rows.undecided(teacher, weight, bias).tolist() == [True, False]
    case = siblings.SUBJECTS["lsh"].case("lsh", Rows(64, 16, 512), BF16, CPU)
    for inputs in case.inputs[:3]:
        (drawn,), constants = inputs.teacher, inputs.constants
        assert drawn.dtype == torch.bfloat16
        assert not rows.undecided(drawn, *constants).any()
