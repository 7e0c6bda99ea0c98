"""The level of white noise in a picture, from the picture alone."""

import torch
from torch import Tensor

from dipsearch.error import UsageError

GAUSSIAN = 0.6745  # median of |n|, n ~ N(0, 1)


def estimate_sigma(y: Tensor, known: Tensor | None = None) -> float:
    """Standard deviation of white Gaussian noise in (1, C, h, w), in the picture's units: mean over channels.

    The median absolute value of the diagonal Haar band, where a picture has little else.

    Args:
        y: the picture.
        known: 1 where a pixel is known, (1, 1, h, w); None: everywhere.

    Raises:
        UsageError: nowhere are two by two neighbours known.

    Source: Donoho and Johnstone, *Ideal spatial adaptation by wavelet shrinkage* (1994).
    """
    a, b, c, d = _corners(y)
    diagonal = ((a - b - c + d) / 2).abs().flatten(2)
    if known is not None:
        whole = torch.stack(_corners(known)).amin(0).flatten().bool()
        if not whole.any():
            raise UsageError("the noise cannot be estimated where no two by two neighbours are known; write its level")
        diagonal = diagonal[..., whole]
    return float((diagonal.median(dim=2).values / GAUSSIAN).mean())


def _corners(x: Tensor) -> list[Tensor]:
    """Of each square of two by two pixels, row by row."""
    height, width = (side // 2 * 2 for side in x.shape[-2:])
    return [x[..., row:height:2, column:width:2] for row in (0, 1) for column in (0, 1)]
