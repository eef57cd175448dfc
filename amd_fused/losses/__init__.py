"""The losses, one folder each: function, module, checks, operator, reference and kernels."""
