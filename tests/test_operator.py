"""Operators are linear, have a true transpose, and are drawn the same from the same seed."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from dipsearch.error import UsageError
from dipsearch.image import Cut, read, to_uint8
from dipsearch.metric import psnr
from dipsearch.network.resampling import lanczos2_kernel
from dipsearch.operator import (
    NOISES,
    OPERATORS,
    Downsample,
    Identity,
    Mask,
    NoiseOptions,
    bernoulli_mask,
    gaussian,
    jpeg,
    none,
)

# label -> (operator, options, shape of x, shape of A(x))
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "identity": ("identity", {}, (1, 3, 5, 7), (1, 3, 5, 7)),
    "mask-per-pixel": ("mask", {"missing": 0.4}, (1, 3, 5, 7), (1, 3, 5, 7)),
    "mask-per-channel": ("mask", {"missing": 0.4, "per_channel": True}, (1, 3, 5, 7), (1, 3, 5, 7)),
    "mask-grey": ("mask", {}, (1, 1, 6, 9), (1, 1, 6, 9)),
    "downsample-2": ("downsample", {"factor": 2}, (1, 3, 6, 8), (1, 3, 3, 4)),
    "downsample-4": ("downsample", {"factor": 4}, (1, 2, 8, 12), (1, 2, 2, 3)),
    "downsample-8": ("downsample", {"factor": 8}, (1, 1, 16, 24), (1, 1, 2, 3)),
    "downsample-lanczos": ("downsample", {"factor": 2, "low_resolution": "lanczos"}, (1, 1, 6, 8), (1, 1, 3, 4)),
}
FACTORS = (2, 4, 8)
each_case = pytest.mark.parametrize("label", CASES)
each_factor = pytest.mark.parametrize("factor", FACTORS)
each_kernel = pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=seeded(seed))


def drawn(label: str, seed: int = 0) -> nn.Module:
    name, options, shape, _ = CASES[label]
    return OPERATORS[name](**options).draw(torch.zeros(shape), seeded(seed))


def dense(operator: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The operator as a matrix: one column for every basis vector of x."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64)
    return torch.stack([operator(vector.reshape(shape)).flatten() for vector in basis], dim=1)


def test_every_operator_is_a_case_here() -> None:
    assert {name for name, *_ in CASES.values()} == set(OPERATORS)


@each_case
def test_shape(label: str) -> None:
    _, _, shape, after = CASES[label]
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        y = drawn(label)(torch.rand(shape, dtype=dtype))
        assert y.shape == after
        assert y.dtype == dtype


@each_case
def test_linear(label: str) -> None:
    operator, shape = drawn(label), CASES[label][2]
    x, other = uniform(shape, 1), uniform(shape, 2)
    torch.testing.assert_close(operator(3 * x - 2 * other), 3 * operator(x) - 2 * operator(other))
    assert not operator(torch.zeros(shape)).any()


@each_case
def test_the_gradient_is_the_transposed_matrix(label: str) -> None:
    operator, (_, _, shape, after) = drawn(label), CASES[label]
    matrix = dense(operator, shape)
    x, y = uniform(shape, 1).requires_grad_(), uniform(after, 2)
    torch.testing.assert_close(operator(x).flatten(), matrix @ x.flatten())
    (transposed,) = torch.autograd.grad(operator(x), x, y)
    torch.testing.assert_close(transposed.flatten(), matrix.T @ y.flatten())
    torch.testing.assert_close((operator(x) * y).sum(), (x * transposed).sum())
    assert transposed.any()


@each_case
def test_gradcheck(label: str) -> None:
    assert torch.autograd.gradcheck(drawn(label), uniform(CASES[label][2]).requires_grad_())


@each_case
def test_no_learned_weights_and_nothing_to_save(label: str) -> None:
    operator = drawn(label)
    assert list(operator.parameters()) == []
    assert operator.state_dict() == {}


@each_case
def test_the_same_seed_draws_the_same_operator(label: str) -> None:
    x = uniform(CASES[label][2], 1)
    assert torch.equal(drawn(label, 5)(x), drawn(label, 5)(x))


@pytest.mark.parametrize("label", [label for label in CASES if label.startswith("mask")])
def test_another_seed_draws_another_mask(label: str) -> None:
    assert not torch.equal(drawn(label, 5).known, drawn(label, 6).known)


@each_case
def test_multiple_of_is_what_the_sides_have_to_be(label: str) -> None:
    name, options, shape, after = CASES[label]
    multiple = OPERATORS[name](**options).multiple_of
    assert multiple == shape[-1] // after[-1] == shape[-2] // after[-2]


@pytest.mark.parametrize("name", OPERATORS)
def test_an_unknown_option_is_an_error(name: str) -> None:
    with pytest.raises(ValidationError, match="missin"):
        OPERATORS[name](missin=0.3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("downsample", {"factor": 3}),
        ("downsample", {"low_resolution": "nearest"}),
        ("mask", {"missing": 1.0}),
        ("mask", {"missing": -0.1}),
    ],
)
def test_a_bad_option_is_an_error(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        OPERATORS[name](**options)


def test_identity_gives_its_argument() -> None:
    x = uniform((1, 3, 4, 4))
    assert Identity()(x) is x


# masks


def test_a_mask_keeps_what_is_known_and_blanks_the_rest() -> None:
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, None]
    x = torch.tensor([[0.2, 0.4], [0.6, 0.8]])[None, None].expand(1, 3, 2, 2)
    expected = torch.tensor([[0.2, 0.0], [0.0, 0.8]])[None, None].expand(1, 3, 2, 2)
    assert torch.equal(Mask(known)(x), expected)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (1, 2, 4, 4), (1, 4, 4), (4,), (1, 3, 4, 4)])
def test_a_mask_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    grey = shape == (1, 3, 4, 4)  # a mask for each channel, of which there is one
    with pytest.raises(UsageError, match=rf"a mask is \(1, 1 or {1 if grey else 3}, H, W\), got"):
        Mask(torch.ones(shape)).observed(torch.zeros(1, 1 if grey else 3, 4, 4))


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_fraction_of_missing_pixels(missing: float, per_channel: bool) -> None:
    options = OPERATORS["mask"](missing=missing, per_channel=per_channel)
    known = options.draw(torch.zeros(1, 3, 128, 128), seeded()).known
    assert known.shape == (1, 3 if per_channel else 1, 128, 128)
    assert set(known.unique().tolist()) <= {0.0, 1.0}
    tolerance = 5 * math.sqrt(missing * (1 - missing) / known.numel())  # five standard deviations
    assert float((known == 0).double().mean()) == pytest.approx(missing, abs=tolerance)


def test_a_mask_per_pixel_is_equal_in_all_channels_and_one_per_channel_is_not() -> None:
    x = torch.ones(1, 3, 64, 64)
    per_pixel = OPERATORS["mask"]().draw(x, seeded())(x)
    assert torch.equal(per_pixel[:, 0], per_pixel[:, 1])
    assert torch.equal(per_pixel[:, 0], per_pixel[:, 2])
    per_channel = OPERATORS["mask"](per_channel=True).draw(x, seeded())(x)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        agree = (per_channel[:, a] == per_channel[:, b]).double().mean()
        assert float(agree) == pytest.approx(0.5, abs=0.04)  # independent at one half


def test_bernoulli_mask_takes_its_shape_and_moves_the_generator() -> None:
    generator = seeded()
    first, second = (bernoulli_mask((1, 2, 30, 40), 0.5, generator) for _ in range(2))
    assert first.shape == (1, 2, 30, 40)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 37)])
def test_a_mask_of_squares_is_one_of_pixels_made_larger(height: int, width: int) -> None:
    x = torch.zeros(1, 3, height, width)
    squares = OPERATORS["mask"](missing=0.3, block=8).draw(x, seeded()).known
    assert squares.shape == (1, 1, height, width)
    pixels = bernoulli_mask((1, 1, -(-height // 8), -(-width // 8)), 0.3, seeded())
    assert 0 < pixels.mean() < 1
    large = pixels.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :height, :width]
    assert torch.equal(squares, large)


def test_squares_of_one_pixel_are_no_other_operator() -> None:
    assert OPERATORS["mask"](block=1).identity() == OPERATORS["mask"]().identity()  # runs that are stored stay found
    assert OPERATORS["mask"](block=2).identity() != OPERATORS["mask"]().identity()


def mask_file(path: Path, width: int = 24, height: int = 20, *, level: int = 255) -> str:
    """A black picture with a hole of 6x5 pixels at (3, 2), `level` bright."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[2:7, 3:9] = level
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize("level", [128, 255])
def test_white_in_a_mask_file_is_a_hole(tmp_path: Path, level: int) -> None:
    file = mask_file(tmp_path / "mask.png", level=level)
    mask = OPERATORS["mask"](file=file).draw(torch.zeros(1, 3, 20, 24), seeded())
    expected = torch.ones(1, 1, 20, 24)
    expected[..., 2:7, 3:9] = 0
    assert torch.equal(mask.known, expected)
    assert torch.equal(mask(torch.full((1, 3, 20, 24), 0.7)), 0.7 * expected.expand(1, 3, 20, 24))


