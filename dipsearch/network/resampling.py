"""Changing resolution by two inside a network, and the paper's Lanczos downsampling by any factor."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dipsearch.error import UsageError


def lanczos2_kernel(factor: int) -> Tensor:
    """The paper's fixed downsampling kernel: Lanczos with two lobes, half-pixel phase.

    Args:
        factor: the downsampling factor, at least 2.

    Returns:
        A (4 factor, 4 factor) float32 kernel, symmetric, summing to one.
    """
    taps = 4 * factor
    places = torch.arange(taps, dtype=torch.float64, device="cpu")  # on "meta", it imports torch's compiler
    distance = (places - (taps - 1) / 2) / factor
    line = torch.sinc(distance) * torch.sinc(distance / 2)
    kernel = torch.outer(line, line)
    return (kernel / kernel.sum()).float()


class Lanczos2(nn.Module):
    """Downsampling by `factor`: edge-replicating padding, then `lanczos2_kernel` with that stride.

    NCHW to NCHW; a side of n pixels becomes n // factor. Linear, without learned weights. UsageError where the factor
    is odd: its kernel has an even number of taps, and would lie half a pixel off.
    """

    kernel: Tensor

    def __init__(self, factor: int) -> None:
        super().__init__()
        if factor < 2 or factor % 2:
            raise UsageError(f"downsampling takes an even factor, such as 2, 4 or 8, not {factor}")
        self.factor = factor
        self.register_buffer("kernel", lanczos2_kernel(factor).to(torch.get_default_device()), persistent=False)

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


def kaiser_taps(attenuation: float, count: int = 17) -> tuple[float, ...]:
    """A half-band low-pass filter: the ideal one under a Kaiser window, the taps adding up to one.

    Args:
        attenuation: of the stop band, in dB, above 50.
        count: of taps, odd.
    """
    beta = 0.1102 * (attenuation - 8.7)  # Kaiser's formula
    distance = torch.arange(count, dtype=torch.float64) - count // 2
    line = torch.sinc(distance / 2) * torch.kaiser_window(count, periodic=False, beta=beta, dtype=torch.float64)
    return tuple((line / line.sum()).tolist())


# Fixed filters to upsample with, after Liu et al., "The Devil is in the Upsampling" (ICCV 2023): name -> taps.
# `lpf2` and `lpf3` (stop band at -20 dB) are two of that paper's filters; its `lpf1`, (1/2, 1/2), is "nearest".
# The two `kaiser` ones are of our own design, with as many taps and as much attenuation (-60 and -100 dB) as
# its longest filters, whose taps they do not have.
FIR_FILTERS: dict[str, tuple[float, ...]] = {
    "lpf2": (0.25, 0.5, 0.25),
    "lpf3": (-0.107, 0, 0.3389, 0.536, 0.3389, 0, -0.107),
    "kaiser60": kaiser_taps(60),
    "kaiser100": kaiser_taps(100),
}


def doubling(taps: tuple[float, ...], side: int) -> Tensor:
    """What a filter makes of a line of pixels with a zero after each of them, as a matrix.

    The line with its zeros is reflected at both ends, as often as the filter reaches beyond it.

    Args:
        taps: of a symmetric filter, an odd number, adding up to one.
        side: pixels of the line.

    Returns:
        (2 side, side), float64.
    """
    long, reach = 2 * side, len(taps) // 2
    source = torch.arange(long, device="cpu")[:, None] + torch.arange(-reach, reach + 1, device="cpu")
    source = source % (2 * long - 2)
    source = torch.minimum(source, 2 * long - 2 - source)
    weights = 2 * torch.tensor(taps, dtype=torch.float64, device="cpu")  # every other pixel is a zero
    matrix = torch.zeros(long, long, dtype=torch.float64, device="cpu")
    return matrix.scatter_add_(1, source, weights.expand(long, -1))[:, ::2]


class FixedFilter(nn.Module):
    """Doubling by zeros between all pixels and a symmetric filter in both directions, nothing of it learned.

    A constant stays the constant, up to what the filter lets through of the pattern of the zeros in each
    direction: nothing (lpf2), 7 % (lpf3), less than 0.01 % (the others). It is computed as two products with a
    matrix, which is the same: on the CPU, at 8 to 256 pixels a side, that takes a fifth to a half of what
    convolutions take.
    """

    def __init__(self, taps: tuple[float, ...]) -> None:
        super().__init__()
        self.taps = taps
        self._matrices: dict[Any, Tensor] = {}  # as long-lived as a CUDA graph that reads them

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW, both sides doubled; channels-last."""
        pictures, channels, height, width = x.shape
        lines = x.permute(0, 2, 3, 1).reshape(pictures, height, width * channels)
        rows = torch.matmul(self._matrix(height, x), lines).view(pictures, 2 * height, width, channels)
        return torch.matmul(self._matrix(width, x), rows).permute(0, 3, 1, 2)

    def _matrix(self, side: int, x: Tensor) -> Tensor:
        key = (side, x.dtype, x.device)
        if key not in self._matrices:
            with torch.inference_mode(mode=False):  # it may be trained through later
                self._matrices[key] = doubling(self.taps, side).to(x.device, x.dtype)
        return self._matrices[key]


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
    # as "bilinear" was in torch before 0.4: the pixels at the corners stay at the corners
    "bilinear-corners": lambda channels: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "bicubic": lambda channels: nn.Upsample(scale_factor=2, mode="bicubic"),
    "transposed": lambda channels: nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1),
    "pixel-shuffle": pixel_shuffle,
    "lpf2": lambda channels: FixedFilter(FIR_FILTERS["lpf2"]),
    "lpf3": lambda channels: FixedFilter(FIR_FILTERS["lpf3"]),
    "kaiser60": lambda channels: FixedFilter(FIR_FILTERS["kaiser60"]),
    "kaiser100": lambda channels: FixedFilter(FIR_FILTERS["kaiser100"]),
}

# those of the upsamplers that have nothing to learn, and treat every channel alike
FIXED_UPSAMPLERS = ("nearest", "bilinear", "bilinear-corners", "bicubic", *FIR_FILTERS)
