"""What a picture file holds, as its decoder gives it and as a Photo, and what no format's pictures may be."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dipsearch.error import UsageError

SMALLEST, LARGEST = 16, 25_000_000  # pixels a side; pixels in all: a little more than cameras of 24 megapixels
FLOATS = ("float16", "float32", "float64")
ORIENTATION, RESOLUTION = 274, (282, 283, 296)  # tags of TIFF and EXIF
EXTRA = "pip install 'dipsearch[formats]'"


@dataclass(frozen=True)
class Photo:
    """A picture file's content.

    A sample of the file is `low + x * (high - low)`: 0…255 or 0…65535 by the type of its samples, never by content.
    Floating-point pictures have no known range; theirs is from their own smallest to their largest value.

    Args:
        x: float32 in [0, 1], (1, C, H, W), upright; C is 1 (grey) or 3 (RGB).
        alpha: (H, W) of the file's type, not premultiplied; None: the file has no transparency.
        dtype: the type of the file's samples: uint8, uint16, float16, float32 or float64.
        icc: the colour profile.
        dpi: pixels an inch, horizontal and vertical.
        notes: what a copy does not keep, in words.
    """

    x: Tensor
    alpha: np.ndarray | None
    dtype: str
    low: float
    high: float
    icc: bytes | None
    dpi: tuple[float, float] | None
    notes: tuple[str, ...]

    @property
    def opaque(self) -> float:
        """The alpha of what is not transparent at all."""
        if self.dtype not in FLOATS:
            return self.high
        return 1.0 if self.alpha is None else max(1.0, float(self.alpha.max()))  # some count to 255


def blank(x: Tensor) -> Photo:
    """A Photo of (1, C, H, W) in [0, 1] that no file held: 16 bits, and nothing beside the colours."""
    return Photo(x, None, "uint16", 0.0, 65535.0, None, None, ())


@dataclass(frozen=True)
class Raster:
    """What a decoder gives: (H, W, 1 to 4) samples as stored, the last one of 2 or 4 being alpha."""

    samples: np.ndarray
    orientation: int = 1
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def resolution(value: Any) -> tuple[float, float] | None:
    """Pixels an inch, or None where there are none, or none that a picture can have."""
    try:
        horizontal, vertical = (float(number) for number in value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (horizontal, vertical) if all(1 <= number <= 65535 for number in (horizontal, vertical)) else None


def check_size(path: Path, width: int, height: int) -> None:
    """UsageError where a picture is too large or too small."""
    if width * height > LARGEST:
        raise UsageError(f"{path}: {width}x{height} is too large; at most {LARGEST} pixels")
    if min(width, height) < SMALLEST:
        raise UsageError(f"{path}: {width}x{height} is too small; at least {SMALLEST} pixels a side")


def check_pages(path: Path, pages: int) -> None:
    """UsageError where it is not clear which picture is meant."""
    if pages > 1:
        raise UsageError(f"{path}: {pages} pages in one file; save the one that is meant as a file of its own")


def cmyk(path: Path) -> UsageError:
    """The error that CMYK pictures are."""
    return UsageError(f"{path}: CMYK pictures are not supported; convert it to RGB, such as to the profile sRGB")
