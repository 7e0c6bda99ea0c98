"""Writing a picture as the file that it was read from."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dipsearch.atomic import write_atomically
from dipsearch.error import DipsearchError, UsageError
from dipsearch.photo.content import FLOATS, Photo
from dipsearch.photo.formats import NO_ALPHA, format_of
from dipsearch.photo.png import encode_deep_png
from dipsearch.photo.silence import no_warnings, reason
from dipsearch.photo.tiff import encode_tiff

OPTIONS: dict[str, dict[str, Any]] = {  # of Pillow, by format
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
}


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
    height, width = x.shape[-2:]
    kind = format_of(path, like, (height, width))
    samples = _samples(x, like)
    if like.alpha is not None and kind not in NO_ALPHA:
        samples = np.dstack([samples, _resampled(like.alpha, height, width)])
    try:
        with no_warnings():
            write_atomically(path, lambda temporary: _encode(samples, temporary, kind, like))
    except DipsearchError:
        raise
    except Exception as error:  # encoders raise as decoders do
        raise UsageError(f"{path}: cannot be written as {kind}: {reason(error)}") from None


def _samples(x: Tensor, like: Photo) -> np.ndarray:
    """(1, C, H, W) to (H, W) or (H, W, 3) of the file's type."""
    levels = x.detach().cpu().double().clamp(0, 1)[0].movedim(0, 2).squeeze(2).numpy()
    levels = levels * (like.high - like.low) + like.low
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


def _encode(samples: np.ndarray, path: Path, kind: str, like: Photo) -> None:
    if kind == "TIFF":
        encode_tiff(samples, path, like)
    elif samples.dtype == np.uint16 and samples.ndim == 3:
        encode_deep_png(samples, path, like)
    else:
        carried = {name: value for name, value in (("icc_profile", like.icc), ("dpi", like.dpi)) if value}
        encoded = BytesIO()  # a file object of Pillow's own would be left open by its errors
        Image.fromarray(samples).save(encoded, kind, **OPTIONS.get(kind, {}), **carried)
        path.write_bytes(encoded.getbuffer())
