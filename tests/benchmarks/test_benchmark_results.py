"""`python -m benchmarks`: the result file's keys and types, the table, and the peers' meaning."""

from __future__ import annotations

import json
import re
from datetime import datetime

import numpy as np
import pytest
import torch

from benchmarks import __main__, amd, environment, results, table
from benchmarks.shapes import SHAPES
from benchmarks.subject import COMPILED, Variant

NUMBER = (int, float)
OPTIONAL_TEXT = (str, type(None))
SPREAD = {"median": NUMBER, "q1": NUMBER, "q3": NUMBER, "min": NUMBER, "n": int}
PARTS = {"forward": NUMBER, "backward": NUMBER, "total": NUMBER}
VARIANT = {
    "key": str,
    "title": str,
    "peer": bool,
    "part": str,
    "status": str,
    "reason": str,
    "loss_error": NUMBER,
    "gradient_error": NUMBER,
    "first_call_ms": NUMBER,
    "peak_extra_bytes": int,
    "launches": type(None),  # these tests run on a CPU
    "kernels": type(None),
    "forward_ms": SPREAD,
    "backward_ms": SPREAD,
    "total_ms": SPREAD,
    "rounds_ms": {"forward": [NUMBER], "backward": [NUMBER], "total": [NUMBER]},
    "host_ms": type(None),
    "graph": type(None),
    "ratios": {
        "speedup_over_eager": (*NUMBER, type(None)),
        "speedup_over_compile": type(None),  # these tests compile nothing
        "times_floor": NUMBER,
    },
}
RESULT = {
    "schema": int,
    "command": str,
    "environment": {
        "device": str,
        "device_type": str,
        "cuda": type(None),
        "processor": str,
        "cores": int,
        "threads": int,
        "last_level_cache_bytes": int,
        "cpu_capability": str,
        "system": str,
        "python": str,
        "torch": str,
        "triton": OPTIONAL_TEXT,
        "amd_fused": str,
        "backends": dict,
        "commit": OPTIONAL_TEXT,
        "date": str,
        "load_average": (float, type(None)),
    },
    "finished": bool,
    "settings": {"min_time": NUMBER, "min_rounds": int, "calls_per_turn": int},
    "cases": [
        {
            "subject": str,
            "shape": str,
            "layout": str,
            "dtype": str,
            "pairs": [{"student": [int], "teacher": [int]}],
            "input_sets": int,
            "upstream": NUMBER,
            "tolerance": NUMBER,
            "ideal_bytes": PARTS,
            "gradient_bytes": int,
            "copy": {
                "buffer_bytes": int,
                "ms": SPREAD,
                "rounds_ms": [NUMBER],
                "bytes_per_second": NUMBER,
            },
            "floor_ms": PARTS,
            "flops": type(None),  # bytes alone count for these losses
            "product": type(None),
            "note": str,
            "variants": [VARIANT],
        }
    ],
}


