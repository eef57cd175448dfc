"""Training, checkpoints, tests and logs of one run."""

from amd_fused.distill.engine.interrupts import Terminated
from amd_fused.distill.engine.networks import (
    SavedNetwork,
    TeacherChoice,
    load_saved_network,
)
from amd_fused.distill.engine.runs import distill, evaluate, train_teacher

__all__ = [
    "SavedNetwork",
    "TeacherChoice",
    "Terminated",
    "distill",
    "evaluate",
    "load_saved_network",
    "train_teacher",
]
