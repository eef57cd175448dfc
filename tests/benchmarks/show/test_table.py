"""Tables: one form for the terminal and for Markdown."""

from __future__ import annotations

import re

import pytest
import result_files as files

from benchmarks.show import table

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


def test_operations_a_second_are_shown_beside_those_of_a_plain_product():
    lines = table.render_case(files.siblings()["cases"][2]).splitlines()
    assert lines[2].endswith("; 16.0 GFLOP at torch.mm's 10000 GFLOP/s")
    cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
    ours = [cell.strip() for cell in lines[6].strip("|").split("|")]
    assert ours[cells.index("GFLOP/s")] == "8000"
    assert "GFLOP/s" not in table.render_case(files.siblings()["cases"][0])


@pytest.mark.parametrize(
    ("value", "shown"), [(0.002, "0.00200"), (2, "2.00"), (99.97, "100"), (1208.4, "1208")]
)
def test_digits_are_three_and_all_before_the_point(value, shown):
    assert table.digits(value) == shown