def test_white_in_a_mask_file_is_known_where_it_is_said_so(tmp_path: Path) -> None:
    file = mask_file(tmp_path / "mask.png")
    x = torch.zeros(1, 3, 20, 24)
    holes, known = (OPERATORS["mask"](file=file, white=white) for white in ("hole", "known"))
    assert torch.equal(holes.draw(x, seeded()).known, 1 - known.draw(x, seeded()).known)
    assert holes.identity() != known.identity()
    inverted = mask_file(tmp_path / "inverted.png")
    Image.fromarray(255 - np.array(Image.open(file))).save(inverted)
    assert OPERATORS["mask"](file=inverted, white="known").identity()["file"] == holes.identity()["file"]


def test_dark_grey_in_a_mask_file_is_known(tmp_path: Path) -> None:
    file = mask_file(tmp_path / "mask.png", level=127)
    assert OPERATORS["mask"](file=file).draw(torch.zeros(1, 3, 20, 24), seeded()).known.all()


def test_a_mask_file_draws_nothing(tmp_path: Path) -> None:
    options = OPERATORS["mask"](file=mask_file(tmp_path / "mask.png"))
    x = torch.zeros(1, 3, 20, 24)
    assert torch.equal(options.draw(x, seeded(1)).known, options.draw(x, seeded(2)).known)


