"""Which backends there are, and which of them have kernels of which loss: the one declaration."""

from __future__ import annotations

BACKENDS = ("auto", "triton", "cuda", "cpp", "reference")
KERNELS = {
    "amd": ("triton", "cuda", "cpp"),
    "attention_map": ("triton", "cuda", "cpp"),
    "kd": ("triton", "cpp"),
    "nd": ("triton", "cpp"),
    "lsh": ("triton", "cpp"),
    "crd": ("triton", "cuda", "cpp"),
    "afd": ("triton", "cuda", "cpp"),
    "afds": ("triton", "cuda", "cpp"),
    "vid": ("triton", "cuda", "cpp"),
    "sp": ("cpp",),
}
