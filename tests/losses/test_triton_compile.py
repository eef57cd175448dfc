"""Every kernel that the dispatchers launch compiles for the GPUs that matter, without one.

The AMD loss for DESIGN's three benchmark shapes and 512x512, NCHW and channels_last, float32 and
bfloat16; the losses on rows for the cases of triton_launches.py. `make test` compiles FEW of them.
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
# Folders with a Triton each, to compile for sm_90 with (`make tritons`).
OTHER_TRITONS = [folder for folder in os.environ.get("TRITONS", "").split(os.pathsep) if folder]
# Two words, stored and loaded once, that ptxas of Triton 3.9 (CUDA 13) spills in kernels of the
# per-sample part under the limits of registers that were tried; those of 3.4 and 3.6 spill nothing.
TWO_WORDS = 16
# Names in triton_launches.EDGES: the module cannot be imported here, beside the interpreter.
EDGES = ("one-sample", "one-channel", "one-large-map", "two-rows", "one-row")
ROOT = Path(__file__).parents[2]


def lines(script: str, *arguments: str, triton: str = "") -> list[dict[str, Any]]:
    """What a script of tests/support prints, with the Triton in a folder or the installed one."""
    path = os.pathsep.join([triton, str(ROOT)] if triton else [str(ROOT)])
    process = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / script), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": path},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    for row in rows:
        print(json.dumps(row))
    return rows


# Every kernel: the AMD loss's fused and split forms on three layers, the chunked on one, and either
# layout in one of the dtypes; of the losses on rows and channels each in float32 and bfloat16.
FEW = tuple(
    f"{name}:few"
    for name in (
        *("cifar-wrn", "512x512", "kd", "kd_map", "nd", "lsh", "crd", "afd", "afds"),
        "attention_map",
    )
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((90, FEW), id="sm_90-few"),
        *(
            pytest.param((capability, ()), marks=pytest.mark.exhaustive, id=f"sm_{capability}")
            for capability in (80, 90, 100)
        ),
    ],
)
def all_kernels(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    capability, cases = request.param
    return lines("compile_triton.py", str(capability), *cases)


@pytest.fixture(scope="module")
def kernels(all_kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the AMD loss."""
    return [row for row in all_kernels if row["loss"] == "amd"]


def test_all_forms_are_among_them(kernels: list[dict[str, Any]]) -> None:
    assert {row["kernel"] for row in kernels} == AMD_KERNELS


AMD_KERNELS = {
    "amd_fused_fwd_kernel",
    "amd_map_fwd_kernel",
    "amd_sample_fwd_kernel",
    "amd_chunk_fwd_kernel",
    "amd_bwd_kernel",
}
# Kernels of the losses on rows and of the attention map, by the stem of their files.
ROW_KERNELS = {
    "kd": {"kd_row_fwd_kernel", "kd_wide_fwd_kernel", "kd_bwd_kernel"},
    "kd_map": {"kd_row_fwd_kernel", "kd_bwd_kernel"},
    "nd": {"nd_fwd_kernel", "nd_bwd_kernel"},
    "lsh": {"lsh_bce_kernel"},
    "afd": {"afd_fwd_kernel", "afd_mean_kernel", "afd_bwd_kernel"},
    "afds": {"afds_fwd_kernel", "afds_bwd_kernel"},
    "crd": {"crd_fwd_kernel"},
    "attention_map": {"amd_map_fwd_kernel", "attention_map_groups_kernel"},
}


@pytest.mark.parametrize("loss", ROW_KERNELS)
def test_all_kernels_on_rows_are_among_them(all_kernels: list[dict[str, Any]], loss: str) -> None:
    assert {row["kernel"] for row in all_kernels if row["loss"] == loss} == ROW_KERNELS[loss]


def test_nothing_spills(all_kernels: list[dict[str, Any]]) -> None:
    assert [row for row in all_kernels if row["spill_bytes"] > TWO_WORDS] == []


if OTHER_TRITONS:

    @pytest.mark.parametrize("folder", OTHER_TRITONS, ids=lambda f: Path(f).name)
    def test_nothing_spills_with_other_tritons(folder: str) -> None:
        rows = lines("compile_triton.py", "90", triton=folder)
        versions = {tuple(int(part) for part in row["triton"].split(".")[:2]) for row in rows}
        assert len(versions) == 1
        limit = TWO_WORDS if versions.pop() >= (3, 9) else 0
        assert [row for row in rows if row["spill_bytes"] > limit] == []


