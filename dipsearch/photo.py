"""A person's own picture file: read and written with the depth, mode, alpha, colour profile and resolution it has.

This is the one decoder. What it cannot keep it says (`Photo.notes`), or refuses.
"""

import logging
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dipsearch.atomic import write_atomically
from dipsearch.error import DipsearchError, UsageError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

SMALLEST, LARGEST = 16, 24_000_000  # pixels a side; pixels in all
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".webp": "WEBP",
}
EXTENSIONS = tuple(FORMATS)
FLOATS = ("float16", "float32", "float64")
DEPTHS = {  # of samples, by format that is written
    "PNG": ("uint8", "uint16"),
    "JPEG": ("uint8",),
    "TIFF": ("uint8", "uint16", *FLOATS),
    "BMP": ("uint8",),
    "WEBP": ("uint8",),
}
LONGEST = {"JPEG": 65_500, "WEBP": 16_383}  # pixels a side
NO_ALPHA, NO_PROFILE = ("JPEG", "BMP"), ("BMP",)
KNOWN_DEPTH = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "DIB", "GIF", "WEBP", "TGA", "PCX")  # 8 bits where Pillow says so
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, of both byte orders
ORIENTATION, RESOLUTION, ICC_PROFILE = 274, (282, 283, 296), 34675  # tags of TIFF and EXIF
LZW = 5
COMPRESSIONS = (1, 2, 3, 4, LZW, 7, 8, 32946, 32773, 34925, 50000, 50001)  # none, fax, LZW, JPEG, deflate, PackBits, …
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


@dataclass(frozen=True)
class _Raster:
    """What a decoder gives: (H, W, 1 to 4) samples as stored, the last one of 2 or 4 being alpha."""

    samples: np.ndarray
    orientation: int = 1
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def load_photo(path: Path) -> Photo:
    """Read a picture file: PNG, JPEG, TIFF, BMP, WebP, and what else Pillow opens.

    8 and 16 bits, grey or RGB, with or without alpha; in TIFF floating-point numbers, too. Palettes become RGB, and
    grey of less than 8 bits 8-bit grey. UsageError names the file where it cannot be read, is below 16 pixels a side
    or above 24 million in all, has several pages, or would lose depth unseen.
    """
    try:
        with _quiet():
            if path.exists() and not path.is_file() and not path.is_dir():
                raise UsageError(f"{path}: not a regular file")
            with path.open("rb") as file:
                raster = _decode(path, file)
                return _photo(path, raster)
    except UsageError:
        raise
    except Image.DecompressionBombError:
        raise UsageError(f"{path}: too large; at most {LARGEST} pixels") from None
    except Exception as error:  # decoders raise whatever a broken file makes them run into
        raise UsageError(f"{path}: not a readable picture: {_reason(error)}") from None


def check_photo(path: Path, like: Photo) -> None:
    """UsageError where `save_photo` could not write a picture such as `like` under this name, for the format's sake."""
    _format(path, like, like.x.shape)


