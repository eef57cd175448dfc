"""The trainer: distillation experiments from a laptop to several machines, `amd-fused --help`.

Teachers and students, the methods that the AMD paper compares, its recipes, tables and pictures.
Needs the extra "distill"; nothing outside this package imports it.
"""
