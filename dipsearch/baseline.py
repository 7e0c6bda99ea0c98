"""Classical restorations, which need no network: what every genome has to beat.

Each takes the observation (1, C, H, W), the operator and the noise's standard deviation on the scale of
0…255 (0 for none), and gives the restored picture.
"""

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from skimage import restoration  # whose parts are imported when they are used
from torch import Tensor, nn

from dipsearch.error import UsageError


def _channels_last(y: Tensor) -> np.ndarray:
    return y[0].movedim(0, 2).double().numpy()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float().movedim(2, 0)[None].clamp(0, 1)


def _needs(operator: nn.Module, attribute: str, baseline: str) -> None:
    if not hasattr(operator, attribute):
        raise UsageError(f"baseline {baseline!r} cannot undo the operator {type(operator).__name__}")


def _needs_same_size(operator: nn.Module, baseline: str) -> None:
    if hasattr(operator, "factor"):
        raise UsageError(f"baseline {baseline!r} cannot undo the operator {type(operator).__name__}")


def observation(y: Tensor, operator: nn.Module, sigma: float) -> Tensor:
    """The observation itself, untouched."""
    _needs_same_size(operator, "observation")
    return y


def non_local_means(y: Tensor, operator: nn.Module, sigma: float) -> Tensor:
    """Non-local means (Buades et al., 2005) that is told the noise's sigma; h = 0.6 sigma, 5x5 patches."""
    _needs_same_size(operator, "non-local-means")
    if sigma == 0:
        return y
    noisy, s = _channels_last(y), sigma / 255
    settings = {"patch_size": 5, "patch_distance": 6, "h": 0.6 * s, "sigma": s}
    if noisy.shape[2] > 1:
        return _tensor(restoration.denoise_nl_means(noisy, channel_axis=-1, **settings))
    return _tensor(restoration.denoise_nl_means(noisy[:, :, 0], **settings)[:, :, None])


def total_variation(y: Tensor, operator: nn.Module, sigma: float) -> Tensor:
    """Total variation (Chambolle, 2004) with a weight of sigma, which it is told."""
    _needs_same_size(operator, "total-variation")
    if sigma == 0:
        return y
    return _tensor(restoration.denoise_tv_chambolle(_channels_last(y), weight=sigma / 255, channel_axis=-1))


OPPONENTS = np.array([[1 / 3, 1 / 2, 1 / 4], [1 / 3, 0, -1 / 2], [1 / 3, -1 / 2, 1 / 4]])  # of R, G, B, in columns


def bm3d(y: Tensor, operator: nn.Module, sigma: float) -> Tensor:
    """BM3D, and CBM3D for colour (Dabov et al., 2007; the package of Mäkinen et al., 2020), which is told sigma.

    Channel by channel where colours do not differ. It counts on white noise, which clipped noise is not. Its package,
    the extra `bm3d`, has a licence that allows only non-commercial use.
    """
    _needs_same_size(operator, "bm3d")
    if not available("bm3d"):
        raise UsageError("baseline 'bm3d' needs its package: pip install 'dipsearch[bm3d]'")
    if sigma == 0:
        return y
    import bm3d as package

    noisy = _channels_last(y)
    if noisy.shape[2] == 3 and np.ptp(noisy @ OPPONENTS, axis=(0, 1)).min() > 0:  # by whose ranges it divides
        return _tensor(package.bm3d_rgb(noisy, sigma / 255))
    planes = [package.bm3d(plane, sigma / 255) for plane in noisy.transpose(2, 0, 1)]
    return _tensor(np.stack(planes, axis=-1).reshape(noisy.shape))


def biharmonic(y: Tensor, operator: nn.Module, sigma: float) -> Tensor:
    """Biharmonic inpainting (Damelin and Hoang, 2018); the same holes in every channel."""
    _needs(operator, "known", "biharmonic")
    holes = operator.known.amin(dim=1)[0].cpu().numpy() == 0  # type: ignore[operator]
    return _tensor(restoration.inpaint_biharmonic(_channels_last(y), holes, channel_axis=-1))


def bicubic(y: Tensor, operator: nn.Module, sigma: float) -> Tensor:
    """Bicubic upsampling (Keys, 1981, a = -0.5, as Pillow and MATLAB)."""
    _needs(operator, "factor", "bicubic")
    factor = int(operator.factor)  # type: ignore[arg-type]
    size = (y.shape[-1] * factor, y.shape[-2] * factor)
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)) for plane in y[0].float().numpy()
    ]
    return _tensor(np.stack(planes, axis=-1))


PIXEL_STEPS, PIXEL_RATE, TV_WEIGHT = 2000, 0.01, 1e-7


def no_prior(y: Tensor, operator: nn.Module, sigma: float) -> Tensor:
    """The pixels themselves, fitted to the observation by Adam (the deep image prior's comparison, released code)."""
    return _fitted_pixels(y, operator, "no-prior", weight=0.0)


def tv_prior(y: Tensor, operator: nn.Module, sigma: float) -> Tensor:
    """As `no-prior`, with 1e-7 times the sum of total variation, isotropic."""
    return _fitted_pixels(y, operator, "tv-prior", weight=TV_WEIGHT)


def _fitted_pixels(y: Tensor, operator: nn.Module, baseline: str, *, weight: float) -> Tensor:
    _needs(operator, "factor", baseline)
    factor = int(operator.factor)  # type: ignore[arg-type]
    shape = (1, y.shape[1], y.shape[2] * factor, y.shape[3] * factor)
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 0.1).requires_grad_()
    adam = torch.optim.Adam([x], lr=PIXEL_RATE)
    for _ in range(PIXEL_STEPS):
        adam.zero_grad()
        loss = (operator(x) - y).square().mean()
        if weight:
            rows, columns = x[..., 1:, :-1] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., :-1, :-1]
            loss = loss + weight * (rows.square() + columns.square() + 1e-12).sqrt().sum()
        loss.backward()
        adam.step()
    return x.detach().clamp(0, 1)


EXTRAS = {"bm3d": "bm3d"}  # baseline -> the package that it needs beside the project's own


def available(baseline: str) -> bool:
    """Whether the package that a baseline needs is installed."""
    package = EXTRAS.get(baseline)
    return package is None or importlib.util.find_spec(package) is not None


BASELINES: dict[str, Callable[[Tensor, nn.Module, float], Tensor]] = {
    "observation": observation,
    "non-local-means": non_local_means,
    "total-variation": total_variation,
    "bm3d": bm3d,
    "biharmonic": biharmonic,
    "bicubic": bicubic,
    "no-prior": no_prior,
    "tv-prior": tv_prior,
}