def test_sums_of_a_sample_wait_together(kernels: list[dict[str, Any]]) -> None:
    """One by one, the sums of one layer took 29 barriers with Triton 3.9, and 44 with 3.6."""
    counts = {
        row["barriers"]
        for row in kernels
        if row["kernel"] == "amd_sample_fwd_kernel" and row["shape"] == "cifar-wrn"
    }
    assert counts
    assert max(counts) <= 24


# What of it `make test` compiles, tests/triton_on_host also runs.
@pytest.mark.exhaustive
@pytest.mark.parametrize("folder", OTHER_TRITONS or [""], ids=lambda f: Path(f).name or "installed")
def test_sizes_of_one_compile(folder: str) -> None:
    """A size of 1 is a Python number to Triton's compiler, without a tensor's methods: one sample,
    one channel, one layer, one position a quadrant, one row or column, in every form."""
    rows = lines("compile_triton.py", "90", *EDGES, triton=folder)
    assert {row["shape"] for row in rows} == set(EDGES)
    assert {row["kernel"] for row in rows} == AMD_KERNELS
    assert [row for row in rows if row["spill_bytes"] > TWO_WORDS] == []


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float64", marks=pytest.mark.exhaustive)]
)
def test_schedules_of_options_and_last_batches_compile_nothing(dtype: str) -> None:
    rows = lines("count_compilations.py", dtype)
    assert len(rows) == 9
    assert all(row["first"] >= 8 for row in rows), "a kernel of each form, and the backward's"
    assert [row for row in rows if row["all"] != row["first"]] == []


def test_shared_memory_leaves_room_for_several_programs(all_kernels: list[dict[str, Any]]) -> None:
    assert max(row["shared_bytes"] for row in all_kernels) <= 32 << 10


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


def test_features_of_an_attention_map_move_16_bytes_at_a_time(
    all_kernels: list[dict[str, Any]],
) -> None:
    """Rows of 7 numbers and pixels of one are no whole words; sums of groups are a C-th."""
    checked = 0
    for row in all_kernels:
        reader = (row["loss"], row["kernel"]) == ("attention_map", "amd_map_fwd_kernel")
        if reader and row["width"] > (7 if row["layout"] == "nchw" else 1):
            checked += 1
            assert set(row["loads"]) == {"16"}, row
    assert checked >= 4


def test_channels_and_pixels_move_16_bytes_at_a_time(all_kernels: list[dict[str, Any]]) -> None:
    """Where rows or pixels are whole 16-byte words; the numbers of a channel are 4 or 8 bytes."""
    checked = 0
    for row in all_kernels:
        if row["loss"] not in ("afd", "afds") or row["layout"] == "window" or row["width"] == 1:
            continue
        if row["kernel"] == "afd_mean_kernel":  # of sums, which are a part of the features
            continue
        if row["width"] == 7 and row["layout"] == "nchw":
            continue
        checked += 1
        assert row["loads"]["16"] >= (2 if row["loss"] == "afds" else 1), row
        assert not row["kernel"].endswith("bwd_kernel") or set(row["stores"]) == {"16"}, row
    assert checked >= 4


def test_aligned_rows_of_logits_move_16_bytes_at_a_time(all_kernels: list[dict[str, Any]]) -> None:
    """4 bytes are the numbers of a row of `rows` and the upstream gradient."""
    checked = 0
    for row in all_kernels:
        if row["loss"] != "kd" or row["width"] in (1, 2, 21841) or row["dtype"] == "float64":
            continue
        checked += 1
        backward = row["kernel"] == "kd_bwd_kernel"
        assert set(row["loads"]) == ({"16", "4"} if backward else {"16"}), row
        assert set(row["stores"]) == ({"16"} if backward else {"4"}), row
    assert checked >= 4


def test_aligned_rows_of_embeddings_move_16_bytes_at_a_time(
    all_kernels: list[dict[str, Any]],
) -> None:
    """4 and 8 bytes are a sample's own numbers, and its label."""
    checked = 0
    for row in all_kernels:
        if (
            row["loss"] not in ("nd", "lsh")
            or row["width"] in (1, 100)
            or row["dtype"] == "float64"
        ):
            continue
        checked += 1
        assert row["loads"]["16"] >= 2, row
        assert set(row["loads"]) <= {"16", "8", "4"}, row
        assert row["kernel"] != "nd_bwd_kernel" or set(row["stores"]) == {"16"}, row
    assert checked >= 4
