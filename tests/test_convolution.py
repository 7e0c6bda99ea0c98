"""Convolution, computed in whichever way, and what it keeps for the backward pass."""

import copy
import itertools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from fits import EVERY_FAMILY, LAYOUTS, gradients, seeded, tiny
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dipsearch.genome import parse_genome
from dipsearch.network import doubling, unrolling, winograd
from dipsearch.network.blocks import ACTIVATIONS, NORMS, PADDINGS, ConvBlock
from dipsearch.network.build import build
from dipsearch.network.cell import PRIMITIVES
from dipsearch.network.convolution import Convolution
from dipsearch.network.meter import Meter
from dipsearch.network.padding import SMALL_MAP
from dipsearch.network.pending import concatenate, join, pending
from dipsearch.network.resampling import DOWNSAMPLERS, UPSAMPLERS

SIZES = {"small": (9, 12), "large": (160, 150)}


def convolution(kernel=3, stride=1, mode="reflect", bias=True, recompute=False, channels=(4, 5)):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        layer = Convolution(
            *channels, kernel, stride=stride, padding=kernel // 2, padding_mode=mode, bias=bias, dtype=torch.float64
        )
    layer.recompute = recompute
    return layer


def plain(layer, x):
    """torch's own padding and convolution."""
    width = layer.kernel_size[0] // 2
    if layer.padding_mode == "reflect" and width:
        x = F.pad(x, (width,) * 4, mode="reflect")
        width = 0
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, width)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kernel", "stride", "mode", "bias"),
    [
        *itertools.product([1, 3, 5], [1, 2], PADDINGS.values(), [True]),
        (3, 1, "reflect", False),
        (5, 2, "reflect", False),
        (3, 1, "zeros", False),
    ],
)
def test_a_convolution_and_its_gradients_are_torchs(kernel, stride, mode, bias, size, layout, recompute):
    layer = convolution(kernel, stride, mode, bias, recompute)
    x = torch.rand(1, 4, *SIZES[size], generator=seeded(), dtype=torch.float64)
    x = x.to(memory_format=LAYOUTS[layout]).requires_grad_()
    assert size == "small" or x.numel() > SMALL_MAP
    out, expected = layer(x), plain(layer, x)
    assert torch.allclose(out, expected, atol=1e-12)
    learned = [layer.weight, *([layer.bias] if bias else [])]
    for ours, torchs in zip(gradients(out, x, *learned), gradients(expected, x, *learned), strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("mode", PADDINGS.values())
def test_a_convolution_of_a_fixed_input_has_gradients_for_its_weights(mode, recompute):
    layer = convolution(3, 1, mode, True, recompute)
    x = torch.rand(1, 4, 9, 12, generator=seeded(), dtype=torch.float64)
    found, expected = (gradients(out, layer.weight, layer.bias) for out in (layer(x), plain(layer, x)))
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(found, expected, strict=True))
    assert x.grad is None


# Winograd's filtering


@pytest.fixture
def filtering(monkeypatch):
    """Every convolution that may be filtered is, in blocks of so many tiles."""

    def small(tiles):
        for name, value in {"LEAST_CHANNELS": 1, "LEAST_PIXELS": 1, "BLOCK": tiles, "MOST_THREADS": 1}.items():
            monkeypatch.setattr(winograd, name, value)

    return small


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("tiles", [1, 2, 5, 128])
@pytest.mark.parametrize("size", [(4, 4), (8, 12), (12, 28)])
def test_filtering_gives_the_values_and_gradients_of_a_convolution(filtering, size, tiles, bias, layout, recompute):
    filtering(tiles)
    layer = convolution(bias=bias, recompute=recompute)
    x = torch.rand(1, 4, *size, generator=seeded(), dtype=torch.float64)
    x = x.to(memory_format=LAYOUTS[layout]).requires_grad_()
    assert winograd.suits(layer.geometry.padded(x), layer.weight)
    out, expected = layer(x), plain(layer, x)
    assert torch.allclose(out, expected, atol=1e-11)
    learned = [layer.weight, *([layer.bias] if bias else [])]
    for ours, torchs in zip(gradients(out, x, *learned), gradients(expected, x, *learned), strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-9, atol=1e-9)


