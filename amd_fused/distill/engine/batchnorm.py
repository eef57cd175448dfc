"""Batch normalisation over all processes: with P of them, the statistics of the whole batch.

On GPUs that is torch.nn.SyncBatchNorm, which refuses CPU tensors; here is the same for those.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from amd_fused.distill.errors import UsageError

# By device: what can be shared there.
_ON_CPU = (nn.BatchNorm2d,)
_ELSEWHERE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def share_statistics(network: nn.Module, device: torch.device) -> nn.Module:
    """Puts layers that share their statistics in place of the batch normalisations, and returns it.

    Parameters, running statistics and module paths stay. It needs torch.distributed.

    Raises:
        UsageError: a layer is of a subclass, which may do more than normalise, or, on the CPU, of
            other dimensions.
    """
    shareable = _ON_CPU if device.type == "cpu" else _ELSEWHERE
    for path, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) not in shareable:
            raise UsageError(
                f"--sync-batchnorm: {path} is a {type(module).__name__}, which cannot be shared "
                "among processes; use --no-sync-batchnorm"
            )
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, SharedBatchNorm2d.like(module))
    return network


class SharedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d over the batches of all processes together, on the CPU.

    Every process must call it as often as the others. Running statistics are the same in all, and
    those of one process with the whole batch. In evaluation mode it is nn.BatchNorm2d.
    """

    @classmethod
    def like(cls, layer: nn.BatchNorm2d) -> SharedBatchNorm2d:
        """With the parameters and statistics of `layer` themselves, not copies."""
        made = cls(
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
            device="meta",
        )
        made._parameters.update(layer._parameters)
        made._buffers.update(layer._buffers)
        made.training = layer.training
        return made

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if not self.training and self.track_running_stats:
            return super().forward(input)
        output, mean, variance, count = _Normalize.apply(input, self.weight, self.bias, self.eps)
        if self.training and self.track_running_stats:
            self._track(mean, variance * (count / (count - 1)))
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:  # an average over all batches
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class _Normalize(torch.autograd.Function):
    """Of an input [B, C, H, W]: the normalised input, and mean and biased variance [C] and the
    number of values a channel over all processes, the last three without gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        # One exchange of what is exact about each part; sums of squares would cancel.
        own = torch.cat([mean, variance, mean.new_tensor([x.numel() // x.shape[1]])])
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        means, variances, counts = torch.stack(parts).split([len(mean), len(mean), 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        # derived: the variance within the parts and that of their means
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
        output = F.batch_norm(wide, mean, variance, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_output: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        d_y = d_output.to(mean.dtype)
        scale = (variance + ctx.eps).rsqrt()
        normalised = (x - _by_channel(mean)) * _by_channel(scale)
        d_bias = d_y.sum(dim=(0, 2, 3))
        d_weight = (d_y * normalised).sum(dim=(0, 2, 3))
        # Mean and variance carry gradients from every process to every other.
        sums = torch.cat([d_bias, d_weight])
        dist.all_reduce(sums)
        mean_d, mean_d_x = (sums / count).chunk(2)
        # derived: d_x of y = (x - mean) / sqrt(var + eps), mean and var over all processes
        d_x = d_y - _by_channel(mean_d) - normalised * _by_channel(mean_d_x)
        d_x *= _by_channel(scale if weight is None else scale * weight)
        if weight is None:
            return d_x.to(x.dtype), None, None, None
        return d_x.to(x.dtype), d_weight, d_bias, None


def _by_channel(a: Tensor) -> Tensor:
    return a[:, None, None]
