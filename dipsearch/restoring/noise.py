"""The level of white noise in a picture, from the picture alone."""

from torch import Tensor

GAUSSIAN = 0.6745  # median of |n|, n ~ N(0, 1)


def estimate_sigma(y: Tensor) -> float:
    """Standard deviation of white Gaussian noise in (1, C, h, w), in the picture's units: mean over channels.

    The median absolute value of the diagonal Haar band, where a picture has little else.

    Source: Donoho and Johnstone, *Ideal spatial adaptation by wavelet shrinkage* (1994).
    """
    height, width = (side // 2 * 2 for side in y.shape[-2:])
    even = y[..., :height, :width]
    diagonal = (even[..., ::2, ::2] - even[..., 1::2, ::2] - even[..., ::2, 1::2] + even[..., 1::2, 1::2]) / 2
    return float((diagonal.abs().flatten(2).median(dim=2).values / GAUSSIAN).mean())
