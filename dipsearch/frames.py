"""Progress frames: the averaged output at a few iterations, side by side in one small picture beside a run."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dipsearch.error import UsageError
from dipsearch.image import to_uint8

AT = (10, 30, 100, 300, 1000, 3000, 10000, 30000)  # iterations; the last one is added
SIDE = 128  # pixels at most


def iterations(last: int) -> list[int]:
    """Which iterations of a fit that ended at `last` have a frame."""
    return [*(at for at in AT if at < last), last]


def frame(x: Tensor) -> Tensor:
    """(1, C, H, W) in [0, 1] to a small picture of bytes, (h, w, C)."""
    small = Image.fromarray(to_uint8(x))
    small.thumbnail((SIDE, SIDE))
    return torch.from_numpy(np.array(small).reshape(small.height, small.width, -1))


def write_strip(frames: list[Tensor], path: Path) -> None:
    """Write frames of one size side by side as a PNG."""
    strip = torch.cat(frames, dim=1).numpy()
    Image.fromarray(strip[:, :, 0] if strip.shape[2] == 1 else strip).save(path, format="PNG")


def read_strip(path: Path, run: dict[str, Any]) -> dict[int, Tensor]:
    """The frames of a run by iteration, (1, C, h, w) in [0, 1]; `path` is that of the run's record.

    UsageError where there are none, as with runs of a search, or the file is not whole.
    """
    strip = path.with_suffix(".frames.png")
    at = iterations(int(run["iterations"]))
    try:
        with Image.open(strip, formats=["PNG"]) as opened:
            pixels = np.asarray(opened, dtype=np.float32) / 255
    except FileNotFoundError:
        raise UsageError(
            f"{path}: this run has no progress frames; re-runs and reproduced tables keep them where they are made"
        ) from None
    except OSError as error:
        raise UsageError(f"{strip}: not a readable picture: {error}") from None
    if pixels.shape[1] % len(at):
        raise UsageError(f"{strip}: not the frames of a run of {run['iterations']} iterations")
    whole = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(2, 0)[None]
    return dict(zip(at, whole.chunk(len(at), dim=-1), strict=True))
