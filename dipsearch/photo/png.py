"""PNG with 16 bits and colour or alpha, which Pillow cuts to 8 bits."""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from dipsearch.error import UsageError
from dipsearch.photo.content import EXTRA, Photo, Raster, check_pages, check_size
from dipsearch.photo.pillow import with_metadata
from dipsearch.photo.silence import no_stderr

MAGIC = b"\x89PNG\r\n\x1a\n"


def decode_deep_png(path: Path, file: BinaryIO) -> Raster:
    """The samples by imagecodecs, and all else by Pillow."""
    with Image.open(file, formats=["PNG"]) as picture:
        check_size(path, *picture.size)
        check_pages(path, getattr(picture, "n_frames", 1))
        try:
            import imagecodecs
        except ImportError:
            raise UsageError(f"{path}: 16-bit colour PNG would be cut to 8 bits; save it as TIFF, or {EXTRA}") from None
        file.seek(0)
        with no_stderr():  # of libpng, which warns of what it does itself
            samples = np.atleast_3d(imagecodecs.png_decode(file.read()))
        return with_metadata(samples, picture, [])


def encode_deep_png(samples: np.ndarray, path: Path, like: Photo) -> None:
    """Write (H, W, 2 to 4) samples, with the colour profile and resolution of `like`."""
    import imagecodecs

    encoded = imagecodecs.png_encode(np.ascontiguousarray(samples))
    header = len(MAGIC) + 25  # the signature, and the chunk that has to be first
    chunks = b""
    if like.icc:
        chunks += chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(like.icc))
    if like.dpi:
        metres = [round(number / 0.0254) for number in like.dpi]
        chunks += chunk(b"pHYs", struct.pack(">IIB", *metres, 1))
    path.write_bytes(encoded[:header] + chunks + encoded[header:])


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
