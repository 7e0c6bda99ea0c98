"""TIFF, by tifffile, and by Pillow where that alone can decode it."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from dipsearch.error import UsageError
from dipsearch.photo.content import EXTRA, ORIENTATION, Photo, Raster
from dipsearch.photo.page import (
    LZW,
    PALETTE,
    RGB,
    WHITE_IS_0,
    YCBCR,
    check_page,
    depths,
    dpi,
    kept_by_pillow,
    named,
    only_page,
)
from dipsearch.photo.pillow import decode_pillow
from dipsearch.photo.silence import no_stderr

if TYPE_CHECKING:
    from tifffile import TiffPage

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, of both byte orders
ICC_PROFILE = 34675  # a tag
UNSPECIFIED, PREMULTIPLIED = 0, 1  # meanings of a further sample
DESCRIPTION = 270  # a tag
LEFT_OUT = {  # what tags tell
    DESCRIPTION: "description", 271: "camera", 272: "camera", 306: "date", 315: "artist", 33432: "copyright",
    700: "XMP", 33723: "IPTC", 34665: "EXIF data", 34853: "position", 33550: "georeference", 33922: "georeference",
    34264: "georeference", 34735: "georeference", 42112: "GDAL metadata", 42113: "no-data value",
}  # fmt: skip


def _tells(page: "TiffPage", tag: int) -> bool:
    """Whether a tag says something; what tifffile writes as a description, the shape of the array, says nothing."""
    if tag != DESCRIPTION:
        return True
    description = str(page.tags.valueof(tag, default=""))
    return bool(description) and not description.startswith('{"shape"')


def decode_tiff(path: Path, file: BinaryIO) -> Raster:
    """The one picture of a file; UsageError where it would not be kept."""
    from tifffile import TiffFile

    # whether it is OME-TIFF makes no difference but that other files might be opened
    with TiffFile(file, is_ome=False) as tiff:
        page = only_page(path, tiff)
        check_page(path, page)
        notes = [] if len(tiff.pages) == 1 else ["small copies in the same file: left out"]
        icc, orientation = page.tags.valueof(ICC_PROFILE), int(page.tags.valueof(ORIENTATION, default=1))
        if int(page.photometric) == YCBCR:  # as of JPEG, which only Pillow turns into RGB
            return _by_pillow(path, file)
        if int(page.compression) == LZW:
            _check_lzw(page, file)
        try:
            stored = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            if not kept_by_pillow(page):
                name = named(page.compression)
                raise UsageError(f"{path}: TIFF with {name} compression and these samples needs {EXTRA}") from None
            return _by_pillow(path, file)
        samples = _samples(path, page, _channels_last(path, page, stored), notes)
        left = dict.fromkeys(word for tag, word in LEFT_OUT.items() if tag in page.tags and _tells(page, tag))
        notes += [f"{', '.join(left)}: left out"] if left else []
        return Raster(samples, orientation, bytes(icc) if icc else None, dpi(page), tuple(notes))


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


def _by_pillow(path: Path, file: BinaryIO) -> Raster:
    file.seek(0)
    with no_stderr(), Image.open(file, formats=["TIFF"]) as picture:
        # Pillow turns pictures of this format upright itself
        return replace(decode_pillow(path, picture), orientation=1)


def _channels_last(path: Path, page: "TiffPage", stored: np.ndarray) -> np.ndarray:
    """(H, W, samples), of interleaved samples or of planes."""
    if page.axes == "SYX":
        return np.moveaxis(stored, 0, -1)
    if page.axes not in ("YX", "YXS"):
        raise UsageError(f"{path}: axes {page.axes} are not those of a picture")
    return np.atleast_3d(stored)


def _samples(path: Path, page: "TiffPage", samples: np.ndarray, notes: list[str]) -> np.ndarray:
    """Black at 0 and at least 8 bits, with alpha if it is some."""
    photometric, bits = int(page.photometric), depths(page)[0]
    if photometric == PALETTE:
        return _looked_up(path, page, samples, notes)
    if bits < 8:
        notes.append(f"{bits}-bit samples: written with 8 bits")
        samples = samples.astype(np.uint8) * np.uint8(255 // (2**bits - 1))
    if samples.dtype.kind == "f" and samples.dtype.itemsize == 8:
        notes.append("64-bit numbers: restored with the precision of 32-bit ones")
    colours = 3 if photometric == RGB else 1
    if samples.shape[2] < colours:
        raise UsageError(f"{path}: not a readable picture: RGB with {samples.shape[2]} samples")
    colour, rest = samples[:, :, :colours], samples[:, :, colours:]
    if photometric == WHITE_IS_0:
        colour = np.iinfo(colour.dtype).max - colour
    if not rest.shape[2]:
        return colour
    if rest.shape[2] > 1:
        raise UsageError(f"{path}: {rest.shape[2]} channels besides the colours; one of alpha is supported")
    meaning = int(page.extrasamples[0]) if page.extrasamples else UNSPECIFIED
    if meaning == UNSPECIFIED:
        notes.append("a further channel, said to be no alpha: left out")
        return colour
    if meaning == PREMULTIPLIED:
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


def encode_tiff(samples: np.ndarray, path: Path, like: Photo) -> None:
    """Write (H, W) or (H, W, 2 to 4) samples, with the colour profile and resolution of `like`."""
    from tifffile import imwrite

    channels = 1 if samples.ndim == 2 else samples.shape[2]
    options: dict[str, Any] = {"resolution": like.dpi, "resolutionunit": "INCH"} if like.dpi else {}
    imwrite(
        path,
        samples,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        iccprofile=like.icc,
        compression="zlib",
        metadata=None,
        software=False,
        **options,
    )
