"""Changing resolution by two inside a network, and the paper's Lanczos downsampling by any factor."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lanczos2_kernel(factor: int) -> Tensor:
    """The paper's fixed downsampling kernel: Lanczos with two lobes, half-pixel phase.

    Args:
        factor: the downsampling factor, at least 2.

    Returns:
        A (4 factor, 4 factor) float32 kernel, symmetric, summing to one.
    """
    taps = 4 * factor
    distance = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / factor
    line = torch.sinc(distance) * torch.sinc(distance / 2)
    kernel = torch.outer(line, line)
    return (kernel / kernel.sum()).float()


class Lanczos2(nn.Module):
    """Downsampling by `factor`: edge-replicating padding, then `lanczos2_kernel` with that stride.

    NCHW to NCHW; a side of n pixels becomes n // factor. Linear, without learned weights.
    """

    kernel: Tensor

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("kernel", lanczos2_kernel(factor), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW, 1 / factor of the size."""
        channels, side = x.shape[1], self.kernel.shape[-1]
        pad = (side - self.factor) // 2
        kernel = self.kernel.to(x.dtype).expand(channels, 1, side, side)
        padded = F.pad(x, (pad, pad, pad, pad), mode="replicate")
        return F.conv2d(padded, kernel, stride=self.factor, groups=channels)


def pixel_shuffle(channels: int) -> nn.Module:
    """Sub-pixel convolution (Shi et al., CVPR 2016): 3x3 to four times the channels, then a shuffle."""
    return nn.Sequential(nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2))


# name -> layer that follows a stride-1 convolution; None: the convolution itself has stride 2
DOWNSAMPLERS: dict[str, Callable[[], nn.Module] | None] = {
    "stride": None,
    "average": lambda: nn.AvgPool2d(2),
    "max": lambda: nn.MaxPool2d(2),
    "lanczos2": lambda: Lanczos2(2),
}

# name -> layer that doubles both sides of a map with that many channels and keeps their number
UPSAMPLERS: dict[str, Callable[[int], nn.Module]] = {
    "nearest": lambda channels: nn.Upsample(scale_factor=2, mode="nearest"),
    "bilinear": lambda channels: nn.Upsample(scale_factor=2, mode="bilinear"),
    "bicubic": lambda channels: nn.Upsample(scale_factor=2, mode="bicubic"),
    "transposed": lambda channels: nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1),
    "pixel-shuffle": pixel_shuffle,
}
