"""Triton kernels of KD and its spherical form; launcher.py is where a call begins."""
