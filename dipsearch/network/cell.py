"""Cells: upsamplers taken apart into a primitive that doubles a map and a convolution beside it.

Semantics follow the code of Chen et al., *NAS-DIP* (ECCV 2020): zero padding, one kernel and one activation for both
steps, no norm. Every cell keeps the number of channels.
"""

from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor, nn

from dipsearch.network.blocks import ACTIVATIONS
from dipsearch.network.pending import layout
from dipsearch.network.resampling import UPSAMPLERS

GROUPS = 4  # of channels, summed by "split-sum"; also what a pixel shuffle by two divides their number by


class SplitSum(nn.Module):
    """The sum of four groups of channels, then a convolution."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = plain(channels_in // GROUPS, channels_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW of the same size."""
        return self.conv(reduce(torch.add, x.chunk(GROUPS, dim=1)))  # type: ignore[no-any-return]  # keeps the layout


class Spread(nn.ConvTranspose2d):
    """A transposed convolution with a 1x1 kernel and a stride: what that makes of each pixel, apart, and the bias
    between. As a 1x1 convolution, since torch's own ends the process in bfloat16 (`network.convolution.Thinned`)."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """NCHW to NCHW, its sides times the stride."""
        made = F.conv2d(x, self.weight.transpose(0, 1))
        step = int(self.stride[0])
        out = made.new_zeros(*made.shape[:2], *(side * step for side in made.shape[2:]))
        out = out.contiguous(memory_format=layout(x))
        out[..., ::step, ::step] = made
        return out if self.bias is None else out + self.bias[:, None, None]


def plain(channels_in: int, channels_out: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    """A convolution with zero padding and no bias."""
    return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False)


def separable(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """Each channel on its own, then 1x1 across them."""
    return nn.Sequential(plain(channels_in, channels_in, kernel, channels_in), plain(channels_in, channels_out, 1))


# name -> layer that doubles both sides. "pixel-shuffle" comes before the convolution and leaves it a quarter of the
# channels; "pixel-shuffle-last" comes after one that made four times as many.
PRIMITIVES: dict[str, Callable[[int, int], nn.Module]] = {
    "bilinear": lambda channels, kernel: UPSAMPLERS["bilinear"](channels),
    "bicubic": lambda channels, kernel: UPSAMPLERS["bicubic"](channels),
    "nearest": lambda channels, kernel: UPSAMPLERS["nearest"](channels),
    "pixel-shuffle": lambda channels, kernel: nn.PixelShuffle(2),
    "pixel-shuffle-last": lambda channels, kernel: nn.PixelShuffle(2),
    "transposed": lambda channels, kernel: (Spread if kernel == 1 else nn.ConvTranspose2d)(
        channels, channels, kernel, stride=2, padding=kernel // 2, output_padding=1
    ),
}

# name -> layer that keeps the size, from channels in and out and a kernel; None: no layer
CONVOLUTIONS: dict[str, Callable[[int, int, int], nn.Module] | None] = {
    "plain": plain,
    "transposed": lambda channels_in, channels_out, kernel: nn.ConvTranspose2d(
        channels_in, channels_out, kernel, padding=kernel // 2
    ),
    "split-sum": SplitSum,
    "separable": separable,
    "depthwise": lambda channels_in, channels_out, kernel: plain(channels_in, channels_out, kernel, channels_out),
    "none": None,
}


def cell(channels: int, *, primitive: str, convolution: str, kernel: int, activation: str) -> nn.Sequential:
    """A layer that doubles both sides of a map and keeps its `channels`; the activation follows either step.

    Activations act in place: on what the step before them has made, never on what the cell is given.
    """
    act, make = ACTIVATIONS[activation], CONVOLUTIONS[convolution]
    double = PRIMITIVES[primitive](channels, kernel)
    if make is None:
        return nn.Sequential(double, act())
    if primitive == "pixel-shuffle-last":
        return nn.Sequential(make(channels, GROUPS * channels, kernel), act(), double, act())
    entering = channels // GROUPS if primitive == "pixel-shuffle" else channels
    return nn.Sequential(double, act(), make(entering, channels, kernel), act())


def upsampler(chosen: str | BaseModel, channels: int) -> nn.Module:
    """A layer that doubles both sides of a map and keeps its `channels`: a name in `UPSAMPLERS`, or a genome's cell."""
    return UPSAMPLERS[chosen](channels) if isinstance(chosen, str) else cell(channels, **chosen.model_dump())
