"""What a student learns from: a file a method, `known.py` lists them."""

from amd_fused.distill.methods.inputs import Embeddings, Features, MapShape, Shapes
from amd_fused.distill.methods.known import BUILT_IN, OPTIONS, TERMS, MethodSettings, register
from amd_fused.distill.methods.method import SCRATCH, Method, parse

__all__ = [
    "BUILT_IN",
    "OPTIONS",
    "SCRATCH",
    "TERMS",
    "Embeddings",
    "Features",
    "MapShape",
    "Method",
    "MethodSettings",
    "Shapes",
    "parse",
    "register",
]
