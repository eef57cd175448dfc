"""The training objective: cross-entropy, logits and features added up."""

from amd_fused.objective.distillation_loss import DistillationLoss

__all__ = ["DistillationLoss"]