def assert_matches(value, schema, path="result"):
    if isinstance(schema, dict):
        assert isinstance(value, dict), path
        assert value.keys() == schema.keys(), path
        for key, part in schema.items():
            assert_matches(value[key], part, f"{path}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), path
        assert value, path
        for i, item in enumerate(value):
            assert_matches(item, schema[0], f"{path}[{i}]")
    else:
        assert isinstance(value, schema), f"{path}: {value!r}"


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


def test_result_file_has_the_keys_and_types_of_its_schema(tiny, tmp_path, capsys):
    output = tmp_path / "new" / "result.json"
    assert __main__.main([*tiny, "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert_matches(result, RESULT)

    assert result["schema"] == results.SCHEMA == 3
    assert result["command"] == "losses"
    assert results.read(output) == result
    assert result["finished"] is True
    assert datetime.fromisoformat(result["environment"]["date"]).utcoffset() is not None
    assert result["environment"]["torch"] == torch.__version__
    named = [(c["shape"], c["layout"], c["dtype"]) for c in result["cases"]]
    assert named == [
        ("tiny", "nchw", "float32"),
        ("tiny", "channels_last", "float32"),
    ]
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
    assert all(len(v["rounds_ms"]["total"]) == 5 for v in variants)  # five rounds, of two calls
    assert len(result["cases"][0]["copy"]["rounds_ms"]) == 5
    assert str(output) in capsys.readouterr().out


def test_default_file_name_tells_device_threads_and_date(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert __main__.main([*tiny, "--layouts", "nchw"]) == 0
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"[a-z0-9-]+-\d+-threads-\d{4}-\d\d-\d\d-\d{4}-losses\.json", file.name)


def test_run_fails_when_our_own_variant_is_wrong(tiny, tmp_path, monkeypatch, capsys):
    right = amd.amd_fused.reference.amd_loss
    wrong = Variant("amd_fused", "ours", lambda s, t: 2 * right(s, t), right, peer=False)
    monkeypatch.setattr(amd, "variants", lambda device: [wrong])
    output = tmp_path / "result.json"
    assert __main__.main([*tiny, "--layouts", "nchw", "--output", str(output)]) == 1
    out = capsys.readouterr().out
    assert re.search(r"\| ours +\| +refused \|", out)
    assert "ours: refused, loss off by 1 and gradient off by 1 against float64" in out


CPU_HEADER = ["variant", "forward ms", "fwd+bwd ms (quartiles)", "vs eager", "vs compile"]
CPU_HEADER += ["x floor", "peak / gradient"]


def test_table_is_markdown_with_a_row_a_variant():
    spread = {"median": 2.0, "q1": 1.5, "q3": 2.5, "min": 1.0, "n": 9}
    ratios = {"speedup_over_eager": 6.0, "speedup_over_compile": None, "times_floor": 2.0}
    variant = {
        "title": "ours",
        "status": "ok",
        "reason": "",
        "forward_ms": spread | {"median": 0.5},
        "total_ms": spread,
        "ratios": ratios,
        "graph": None,
        "peak_extra_bytes": 525,
    }
    case = {
        "subject": "amd",
        "shape": "s",
        "layout": "nchw",
        "dtype": "float32",
        "floor_ms": {"forward": 0.75, "total": 1.0},
        "ideal_bytes": {"total": 30_000_000},
        "copy": {"bytes_per_second": 3e10},
        "gradient_bytes": 500,
        "variants": [
            variant,
            {"title": "other", "status": "failed", "reason": "no compiler", "graph": None},
        ],
    }
    lines = table.render_case(case).splitlines()
    assert lines[0] == "### amd: s, nchw, float32"
    assert lines[2] == "floor 1.000 ms (forward 0.750): 30.0 MB at a copy's 30.0 GB/s"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:8]]
    assert cells[0] == CPU_HEADER
    assert all(re.fullmatch("-+:?", cell) for cell in cells[1])
    assert cells[2] == ["ours", "0.500", "2.00 (1.50-2.50)", "6.00", "-", "2.00", "1.05"]
    assert cells[3] == ["other", "failed", "-", "-", "-", "-", "-"]
    assert lines[-1] == "other: failed, no compiler"


@pytest.mark.parametrize("layout", amd.LAYOUTS)
def test_features_have_the_shape_layout_and_dtype_asked_for(layout):
    shape = SHAPES["tiny"]
    inputs = amd.features(shape, layout, torch.bfloat16, torch.device("cpu"), seed=0)
    assert [tuple(a.shape) for a in inputs.student] == [(2, 3, 7, 7), (2, 4, 4, 5)]
    assert [tuple(a.shape) for a in inputs.teacher] == [(2, 5, 7, 7), (2, 6, 4, 5)]
    for a in inputs.student + inputs.teacher:
        assert a.dtype == torch.bfloat16
        assert a.is_contiguous(memory_format=amd.LAYOUTS[layout])
    assert all(a.requires_grad and a.is_leaf for a in inputs.student)
    assert not any(a.requires_grad for a in inputs.teacher)


# Value and gradient norm by the authors' public code, run in float64 on numpy's legacy numbers.
@pytest.mark.parametrize(
    ("seeds", "shapes", "value", "gradient_norm"),
    [
        (
            (11, 31),
            ((2, 4, 8, 8), (2, 6, 8, 8)),
            0.0006942324622182432,
            0.00011233410414545849,
        ),
        (
            (12, 32),
            ((3, 8, 7, 7), (3, 8, 7, 7)),
            0.0007092847890824396,
            0.00012536297417566446,
        ),
    ],
)
def test_released_style_gives_the_numbers_of_the_released_code(seeds, shapes, value, gradient_norm):
    a_s, a_t = (
        torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))
        for seed, shape in zip(seeds, shapes, strict=True)
    )
    a_s.requires_grad_()
    loss = amd.released_style([a_s], [a_t])
    (gradient,) = torch.autograd.grad(loss, a_s)
    assert loss.item() == pytest.approx(value, rel=1e-10)
    assert gradient.norm().item() == pytest.approx(gradient_norm, rel=1e-9)


def test_plain_at_loss_is_the_mean_squared_difference_worked_by_hand():
    # Attention maps, mean of squares over two channels: student (1, 7), teacher (4, 3).
    a_s = torch.tensor([1.0, 1.0, 1.0, 13**0.5], dtype=torch.float64).reshape(1, 2, 1, 2)
    a_t = torch.tensor([2.0, 3**0.5, 2.0, 3**0.5], dtype=torch.float64).reshape(1, 2, 1, 2)
    s, t = 50**0.5, 5.0
    value = ((1 / s - 4 / t) ** 2 + (7 / s - 3 / t) ** 2) / 2
    assert amd.plain_at([a_s], [a_t]).item() == pytest.approx(value, rel=1e-12)
    # The mean over layers, whatever their sizes.
    other = amd.plain_at([a_s.reshape(1, 1, 2, 2)], [a_t.reshape(1, 1, 2, 2)]).item()
    both = amd.plain_at([a_s, a_s.reshape(1, 1, 2, 2)], [a_t, a_t.reshape(1, 1, 2, 2)])
    assert both.item() == pytest.approx((value + other) / 2, rel=1e-12)


def test_each_usable_fused_backend_of_the_device_is_a_variant(monkeypatch):
    monkeypatch.delenv("AMD_FUSED_BACKEND", raising=False)
    monkeypatch.setattr(amd._backends, "choose", lambda *_: "triton")
    usable = {"triton": "usable", "cuda": "usable", "cpp": "usable", "reference": "usable"}
    monkeypatch.setattr(amd.amd_fused, "backends", lambda: usable)
    titles = {v.key: v.title for v in amd.ours(torch.device("cuda"))}
    assert titles == {"amd_fused": "amd_fused (triton)", "amd_fused_cuda": "amd_fused (cuda)"}
    usable["cuda"] = "not usable, because it was not built"
    assert [v.key for v in amd.ours(torch.device("cuda"))] == ["amd_fused"]
    # One that was asked for is measured alone.
    usable["cuda"] = "usable"
    monkeypatch.setenv("AMD_FUSED_BACKEND", "triton")
    assert [v.key for v in amd.ours(torch.device("cuda"))] == ["amd_fused"]
