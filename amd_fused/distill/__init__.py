"""Distillation experiments with the losses of amd_fused: `python -m amd_fused.distill --help`.

Trains a WideResNet teacher and small students of it on images that scikit-learn brings along, from
scratch, with KD and with AMD, and reports what it measured. Needs the extra "distill".
"""