def test_a_mask_file_of_another_size_is_an_error(tmp_path: Path) -> None:
    file = mask_file(tmp_path / "mask.png")
    with pytest.raises(UsageError) as error:
        OPERATORS["mask"](file=file).draw(torch.zeros(1, 3, 32, 48), seeded())
    message = str(error.value)
    assert message.startswith(file)
    assert "24x20" in message
    assert "48x32" in message
    assert "\n" not in message


def test_a_mask_file_is_cut_like_its_picture(tmp_path: Path) -> None:
    options = OPERATORS["mask"](file=mask_file(tmp_path / "mask.png"))
    whole = options.draw(torch.zeros(1, 3, 20, 24), seeded()).known
    cut = Cut((20, 24), (16, 20))
    assert torch.equal(options.draw(torch.zeros(1, 3, 16, 20), seeded(), cut).known, whole[..., 2:18, 2:22])
    # shrunk, a pixel is known where all four were: rows 2-6 and columns 3-8 are holes
    half = options.draw(torch.zeros(1, 3, 10, 12), seeded(), Cut((20, 24), (10, 12), shrink=2)).known
    holes = torch.zeros(1, 1, 10, 12)
    holes[..., 1:4, 1:5] = 1
    assert torch.equal(half, 1 - holes)
    # one pixel is reflected at each border
    around = options.draw(torch.zeros(1, 3, 22, 26), seeded(), Cut((20, 24), (22, 26), padding=1)).known
    assert torch.equal(around[..., 1:-1, 1:-1], whole) and torch.equal(around[..., 0, 1:-1], whole[..., 1, :])


def test_a_mask_that_leaves_nothing_of_the_cut_says_so(tmp_path: Path) -> None:
    options = OPERATORS["mask"](file=mask_file(tmp_path / "mask.png", 40, 40), white="known")
    with pytest.raises(UsageError, match=r"no pixel known.*20x20 pixels that are used"):
        options.draw(torch.zeros(1, 3, 20, 20), seeded(), Cut((40, 40), (20, 20)))