def test_filtering_of_wide_maps_differs_by_rounding():
    """The most that a published network's widest layer may lose in float32, for values of unit size."""
    layer = convolution(channels=(132, 128)).to(torch.float32, memory_format=torch.channels_last)
    x = torch.randn(1, 132, 64, 96, generator=seeded()).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert winograd.suits(layer.geometry.padded(x), layer.weight)
    exact, learned = copy.deepcopy(layer).double(), [layer.weight, layer.bias]
    out, expected = layer(x), plain(exact, x.double())
    off = lambda ours, true: (ours - true).detach().abs().max() / true.detach().abs().max()  # noqa: E731
    assert off(out, expected) < 2e-5
    found = gradients(out, x, *learned)
    truth = torch.autograd.grad((expected * torch.rand(out.shape, generator=seeded(1))).sum(), (x, *exact.parameters()))
    for ours, true in zip(found, truth, strict=True):
        assert off(ours, true) < 2e-5


def test_filtering_does_not_depend_on_what_was_done_first(filtering):
    """Its matrices are made once in a process: no stand-in for a tensor, and no default device, may be in them."""
    filtering(128)
    layer, x = convolution().float(), torch.rand(1, 4, 16, 16, generator=seeded())
    winograd._both_ways.cache_clear()
    with torch.device("meta"):
        first = layer(x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer(mode.from_tensor(x)).shape == first.shape
    assert torch.export.export(layer, (x,)).module()(x).shape == first.shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    for out in (first, layer(x)):
        assert torch.allclose(out, plain(layer, x), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "stride", "mode", "kernel", "dtype", "device"),
    [
        ((2, 4, 16, 16), 1, "reflect", 3, torch.float32, "cpu"),
        ((1, 4, 16, 18), 1, "reflect", 3, torch.float32, "cpu"),
        ((1, 4, 18, 16), 1, "reflect", 3, torch.float32, "cpu"),
        ((1, 4, 16, 16), 2, "reflect", 3, torch.float32, "cpu"),
        ((1, 4, 16, 16), 1, "zeros", 3, torch.float32, "cpu"),
        ((1, 4, 16, 16), 1, "reflect", 5, torch.float32, "cpu"),
        ((1, 4, 16, 16), 1, "reflect", 1, torch.float32, "cpu"),
        ((1, 4, 16, 16), 1, "reflect", 3, torch.bfloat16, "cpu"),
        ((1, 4, 16, 16), 1, "reflect", 3, torch.float32, "meta"),
    ],
)
def test_what_cannot_be_filtered_is_convolved(filtering, shape, stride, mode, kernel, dtype, device):
    filtering(128)
    layer = convolution(kernel, stride, mode).to(device, dtype)
    x = torch.zeros(shape, dtype=dtype, device=device)
    assert not layer.geometry.filtered(layer.geometry.padded(x), layer.weight)
    assert layer(x).shape == plain(layer, x).shape


# Unrolling


