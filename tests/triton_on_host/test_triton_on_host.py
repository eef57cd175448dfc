"""Triton's real PTX for sm_90 on the CPU: the losses are right, and planted faults are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from triton_on_host.instructions import Program
from triton_on_host.memory import DeviceMemory, Fault

# Each thread hands its number to the next through shared memory, then stores it.
PTX = """
.visible .entry rotate(
	.param .u64 .ptr .global .align 1 rotate_param_0
)
.reqntid 64
{
	.reg .b32 	%r<9>;
	.reg .b64 	%rd<4>;
$L__func_begin0:
	ld.param.b64 	%rd1, [rotate_param_0];
	mov.u32 	%r1, %tid.x;
	shl.b32 	%r2, %r1, 2;
	st.shared.b32 	[%r2], %r1;
	bar.sync 	0;
	add.s32 	%r3, %r1, 1;
	and.b32 	%r4, %r3, 63;
	shl.b32 	%r5, %r4, 2;
	ld.shared.b32 	%r6, [%r5];
	mul.wide.u32 	%rd2, %r1, 4;
	add.s64 	%rd3, %rd1, %rd2;
	st.global.b32 	[%rd3+0], { %r6 };
	ret;
}
"""
# The fault, what of the kernel is replaced by what, and the message.
FAULTS = {
    "missed barrier": ("bar.sync 	0;", "", "race: a warp reads what another wrote"),
    "second pass without a barrier": (
        "mul.wide.u32",
        "st.shared.b32 	[%r2], %r6;\n	mul.wide.u32",
        "race: a warp writes what another read",
    ),
    "race of two warps": ("st.shared.b32 	[%r2]", "st.shared.b32 	[0]", "race: "),
    "race of blocks": ("%rd2, %r1, 4", "%rd2, %r1, 4", "race: a block writes what another wrote"),
    "overrun": ("[%rd3+0]", "[%rd3+4]", "out of bounds"),
    "underrun": ("[%rd3+0]", "[%rd3+-4]", "out of bounds"),
    "overrun of shared memory": ("[%r5];", "[%r5+4];", "out of bounds"),
    "misaligned store": ("[%rd3+0]", "[%rd3+2]", "misaligned"),
    "misaligned load": ("[%r5];", "[%r5+2];", "misaligned"),
    "branch of some threads": (
        "ret;",
        "setp.eq.s32 	%p1, %r1, 0;\n	@%p1 bra 	$L__func_begin0;\n	ret;",
        "diverge",
    ),
}


def launched(ptx: str, out: np.ndarray, blocks: int = 1) -> np.ndarray:
    """What a kernel of a thread a number makes of them."""
    memory = DeviceMemory()
    memory.add("out", out.ctypes.data, out.nbytes)
    Program(ptx).launch(blocks, out.size, 256, [np.uint64(out.ctypes.data)], memory)
    return out


def rotated(ptx: str, blocks: int = 1) -> np.ndarray:
    return launched(ptx, np.zeros(64, np.uint32), blocks)


def test_a_kernel_without_faults_runs() -> None:
    np.testing.assert_array_equal(rotated(PTX), np.roll(np.arange(64), -1))


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_refused(fault: str) -> None:
    old, new, message = FAULTS[fault]
    assert old in PTX
    with pytest.raises(Fault, match=message):
        rotated(PTX.replace(old, new), blocks=2 if "blocks" in fault else 1)


# Each thread loads two halves, compares both with a half of 0, and stores which of them hold.
HALVES = """
.visible .entry halves(
	.param .u64 .ptr .global .align 1 halves_param_0
)
.reqntid 32
{
	.reg .pred 	%p<3>;
	.reg .b32 	%r<6>;
	.reg .b64 	%rd<4>;
	ld.param.b64 	%rd1, [halves_param_0];
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd2, %r1, 4;
	add.s64 	%rd3, %rd1, %rd2;
	ld.global.b32 	{ %r2 }, [%rd3+0];
	setp.eq.bf16x2 	%p1|%p2, %r2, 0;
	selp.b32 	%r3, 1, 0, %p1;
	selp.b32 	%r4, 2, 0, %p2;
	add.s32 	%r5, %r3, %r4;
	st.global.b32 	[%rd3+0], { %r5 };
	ret;
}
"""


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_halves_are_compared_as_numbers(kind: str) -> None:
    """Two zeros are equal, and NaN is nothing's equal."""
    one, minus_zero, nan = {"bf16": (0x3F80, 0x8000, 0x7FC0), "f16": (0x3C00, 0x8000, 0x7E00)}[kind]
    pairs = [(0, one), (one, minus_zero), (minus_zero, 0), (nan, nan)]
    given = np.array([low | high << 16 for low, high in pairs] * 8, np.uint32)
    found = launched(HALVES.replace("bf16", kind), given)
    np.testing.assert_array_equal(found, [1, 2, 3, 0] * 8)


# Beyond eager's own error, relative in the L2 norm, for loss and gradients.
TOLERANCE = 2e-6


@pytest.mark.parametrize(
    "arguments", [[], pytest.param(["--all"], marks=pytest.mark.exhaustive)], ids=["few", "all"]
)
def test_losses_are_right_in_machine_code(arguments: list[str]) -> None:
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here.parents[1], here.parent, here.parent / "support")))
    process = subprocess.run(
        [sys.executable, str(here / "run_losses.py"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": path},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    kernels = {kernel for row in rows for kernel in row["kernels"]}
    assert kernels >= {
        "amd_fused_fwd_kernel", "amd_map_fwd_kernel", "amd_sample_fwd_kernel",
        "amd_chunk_fwd_kernel", "amd_bwd_kernel", "kd_row_fwd_kernel", "kd_wide_fwd_kernel",
        "kd_bwd_kernel",
        "nd_fwd_kernel", "nd_bwd_kernel", "lsh_bce_kernel", "attention_map_groups_kernel",
        "afd_fwd_kernel", "afd_mean_kernel", "afd_bwd_kernel", "afds_fwd_kernel", "afds_bwd_kernel",
        "crd_fwd_kernel",
    }  # fmt: skip
    again = [row for row in rows if row["case"].startswith("again ")]
    assert again
    assert all(row["replayed"] == row["kernels"] for row in again)
    wrong = [
        row
        for row in rows
        if any(
            ours > eager + TOLERANCE
            for ours, eager in zip(row["errors"], row["eager"], strict=True)
        )
    ]
    assert wrong == []
