"""Reading and writing pictures. In memory: float32 tensors, NCHW with N = 1, in [0, 1]."""

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dipsearch import dataset
from dipsearch.atomic import write_atomically
from dipsearch.catalog import Name
from dipsearch.error import UsageError
from dipsearch.network.size import centre_crop
from dipsearch.photo import EXTENSIONS as EXTENSIONS
from dipsearch.photo import FLOATS, load_photo
from dipsearch.photo import SMALLEST as SMALLEST

SKIMAGE = "skimage:"
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
    """One name for one picture: `./a.png`, `a.png` and its whole path are the same."""
    return name if has_name(name) else os.path.realpath(name)


def locate(name: Name) -> Path:
    """The file of a picture: a path, `skimage:NAME` for one that scikit-image carries inside its wheel, or
    `SET:NAME` for one of a data set."""
    name = os.fspath(name)
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


def is_utf8(path: Path) -> bool:
    """Whether a path can be written in a record: its bytes may be anything."""
    return str(path) == str(path).encode(errors="replace").decode()


def read(name: Name, *, grey: bool = False) -> Tensor:
    """Read a picture as (1, 3, H, W) or, with `grey`, (1, 1, H, W), float32 in [0, 1].

    8-bit and 16-bit pictures of any mode but CMYK. Transparency is dropped. UsageError names the file where it
    cannot be read, is below 16 pixels a side, would lose depth unseen, or has no known range (floating-point numbers).
    """
    path = locate(name)
    if not is_utf8(path):
        raise UsageError(f"{str(path)!a}: a name that is no UTF-8, by which no run can be kept; rename it")
    photo = load_photo(path)
    if photo.dtype in FLOATS:
        raise UsageError(f"{path}: floating-point pictures have no known range; save it with 8 or 16 bits")
    x = photo.x
    return to_grey(x) if grey else x.expand(-1, 3, -1, -1).contiguous()


def to_grey(x: Tensor) -> Tensor:
    """(1, 1 or 3, H, W) to (1, 1, H, W): the luma of colours."""
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(GREY_WEIGHTS)[:, None, None]).sum(1, keepdim=True)


def read_mask(path: str, size: tuple[int, int] | None = None) -> Tensor:
    """Read a mask file, white = hole, black = known, as (1, 1, H, W) with 1 = known.

    UsageError where its (height, width) are not `size`, those of the picture.
    """
    known = (read(path, grey=True) < 0.5).float()
    if size is not None and known.shape[-2:] != size:
        sizes = f"{known.shape[-1]}x{known.shape[-2]}, but the picture is {size[1]}x{size[0]}"
        raise UsageError(f"{path}: the mask is {sizes}")
    return known


def wholly_known(shrunk: Tensor) -> Tensor:
    """A mask with 1 = known, whose pixels are means after it was shrunk: 1 where all that a pixel was made of is."""
    return (shrunk > 1 - 1e-6).float()


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


def to_uint8(x: Tensor) -> np.ndarray:
    """(1, C, H, W) in [0, 1] to (H, W, 3) or (H, W) bytes, rounded."""
    array = (x.detach().cpu().float().clamp(0, 1)[0].movedim(0, 2).numpy() * 255).round().astype(np.uint8)
    return array[:, :, 0] if array.shape[2] == 1 else array


def thumbnail(x: Tensor, path: Path, side: int = 256) -> None:
    """Write (1, C, H, W) as a PNG of at most `side` pixels a side."""
    picture = Image.fromarray(to_uint8(x))
    picture.thumbnail((side, side))
    picture.save(path, format="PNG")


def write_png(x: Tensor, path: Path) -> None:
    """Write (1, C, H, W) as a PNG with 8 bits, all of it or nothing."""
    write_atomically(path, lambda temporary: Image.fromarray(to_uint8(x)).save(temporary, format="PNG"))


def digest(x: Tensor) -> str:
    """16 hexadecimal digits that identify a picture's pixels and shape."""
    data = x.detach().cpu().contiguous()
    return hashlib.sha256(repr(tuple(data.shape)).encode() + data.numpy().tobytes()).hexdigest()[:16]
