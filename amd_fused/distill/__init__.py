"""The trainer: distillation experiments from a laptop to several machines, `amd-fused --help`.

Teachers and students, the methods that the AMD paper compares, its recipes, tables and pictures.
Needs the extra "distill"; nothing outside this package imports it.
"""

from amd_fused.distill.data_sets import ImageData
from amd_fused.distill.errors import TrainingError, UsageError
from amd_fused.distill.registration import option, register_dataset, register_method
from amd_fused.distill.setting import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, Rule
from amd_fused.distill.training import TrainingResult, train

__all__ = [
    "AT_LEAST_1",
    "NOT_NEGATIVE",
    "POSITIVE",
    "ImageData",
    "Rule",
    "TrainingError",
    "TrainingResult",
    "UsageError",
    "option",
    "register_dataset",
    "register_method",
    "train",
]
