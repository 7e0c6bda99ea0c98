"""The page of a TIFF file that is the picture: which it is, and what of it is refused before it is decoded."""

from pathlib import Path
from typing import TYPE_CHECKING

from dipsearch.error import UsageError
from dipsearch.photo.content import FLOATS, LARGEST, RESOLUTION, check_pages, check_size, cmyk, resolution

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6  # kinds of colours
UNCOMPRESSED, LZW = 1, 5
COMPRESSIONS = (UNCOMPRESSED, 2, 3, 4, LZW, 7, 8, 32946, 32773, 34925, 50000, 50001)  # fax, JPEG, deflate, PackBits, …
DEPTHS = {  # in bits, by the type that tifffile gives
    "bool": (1,),
    "uint8": (1, 2, 4, 8),
    "uint16": (16,),
    "float16": (16,),
    "float32": (32,),
    "float64": (64,),
}


def only_page(path: Path, tiff: "TiffFile") -> "TiffPage":
    """The one whole picture of a file; small copies of it do not count."""
    from tifffile import TiffPage

    count = len(tiff.pages)  # asked first, as iteration alone would follow a ring of pages for ever
    whole = [page for page in tiff.pages if isinstance(page, TiffPage) and not page.is_reduced]
    if not count:
        raise UsageError(f"{path}: not a readable picture: there is none in this TIFF file")
    if not whole:
        raise UsageError(f"{path}: no whole picture in this TIFF file; a raw photograph has to be developed first")
    check_pages(path, len(whole))
    # ImageJ and tifffile itself may store many pictures behind one page
    check_pages(path, max(whole[0].imagedepth, tiff.series[0].size // max(whole[0].size, 1)))
    return whole[0]


def check_page(path: Path, page: "TiffPage") -> None:
    """Refuse, before anything is decoded, what cannot be kept, and what the file is too short for."""
    check_size(path, page.imagewidth, page.imagelength)
    if page.is_tiled and page.tilewidth * page.tilelength > LARGEST:
        raise UsageError(f"{path}: tiles of {page.tilewidth}x{page.tilelength} pixels are too large")
    photometric, compression, name = int(page.photometric), int(page.compression), str(page.dtype)
    if photometric == CMYK:
        raise cmyk(path)
    if photometric not in (WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, YCBCR):
        raise UsageError(f"{path}: {named(page.photometric)} pictures are not supported; convert it to RGB")
    if compression not in COMPRESSIONS:
        words = f"TIFF with {named(page.compression)} compression is not supported"
        raise UsageError(f"{path}: {words}; save it with deflate or without")
    if any(bits not in DEPTHS.get(name, ()) for bits in depths(page)):
        bits = "/".join(str(depth) for depth in sorted(set(depths(page))))
        raise UsageError(f"{path}: {bits}-bit samples ({name}) are not supported; save it with 8 or 16 bits")
    if name in FLOATS and photometric not in (BLACK_IS_0, RGB):
        raise UsageError(f"{path}: floating-point {named(page.photometric)} is not supported; convert it to RGB")
    if page.samplesperpixel > 4:
        raise UsageError(f"{path}: {page.samplesperpixel} channels; grey and RGB with one of alpha are supported")
    size, starts, lengths = page.parent.filehandle.size, page.dataoffsets, page.databytecounts
    pieces = zip(starts, lengths, strict=False)
    # tifffile would fill some of what is not there with zeros
    if len(starts) != len(lengths) or any(start <= 0 or count <= 0 or start + count > size for start, count in pieces):
        raise UsageError(f"{path}: not a readable picture: truncated file")
    if photometric == YCBCR and (compression == UNCOMPRESSED or set(depths(page)) != {8}):
        raise UsageError(f"{path}: uncompressed YCbCr is not supported; convert it to RGB")


def kept_by_pillow(page: "TiffPage") -> bool:
    """Whether Pillow decodes it to what it is: it cuts deep colour, and knows no deep grey with white at 0."""
    if set(depths(page)) <= {1, 2, 4, 8}:
        return True
    deep_grey = page.samplesperpixel == 1 and str(page.dtype) in ("uint16", "float32")
    return deep_grey and int(page.photometric) == BLACK_IS_0


def named(value: object) -> str:
    """A compression or a kind of colours, by the name it has where tifffile knows one."""
    return str(getattr(value, "name", value))


def depths(page: "TiffPage") -> tuple[int, ...]:
    """Bits of each sample."""
    bits = page.bitspersample
    return tuple(bits) if isinstance(bits, tuple) else (int(bits),)


def dpi(page: "TiffPage") -> tuple[float, float] | None:
    """Pixels an inch, where the page says so."""
    unit = page.tags.valueof(RESOLUTION[2], default=2)
    scale = {2: 1.0, 3: 2.54}.get(unit) if isinstance(unit, int) else None  # inch, centimetre
    return resolution(top / bottom * scale for top, bottom in (page.tags.valueof(tag) for tag in RESOLUTION[:2]))
