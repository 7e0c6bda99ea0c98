"""Which pixels of a person's picture are missing."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dipsearch.error import UsageError
from dipsearch.image import read_mask, wholly_known
from dipsearch.photo import Photo

ALPHA = "alpha"  # in place of a mask's file: what is transparent


def known_pixels(mask: str | None, photo: Photo, *, invert: bool = False) -> Tensor:
    """Which pixels of a picture are known: (1, 1, H, W), 1 where they are.

    Args:
        mask: a file, white where pixels are missing; or `alpha`: what is transparent.
        photo: the picture.
        invert: black is missing, or what is opaque.

    Raises:
        UsageError: it does not fit the picture, or all or nothing is missing by it.
    """
    if mask is None:
        raise UsageError("which pixels are missing? --mask FILE, white where they are, or --mask alpha")
    if mask == ALPHA:
        if photo.alpha is None:
            raise UsageError("--mask alpha: nothing of it is transparent")
        known = torch.from_numpy((photo.alpha > photo.opaque / 2).astype(np.float32))[None, None]
    else:
        height, width = photo.x.shape[-2:]
        known = read_mask(mask, (height, width))
    known = 1 - known if invert else known
    if not known.any():
        raise UsageError(f"{mask}: the mask leaves no pixel known (white is missing; --invert-mask turns it)")
    if known.all():
        raise UsageError(f"{mask}: no pixel is missing by this mask (white is missing; --invert-mask turns it)")
    return known


def shrunk_mask(known: Tensor, size: torch.Size) -> Tensor:
    """The mask of a picture that was shrunk: a pixel is known where all that it was made of are."""
    if known.shape[-2:] == size:
        return known
    small = wholly_known(F.interpolate(known, tuple(size), mode="area"))
    if not small.any():
        raise UsageError("the mask leaves no pixel known, once the picture is shrunk")
    return small
