"""Data sets in their published formats, and the batches that training and testing go through."""

from amd_fused.distill.data.batches import Batch, all_batches, mixup, train_batches, train_steps
from amd_fused.distill.data.images import DataSet, Images
from amd_fused.distill.data.seeds import mix_seed
from amd_fused.distill.data.sets import load

__all__ = [
    "Batch",
    "DataSet",
    "Images",
    "all_batches",
    "load",
    "mix_seed",
    "mixup",
    "train_batches",
    "train_steps",
]