@pytest.fixture
def unrolled(monkeypatch):
    """Every convolution whose kernels' gradient may be unrolled is, so many values at a time; those not filtered that
    have fewer channels."""
    given = []

    def unroll(block, least_filtered=10):
        constants = {"LEAST_PAIRS": 1, "LEAST_PRODUCTS": 1, "BLOCK": block, "LEAST_FILTERED": least_filtered}
        for name, value in constants.items():
            monkeypatch.setattr(unrolling, name, value)
        monkeypatch.setattr(unrolling, "SLOW", (torch.backends.cpu.get_cpu_capability(),))
        monkeypatch.setattr(winograd, "LEAST_PIXELS", 1)
        whole = unrolling.kernel_gradient
        monkeypatch.setattr(unrolling, "kernel_gradient", lambda *args: given.append(args) or whole(*args))
        return given

    return unroll


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("block", [1, 500, 2**20])
@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (2, 1)])
def test_unrolling_gives_the_gradients_of_a_convolution(unrolled, kernel, stride, size, block, bias, recompute):
    given = unrolled(block)
    layer = convolution(kernel, stride, bias=bias, recompute=recompute)
    x = torch.rand(1, 4, *size, generator=seeded(), dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    out, expected = layer(x), plain(layer, x)
    assert torch.equal(out, expected)
    learned = [layer.weight, *([layer.bias] if bias else [])]
    for ours, torchs in zip(gradients(out, x, *learned), gradients(expected, x, *learned), strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-10, atol=1e-10)
    assert len(given) == 1


@pytest.mark.parametrize("own", ["filtered", "unrolled"])
def test_gradients_are_those_of_the_kernels_that_were_convolved_with(filtering, unrolled, own):
    filtering(128) if own == "filtered" else unrolled(500)
    layer = convolution()
    x = torch.rand(1, 4, 8, 12, generator=seeded(), dtype=torch.float64).to(memory_format=torch.channels_last)
    x.requires_grad_()
    other = {"weight": torch.rand(layer.weight.shape, generator=seeded(2), dtype=torch.float64), "bias": layer.bias}
    ours, theirs = torch.func.functional_call(layer, other, (x,)), convolution()
    theirs.weight.data = other["weight"]
    (found,), (expected,) = gradients(ours, x), gradients(plain(theirs, x), x)
    assert torch.allclose(found, expected, atol=1e-9)


def test_unrolling_leaves_to_filtering_what_that_can_compute(unrolled, monkeypatch):
    filtered = []
    whole = winograd.kernel_gradient
    monkeypatch.setattr(winograd, "kernel_gradient", lambda *args: filtered.append(args) or whole(*args))
    given = unrolled(500, least_filtered=4)
    for size, stride, many in [((8, 12), 1, 1), ((9, 12), 1, 1), ((16, 24), 2, 1)]:
        layer = convolution(3, stride)
        x = torch.rand(1, 4, *size, generator=seeded(), dtype=torch.float64).to(memory_format=torch.channels_last)
        (ours,), (torchs,) = (gradients(out, layer.weight) for out in (layer(x), plain(layer, x)))
        assert torch.allclose(ours, torchs, rtol=1e-9, atol=1e-9)
        assert len(filtered) == many
    assert len(given) == 3


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"shape": (2, 16, 128, 128)}, False),
        ({"shape": (1, 16, 64, 64)}, False),
        ({"stride": 2}, False),
        ({"channels": (16, 31)}, False),
        ({"kernel": 1}, False),
        ({"mode": "zeros"}, False),
        ({"dtype": torch.bfloat16}, False),
        ({"device": "meta"}, False),
        ({"layout": torch.contiguous_format}, False),
        ({"slow": ("a processor of tomorrow",)}, False),
    ],
    ids=lambda value: next(iter(value), "as it is") if isinstance(value, dict) else None,
)
def test_what_unrolling_is_for(monkeypatch, change, fits):
    case = {"shape": (1, 16, 128, 128), "channels": (16, 32), "kernel": 3, "stride": 1, "mode": "reflect"}
    case |= {"dtype": torch.float32, "device": "cpu", "layout": torch.channels_last}
    case |= {"slow": (torch.backends.cpu.get_cpu_capability(),)} | change
    monkeypatch.setattr(unrolling, "SLOW", case["slow"])
    layer = convolution(case["kernel"], case["stride"], case["mode"], channels=case["channels"])
    layer = layer.to(case["device"], case["dtype"])
    x = torch.zeros(case["shape"], dtype=case["dtype"], device=case["device"]).to(memory_format=case["layout"])
    assert layer.geometry.unrolled(layer.geometry.padded(x), layer.weight) == fits
    assert layer(x).shape == plain(layer, x).shape


