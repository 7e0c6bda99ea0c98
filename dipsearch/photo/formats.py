"""The formats that are written, and what each can hold."""

from collections.abc import Sequence
from pathlib import Path

from dipsearch.error import UsageError
from dipsearch.photo.content import EXTRA, FLOATS, Photo

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
DEPTHS = {  # of samples
    "PNG": ("uint8", "uint16"),
    "JPEG": ("uint8",),
    "TIFF": ("uint8", "uint16", *FLOATS),
    "BMP": ("uint8",),
    "WEBP": ("uint8",),
}
LONGEST = {"JPEG": 65_500, "WEBP": 16_383}  # pixels a side
NO_ALPHA, NO_PROFILE, ALWAYS_RGB = ("JPEG", "BMP"), ("BMP",), ("WEBP",)


def check_photo(path: Path, like: Photo, size: Sequence[int] | None = None) -> str:
    """The format in which `save_photo` would write a picture such as `like` under this name; UsageError where it could
    not, for the format's sake.

    Args:
        size: the picture's height and width; None: those of `like`.
    """
    return format_of(path, like, like.x.shape[-2:] if size is None else size)


def format_of(path: Path, like: Photo, size: Sequence[int]) -> str:
    """The format that a name asks for; UsageError where it is none, or cannot hold such a picture of this size."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{path}: no known format {path.suffix!r}; choose from: {', '.join(EXTENSIONS)}")
    kind = FORMATS[suffix]
    if missing := _lacking(kind, like):
        able = [other for other in DEPTHS if _lacking(other, like) is None]
        raise UsageError(f"{path}: {kind} holds no {missing}; write it as {' or '.join(able)}")
    height, width = size
    if kind in LONGEST and max(height, width) > LONGEST[kind]:
        raise UsageError(f"{path}: {width}x{height} is too large for {kind}; write it as PNG or TIFF")
    if kind == "PNG" and like.dtype == "uint16" and (like.x.shape[1] == 3 or like.alpha is not None):
        try:
            import imagecodecs  # noqa: F401
        except ImportError:
            raise UsageError(f"{path}: 16-bit colour PNG cannot be written; write it as TIFF, or {EXTRA}") from None
    return kind


def _lacking(kind: str, like: Photo) -> str | None:
    """What a format cannot hold of a picture, in words; None: it holds all."""
    if like.dtype not in DEPTHS[kind]:
        return f"{like.dtype} samples"
    if kind in NO_ALPHA and like.alpha is not None and (like.alpha != like.opaque).any():
        return "transparency"
    if like.icc and (kind in NO_PROFILE or (kind in ALWAYS_RGB and like.x.shape[1] == 1)):
        return "colour profile"
    return None
