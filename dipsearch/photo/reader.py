"""Reading a picture file: which decoder it is for, and a Photo of what that gives."""

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dipsearch.error import UsageError
from dipsearch.photo import png, tiff
from dipsearch.photo.content import FLOATS, LARGEST, Photo, Raster
from dipsearch.photo.pillow import decode_pillow, open_picture
from dipsearch.photo.silence import no_warnings, reason

SIDEWAYS = (5, 6, 7, 8)  # orientations that change width and height


def load_photo(path: Path, known: Tensor | None = None, *, finite: bool = True) -> Photo:
    """Read a picture file: PNG, JPEG, TIFF, BMP, WebP, and what else Pillow opens.

    8 and 16 bits, grey or RGB, with or without alpha; in TIFF floating-point numbers, too, whose range is that of all
    pixels, or of those that are `known`, (1, 1, H, W). Palettes become RGB, and grey of less than 8 bits 8-bit grey.
    UsageError names the file where it cannot be read, is below 16 pixels a side or above 25 million in all, has several
    pages, would lose depth unseen, or has values that are known and no finite numbers. With `finite` False, such values
    count as unknown.
    """
    try:
        with no_warnings():
            if path.exists() and not path.is_file() and not path.is_dir():
                raise UsageError(f"{path}: not a regular file")
            with path.open("rb") as file:
                return _photo(path, _decode(path, file), known, finite=finite)
    except UsageError:
        raise
    except Image.DecompressionBombError:
        raise UsageError(f"{path}: too large; at most {LARGEST} pixels") from None
    except Exception as error:  # decoders raise whatever a broken file makes them run into
        raise UsageError(f"{path}: not a readable picture: {reason(error)}") from None


def _decode(path: Path, file: BinaryIO) -> Raster:
    magic = file.read(26)
    file.seek(0)
    if magic.startswith(tiff.MAGIC):
        return tiff.decode_tiff(path, file)
    is_png = magic.startswith(png.MAGIC) and len(magic) == 26
    depth, colours = magic[24:] if is_png else (8, 0)
    if depth == 16 and colours != 0:  # 0 is grey alone
        return png.decode_deep_png(path, file)
    with open_picture(file) as picture:
        clear = picture.info.get("transparency")
        if depth < 8 and colours == 0 and isinstance(clear, int):  # Pillow makes 8 bits of the levels, but not of this
            picture.info["transparency"] = clear * 255 // (2**depth - 1)
        raster = decode_pillow(path, picture)
        if depth < 8 and picture.mode == "L":
            return replace(raster, notes=(*raster.notes, f"{depth}-bit grey: written with 8 bits"))
        return raster


def _photo(path: Path, raster: Raster, known: Tensor | None, *, finite: bool) -> Photo:
    samples = _upright(raster.samples, raster.orientation)
    samples = np.ascontiguousarray(samples, dtype=samples.dtype.newbyteorder("="))
    channels = 1 if samples.shape[2] < 3 else 3
    colour = samples[:, :, :channels]
    alpha = samples[:, :, channels].copy() if samples.shape[2] > channels else None
    name = samples.dtype.name
    if name in FLOATS:
        counted = None if known is None else known[0, 0].numpy() > 0
        if not finite and not np.isfinite(colour).all():
            counted = np.isfinite(colour).all(2)
        low, high = _range(path, colour if counted is None else colour[counted], alpha)
        with np.errstate(invalid="ignore"):  # infinities that are not counted
            values = (colour.astype(np.float64) - low) / (high - low)
        if counted is not None:  # what stands in a hole may be beyond all numbers of a Photo
            values[~counted] = 0
        scaled = values.astype(np.float32)
    else:
        low, high = 0.0, float(np.iinfo(samples.dtype).max)
        scaled = colour.astype(np.float32) / np.float32(high)
    x = torch.from_numpy(scaled).movedim(2, 0)[None].contiguous()
    dpi = raster.dpi[::-1] if raster.dpi and raster.orientation in SIDEWAYS else raster.dpi
    return Photo(x, alpha, name, low, high, raster.icc or None, dpi, raster.notes)


def _upright(samples: np.ndarray, orientation: object) -> np.ndarray:
    """Turned and mirrored as EXIF's orientation, 1 to 8, says; anything else counts as 1."""
    turns = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return samples if turn is None else turn(samples)


def _range(path: Path, colour: np.ndarray, alpha: np.ndarray | None) -> tuple[float, float]:
    """The smallest and the largest of floating-point colours; where they are one, something above it."""
    if not (colour.size and np.isfinite(colour).all() and (alpha is None or np.isfinite(alpha).all())):
        raise UsageError(f"{path}: values that are no finite numbers (NaN or infinity); replace them first")
    low, high = float(colour.min()), float(colour.max())
    if low == high:
        high = low + max(1.0, abs(low))
    if not np.isfinite(high - low):
        raise UsageError(f"{path}: values from {low:g} to {high:g} are too far apart")
    return low, high
