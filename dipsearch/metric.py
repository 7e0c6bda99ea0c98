"""PSNR and SSIM under named protocols. Pictures are (1, C, H, W) in [0, 1], never quantised."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dipsearch.error import UsageError, unknown
from dipsearch.image import GREY_WEIGHTS

BEST = 100.0  # dB, reported for identical pictures: JSON has no infinity


def _whole(x: Tensor) -> Tensor:
    return x


def _y_border(x: Tensor) -> Tensor:
    """Y in 16…235 over 255, cut by 4 pixels at the top and left and 5 at the bottom and right, as the
    paper's evaluation script does at every factor."""
    if x.shape[1] == 3:
        x = (x * torch.tensor(GREY_WEIGHTS, dtype=x.dtype)[:, None, None]).sum(1, keepdim=True)
    return ((x * (235 - 16) + 16) / 255)[..., 4:-5, 4:-5]


@dataclass(frozen=True)
class Protocol:
    """What is compared: `grey` says whether pictures are read as grey, `view` what of them counts."""

    about: str
    grey: bool
    view: Callable[[Tensor], Tensor]
    smallest: int = 16  # pixels a side


PROTOCOLS: dict[str, Protocol] = {
    "rgb": Protocol("all pixels, mean square error joint over R, G and B", False, _whole),
    "gray": Protocol("all pixels of the grey picture, known ones included", True, _whole),
    "y-border": Protocol("Y (16-235), without a border of 4 pixels (5 at the bottom and right)", False, _y_border, 20),
}


def _views(x: Tensor, truth: Tensor, protocol: str) -> tuple[Tensor, Tensor]:
    """What of two pictures counts, in double precision; UsageError where they cannot be compared so."""
    if protocol not in PROTOCOLS:
        raise UsageError(unknown("metric", protocol, PROTOCOLS))
    if x.shape != truth.shape or x.ndim != 4:
        raise UsageError(f"pictures to compare are (1, C, H, W) alike, got {tuple(x.shape)} and {tuple(truth.shape)}")
    a, b = (PROTOCOLS[protocol].view(each.detach().cpu().double()) for each in (x, truth))
    if not a.numel():
        raise UsageError(f"metric {protocol}: nothing is left of {x.shape[-1]}x{x.shape[-2]} pixels within its border")
    return a, b


def psnr(x: Tensor, truth: Tensor, protocol: str = "rgb") -> float:
    """Peak signal-to-noise ratio in dB with a peak of 1; 100 for identical pictures.

    UsageError where shapes differ, a picture is too small, or the protocol is not known.
    """
    a, b = _views(x, truth, protocol)
    return from_mse(float((a - b).square().mean()))


def from_mse(mse: float) -> float:
    """dB of a mean square error, for a peak of 1, at most 100."""
    return BEST if mse <= 10 ** (-BEST / 10) else float(-10 * torch.log10(torch.tensor(mse, dtype=torch.float64)))


def ssim(x: Tensor, truth: Tensor, protocol: str = "rgb") -> float:
    """Mean structural similarity, Gaussian window of sigma 1.5 (Wang et al., 2004). UsageError as of `psnr`."""
    from skimage.metrics import structural_similarity

    a, b = (view.float()[0].numpy() for view in _views(x, truth, protocol))
    return float(
        structural_similarity(
            a, b, channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )
