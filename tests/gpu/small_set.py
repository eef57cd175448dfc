"""A few calls of every form of the kernels, forward and backward: what compute-sanitizer watches.

Run as a program. Every tensor is an allocation of its own here, so that the sanitizer sees what
reads or writes past its end.
"""

from __future__ import annotations

import os

os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

import torch

from amd_fused import amd_loss, attention_map, backends

DEVICE = os.environ.get("AMD_FUSED_TEST_DEVICE", "cuda")
# B, C_S, C_T, H, W: fused, split and chunked, with rows that are no whole vectors.
SHAPES = [(2, 5, 3, 7, 7), (1, 40, 40, 31, 33), (1, 3, 2, 67, 65)]
FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32] if DEVICE == "cpu" else [torch.float32, torch.bfloat16]


def main() -> None:
    states = backends()
    usable = [name for name in ("triton", "cuda") if states[name] == "usable"]
    assert usable, states
    for batch, c_s, c_t, height, width in SHAPES:
        for memory_format in FORMATS:
            for dtype in DTYPES:
                sides = [
                    torch.randn(batch, channels, height, width)
                    .to(DEVICE, dtype)
                    .contiguous(memory_format=memory_format)
                    .requires_grad_()
                    for channels in (c_s, c_t)
                ]
                for backend in usable:
                    loss = amd_loss(*sides, backend=backend, mask_threshold=0.5)
                    grads = torch.autograd.grad(loss, sides)
                    assert all(torch.isfinite(grad).all() for grad in (loss, *grads))
                    a = attention_map(sides[0], backend=backend)
                    assert torch.autograd.grad(a.sum(), sides[0])[0].isfinite().all()
    calls = len(SHAPES) * len(FORMATS) * len(DTYPES)
    print(f"{calls} calls, forward and backward, by each of {', '.join(usable)}")


if __name__ == "__main__":
    main()
