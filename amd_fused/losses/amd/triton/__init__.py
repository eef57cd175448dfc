"""Triton kernels of the AMD loss; launcher.py is where a call begins."""
