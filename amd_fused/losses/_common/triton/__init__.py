"""What the Triton kernels of several losses share."""