class Asked(TorchDispatchMode):
    """Which gradients convolutions are asked for: of the map, the kernels, the bias."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append((kwargs or {}).get("output_mask") or args[-1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("mode", PADDINGS.values())
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_the_gradient_of_the_bias_of_a_large_map_is_a_sum(monkeypatch, kernel, stride, mode, recompute, large):
    monkeypatch.setattr(unrolling, "SLOW", (torch.backends.cpu.get_cpu_capability(),))
    monkeypatch.setattr("dipsearch.network.geometry.LARGE_MAP", 5 * 9 * 12 // stride**2 if large else 2**30)
    layer = convolution(kernel, stride, mode, recompute=recompute)
    x = torch.rand(1, 4, 9, 12, generator=seeded(), dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    out, expected = layer(x), plain(layer, x)
    with Asked() as asked:
        found = gradients(out, x, layer.weight, layer.bias)
    assert any(of_bias for *_, of_bias in asked.masks) != large
    for ours, torchs in zip(found, gradients(expected, x, layer.weight, layer.bias), strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-10, atol=1e-10)
    layer.bias.requires_grad_(False)
    found, expected = (gradients(made, x, layer.weight) for made in (layer(x), plain(layer, x)))
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(found, expected, strict=True))


# Doubled pixels

NEAREST = UPSAMPLERS["nearest"](0)


@pytest.fixture
def doubled(monkeypatch):
    """Every convolution that may be computed on the map before is; what these are given."""
    monkeypatch.setattr(doubling, "LEAST_PIXELS", 1)
    given = []
    whole = doubling.kernels
    monkeypatch.setattr(doubling, "kernels", lambda weight: given.append(weight) or whole(weight))
    return given


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("mode", PADDINGS.values())
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (5, 8), (40, 50)])
def test_a_convolution_of_doubled_pixels_is_computed_before(doubled, size, mode, bias, layout, recompute):
    layer = convolution(mode=mode, bias=bias, recompute=recompute)
    x = torch.rand(1, 4, *size, generator=seeded(), dtype=torch.float64)
    x = x.to(memory_format=LAYOUTS[layout]).requires_grad_()
    with torch.device("meta"):  # whatever the default is
        out = layer(pending(x).then(NEAREST))
    learned = [layer.weight, *([layer.bias] if bias else [])]
    expected = plain(layer, NEAREST(x))
    assert len(doubled) == 1
    assert out.shape == expected.shape and torch.allclose(out, expected, atol=1e-12)
    for ours, torchs in zip(gradients(out, x, *learned), gradients(expected, x, *learned), strict=True):
        assert ours.shape == torchs.shape and torch.allclose(ours, torchs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_doubled_pixels_stay_channels_last(doubled, recompute):
    """What follows is quicker so."""
    layer = convolution(recompute=recompute).to(memory_format=torch.channels_last)
    x = torch.rand(1, 4, 6, 8, generator=seeded(), dtype=torch.float64).to(memory_format=torch.channels_last)
    x.requires_grad_()
    out = layer(pending(x).then(NEAREST))
    (found,) = torch.autograd.grad(out, x, torch.ones_like(out))
    results = torch.rand(1, 20, 5, 6, generator=seeded()).contiguous(memory_format=torch.channels_last).requires_grad_()
    side_by_side = doubling.interleaved(results)
    (apart,) = torch.autograd.grad(side_by_side, results, torch.ones_like(side_by_side))
    for each in (out, found, doubling.kernels(layer.weight), side_by_side, apart):
        assert each.is_contiguous(memory_format=torch.channels_last)


def test_kernels_of_doubled_pixels_add_up_what_meets_one():
    weight = torch.arange(9.0).view(1, 1, 3, 3)
    first, second, third, last = doubling.kernels(weight)[:, 0]
    assert first.tolist() == [[0, 1 + 2], [3 + 6, 4 + 5 + 7 + 8]]
    assert second.tolist() == [[0 + 1, 2], [3 + 4 + 6 + 7, 5 + 8]]
    assert third.tolist() == [[0 + 3, 1 + 2 + 4 + 5], [6, 7 + 8]]
    assert last.tolist() == [[0 + 1 + 3 + 4, 2 + 5], [6 + 7, 8]]


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_gradients_of_kernels_of_doubled_pixels_are_unrolled_like_others(doubled, unrolled, recompute):
    given = unrolled(500)
    layer = convolution(recompute=recompute)
    x = torch.rand(1, 4, 8, 12, generator=seeded(), dtype=torch.float64).to(memory_format=torch.channels_last)
    x.requires_grad_()
    out, expected = layer(pending(x).then(NEAREST)), plain(layer, NEAREST(x))
    learned = layer.weight, layer.bias
    for ours, torchs in zip(gradients(out, x, *learned), gradients(expected, x, *learned), strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-10, atol=1e-10)
    assert len(given) == 1 and given[0][2].shape == (20, 4, 2, 2)


def test_doubled_pixels_take_four_ninths_of_the_products_and_less_memory(doubled):
    """But for a line and a column of each phase."""
    x = torch.rand(1, 16, 64, 64, generator=seeded(), dtype=torch.float64).requires_grad_()
    meters = []
    for given in (pending(x).then(NEAREST), NEAREST(x)):
        layer = convolution(channels=(16, 4))
        with Meter() as meter:
            layer(given).sum().backward()
        meters.append(meter)
    ours, direct = meters
    assert ours.flop == pytest.approx(4 / 9 * direct.flop, rel=0.04)
    assert ours.peak < 0.75 * direct.peak


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"shape": (1, 4, 16, 64)}, True),
        ({"shape": (2, 4, 32, 32)}, False),
        ({"dtype": torch.bfloat16}, False),
        ({"shape": (1, 4, 31, 33)}, False),
        ({"kernel": 5}, False),
        ({"kernel": 1}, False),
        ({"stride": 2}, False),
        ({"padding": 0}, False),
        ({"padding": 2}, False),
        ({"channels": (128, 129)}, True),
        ({"channels": (129, 129)}, False),
        ({"upsampler": UPSAMPLERS["bilinear"](4)}, False),
        ({"upsampler": nn.Upsample(scale_factor=3)}, False),
        ({"device": "meta"}, False),
    ],
    ids=lambda value: next(iter(value), "as it is") if isinstance(value, dict) else None,
)
def test_what_is_computed_before_its_pixels_are_doubled(doubled, monkeypatch, change, fits):
    case = {"shape": (1, 4, 32, 32), "kernel": 3, "stride": 1, "upsampler": NEAREST, "channels": (4, 5)}
    case |= {"dtype": torch.float32, "device": "cpu"} | change
    monkeypatch.setattr(doubling, "LEAST_PIXELS", 32**2)
    layer = convolution(case["kernel"], case["stride"], channels=case["channels"])
    layer = layer.to(case["device"], case["dtype"])
    if "padding" in case:
        layer.padding = (case["padding"],) * 2
    shape = (case["shape"][0], case["channels"][0], *case["shape"][2:])
    x = torch.zeros(shape, dtype=case["dtype"], device=case["device"])
    out = layer(pending(x).then(case["upsampler"]))
    assert bool(doubled) == fits
    assert out.shape == layer(case["upsampler"](x)).shape


def test_doubled_pixels_are_traced_as_they_are_described(doubled):
    layer, x = convolution().float(), torch.rand(1, 4, 8, 8, generator=seeded())

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.doubler = layer, NEAREST

        def forward(self, x):
            return self.layer(pending(x).then(self.doubler))

    with torch.inference_mode():
        first = Both()(x)
    assert torch.allclose(torch.export.export(Both(), (x,)).module()(x), first, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Both()(x).dtype == torch.bfloat16
    assert len(doubled) == 1
    (found,) = gradients(Both()(x), layer.weight)  # what was done without gradients is in the way of none
    assert torch.allclose(found, gradients(plain(layer, NEAREST(x)), layer.weight)[0], atol=1e-4)


def test_without_gradients_a_convolution_keeps_no_graph():
    layer = convolution(recompute=True)
    with torch.no_grad():
        out = layer(torch.rand(1, 4, 8, 8, dtype=torch.float64))
    assert out.grad_fn is None


# Maps that wait


def test_pending_maps_are_what_their_steps_make():
    a, b = torch.rand(1, 2, 3, 3), torch.rand(1, 4, 3, 3)
    norm = nn.BatchNorm2d(6, track_running_stats=False)
    joined = join([pending(a).then(nn.ReLU()), pending(b)], concatenate).then(norm)
    assert torch.equal(joined.tensor(), norm(torch.cat([a.relu(), b], dim=1)))
    assert [part.shape[1] for part in joined.parts] == [2, 4]
    assert list(joined.parameters) == list(norm.parameters())


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_comes_before_doubled_pixels(norm):
    x = torch.rand(1, 4, 6, 7, generator=seeded(), dtype=torch.float64).requires_grad_()
    layer = NORMS[norm](4).double()
    seen = []
    layer.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[2:]))
    waiting = pending(x).then(NEAREST).then(layer)
    expected, out = layer(NEAREST(x)), waiting.tensor()
    assert seen == [(12, 14), (6, 7)]
    assert torch.allclose(out, expected, atol=1e-12)
    learned = [x, *layer.parameters()]
    for ours, torchs in zip(gradients(out, *learned), gradients(expected, *learned), strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-9, atol=1e-9)
    assert waiting.parameters == list(layer.parameters())


def test_what_comes_after_doubled_pixels_sees_them():
    x = torch.rand(1, 4, 3, 3, generator=seeded())
    once, smooth = pending(x).then(NEAREST), nn.AvgPool2d(3, stride=1, padding=1)
    assert torch.equal(once.then(smooth).tensor(), smooth(NEAREST(x)))
    assert torch.equal(once.then(NEAREST).tensor(), NEAREST(NEAREST(x)))
    assert torch.equal(join([once, once], torch.add).then(smooth).tensor(), smooth(2 * NEAREST(x)))
    assert torch.equal(once.then(UPSAMPLERS["bilinear"](4)).tensor(), UPSAMPLERS["bilinear"](4)(NEAREST(x)))
    counting = nn.BatchNorm2d(4)
    once.then(counting).tensor()
    ours, twin = counting.running_var, nn.BatchNorm2d(4)
    twin(NEAREST(x))
    assert torch.equal(ours, twin.running_var)


def test_what_a_pending_map_is_made_of_is_not_changed_by_making_it():
    block = ConvBlock(3, 4, 3, norm="none", activation="relu", padding="zero")
    waiting = block(torch.rand(1, 3, 6, 6, generator=seeded()) - 0.5)
    (part,) = waiting.parts
    before = part.detach().clone()
    first, second = waiting.tensor(), waiting.tensor()
    assert torch.equal(part, before) and torch.equal(first, second) and before.min() < 0 <= first.min()


# Networks that keep less

WIDE = {"channels_down": 6, "channels_up": 5, "depth": 2}
CELL = {"convolution": "separable", "kernel": 3, "activation": "leaky-relu"}
NETWORKS = {
    **EVERY_FAMILY,
    "kernel of 1 with a stride": tiny(**WIDE, channels_skip=2, kernel_down=1),
    **{
        f"decoder {order} a cell of {name}": parse_genome(
            EVERY_FAMILY["decoder"].data()
            | {
                "order": order,
                "kernel": 3,
                "upsample": {"primitive": "nearest", "convolution": "plain", "activation": name},
            }
        )
        for order, name in itertools.product(("before", "after"), ("relu", "elu"))
    },
    **{f"merge {merge}": tiny(**WIDE, channels_skip=[3, 2], merge=merge) for merge in ("concatenate", "add")},
    "no skip": tiny(**WIDE, channels_skip=0),
    "no 1x1": tiny(**WIDE, channels_skip=[0, 3], conv1x1_after_up=False),
    "kernels of 5": tiny(**WIDE, channels_skip=2, kernel_down=5, kernel_up=5, kernel_skip=3),
    "zero padding": tiny(**WIDE, channels_skip=2, padding="zero"),
    **{f"norm {name}": tiny(**WIDE, channels_skip=2, norm=name) for name in NORMS},
    **{f"{name} norm none": tiny(**WIDE, channels_skip=2, norm="none", activation=name) for name in ACTIVATIONS},
    **{f"activation {name}": tiny(**WIDE, channels_skip=2, activation=name) for name in ACTIVATIONS},
    **{f"upsample {name}": tiny(**WIDE, channels_skip=2, upsample=name) for name in UPSAMPLERS},
    **{f"downsample {name}": tiny(**WIDE, channels_skip=2, downsample=name) for name in DOWNSAMPLERS},
    **{
        f"{family} norm {norm}": parse_genome(EVERY_FAMILY[family].data() | {"norm": norm})
        for family, norm in itertools.product(("linked", "unet", "resnet", "pyramid"), NORMS)
    },
    **{f"unet {name}": parse_genome(EVERY_FAMILY["unet"].data() | {"upsample": name}) for name in UPSAMPLERS},
    **{
        f"{family} with a cell, {primitive}": parse_genome(
            EVERY_FAMILY[family].data() | {"upsample": CELL | {"primitive": primitive}}
        )
        for family, primitive in itertools.product(("hourglass", "linked", "unet"), ("nearest", "pixel-shuffle-last"))
    },
}


def network(genome, recompute, dtype=torch.float64):
    net = build(genome, 3, seed=1).to(dtype)
    for index, parameter in enumerate(net.parameters()):  # also what starts at 0 and 1
        with torch.no_grad():
            parameter.add_(torch.rand(parameter.shape, generator=seeded(index), dtype=torch.float64).to(dtype) / 10)
    for module in net.modules():
        if isinstance(module, Convolution):
            module.recompute = recompute
    return net


def passed(net, z):
    out = net(z)
    weight = torch.rand(out.shape, generator=seeded(9))
    (out * weight).sum().backward()
    return out.detach(), [parameter.grad for parameter in net.parameters()]


@pytest.mark.parametrize("genome", NETWORKS.values(), ids=NETWORKS)
def test_the_layout_changes_neither_output_nor_gradients(genome):
    """Fits are channels-last; contiguous maps are what torch itself is tried with most."""
    z = torch.rand(1, 4, 16, 24, generator=seeded(2), dtype=torch.float64)
    expected, truth = passed(network(genome, False), z)
    last = torch.channels_last
    out, found = passed(network(genome, False).to(memory_format=last), z.contiguous(memory_format=last))
    assert torch.allclose(out, expected, atol=1e-6)
    for ours, plain_one in zip(found, truth, strict=True):
        assert torch.allclose(ours, plain_one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("genome", NETWORKS.values(), ids=NETWORKS)
def test_recomputing_changes_neither_output_nor_gradients(genome):
    z = torch.rand(1, 4, 16, 24, generator=seeded(2), dtype=torch.float64)
    (kept, expected), (out, found) = (passed(network(genome, recompute), z) for recompute in (False, True))
    assert torch.equal(out, kept)
    for ours, plain_one in zip(found, expected, strict=True):
        # The output is float32, and biases before a norm have a gradient of rounding only.
        assert torch.allclose(ours, plain_one, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("genome", NETWORKS.values(), ids=NETWORKS)
def test_recomputing_keeps_a_gradient_of_the_input(genome):
    z = torch.rand(1, 4, 16, 16, generator=seeded(2), dtype=torch.float64, requires_grad=True)
    expected, found = (gradients(network(genome, recompute)(z), z)[0] for recompute in (False, True))
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


DOUBLING = {
    "hourglass": tiny(**WIDE, upsample="nearest"),
    "hourglass, zero padding": tiny(**WIDE, upsample="nearest", padding="zero"),
    **{f"hourglass, norm {norm}": tiny(**WIDE, upsample="nearest", norm=norm) for norm in NORMS},
    **{f"hourglass, {name}": tiny(**WIDE, upsample="nearest", activation=name) for name in ACTIVATIONS},
    "hourglass, no 1x1": tiny(**WIDE, upsample="nearest", conv1x1_after_up=False),
    "unet": parse_genome(EVERY_FAMILY["unet"].data() | {"upsample": "nearest"}),
    "linked": parse_genome(EVERY_FAMILY["linked"].data() | {"upsample": "nearest", "links": ["10", "00"]}),
    "decoder": parse_genome(EVERY_FAMILY["decoder"].data() | {"upsample": "nearest", "order": "before"}),
}


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("genome", DOUBLING.values(), ids=DOUBLING)
def test_networks_do_not_show_where_pixels_are_doubled(doubled, monkeypatch, genome, recompute):
    z = torch.rand(1, 4, 16, 24, generator=seeded(2), dtype=torch.float64)
    out, found = passed(network(genome, recompute), z)
    assert doubled
    count = len(doubled)
    monkeypatch.setattr(doubling, "LEAST_PIXELS", 2**30)
    direct, expected = passed(network(genome, recompute), z)
    assert len(doubled) == count
    assert torch.allclose(out, direct, atol=1e-6)
    for ours, plain_one in zip(found, expected, strict=True):
        assert torch.allclose(ours, plain_one, rtol=1e-5, atol=1e-7)


def held(genome, recompute):
    """Bytes alive between the forward and the backward pass."""
    net, z = network(genome, recompute, torch.float32), torch.rand(1, 4, 32, 32)
    with Meter() as meter:
        out = net(z)
    kept = meter._now
    del out
    return kept


@pytest.mark.parametrize("genome", NETWORKS.values(), ids=NETWORKS)
def test_recomputing_keeps_fewer_bytes(genome):
    assert held(genome, True) < 0.9 * held(genome, False)


def test_recomputing_keeps_outputs_of_convolutions_only():
    net = network(tiny(norm="batch", channels_skip=2, depth=2), True, torch.float32)
    made = []
    for module in net.modules():
        if isinstance(module, Convolution):
            module.register_forward_hook(lambda module, args, out: made.append(out.numel() * out.element_size()))
    with Meter() as meter:
        out = net(torch.rand(1, 4, 32, 32))
    picture = out.numel() * out.element_size()
    assert sum(made) <= meter._now <= sum(made) + 2 * picture


@pytest.mark.parametrize("frozen", [nn.BatchNorm2d, Convolution])
def test_recomputing_knows_what_is_frozen(frozen):
    z = torch.rand(1, 4, 16, 16, generator=seeded(), dtype=torch.float64)
    found = []
    for recompute in (False, True):
        net = network(tiny(norm="batch", channels_skip=2, depth=2), recompute)
        for module in net.modules():
            if isinstance(module, frozen):
                module.requires_grad_(False)
        found.append(passed(net, z)[1])
    for kept, ours in zip(*found, strict=True):
        assert (kept is None) == (ours is None) and (kept is None or torch.allclose(kept, ours, rtol=1e-6, atol=1e-9))


def test_a_copy_of_a_recomputing_network_is_another_network():
    net = network(tiny(), True)
    twin = copy.deepcopy(net)
    z = torch.rand(1, 4, 16, 16, generator=seeded(), dtype=torch.float64)
    passed(twin, z)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(parameter.grad is not None for parameter in twin.parameters())


@pytest.mark.parametrize("shape", [(7, 9), (8, 8)])
def test_a_point_that_is_spread_is_a_transposed_convolution(shape):
    theirs = nn.ConvTranspose2d(5, 5, 1, stride=2, output_padding=1)
    ours = PRIMITIVES["transposed"](5, 1)
    ours.load_state_dict(theirs.state_dict())
    z = torch.rand(1, 5, *shape, generator=seeded(0), requires_grad=True)
    made, expected = ours(z), theirs(z)
    assert torch.equal(made, expected)
    for mine, other in zip(
        gradients(made, z, *ours.parameters()), gradients(expected, z, *theirs.parameters()), strict=True
    ):
        torch.testing.assert_close(mine, other)


POINTS = """
import torch
from dipsearch.network.blocks import conv
from dipsearch.network.cell import PRIMITIVES
for make, sides in ((lambda: conv(3, 8, 1, stride=2), (64, 72)), (lambda: PRIMITIVES["transposed"](8, 1), (33, 40))):
    for _ in range(10):
        net = make().to(torch.bfloat16)
        z = torch.rand(1, next(net.parameters()).shape[1], *sides).to(torch.bfloat16)
        z = z.contiguous(memory_format=torch.channels_last).requires_grad_()
        for _ in range(8):
            net(z).float().square().mean().backward()
"""


@pytest.mark.slow
def test_kernels_of_one_pixel_with_a_stride_live_in_bfloat16():
    """torch's own end the process where bfloat16 is native, since oneDNN writes beyond its memory."""
    ended = subprocess.run([sys.executable, "-c", POINTS], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
