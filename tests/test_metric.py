"""PSNR and SSIM against scikit-image and against answers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from dipsearch.error import UsageError
from dipsearch.metric import BEST, PROTOCOLS, from_mse, psnr, ssim

RANGE = 219 / 255  # of Y in 16…235, over 255
WEIGHTS = (0.299, 0.587, 0.114)
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


def pair(channels: int, height: int = 40, width: int = 48) -> tuple[Tensor, Tensor]:
    """A random picture, and the same with noise."""
    generator = torch.Generator().manual_seed(channels)
    truth = torch.rand((1, channels, height, width), generator=generator)
    return (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1), truth


def channels_of(protocol: str) -> int:
    return 1 if PROTOCOLS[protocol].grey else 3


def y_plane(x: Tensor) -> np.ndarray:
    """Y of 16…235 over 255, all of it, in double precision."""
    red, green, blue = x[0].double().numpy()
    return ((0.299 * red + 0.587 * green + 0.114 * blue) * 219 + 16) / 255


@pytest.mark.parametrize("protocol", ["rgb", "gray"])
def test_psnr_is_scikit_images(protocol: str) -> None:
    x, truth = pair(channels_of(protocol))
    expected = peak_signal_noise_ratio(truth.double().numpy(), x.double().numpy(), data_range=1)
    assert psnr(x, truth, protocol) == pytest.approx(expected, abs=1e-9)


def test_psnr_of_y_is_scikit_images() -> None:
    x, truth = pair(3)
    expected = peak_signal_noise_ratio(y_plane(truth)[4:-5, 4:-5], y_plane(x)[4:-5, 4:-5], data_range=1)
    assert psnr(x, truth, "y-border") == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("offset", "decibel"), [(0.1, 20.0), (-0.1, 20.0), (0.01, 40.0), (0.5, 6.0206)])
@pytest.mark.parametrize("protocol", ["rgb", "gray"])
def test_psnr_of_a_uniform_offset(protocol: str, offset: float, decibel: float) -> None:
    truth = torch.full((1, channels_of(protocol), 16, 20), 0.5)
    assert psnr(truth + offset, truth, protocol) == pytest.approx(decibel, abs=1e-4)


def test_psnr_of_black_against_white_is_zero() -> None:
    assert psnr(torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16), "rgb") == 0


def test_rgb_is_joint_over_the_channels() -> None:
    """An error of 0.3 in one channel of three has a third of the mean square error, not of the decibel."""
    truth = torch.full((1, 3, 16, 16), 0.5)
    x = truth.clone()
    x[:, 1] += 0.3
    assert psnr(x, truth, "rgb") == pytest.approx(-10 * math.log10(0.09 / 3), abs=1e-4)


def test_psnr_does_not_quantise() -> None:
    truth = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64)
    assert psnr(truth + 1e-4, truth, "rgb") == pytest.approx(80, abs=1e-6)


def test_psnr_gives_rgb_unless_told() -> None:
    x, truth = pair(3)
    assert psnr(x, truth) == psnr(x, truth, "rgb") != psnr(x, truth, "y-border")
    assert ssim(x, truth) == ssim(x, truth, "rgb") != ssim(x, truth, "y-border")


@each_protocol
def test_identical_pictures(protocol: str) -> None:
    x, _ = pair(channels_of(protocol))
    assert psnr(x, x.clone(), protocol) == BEST == 100
    assert ssim(x, x.clone(), protocol) == pytest.approx(1, abs=1e-6)


@each_protocol
def test_more_noise_is_worse(protocol: str) -> None:
    x, truth = pair(channels_of(protocol))
    worse = 2 * x - truth
    assert psnr(worse, truth, protocol) < psnr(x, truth, protocol) < BEST
    assert ssim(worse, truth, protocol) < ssim(x, truth, protocol) < 1


@each_protocol
def test_the_smallest_picture_has_both(protocol: str) -> None:
    x, truth = pair(channels_of(protocol), PROTOCOLS[protocol].smallest, PROTOCOLS[protocol].smallest)
    assert 10 < psnr(x, truth, protocol) < 40
    assert 0 < ssim(x, truth, protocol) < 1


# y-border


@pytest.mark.parametrize("channel", range(3))
def test_y_border_weighs_the_channels(channel: int) -> None:
    truth = torch.full((1, 3, 24, 24), 0.25)
    x = truth.clone()
    x[:, channel] += 0.5
    expected = -20 * math.log10(0.5 * WEIGHTS[channel] * RANGE)
    assert psnr(x, truth, "y-border") == pytest.approx(expected, abs=1e-3)


def test_the_range_of_y_adds_a_third_more_than_one_decibel() -> None:
    x, truth = pair(3)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[:, None, None]
    full = [(picture.double() * weights).sum(1, keepdim=True)[..., 4:-5, 4:-5] for picture in (x, truth)]
    gained = psnr(x, truth, "y-border") - psnr(*full, "gray")
    assert gained == pytest.approx(20 * math.log10(255 / 219), abs=1e-4)
    assert gained == pytest.approx(1.32, abs=0.005)


def test_y_border_of_a_grey_picture() -> None:
    x, truth = pair(1)
    inside = [picture[..., 4:-5, 4:-5] for picture in (x, truth)]
    assert psnr(x, truth, "y-border") == pytest.approx(psnr(*inside, "gray") + 1.3219, abs=1e-3)
    in_colour = [picture.expand(-1, 3, -1, -1) for picture in (x, truth)]
    assert psnr(x, truth, "y-border") == pytest.approx(psnr(*in_colour, "y-border"), abs=1e-3)


@pytest.mark.parametrize(
    ("row", "column", "counts"),
    [
        (3, 20, False),
        (4, 20, True),
        (20, 3, False),
        (20, 4, True),
        (40 - 5, 20, False),
        (40 - 6, 20, True),
        (20, 48 - 5, False),
        (20, 48 - 6, True),
        (0, 0, False),
        (39, 47, False),
    ],
)
def test_y_border_cuts_four_pixels_and_five(row: int, column: int, counts: bool) -> None:
    x, truth = pair(3)
    changed = x.clone()
    changed[..., row, column] = 1 - changed[..., row, column].round()
    assert (psnr(changed, truth, "y-border") != psnr(x, truth, "y-border")) == counts
    if not counts:
        assert ssim(changed, truth, "y-border") == ssim(x, truth, "y-border")
    assert psnr(changed, truth, "rgb") != psnr(x, truth, "rgb")


# ssim


def test_ssim_of_colour_is_scikit_images() -> None:
    x, truth = (picture[0].movedim(0, 2).numpy() for picture in pair(3))
    options = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(truth, x, channel_axis=2, **options)
    assert ssim(*pair(3), "rgb") == pytest.approx(expected, abs=1e-6)
    each = [structural_similarity(truth[..., c], x[..., c], **options) for c in range(3)]
    assert ssim(*pair(3), "rgb") == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.parametrize("protocol", ["gray", "y-border"])
def test_ssim_of_one_plane_is_scikit_images(protocol: str) -> None:
    pictures = pair(channels_of(protocol))
    planes = [p[0, 0].numpy() if protocol == "gray" else y_plane(p)[4:-5, 4:-5] for p in pictures]
    expected = structural_similarity(
        *planes, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(*pictures, protocol) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.2), (0.2, 0.4), (0.5, 0.9)])
def test_ssim_of_flat_pictures(a: float, b: float) -> None:
    """Without any structure only the luminance term is left: (2ab + c) / (a² + b² + c), c = 0.01²."""
    x, truth = torch.full((1, 3, 20, 20), a), torch.full((1, 3, 20, 20), b)
    assert ssim(x, truth) == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-4)


def test_both_take_pictures_that_need_gradients() -> None:
    x, truth = pair(3)
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else torch warns of an undetached number once in a process, wherever that was
    try:
        assert psnr(x.requires_grad_(), truth) == psnr(x.detach(), truth)
        assert ssim(x.requires_grad_(), truth) == ssim(x.detach(), truth)
    finally:
        torch.set_warn_always(before)


# from_mse


@pytest.mark.parametrize(
    ("mse", "decibel"),
    [(1.0, 0), (0.1, 10), (0.01, 20), (1e-9, 90), (1e-10, 100), (1e-20, 100), (0.0, 100), (4, -6.0206)],
)
def test_from_mse(mse: float, decibel: float) -> None:
    assert from_mse(mse) == pytest.approx(decibel, abs=1e-4)


def test_from_mse_of_nothing_finite_is_never_a_good_score() -> None:
    assert math.isnan(from_mse(math.nan))
    assert from_mse(math.inf) == -math.inf


def test_psnr_is_from_mse() -> None:
    x, truth = pair(3)
    assert psnr(x, truth) == pytest.approx(from_mse(float(((x - truth).double() ** 2).mean())), abs=1e-6)


@pytest.mark.parametrize("measure", [psnr, ssim])
@pytest.mark.parametrize(
    ("other", "protocol", "message"),
    [
        ((1, 1, 40, 48), "rgb", "alike, got"),
        ((3, 40, 48), "rgb", "alike, got"),
        ((1, 3, 40, 48), "luma", "unknown metric 'luma'; choose from: gray, rgb, y-border"),
    ],
)
def test_what_cannot_be_compared_is_an_error(measure, other, protocol: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure(pair(3)[0], torch.zeros(other), protocol)


def test_nothing_within_the_border_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing is left of 9x9 pixels"):
        psnr(torch.zeros(1, 3, 9, 9), torch.zeros(1, 3, 9, 9), "y-border")