def test_a_mask_file_without_a_known_pixel_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "white.png"
    Image.new("L", (24, 20), 255).save(file)
    with pytest.raises(UsageError) as error:
        OPERATORS["mask"](file=str(file)).draw(torch.zeros(1, 3, 20, 24), seeded())
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_a_missing_mask_file_is_an_error(tmp_path: Path) -> None:
    file = str(tmp_path / "nowhere.png")
    with pytest.raises(UsageError, match=r"nowhere\.png"):
        OPERATORS["mask"](file=file).draw(torch.zeros(1, 3, 20, 24), seeded())


# downsampling


@pytest.mark.parametrize(("factor", "largest"), [(2, 0.18862), (4, 0.05746), (8, 0.01508)])
def test_lanczos2_kernel(factor: int, largest: float) -> None:
    kernel = lanczos2_kernel(factor)
    assert kernel.shape == (4 * factor, 4 * factor)
    assert float(kernel.double().sum()) == pytest.approx(1, abs=1e-6)
    assert float(kernel.max()) == pytest.approx(largest, abs=1e-5)
    assert float(kernel.min()) < 0
    for same in (kernel.flip(0), kernel.flip(1), kernel.T):
        torch.testing.assert_close(same, kernel)
    assert float(kernel.max()) == float(kernel[2 * factor, 2 * factor])


@each_factor
def test_lanczos2_kernel_is_the_sampled_windowed_sinc(factor: int) -> None:
    def lanczos(t: float) -> float:
        return math.sin(math.pi * t) * math.sin(math.pi * t / 2) / (math.pi * t) / (math.pi * t / 2)

    line = np.array([lanczos((tap + 0.5) / factor - 2) for tap in range(4 * factor)])
    expected = np.outer(line, line) / line.sum() ** 2
    np.testing.assert_allclose(lanczos2_kernel(factor).numpy(), expected, atol=1e-7)


@each_factor
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_downsampling_keeps_a_constant(factor: int, value: float) -> None:
    y = Downsample(factor)(torch.full((1, 3, 4 * factor, 6 * factor), value))
    torch.testing.assert_close(y, torch.full((1, 3, 4, 6), value), atol=1e-6, rtol=0)


@each_factor
def test_downsampling_keeps_a_ramp_centred(factor: int) -> None:
    """Half-pixel phase: away from the border, a ramp is sampled at the centres of the large pixels."""
    side = 8 * factor
    line = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    y = Downsample(factor)(line.expand(1, 1, side, side).contiguous())
    expected = ((torch.arange(8, dtype=torch.float64) + 0.5) / 8)[2:-2]
    torch.testing.assert_close(y[0, 0, 4, 2:-2], expected, atol=1e-6, rtol=0)


def test_downsampling_treats_channels_alike_and_apart() -> None:
    x = uniform((1, 3, 16, 16))
    y = Downsample(4)(x)
    for channel in range(3):
        torch.testing.assert_close(y[:, channel : channel + 1], Downsample(4)(x[:, channel : channel + 1]))


@pytest.fixture(scope="module")
def astronaut() -> Tensor:
    return read("skimage:astronaut")


@each_factor
def test_the_operators_low_resolution_is_the_operators(astronaut: Tensor, factor: int) -> None:
    options = OPERATORS["downsample"](factor=factor)
    operator = options.draw(astronaut, seeded())
    assert torch.equal(options.observe(operator, astronaut), operator(astronaut))


@each_factor
@each_kernel
def test_a_low_resolution_by_its_kernel_is_pillows_in_8_bits(astronaut: Tensor, kernel: str, factor: int) -> None:
    options = OPERATORS["downsample"](factor=factor, low_resolution=kernel)
    operator = options.draw(astronaut, seeded())
    y = options.observe(operator, astronaut)
    side = 512 // factor
    assert y.shape == (1, 3, side, side)
    assert y.dtype == torch.float32
    assert torch.equal((y * 255).round() / 255, y)
    resized = Image.fromarray(to_uint8(astronaut)).resize((side, side), Image.Resampling[kernel.upper()])
    np.testing.assert_array_equal(to_uint8(y), np.array(resized))


@each_factor
def test_lanczos_of_three_lobes_is_farther_from_the_operators_than_bicubic(astronaut: Tensor, factor: int) -> None:
    def apart(kernel: str) -> float:
        options = OPERATORS["downsample"](factor=factor, low_resolution=kernel)
        operator = options.draw(astronaut, seeded())
        return psnr(options.observe(operator, astronaut), operator(astronaut))

    assert 38 < apart("lanczos") < 46
    assert apart("bicubic") > 47


