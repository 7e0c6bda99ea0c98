"""A 3x3 convolution of a map whose pixels are each taken four times, computed on the map before that.

Of the nine values that a kernel meets there, four at most differ. So each of the four results inside a doubled pixel is
a 2x2 convolution of the map before, whose kernel adds up the weights that meet the same pixel: four ninths of the
products, and no map of that many channels is made at the doubled size.

Results differ from those of a direct convolution by rounding. Maps in bfloat16 are left alone: not measured. So are
wide ones, for Winograd's filtering of the doubled map, which is quicker still.

Source: Shi et al., *Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
Network*, CVPR 2016, convolves before pixels are put side by side; there the kernels are learned, here they are sums.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dipsearch.network import winograd
from dipsearch.network.pending import layout

PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))  # rows and columns inside a doubled pixel
# Below and above, a direct convolution is as quick; measured without AVX-512, with one and two threads.
LEAST_PIXELS = 32**2  # of the map before
MOST_CHANNELS = 128  # before and after


def suits(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether `conv` of a doubled map can be computed on the map before, of the size and kind of x, and is quicker."""
    return (
        (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and min(conv.in_channels, conv.out_channels) <= MOST_CHANNELS
        and winograd.ordinary(x)
        and x.shape[-2] * x.shape[-1] >= LEAST_PIXELS
    )


def kernels(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) to (4 O, C, 2, 2), for each of `PHASES` in turn."""
    many, channels = weight.shape[:2]
    summed = _summed(_summed(weight, 2), 3).reshape(many, channels, 2, 2, 2, 2)  # O, C, phase, line, phase, line
    stacked = summed.permute(2, 4, 0, 1, 3, 5).reshape(-1, channels, 2, 2)
    return stacked.contiguous(memory_format=torch.channels_last)


def interleaved(results: Tensor) -> Tensor:
    """The map (1, O, 2 H, 2 W) of what `kernels` makes of one (1, C, H, W) with a border of a pixel."""
    return _Interleaving.apply(results)  # type: ignore[no-any-return, no-untyped-call]


def _summed(weight: Tensor, dim: int) -> Tensor:
    """What of three lines meets either of two, for the first line of a doubled pixel, then for its second."""
    before, same, after = weight.unbind(dim)
    return torch.stack([before, same + after, before + same, after], dim)


class _Interleaving(torch.autograd.Function):
    """Pixels of four phases side by side; each phase has a line and a column that no pixel of the map needs."""

    @staticmethod
    def forward(ctx: Any, results: Tensor) -> Tensor:
        pictures, channels, height, width = results.shape
        shape = (pictures, channels // 4, 2 * height - 2, 2 * width - 2)
        out = torch.empty(shape, dtype=results.dtype, device=results.device, memory_format=layout(results))
        for (row, column), phase in zip(PHASES, results.chunk(4, dim=1), strict=True):
            out[..., row::2, column::2] = phase[..., row : height - 1 + row, column : width - 1 + column]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        pictures, channels, height, width = grad.shape
        height, width = height // 2, width // 2
        shape = (pictures, 4 * channels, height + 1, width + 1)
        into = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout(grad))
        for (row, column), phase in zip(PHASES, into.chunk(4, dim=1), strict=True):
            phase[..., row - 1, :] = 0
            phase[..., column - 1] = 0
            phase[..., row : height + row, column : width + column] = grad[..., row::2, column::2]
        return into
