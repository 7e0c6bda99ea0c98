"""Norms of one picture: batch norm of large, narrow maps, and an instance norm with the right gradient."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LANES = 32  # bfloat16 numbers in a vector register of 512 bits
LARGE = 2**20  # values of a map; below, torch's own function takes a millisecond or two


class BatchNorm(nn.BatchNorm2d):
    """torch's own batch norm over one picture, quicker on a CPU for large bfloat16 maps whose channels leave a rest.

    torch takes the channels of a pixel a register at a time, and what is left one by one: with 24 channels, all of
    them. Here neighbouring pixels count as further channels of one, so that nothing is left, and their statistics
    are put together. Values differ by rounding.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW of the same size."""
        pixels = math.lcm(x.shape[1], LANES) // x.shape[1]  # that count as one
        if (
            x.device.type != "cpu"
            or (x.dtype, self.weight.dtype) != (torch.bfloat16, torch.float32)
            or x.numel() < LARGE
            or pixels == 1
            or x.shape[0] * x.shape[2] * x.shape[3] % pixels
            or not x.is_contiguous(memory_format=torch.channels_last)
        ):
            return super().forward(x)
        return _Folded.apply(x, self.weight, self.bias, self.eps, pixels)  # type: ignore[no-any-return, no-untyped-call]


class UniformBatchNorm(BatchNorm):
    """Batch norm whose scales begin at random between 0 and 1, as torch's own did until 1.1; at 1 since."""

    def reset_parameters(self) -> None:
        """Draws the scales; shifts begin at 0."""
        super().reset_parameters()
        nn.init.uniform_(self.weight)


class InstanceNorm(nn.InstanceNorm2d):
    """torch's own instance norm, with its gradient.

    torch (2.13, on a CPU) silently gets that of a single picture wrong where it arrives channels-last: it takes its
    values in another order. Of one picture, batch norm is the same, and right.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW of the same size."""
        if x.shape[0] > 1:
            return super().forward(x)
        return F.batch_norm(x, None, None, training=True, eps=self.eps)


class _Folded(torch.autograd.Function):
    """Batch norm of a channels-last map, `pixels` of which are taken as one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, pixels: int) -> Tensor:
        folded, zero = _fold(x, pixels), weight.new_zeros(x.shape[1] * pixels)
        means, variances = torch.batch_norm_update_stats(folded, zero, zero.clone(), 0.0)
        means, variances = means.view(pixels, -1), variances.view(pixels, -1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.pixels = eps, pixels
        return _unfold(_scale(folded, weight, bias, mean, variance, eps), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Given g, with r = 1 / sqrt(variance + eps) and u = (x - mean) r: weight r (g - mean(g) - u mean(g u))."""
        x, weight, mean, variance = ctx.saved_tensors
        pixels, count = ctx.pixels, x.numel() // x.shape[1]
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        folded = _fold(x, pixels)
        repeated = [each.repeat(pixels) for each in (weight, mean, variance)]
        into, products, sums = torch.ops.aten.native_batch_norm_backward(
            _fold(grad, pixels), folded, *repeated, None, None, False, ctx.eps, [True, True, True]
        )
        products, sums = (each.view(pixels, -1).sum(0) for each in (products, sums))
        scale = weight * (variance + ctx.eps).rsqrt() / -count
        into += _scale(folded, scale * products, scale * sums, mean, variance, ctx.eps)
        return _unfold(into, x), products, sums, None, None


def _fold(x: Tensor, pixels: int) -> Tensor:
    """A channels-last map (N, C, H, W) seen as (1, pixels C, N H W / pixels, 1)."""
    return x.permute(0, 2, 3, 1).reshape(1, -1, 1, pixels * x.shape[1]).permute(0, 3, 1, 2)


def _unfold(folded: Tensor, like: Tensor) -> Tensor:
    """The reverse, for a map of the shape of `like`; no view, which a step in place behind it could not change."""
    return folded.new_empty(0).set_(folded.untyped_storage(), 0, like.shape, like.stride())


def _scale(folded: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """weight (x - mean) / sqrt(variance + eps) + bias, each given for the channels of one pixel."""
    pixels = folded.shape[1] // len(weight)
    weight, bias, mean, variance = (each.repeat(pixels) for each in (weight, bias, mean, variance))
    return torch.native_batch_norm(folded, weight, bias, mean, variance, False, 0.0, eps)[0]
