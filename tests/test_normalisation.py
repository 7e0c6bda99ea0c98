"""Norms: values and gradients of their definition, whatever the layout; batch norm of narrow maps."""

from functools import partial

import pytest
import torch
from fits import LAYOUTS, seeded
from torch import nn

from dipsearch.network.blocks import NORMS, ConvBlock
from dipsearch.network.normalisation import BatchNorm

NARROW, FITTING = (3, 20, 24, 36, 132), (32, 64)
PLAIN = partial(nn.BatchNorm2d, track_running_stats=False)


@pytest.fixture(autouse=True)
def _every_map_is_large(monkeypatch):
    monkeypatch.setattr("dipsearch.network.normalisation.LARGE", 0)


def maps(channels, size=(32, 64), dtype=torch.bfloat16):
    """A map with channels of different means and spreads, and a gradient; channels-last."""
    x, grad = torch.randn(2, 1, channels, *size, generator=seeded())
    shift = torch.randn(1, channels, 1, 1, generator=seeded(1))
    x = x * shift.abs() + 3 * shift
    return tuple(each.to(dtype).contiguous(memory_format=torch.channels_last) for each in (x, grad))


def normed(layer, x, grad, after=()):
    """Output, and gradients of the map, weight and bias, in float64."""
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, len(layer.weight)))
        layer.bias.copy_(torch.linspace(-1, 1, len(layer.weight)))
    x = x.detach().clone().requires_grad_()
    out = nn.Sequential(layer, *after)(x)
    out.backward(grad.to(out.dtype))
    return [each.detach().double() for each in (out, x.grad, layer.weight.grad, layer.bias.grad)]


def errors(found, true):
    return [((a - b).norm() / b.norm()).item() for a, b in zip(found, true, strict=True)]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("back", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("norm", [name for name in NORMS if name != "none"])
def test_a_norm_has_the_gradient_of_its_definition(norm, pictures, layout, back, dtype, close):
    """torch's own instance norm has not, for one picture and a gradient that is channels-last."""
    over = (2, 3) if norm == "instance" else (0, 2, 3)
    x, grad = torch.randn(2, pictures, 4, 6, 8, generator=seeded(), dtype=torch.float64).to(dtype).unbind()
    exact = x.double().requires_grad_()
    mean, variance = exact.mean(over, keepdim=True), exact.var(over, keepdim=True, correction=0)
    layer = NORMS[norm](4)
    scale = getattr(layer, "weight", None)
    expected = (exact - mean) / (variance + layer.eps).sqrt()
    expected = expected if scale is None else expected * scale.detach().double()[:, None, None]
    (truth,) = torch.autograd.grad(expected, exact, grad.double())
    given = x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    out = (layer.double() if dtype == torch.float64 else layer)(given)
    (found,) = torch.autograd.grad(out, given, grad.contiguous(memory_format=LAYOUTS[back]))
    assert out.dtype == found.dtype == dtype
    assert torch.allclose(out.double(), expected, atol=close)
    assert torch.allclose(found.double(), truth, atol=2 * close)


@pytest.mark.parametrize("channels", NARROW)
@pytest.mark.parametrize("after", [(), (nn.LeakyReLU(0.2, inplace=True),)], ids=["alone", "activated"])
def test_values_and_gradients_are_torchs_but_for_rounding(channels, after):
    x, grad = maps(channels)
    out, into, weight, bias = errors(
        normed(BatchNorm(channels), x, grad, after), normed(PLAIN(channels).double(), x.double(), grad.double(), after)
    )
    assert out < 0.003 and into < 0.005  # a bfloat16 number is off by up to 0.004 of itself
    assert weight < 1e-4 and bias < 1e-4 if not after else weight < 0.01 and bias < 0.01  # signs of zeros round away


@pytest.mark.parametrize("channels", NARROW)
def test_neighbouring_pixels_count_as_channels(channels, monkeypatch):
    seen = []
    plain = torch.batch_norm_update_stats
    monkeypatch.setattr(
        torch, "batch_norm_update_stats", lambda x, *more: (seen.append(tuple(x.shape)), plain(x, *more))[1]
    )
    BatchNorm(channels)(maps(channels)[0])
    ((one, wide, pixels, last),) = seen
    assert (one, last) == (1, 1) and wide % 32 == 0 and wide * pixels == channels * 32 * 64


@pytest.mark.parametrize("channels", FITTING)
def test_without_a_rest_it_is_torchs_own(channels):
    x, grad = maps(channels)
    ours, torchs = (normed(layer, x, grad) for layer in (BatchNorm(channels), PLAIN(channels)))
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))


@pytest.mark.parametrize(
    "x",
    [
        maps(24, (15, 15))[0],
        maps(24)[0].contiguous(),
        maps(24)[0][..., 2:, 2:],
        maps(24, dtype=torch.float32)[0],
    ],
    ids=["pixels that do not divide", "contiguous", "cut", "float32"],
)
def test_what_it_cannot_fold_it_leaves_to_torch(x):
    assert torch.equal(BatchNorm(24)(x), PLAIN(24)(x))


def test_a_norm_in_bfloat16_is_left_to_torch():
    """Its statistics would be rounded."""
    x, _ = maps(24)
    assert torch.equal(BatchNorm(24).bfloat16()(x), PLAIN(24).bfloat16()(x))


def test_small_maps_are_left_to_torch(monkeypatch):
    monkeypatch.setattr("dipsearch.network.normalisation.LARGE", 24 * 32 * 64 + 1)
    x, _ = maps(24)
    assert torch.equal(BatchNorm(24)(x), PLAIN(24)(x))


def test_a_network_that_keeps_less_has_the_same_gradients():
    x, _ = maps(24)
    gradients = []
    for recompute in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            block = ConvBlock(24, 24, 3, norm="batch", activation="leaky-relu", padding="reflect")
            head = ConvBlock(24, 3, 3, norm="batch", activation="leaky-relu", padding="reflect")
        for conv in (block.conv, head.conv):
            conv.to(torch.bfloat16, memory_format=torch.channels_last)
            conv.recompute = recompute
        head(block(x)).tensor().float().square().mean().backward()
        gradients.append([p.grad for p in block.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
