"""Every kernel that the dispatcher launches compiles for the GPUs that matter, without one.

For DESIGN's three benchmark shapes and 512x512, NCHW and channels_last, float32 and bfloat16.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

UNALIGNED = {("imagenet-resnet", "nchw")}  # 14x14 and 7x7 rows are not whole 16-byte words
ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).with_name("compile_triton.py")


# The tests of one architecture stay in one process, which compiles for it once.
TARGETS = [pytest.param(c, marks=pytest.mark.xdist_group(f"sm_{c}")) for c in (80, 90, 100)]


@pytest.fixture(scope="module", params=TARGETS, ids=lambda c: f"sm_{c}")
def kernels(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(request.param)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    for row in rows:
        print(json.dumps(row))
    return rows


def test_all_forms_are_among_them(kernels: list[dict[str, Any]]) -> None:
    names = {row["kernel"] for row in kernels}
    assert names == {
        "amd_fused_fwd_kernel",
        "amd_map_fwd_kernel",
        "amd_sample_fwd_kernel",
        "amd_chunk_fwd_kernel",
        "amd_bwd_kernel",
    }


def test_nothing_spills(kernels: list[dict[str, Any]]) -> None:
    assert [row for row in kernels if row["spill_bytes"] > 0] == []


def test_shared_memory_leaves_room_for_several_programs(kernels: list[dict[str, Any]]) -> None:
    assert max(row["shared_bytes"] for row in kernels) <= 32 << 10


def test_features_move_16_bytes_at_a_time(kernels: list[dict[str, Any]]) -> None:
    """Wherever rows or pixels are whole 16-byte words to the compiler: all but UNALIGNED.

    Maps in float32 are read in 4-byte words by the per-sample kernels; they are a C-th of the
    features.
    """
    readers = ("amd_map_fwd_kernel", "amd_bwd_kernel", "amd_fused_fwd_kernel")
    checked = 0
    for row in kernels:
        aligned = (row["shape"], row["layout"]) not in UNALIGNED
        if row["kernel"] not in readers or not aligned:
            continue
        checked += 1
        wide = row["loads"].get("16", 0)
        if row["kernel"] == "amd_bwd_kernel":
            assert set(row["stores"]) == {"16"}, row
            assert wide >= row["stores"]["16"], row
        else:
            assert set(row["loads"]) == {"16"}, row
    assert checked >= 4