def save_photo(x: Tensor, path: Path, like: Photo) -> None:
    """Write a picture as the file that `like` was read from: same type of samples, alpha, colour profile, resolution.

    The extension says the format. JPEG is of quality 95 without subsampling, WebP without loss (and always RGB,
    without resolution). Alpha that is opaque is left out where the format has none.

    Args:
        x: (1, C, H, W), clamped to [0, 1], with the channels of `like`. Alpha is resampled to another size.

    Raises:
        UsageError: the format cannot hold it; the message names those that can.
        DipsearchError: the file cannot be written. Nothing half-written is left.
    """
    if x.shape[1] != like.x.shape[1] or not bool(torch.isfinite(x).all()):
        raise ValueError(f"expected {like.x.shape[1]} channels of finite numbers, got {tuple(x.shape)}")
    kind = _format(path, like, x.shape)
    samples = _samples(x, like)
    if like.alpha is not None and kind not in NO_ALPHA:
        samples = np.dstack([samples, _resampled(like.alpha, *x.shape[-2:])])
    try:
        with _quiet():
            write_atomically(path, lambda temporary: _encode(samples, temporary, kind, like))
    except DipsearchError:
        raise
    except Exception as error:  # as of decoders
        raise UsageError(f"{path}: cannot be written as {kind}: {_reason(error)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and logs of decoders: what matters becomes an error or a note."""
    with ExitStack() as after:
        after.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in ("tifffile", "PIL"):
            logger = logging.getLogger(name)
            after.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        yield


def _reason(error: Exception) -> str:
    """An error in one line, without the file objects and tags that decoders put into theirs."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, TypeError | AttributeError | LookupError | ArithmeticError | AssertionError | struct.error):
        return "broken file"  # these words are about the decoder, not about the file
    lines = str(error).split(" '")[0].split(" <")[0].splitlines()
    return lines[0][:200] if lines and lines[0].strip() else type(error).__name__


def _decode(path: Path, file: BinaryIO) -> _Raster:
    magic = file.read(26)
    file.seek(0)
    if magic.startswith(TIFF_MAGIC):
        return _decode_tiff(path, file)
    if magic.startswith(PNG_MAGIC) and len(magic) == 26 and magic[24] == 16 and magic[25] != 0:
        return _decode_deep_png(path, file)
    depth = magic[24] if magic.startswith(PNG_MAGIC) and len(magic) == 26 else 8
    with Image.open(file) as picture:
        raster = _decode_pillow(path, picture)
        if depth < 8 and picture.mode == "L":
            return replace(raster, notes=(*raster.notes, f"{depth}-bit grey: written with 8 bits"))
        return raster


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > LARGEST:
        raise UsageError(f"{path}: {width}x{height} is too large; at most {LARGEST} pixels")
    if min(width, height) < SMALLEST:
        raise UsageError(f"{path}: {width}x{height} is too small; at least {SMALLEST} pixels a side")


def _check_pages(path: Path, pages: int) -> None:
    if pages > 1:
        raise UsageError(f"{path}: {pages} pages in one file; save the one that is meant as a file of its own")


def _cmyk(path: Path) -> UsageError:
    return UsageError(f"{path}: CMYK pictures are not supported; convert it to RGB, such as to the profile sRGB")


# Pillow


def _decode_pillow(path: Path, picture: Image.Image) -> _Raster:
    """Any picture that Pillow does not cut to 8 bits unseen: the caller has seen to that."""
    _check_size(path, *picture.size)
    notes: list[str] = []
    if picture.format == "MPO":
        notes.append("further pictures in the same file: left out")
    else:
        _check_pages(path, getattr(picture, "n_frames", 1))
    picture.load()
    if picture.format not in KNOWN_DEPTH and not picture.mode.startswith(("I", "F")):
        notes.append(f"{picture.format}: read with 8 bits a sample, whatever depth it has")
    samples = _pillow_samples(path, picture, notes)
    exif = _exif(picture)
    if picture.format != "TIFF" and set(exif) - {ORIENTATION, *RESOLUTION}:
        notes.append("EXIF data, such as the camera's: left out")
    orientation = exif.get(ORIENTATION, 1)
    return _Raster(samples, orientation, picture.info.get("icc_profile"), _dpi(picture.info.get("dpi")), tuple(notes))


def _pillow_samples(path: Path, picture: Image.Image, notes: list[str]) -> np.ndarray:
    mode = picture.mode
    if mode == "CMYK":
        raise _cmyk(path)
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
        return _three_axes(np.asarray(picture.convert("LA" if clear or mode == "La" else "L")))
    if mode in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"):
        return np.asarray(picture.convert("RGBA" if clear or mode == "RGBa" else "RGB"))
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


def _dpi(value: Any) -> tuple[float, float] | None:
    """Pixels an inch, or None where there are none, or none that a picture can have."""
    try:
        horizontal, vertical = (float(number) for number in value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (horizontal, vertical) if all(1 <= number <= 65535 for number in (horizontal, vertical)) else None


# PNG with 16 bits and colour or alpha, which Pillow cuts to 8 bits


def _decode_deep_png(path: Path, file: BinaryIO) -> _Raster:
    with Image.open(file) as picture:
        _check_size(path, *picture.size)
        _check_pages(path, getattr(picture, "n_frames", 1))
        try:
            import imagecodecs
        except ImportError:
            raise UsageError(f"{path}: 16-bit colour PNG would be cut to 8 bits; save it as TIFF, or {EXTRA}") from None
        file.seek(0)
        samples = _three_axes(imagecodecs.png_decode(file.read()))
        file.seek(0)
        exif = _exif(picture)
        notes = ("EXIF data, such as the camera's: left out",) if set(exif) - {ORIENTATION, *RESOLUTION} else ()
        icc, dpi = picture.info.get("icc_profile"), _dpi(picture.info.get("dpi"))
        return _Raster(samples, exif.get(ORIENTATION, 1), icc, dpi, notes)


def _encode_deep_png(samples: np.ndarray, path: Path, like: Photo) -> None:
    import imagecodecs

    encoded = imagecodecs.png_encode(np.ascontiguousarray(samples))
    header = len(PNG_MAGIC) + 25  # the signature, and the chunk that has to be first
    chunks = b""
    if like.icc:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(like.icc))
    if like.dpi:
        metres = [round(number / 0.0254) for number in like.dpi]
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *metres, 1))
    path.write_bytes(encoded[:header] + chunks + encoded[header:])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# TIFF


def _decode_tiff(path: Path, file: BinaryIO) -> _Raster:
    from tifffile import TiffFile

    # whether it is OME-TIFF makes no difference but that other files might be opened
    with TiffFile(file, is_ome=False) as tiff:
        page = _only_page(path, tiff)
        _check_page(path, page)
        notes = [] if len(tiff.pages) == 1 else ["small copies in the same file: left out"]
        icc, dpi = page.tags.valueof(ICC_PROFILE), _tiff_dpi(page)
        orientation = int(page.tags.valueof(ORIENTATION, default=1))
        if int(page.photometric) == 6:  # YCbCr, as of JPEG, which only Pillow turns into RGB
            if int(page.compression) == 1 or set(_depths(page)) != {8}:
                raise UsageError(f"{path}: uncompressed YCbCr is not supported; convert it to RGB")
            return _tiff_by_pillow(path, file)
        if int(page.compression) == LZW:
            _check_lzw(page, file)
        try:
            stored = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            if not _kept_by_pillow(page):
                name = _named(page.compression)
                raise UsageError(f"{path}: TIFF with {name} compression and these samples needs {EXTRA}") from None
            return _tiff_by_pillow(path, file)
        samples = _tiff_samples(path, page, _channels_last(path, page, stored), notes)
    return _Raster(samples, orientation, bytes(icc) if icc else None, dpi, tuple(notes))


def _check_lzw(page: "TiffPage", file: BinaryIO) -> None:
    """Raise what imagecodecs raises of a broken stream: given its size, as by tifffile, it may crash instead."""
    try:
        from imagecodecs import bitorder_decode, lzw_decode
    except ImportError:
        return
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(start)
        stream = file.read(length)
        lzw_decode(stream if page.fillorder == 1 else bitorder_decode(stream))


@contextmanager
def _silent() -> Iterator[None]:
    """Standard error, as C knows it, leads nowhere: libtiff writes there whatever it stumbles over."""
    with ExitStack() as after:
        kept = os.dup(2)
        after.callback(os.close, kept)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        after.callback(os.close, nowhere)
        sys.stderr.flush()
        os.dup2(nowhere, 2)
        after.callback(os.dup2, kept, 2)
        yield


def _tiff_by_pillow(path: Path, file: BinaryIO) -> _Raster:
    file.seek(0)
    with _silent(), Image.open(file) as picture:
        # Pillow turns pictures of this format upright itself
        return replace(_decode_pillow(path, picture), orientation=1)


def _only_page(path: Path, tiff: "TiffFile") -> "TiffPage":
    from tifffile import TiffPage

    count = len(tiff.pages)  # asked first, as iteration alone would follow a ring of pages for ever
    whole = [page for page in tiff.pages if isinstance(page, TiffPage) and not page.is_reduced]
    if not count:
        raise UsageError(f"{path}: not a readable picture: there is none in this TIFF file")
    if not whole:
        raise UsageError(f"{path}: no whole picture in this TIFF file; a raw photograph has to be developed first")
    _check_pages(path, len(whole))
    # ImageJ and tifffile itself may store many pictures behind one page
    _check_pages(path, max(whole[0].imagedepth, tiff.series[0].size // max(whole[0].size, 1)))
    return whole[0]


def _named(value: object) -> str:
    """A compression or a kind of colours, by the name it has where tifffile knows one."""
    return str(getattr(value, "name", value))


def _depths(page: "TiffPage") -> tuple[int, ...]:
    """Bits of each sample."""
    bits = page.bitspersample
    return tuple(bits) if isinstance(bits, tuple) else (int(bits),)


def _check_page(path: Path, page: "TiffPage") -> None:
    """Refuse, before anything is decoded, what cannot be kept, and what the file is too short for."""
    _check_size(path, page.imagewidth, page.imagelength)
    if page.is_tiled and page.tilewidth * page.tilelength > LARGEST:
        raise UsageError(f"{path}: tiles of {page.tilewidth}x{page.tilelength} pixels are too large")
    photometric = int(page.photometric)
    if photometric == 5:
        raise _cmyk(path)
    if photometric not in (0, 1, 2, 3, 6):  # white is 0, black is 0, RGB, palette, YCbCr
        raise UsageError(f"{path}: {_named(page.photometric)} pictures are not supported; convert it to RGB")
    if int(page.compression) not in COMPRESSIONS:
        name = _named(page.compression)
        raise UsageError(f"{path}: TIFF with {name} compression is not supported; save it with deflate or without")
    known = {"bool": (1,), "uint8": (1, 2, 4, 8), "uint16": (16,), "float16": (16,), "float32": (32,), "float64": (64,)}
    name = str(page.dtype)
    if any(bits not in known.get(name, ()) for bits in _depths(page)):
        bits = "/".join(str(depth) for depth in sorted(set(_depths(page))))
        raise UsageError(f"{path}: {bits}-bit samples ({name}) are not supported; save it with 8 or 16 bits")
    if name in FLOATS and photometric != 1 and photometric != 2:
        raise UsageError(f"{path}: floating-point {_named(page.photometric)} is not supported; convert it to RGB")
    if page.samplesperpixel > 4:
        raise UsageError(f"{path}: {page.samplesperpixel} channels; grey and RGB with one of alpha are supported")
    size = page.parent.filehandle.size
    if len(page.dataoffsets) != len(page.databytecounts):
        raise UsageError(f"{path}: not a readable picture: truncated file")
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if start <= 0 or length <= 0 or start + length > size:  # tifffile would fill some of these with zeros
            raise UsageError(f"{path}: not a readable picture: truncated file")


def _kept_by_pillow(page: "TiffPage") -> bool:
    """Whether Pillow decodes it to what it is: it cuts deep colour, and knows no deep grey with white at 0."""
    if set(_depths(page)) <= {1, 2, 4, 8}:
        return True
    return page.samplesperpixel == 1 and int(page.photometric) == 1 and str(page.dtype) in ("uint16", "float32")


def _channels_last(path: Path, page: "TiffPage", stored: np.ndarray) -> np.ndarray:
    """(H, W, samples), of interleaved samples or of planes."""
    if page.axes == "SYX":
        stored = np.moveaxis(stored, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise UsageError(f"{path}: axes {page.axes} are not those of a picture")
    return _three_axes(stored)


def _tiff_samples(path: Path, page: "TiffPage", samples: np.ndarray, notes: list[str]) -> np.ndarray:
    photometric, bits = int(page.photometric), _depths(page)[0]
    if photometric == 3:
        return _looked_up(path, page, samples, notes)
    if bits < 8:
        notes.append(f"{bits}-bit samples: written with 8 bits")
        samples = samples.astype(np.uint8) * np.uint8(255 // (2**bits - 1))
    if samples.dtype.kind == "f" and samples.dtype.itemsize == 8:
        notes.append("64-bit numbers: restored with the precision of 32-bit ones")
    colours = 3 if photometric == 2 else 1
    if samples.shape[2] < colours:
        raise UsageError(f"{path}: not a readable picture: RGB with {samples.shape[2]} samples")
    extra = page.extrasamples
    colour, rest = samples[:, :, :colours], samples[:, :, colours:]
    if photometric == 0:
        colour = np.iinfo(colour.dtype).max - colour
    if not rest.shape[2]:
        return colour
    if rest.shape[2] > 1:
        raise UsageError(f"{path}: {rest.shape[2]} channels besides the colours; one of alpha is supported")
    meaning = int(extra[0]) if extra else 0
    if meaning == 0:
        notes.append("a further channel, said to be no alpha: left out")
        return colour
    if meaning == 1:
        notes.append("premultiplied alpha: written not premultiplied")
        colour = _divided(colour, rest)
    return np.concatenate([colour, rest], axis=2)


def _divided(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours without the alpha they were multiplied by, rounded to what the file's type holds."""
    floating = colour.dtype.kind == "f"
    top = 1.0 if floating else float(np.iinfo(colour.dtype).max)
    with np.errstate(all="ignore"):  # where alpha is 0 the colour is as stored
        whole = np.where(alpha > 0, colour.astype(np.float64) * top / alpha, colour)
    return (whole if floating else whole.clip(0, top).round()).astype(colour.dtype)


def _looked_up(path: Path, page: "TiffPage", samples: np.ndarray, notes: list[str]) -> np.ndarray:
    if samples.shape[2] != 1 or samples.dtype == np.uint16 or page.colormap is None:
        raise UsageError(f"{path}: a palette of this kind is not supported; convert it to RGB")
    notes.append("a palette: written as RGB")
    table = (page.colormap >> 8).astype(np.uint8).T  # of 16-bit colours, (entries, 3)
    return table[samples[:, :, 0].astype(np.uint8)]


def _tiff_dpi(page: "TiffPage") -> tuple[float, float] | None:
    unit = page.tags.valueof(RESOLUTION[2], default=2)
    scale = {2: 1.0, 3: 2.54}.get(int(unit)) if isinstance(unit, int) else None  # inch, centimetre
    try:
        return _dpi([top / bottom * scale for top, bottom in (page.tags.valueof(tag) for tag in RESOLUTION[:2])])
    except (TypeError, ValueError, ZeroDivisionError):
        return None


# between files and tensors


def _three_axes(samples: np.ndarray) -> np.ndarray:
    return samples[:, :, None] if samples.ndim == 2 else samples


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


def _photo(path: Path, raster: _Raster) -> Photo:
    samples = _upright(raster.samples, raster.orientation)
    samples = np.ascontiguousarray(samples, dtype=samples.dtype.newbyteorder("="))
    channels = 1 if samples.shape[2] < 3 else 3
    colour = samples[:, :, :channels]
    alpha = samples[:, :, channels].copy() if samples.shape[2] > channels else None
    name = samples.dtype.name
    if name in FLOATS:
        low, high = _range(path, samples, colour)
        scaled = ((colour.astype(np.float64) - low) / (high - low)).astype(np.float32)
    else:
        low, high = 0.0, float(np.iinfo(samples.dtype).max)
        scaled = colour.astype(np.float32) / np.float32(high)
    x = torch.from_numpy(scaled).movedim(2, 0)[None].contiguous()
    return Photo(x, alpha, name, low, high, raster.icc or None, raster.dpi, raster.notes)


def _range(path: Path, samples: np.ndarray, colour: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value of floating-point colours; of a constant picture, something above it."""
    if not np.isfinite(samples).all():
        raise UsageError(f"{path}: values that are no finite numbers (NaN or infinity); replace them first")
    low, high = float(colour.min()), float(colour.max())
    if low == high:
        high = low + max(1.0, abs(low))
    if not np.isfinite(high - low):
        raise UsageError(f"{path}: values from {low:g} to {high:g} are too far apart")
    return low, high


def _samples(x: Tensor, like: Photo) -> np.ndarray:
    """(1, C, H, W) to (H, W, C) of the file's type."""
    levels = x.detach().cpu().double().clamp(0, 1)[0].movedim(0, 2).numpy() * (like.high - like.low) + like.low
    if like.dtype in FLOATS:
        most = float(np.finfo(like.dtype).max)
        return levels.clip(-most, most).astype(like.dtype)
    return levels.round().astype(like.dtype)


def _resampled(alpha: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) to (height, width), of the same type and within the same range."""
    if alpha.shape == (height, width):
        return alpha
    if alpha.dtype == np.uint8:
        return np.asarray(Image.fromarray(alpha).resize((width, height), Image.Resampling.LANCZOS))
    values = torch.from_numpy(alpha.astype(np.float64))[None, None]
    scaled = F.interpolate(values, (height, width), mode="bicubic", antialias=True, align_corners=False)[0, 0].numpy()
    scaled = scaled.clip(float(alpha.min()), float(alpha.max()))
    return (scaled if alpha.dtype.kind == "f" else scaled.round()).astype(alpha.dtype)


# writing


def _format(path: Path, like: Photo, shape: tuple[int, ...]) -> str:
    """The format that a name asks for; UsageError where it is none, or cannot hold a picture of this shape."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{path}: no known format {path.suffix!r}; choose from: {', '.join(EXTENSIONS)}")
    kind = FORMATS[suffix]
    clear = like.alpha is not None and bool((like.alpha != _opaque(like)).any())
    if like.dtype not in DEPTHS[kind]:
        raise _cannot(path, kind, f"{like.dtype} samples", like, clear)
    if clear and kind in NO_ALPHA:
        raise _cannot(path, kind, "transparency", like, clear)
    if like.icc and kind in NO_PROFILE:
        raise _cannot(path, kind, "colour profile", like, clear)
    if max(shape[-2:]) > LONGEST.get(kind, max(shape[-2:])):
        raise UsageError(f"{path}: {shape[-1]}x{shape[-2]} is too large for {kind}; write it as PNG or TIFF")
    if kind == "PNG" and like.dtype == "uint16" and (like.x.shape[1] == 3 or like.alpha is not None):
        try:
            import imagecodecs  # noqa: F401
        except ImportError:
            raise UsageError(f"{path}: 16-bit colour PNG cannot be written; write it as TIFF, or {EXTRA}") from None
    return kind


def _cannot(path: Path, kind: str, what: str, like: Photo, clear: bool) -> UsageError:
    able = [
        other
        for other, depths in DEPTHS.items()
        if like.dtype in depths and not (clear and other in NO_ALPHA) and not (like.icc and other in NO_PROFILE)
    ]
    return UsageError(f"{path}: {kind} holds no {what}; write it as {' or '.join(able)}")


def _opaque(like: Photo) -> float:
    return 1.0 if like.dtype in FLOATS else like.high


def _encode(samples: np.ndarray, path: Path, kind: str, like: Photo) -> None:
    if kind == "TIFF":
        _encode_tiff(samples, path, like)
        return
    if samples.dtype == np.uint16 and samples.shape[2] > 1:
        _encode_deep_png(samples, path, like)
        return
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True, "exact": True}}
    options = dict(options.get(kind, {}))
    if like.icc:
        options["icc_profile"] = like.icc
    if like.dpi:
        options["dpi"] = like.dpi
    encoded = BytesIO()  # a file object of Pillow's own would be left open by its errors
    Image.fromarray(samples[:, :, 0] if samples.shape[2] == 1 else samples).save(encoded, kind, **options)
    path.write_bytes(encoded.getbuffer())


def _encode_tiff(samples: np.ndarray, path: Path, like: Photo) -> None:
    from tifffile import imwrite

    channels = samples.shape[2]
    options: dict[str, Any] = {"resolution": like.dpi, "resolutionunit": "INCH"} if like.dpi else {}
    imwrite(
        path,
        samples[:, :, 0] if channels == 1 else samples,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        iccprofile=like.icc,
        compression="zlib",
        metadata=None,
        software=False,
        **options,
    )
