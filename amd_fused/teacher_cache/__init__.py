"""What a frozen teacher computes, kept by sample: the teacher runs once for all epochs."""

from amd_fused.teacher_cache.cache import TeacherCache
from amd_fused.teacher_cache.indexed_dataset import IndexedDataset
from amd_fused.teacher_cache.outputs import TeacherOutputs

__all__ = ["IndexedDataset", "TeacherCache", "TeacherOutputs"]
