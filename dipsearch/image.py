"""Reading and writing pictures. In memory: float32 tensors, NCHW with N = 1, in [0, 1]."""

import hashlib
import importlib.util
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dipsearch import dataset
from dipsearch.error import UsageError
from dipsearch.network.size import centre_crop

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
SKIMAGE = "skimage:"
SMALLEST, LARGEST = 16, 24_000_000  # pixels a side; pixels in all
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"


def expand(paths: list[str]) -> list[str]:
    """Names, files and folders to a list of pictures; a folder stands for its pictures, sorted by name, and `SET:` for
    those of a data set."""
    found: list[str] = []
    for path in paths:
        if dataset.is_data(path):
            found += dataset.expand(path)
            continue
        if path.startswith(SKIMAGE) or not Path(path).is_dir():
            found.append(path)
            continue
        inside = sorted(
            str(entry) for entry in Path(path).iterdir() if entry.suffix.lower() in EXTENSIONS and entry.is_file()
        )
        if not inside:
            raise UsageError(f"{path}: no picture in this folder; known extensions: {', '.join(EXTENSIONS)}")
        found += inside
    return found


def has_name(name: str) -> bool:
    """Whether a picture is called by a name (`skimage:NAME`, `SET:NAME`), and not by a path."""
    return name.startswith(SKIMAGE) or dataset.is_data(name)


def normal(name: str) -> str:
    """One name for one picture: `./a.png` and `a.png` are the same."""
    return name if has_name(name) else os.path.normpath(name)


def locate(name: str) -> Path:
    """The file of a picture: a path, `skimage:NAME` for one that scikit-image carries inside its wheel, or
    `SET:NAME` for one of a data set."""
    if dataset.is_data(name):
        return dataset.locate(name)
    if not name.startswith(SKIMAGE):
        return Path(name)
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UsageError(f"{name}: scikit-image is not installed")
    folder = Path(spec.origin).parent / "data"
    found = {entry.stem: entry for entry in folder.iterdir() if entry.suffix in (".png", ".jpg")}
    stem = name.removeprefix(SKIMAGE)
    if stem not in found:
        raise UsageError(f"{name}: scikit-image carries no such picture; choose from: {', '.join(sorted(found))}")
    return found[stem]


def read(name: str, *, grey: bool = False) -> Tensor:
    """Read a picture as (1, 3, H, W) or, with `grey`, (1, 1, H, W), float32 in [0, 1].

    8-bit pictures of any mode but CMYK, and 16-bit grey ones. Transparency is dropped. UsageError names
    the file where it cannot be read, is below 16 pixels a side, or would lose depth unseen.
    """
    path = locate(name)
    pixels = _pixels(path)
    if min(pixels.shape[:2]) < SMALLEST:
        raise UsageError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} is too small; at least {SMALLEST} pixels a side")
    x = torch.from_numpy(pixels).movedim(2, 0)[None].contiguous()
    if grey and x.shape[1] == 3:
        x = (x * torch.tensor(GREY_WEIGHTS)[:, None, None]).sum(1, keepdim=True)
    return x if grey or x.shape[1] == 3 else x.expand(-1, 3, -1, -1).contiguous()


def read_mask(path: str) -> Tensor:
    """Read a mask file, white = hole, black = known, as (1, 1, H, W) with 1 = known."""
    white = read(path, grey=True)
    return (white < 0.5).float()


@dataclass(frozen=True)
class Cut:
    """What is taken of a picture: the same pixels of all that belongs to it, such as a mask.

    Args:
        whole: (height, width) of the picture.
        size: (height, width) that are left around the centre, once it is padded and shrunk.
        shrink: squares of so many pixels a side become one, their mean.
        padding: pixels reflected at each border, before all else.
    """

    whole: tuple[int, int]
    size: tuple[int, int]
    shrink: int = 1
    padding: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """(1, C, *whole) to (1, C, *size)."""
        if self.padding:
            x = F.pad(x, (self.padding,) * 4, mode="reflect")
        if self.shrink > 1:
            x = F.avg_pool2d(x, self.shrink)
        return centre_crop(x, *self.size).contiguous()


def _pixels(path: Path) -> np.ndarray:
    """(H, W, 1 or 3) float32 in [0, 1]."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below
            opened = Image.open(path)
        with opened:
            if opened.width * opened.height > LARGEST:
                raise UsageError(f"{path}: {opened.width}x{opened.height} is too large; at most {LARGEST} pixels")
            # as the photograph was held; Pillow keeps the file's own order of pixels
            picture = ImageOps.exif_transpose(opened)
            if picture.mode == "CMYK":
                raise UsageError(f"{path}: CMYK pictures are not supported; convert it to RGB")
            if opened.format == "PNG" and picture.mode in ("RGB", "RGBA") and _png_depth(path) == 16:
                raise UsageError(f"{path}: 16-bit colour PNG would be cut to 8 bits; save it with 8 bits")
            if opened.format == "TIFF" and picture.mode in ("RGB", "RGBA", "LA") and max(_tiff_depths(opened)) > 8:
                raise UsageError(f"{path}: 16-bit colour TIFF would be cut to 8 bits; save it with 8 bits")
            if picture.mode.startswith("I"):
                levels = np.asarray(picture)
                if levels.min() < 0 or levels.max() > 65535:
                    raise UsageError(f"{path}: values outside 0…65535 have no known range; save it with 8 or 16 bits")
                return levels.astype(np.float32)[:, :, None] / 65535
            if picture.mode == "F":
                raise UsageError(f"{path}: floating-point pictures have no known range; save it with 8 or 16 bits")
            mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
            converted = np.asarray(picture.convert(mode), dtype=np.float32) / 255
            return converted[:, :, None] if mode == "L" else converted
    except UsageError:
        raise
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).split(" '")[0]
        raise UsageError(f"{path}: not a readable picture: {reason}") from None


def _png_depth(path: Path) -> int:
    """Bits a sample, from the PNG header (byte 24), which Pillow does not tell."""
    with path.open("rb") as file:
        return file.read(25)[24]


def _tiff_depths(picture: Image.Image) -> tuple[int, ...]:
    """Bits a sample, from TIFF's own tag: Pillow tells 8 of every RGB picture."""
    return tuple(getattr(picture, "tag_v2", {}).get(258, (8,)))


def to_uint8(x: Tensor) -> np.ndarray:
    """(1, C, H, W) in [0, 1] to (H, W, 3) or (H, W) bytes, rounded."""
    array = (x.detach().cpu().float().clamp(0, 1)[0].movedim(0, 2).numpy() * 255).round().astype(np.uint8)
    return array[:, :, 0] if array.shape[2] == 1 else array


def thumbnail(x: Tensor, path: Path, side: int = 256) -> None:
    """Write (1, C, H, W) as a PNG of at most `side` pixels a side."""
    picture = Image.fromarray(to_uint8(x))
    picture.thumbnail((side, side))
    picture.save(path, format="PNG")


def digest(x: Tensor) -> str:
    """16 hexadecimal digits that identify a picture's pixels and shape."""
    data = x.detach().cpu().contiguous()
    return hashlib.sha256(repr(tuple(data.shape)).encode() + data.numpy().tobytes()).hexdigest()[:16]