@each_kernel
def test_a_low_resolution_of_a_grey_picture(kernel: str) -> None:
    x = read("skimage:camera", grey=True)
    options = OPERATORS["downsample"](factor=8, low_resolution=kernel)
    y = options.observe(options.draw(x, seeded()), x)
    assert y.shape == (1, 1, 64, 64)
    resized = Image.fromarray(to_uint8(x)).resize((64, 64), Image.Resampling[kernel.upper()])
    np.testing.assert_array_equal(to_uint8(y), np.array(resized))


# noise


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_the_same_from_the_same_seed_and_leaves_the_picture_alone(name: str) -> None:
    clean = torch.rand((1, 3, 20, 24), generator=seeded(1))
    before = clean.clone()
    options = NoiseOptions(sigma=25, quality=50)
    first = NOISES[name](clean, seeded(3), options)
    assert first.shape == clean.shape
    assert first.dtype == clean.dtype
    assert torch.equal(first, NOISES[name](clean, seeded(3), options))
    assert torch.equal(clean, before)


def test_no_noise_is_the_identity() -> None:
    clean = torch.randn((1, 3, 20, 24), generator=seeded(1))
    assert torch.equal(none(clean, seeded(), NoiseOptions(sigma=25)), clean)


def test_gaussian_noise_without_clipping() -> None:
    clean = torch.full((1, 3, 256, 256), 0.9)
    noise = (gaussian(clean, seeded(), NoiseOptions(sigma=25, clip=False)) - clean).double()
    assert float(noise.mean()) == pytest.approx(0, abs=1e-3)
    assert float(noise.std()) == pytest.approx(25 / 255, rel=0.003)
    assert float(noise.max()) > 0.3  # beyond 1 in the picture
    assert psnr(clean + noise, clean) == pytest.approx(20.17, abs=0.05)
    correlation = torch.corrcoef(noise[0].flatten(1)) - torch.eye(3)
    assert float(correlation.abs().max()) < 0.02


def test_gaussian_noise_with_clipping() -> None:
    clean = torch.zeros(1, 3, 256, 256)
    clipped = gaussian(clean, seeded(), NoiseOptions(sigma=25))
    assert torch.equal(clipped, gaussian(clean, seeded(), NoiseOptions(sigma=25, clip=False)).clamp(0, 1))
    assert float(clipped.min()) == 0
    # the mean of the positive half of a normal distribution
    assert float(clipped.mean()) == pytest.approx(25 / 255 / math.sqrt(2 * math.pi), rel=0.01)
    assert float(gaussian(torch.ones(1, 3, 64, 64), seeded(), NoiseOptions(sigma=50)).max()) == 1


def test_jpeg_is_pillows() -> None:
    clean = read("skimage:astronaut")[..., :64, :80]
    y = jpeg(clean, seeded(), NoiseOptions(quality=10))
    file = io.BytesIO()
    Image.fromarray(to_uint8(clean)).save(file, format="JPEG", quality=10)
    np.testing.assert_array_equal(to_uint8(y), np.array(Image.open(file)))
    assert psnr(jpeg(clean, seeded(), NoiseOptions(quality=90)), clean) > psnr(y, clean) + 5
    assert jpeg(clean[:, :1], seeded(), NoiseOptions(quality=10)).shape == (1, 1, 64, 80)
    with pytest.raises(UsageError, match="needs a quality"):
        jpeg(clean, seeded(), NoiseOptions())


def test_another_seed_makes_other_noise() -> None:
    clean = torch.full((1, 3, 16, 16), 0.5)
    options = NoiseOptions(sigma=25)
    assert not torch.equal(gaussian(clean, seeded(1), options), gaussian(clean, seeded(2), options))


def test_noise_of_sigma_zero_is_the_identity() -> None:
    clean = torch.rand((1, 3, 16, 16), generator=seeded(1))
    assert torch.equal(gaussian(clean, seeded(2), NoiseOptions(sigma=0)), clean)


@pytest.mark.parametrize("factor", [1, 3, 5])
def test_a_factor_whose_kernel_would_lie_off_is_an_error(factor: int) -> None:
    with pytest.raises(UsageError, match="even factor"):
        Downsample(factor)
