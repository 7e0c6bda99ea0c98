"""The classical restorations improve on the observation, and refuse what they cannot undo."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dipsearch.baseline import BASELINES, EXTRAS, available, bicubic, biharmonic, bm3d, observation
from dipsearch.error import UsageError
from dipsearch.image import read
from dipsearch.metric import psnr
from dipsearch.operator import Downsample, Identity, Mask, NoiseOptions, bernoulli_mask, gaussian

SIDE = 64
SIGMA = 25.0
# what each baseline is for: (operator, sigma)
FITS: list[tuple[str, str, float]] = [
    ("observation", "identity", SIGMA),
    ("observation", "mask", 0),
    ("non-local-means", "identity", SIGMA),
    ("total-variation", "identity", SIGMA),
    ("biharmonic", "mask", 0),
    ("biharmonic", "mask-per-channel", 0),
    ("bicubic", "downsample-2", 0),
    ("bicubic", "downsample-4", 0),
    ("bicubic", "downsample-8", 0),
]
if available("bm3d"):  # an extra that everyday tests do without
    FITS.append(("bm3d", "identity", SIGMA))
PIXELS = ["no-prior", "tv-prior"]  # fitted step by step
DENOISERS = ["non-local-means", "total-variation", *(["bm3d"] if available("bm3d") else [])]
WRONG = [
    ("biharmonic", "identity"),
    ("biharmonic", "downsample-4"),
    ("bicubic", "identity"),
    ("bicubic", "mask"),
    ("no-prior", "mask"),
    ("tv-prior", "identity"),
    ("observation", "downsample-4"),
    ("non-local-means", "downsample-4"),
    ("total-variation", "downsample-4"),
    ("bm3d", "downsample-4"),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crop(name: str = "astronaut", *, grey: bool = False, side: int = SIDE) -> Tensor:
    """A face, an eye or a tripod."""
    return read(f"skimage:{name}", grey=grey)[..., 100 : 100 + side, 180 : 180 + side].contiguous()


def operator_named(name: str, x: Tensor) -> nn.Module:
    if name.startswith("downsample"):
        return Downsample(int(name[-1]))
    if name == "identity":
        return Identity()
    channels = x.shape[1] if name == "mask-per-channel" else 1
    return Mask(bernoulli_mask((1, channels, *x.shape[-2:]), 0.5, seeded(1)))


def observed(x: Tensor, operator: nn.Module, sigma: float) -> Tensor:
    return gaussian(operator(x), seeded(2), NoiseOptions(sigma=sigma))


def test_every_baseline_is_tried_here() -> None:
    assert {name for name, *_ in FITS} | set(PIXELS) == set(filter(available, BASELINES))


@pytest.mark.parametrize(("channels", "called"), [(3, "bm3d_rgb"), (1, "bm3d")])
def test_bm3d_is_given_its_noise_on_the_scale_of_the_picture(channels: int, called: str, monkeypatch) -> None:
    def restore(noisy: np.ndarray, sigma: float) -> np.ndarray:
        calls.append((noisy.shape, sigma))
        return noisy + 1

    calls: list[object] = []
    package = types.ModuleType("bm3d")
    package.__spec__ = importlib.machinery.ModuleSpec("bm3d", None)
    setattr(package, called, restore)
    monkeypatch.setitem(sys.modules, "bm3d", package)
    y = torch.rand(1, channels, 16, 18, generator=seeded())
    assert torch.equal(bm3d(y, Identity(), 51), torch.ones_like(y))  # in range
    assert torch.equal(bm3d(y, Identity(), 0), y)
    assert calls == [((16, 18, 3) if channels == 3 else (16, 18), 0.2)]


def test_a_baseline_without_its_package_says_so(monkeypatch) -> None:
    monkeypatch.setitem(EXTRAS, "bm3d", "a_package_that_nobody_has")
    assert not available("bm3d") and available("observation")
    with pytest.raises(UsageError, match=r"pip install 'dipsearch\[bm3d\]'"):
        bm3d(crop(), Identity(), SIGMA)


@pytest.mark.parametrize(("name", "operator", "sigma"), FITS)
@pytest.mark.parametrize("grey", [False, True])
def test_shape_and_range(name: str, operator: str, sigma: float, grey: bool) -> None:
    x = crop(grey=grey)
    a = operator_named(operator, x)
    y = observed(x, a, sigma)
    before = y.clone()
    restored = BASELINES[name](y, a, sigma)
    assert restored.shape == x.shape
    assert restored.dtype == torch.float32
    assert float(restored.min()) >= 0
    assert float(restored.max()) <= 1
    assert torch.equal(y, before)
    last_digits = 1e-5 if name == "bm3d" else 0  # of a package that sums in threads
    torch.testing.assert_close(restored, BASELINES[name](y, a, sigma), atol=last_digits, rtol=0)


@pytest.mark.parametrize(("name", "operator", "sigma"), FITS)
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_flat_picture_stays_flat(name: str, operator: str, sigma: float, value: float) -> None:
    if name == "observation" and operator == "mask":
        operator = "identity"
    x = torch.full((1, 3, SIDE, SIDE), value)
    a = operator_named(operator, x)
    torch.testing.assert_close(BASELINES[name](a(x), a, sigma), x, atol=2e-4, rtol=0)


@pytest.mark.parametrize(("name", "operator"), WRONG)
def test_the_wrong_operator_is_an_error(name: str, operator: str) -> None:
    x = crop()
    a = operator_named(operator, x)
    with pytest.raises(UsageError) as error:
        BASELINES[name](a(x), a, SIGMA)
    assert repr(name) in str(error.value)
    assert type(a).__name__ in str(error.value)
    assert "\n" not in str(error.value)


def test_the_observation_is_untouched() -> None:
    y = crop() * 3 - 1
    assert observation(y, Identity(), SIGMA) is y


# denoising


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize(("picture", "grey"), [("astronaut", False), ("chelsea", False), ("camera", True)])
def test_denoising_beats_the_observation(name: str, picture: str, grey: bool) -> None:
    x = read(f"skimage:{picture}", grey=grey)[..., 100:196, 180:276]
    y = observed(x, Identity(), SIGMA)
    assert psnr(y, x) == pytest.approx(20.4, abs=0.5)
    assert psnr(BASELINES[name](y, Identity(), SIGMA), x) > psnr(y, x) + 5


@pytest.mark.parametrize("name", DENOISERS)
def test_more_sigma_is_smoother(name: str) -> None:
    y = observed(crop(), Identity(), SIGMA)
    rough = [float(BASELINES[name](y, Identity(), sigma).diff(dim=-1).abs().mean()) for sigma in (5.0, 25.0, 50.0)]
    assert rough[0] > rough[1] > rough[2]


@pytest.mark.parametrize("name", DENOISERS)
def test_without_noise_there_is_nothing_to_remove(name: str) -> None:
    x = crop()
    torch.testing.assert_close(BASELINES[name](x, Identity(), 0.0), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", DENOISERS)
def test_an_observation_out_of_range_is_restored_into_it(name: str) -> None:
    y = gaussian(torch.ones(1, 3, 32, 32), seeded(), NoiseOptions(sigma=50, clip=False))
    assert float(y.max()) > 1
    assert float(BASELINES[name](y, Identity(), 50.0).max()) <= 1


# inpainting


@pytest.mark.parametrize(("picture", "grey"), [("astronaut", False), ("chelsea", False), ("camera", True)])
def test_biharmonic_beats_the_observation(picture: str, grey: bool) -> None:
    x = crop(picture, grey=grey)
    a = operator_named("mask", x)
    y = a(x)
    restored = biharmonic(y, a, 0)
    assert psnr(restored, x) > psnr(y, x) + 10
    known = a.known.bool().expand_as(x)
    torch.testing.assert_close(restored[known], x[known], atol=1e-6, rtol=0)


def test_biharmonic_beats_the_observation_where_channels_have_their_own_holes() -> None:
    x = crop()
    a = operator_named("mask-per-channel", x)
    assert psnr(biharmonic(a(x), a, 0), x) > psnr(a(x), x) + 10


def test_biharmonic_continues_a_slope() -> None:
    line = torch.linspace(0.1, 0.9, 32)
    x = (line[:, None] * 0.5 + line * 0.5)[None, None]
    known = torch.ones(1, 1, 32, 32)
    known[..., 10:14, 12:20] = 0
    a = Mask(known)
    torch.testing.assert_close(biharmonic(a(x), a, 0), x, atol=1e-3, rtol=0)


def test_biharmonic_without_holes_gives_the_picture() -> None:
    x = crop()
    torch.testing.assert_close(biharmonic(x, Mask(torch.ones(1, 1, SIDE, SIDE)), 0), x, atol=1e-6, rtol=0)


# super-resolution


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("grey", [False, True])
def test_bicubic_is_pillows_on_float_planes(factor: int, grey: bool) -> None:
    y = Downsample(factor)(crop(grey=grey))[..., : SIDE // factor - 2]  # wider than high would be hidden by a square
    height, width = (side * factor for side in y.shape[-2:])
    restored = bicubic(y, Downsample(factor), 0)
    assert restored.shape == (1, y.shape[1], height, width)
    for channel, plane in enumerate(y[0].numpy()):
        picture = Image.fromarray(plane)
        assert picture.mode == "F"
        expected = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
        np.testing.assert_array_equal(restored[0, channel].numpy(), expected)


def test_bicubic_continues_a_slope_with_half_pixel_phase() -> None:
    """Away from the border a ramp is reproduced: the pixel centres of both sizes lie on one line."""
    small = (torch.arange(16) + 0.5) / 16
    large = (torch.arange(64) + 0.5) / 64
    restored = bicubic(small.expand(1, 1, 16, 16).contiguous(), Downsample(4), 0)
    torch.testing.assert_close(restored[0, 0, 32, 8:-8], large[8:-8], atol=1e-5, rtol=0)


def test_bicubic_has_keys_parameter() -> None:
    """Keys' kernel with a = -0.5, at the distances of the new pixels from two old ones that are not zero."""
    lines = torch.zeros(1, 1, 16, 16)
    lines[..., :, 8] = 0.5
    lines[..., :, 9] = 1.0
    restored = bicubic(lines, Downsample(2), 0)

    def keys(d: float) -> float:
        d = abs(d)
        near = 1.5 * d**3 - 2.5 * d**2 + 1
        far = -0.5 * (d**3 - 5 * d**2 + 8 * d - 4)
        return near if d <= 1 else far if d < 2 else 0

    for column in range(12, 24):
        place = (column + 0.5) / 2 - 0.5
        expected = min(max(0.5 * keys(place - 8) + keys(place - 9), 0), 1)
        assert float(restored[0, 0, 16, column]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_beats_enlarged_pixels(factor: int) -> None:
    x = crop()
    y = Downsample(factor)(x)
    pixels = y.repeat_interleave(factor, dim=-1).repeat_interleave(factor, dim=-2)
    assert psnr(bicubic(y, Downsample(factor), 0), x, "y-border") > psnr(pixels, x, "y-border")


def test_fitted_pixels_agree_with_the_observation_and_total_variation_smooths_them(monkeypatch) -> None:
    monkeypatch.setattr("dipsearch.baseline.PIXEL_STEPS", 500)
    x = crop(side=32)
    operator = operator_named("downsample-4", x)
    y = operator(x)
    fitted = {name: BASELINES[name](y, operator, 0) for name in ("no-prior", "tv-prior", "bicubic")}
    assert psnr(operator(fitted["no-prior"]), y) > 40
    assert psnr(fitted["no-prior"], x) < psnr(fitted["bicubic"], x)
    assert psnr(fitted["tv-prior"], x) > psnr(fitted["no-prior"], x)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("name", PIXELS)
def test_fitted_pixels_have_shape_and_range_and_are_the_same_again(name: str, grey: bool, monkeypatch) -> None:
    monkeypatch.setattr("dipsearch.baseline.PIXEL_STEPS", 20)
    x = crop(grey=grey, side=32)
    operator = operator_named("downsample-4", x)
    fitted = BASELINES[name](operator(x), operator, 0)
    assert fitted.shape == x.shape and fitted.dtype == torch.float32
    assert float(fitted.min()) >= 0 and float(fitted.max()) <= 1
    assert torch.equal(fitted, BASELINES[name](operator(x), operator, 0))
