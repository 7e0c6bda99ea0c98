"""Reading by Pillow: all formats but TIFF and 16-bit colour PNG, which it cuts to 8 bits."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from dipsearch.error import UsageError
from dipsearch.photo.content import ORIENTATION, RESOLUTION, Raster, check_pages, check_size, cmyk, resolution

KNOWN_DEPTH = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "DIB", "GIF", "WEBP", "TGA", "PCX")  # 8 bits where Pillow says so

COMMANDED = ("EPS",)  # Pillow has Ghostscript read them: no file is to start a program

LEFT_OUT = {"gamma": "gamma", "xmp": "XMP", "XML:com.adobe.xmp": "XMP", "comment": "comment", "photoshop": "IPTC"}


def open_picture(file: Path | BinaryIO) -> Image.Image:
    """A picture in a format that Pillow reads itself; its content says which, and not its name."""
    Image.preinit()
    try:
        return Image.open(file, formats=_readable())
    except UnidentifiedImageError:
        Image.init()  # the rarer formats
        return Image.open(file, formats=_readable())


def _readable() -> list[str]:
    return [name for name in Image.ID if name not in COMMANDED]


def decode_pillow(path: Path, picture: Image.Image) -> Raster:
    """Any picture that Pillow does not cut to 8 bits unseen: the caller has seen to that."""
    check_size(path, *picture.size)
    notes: list[str] = []
    if picture.format == "MPO":
        notes.append("further pictures in the same file: left out")
    else:
        check_pages(path, getattr(picture, "n_frames", 1))
    picture.load()
    if picture.format not in KNOWN_DEPTH and not picture.mode.startswith(("I", "F")):
        notes.append(f"{picture.format}: read with 8 bits a sample, whatever depth it has")
    return with_metadata(_samples(path, picture, notes), picture, notes)


def with_metadata(samples: np.ndarray, picture: Image.Image, notes: list[str]) -> Raster:
    """Samples with what Pillow knows besides them; EXIF data that a copy does not keep is noted."""
    exif = _exif(picture)
    if picture.format != "TIFF" and set(exif) - {ORIENTATION, *RESOLUTION}:
        notes.append("EXIF data, such as the camera's: left out")
    left = [word for key, word in LEFT_OUT.items() if picture.info.get(key)]
    left += ["text"] if getattr(picture, "text", None) else []
    if left:
        notes.append(f"{', '.join(left)}: left out")
    icc, dpi = picture.info.get("icc_profile"), resolution(picture.info.get("dpi"))
    return Raster(samples, exif.get(ORIENTATION, 1), icc, dpi, tuple(notes))


def _samples(path: Path, picture: Image.Image, notes: list[str]) -> np.ndarray:
    mode = picture.mode
    if mode == "CMYK":
        raise cmyk(path)
    if mode == "F":
        return np.asarray(picture, dtype=np.float32)[:, :, None]
    if mode.startswith("I"):
        return _deep_grey(path, picture)
    if mode in ("P", "PA"):
        notes.append("a palette: written as RGB")
    if mode == "1":
        notes.append("black and white of one bit: written as 8-bit grey")
    clear = picture.has_transparency_data
    if mode in ("1", "L", "LA", "La"):
        return np.atleast_3d(np.asarray(picture.convert("LA" if clear else "L")))
    if mode in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"):
        return np.asarray(picture.convert("RGBA" if clear else "RGB"))
    raise UsageError(f"{path}: {mode} pictures are not supported; convert it to RGB")


def _deep_grey(path: Path, picture: Image.Image) -> np.ndarray:
    """Modes I and I;16: integers, of which only 16-bit ones have a known range."""
    levels = np.asarray(picture)
    if levels.min() < 0 or levels.max() > 65535:
        raise UsageError(f"{path}: values outside 0…65535 have no known range; save it with 8 or 16 bits")
    levels = levels.astype(np.uint16)
    clear = picture.info.get("transparency")  # PNG: one level that stands for transparent
    if not isinstance(clear, int):
        return levels[:, :, None]
    return np.dstack([levels, np.where(levels == clear, 0, 65535).astype(np.uint16)])


def _exif(picture: Image.Image) -> dict[int, Any]:
    try:
        return dict(picture.getexif())
    except Exception:  # broken metadata of a picture whose pixels are whole
        return {}
