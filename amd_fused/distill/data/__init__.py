"""Data sets in their published formats, and the batches that training and testing go through."""

from amd_fused.distill.data.batches import mixup, test_batches, train_batches, train_steps
from amd_fused.distill.data.images import DataSet, Images
from amd_fused.distill.data.seeds import mix_seed
from amd_fused.distill.data.sets import load

__all__ = [
    "DataSet",
    "Images",
    "load",
    "mix_seed",
    "mixup",
    "test_batches",
    "train_batches",
    "train_steps",
]
