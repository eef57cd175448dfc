"""Features of named layers, by hooks."""

from amd_fused.hooks.feature_hooks import FeatureHooks

__all__ = ["FeatureHooks"]
