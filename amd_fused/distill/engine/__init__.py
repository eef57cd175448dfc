"""Training, checkpoints, tests and logs of one run."""

from amd_fused.distill.engine.interrupts import Terminated
from amd_fused.distill.engine.networks import SavedNetwork, load_saved_network, load_trained
from amd_fused.distill.engine.own import Own
from amd_fused.distill.engine.runs import distill, evaluate, train_teacher
from amd_fused.distill.engine.teachers import (
    TeacherChoice,
    TeacherModule,
    TeacherSource,
    TeacherWeights,
    source_of,
)

__all__ = [
    "Own",
    "SavedNetwork",
    "TeacherChoice",
    "TeacherModule",
    "TeacherSource",
    "TeacherWeights",
    "Terminated",
    "distill",
    "evaluate",
    "load_saved_network",
    "load_trained",
    "source_of",
    "train_teacher",
]
