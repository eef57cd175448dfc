"""Triton kernels, one file a step. Imported only when backend "triton" runs."""
