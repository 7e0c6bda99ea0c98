"""What operations cost, and what a fit is predicted to take."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fits import EVERY_FAMILY, seeded

from dipsearch.network.build import PRECISIONS, build, cost
from dipsearch.network.convolution import Convolution
from dipsearch.network.inputs import network_input
from dipsearch.network.meter import SHAPES, Meter

DEVICES = ["cpu", "meta"]


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_let_go_does_not_count_any_more(device):
    x = torch.zeros(1000, device=device)
    with Meter() as meter:
        a = x + 1  # 4000 bytes
        b = a * 2  # 8000
        del a  # 4000
        c = torch.cat([b, b])  # 12000
        del b, c
        d = x + 1
    assert meter.peak == 12_000
    assert meter._now == d.untyped_storage().nbytes() == 4000


@pytest.mark.parametrize("device", DEVICES)
def test_views_and_changes_in_place_take_nothing(device):
    x = torch.zeros(10, 100, device=device)
    with Meter() as meter:
        y = x + 1
        y.add_(1).relu_()
        z = y.view(100, 10)[::2].transpose(0, 1)
    assert meter.peak == 4000
    assert z.untyped_storage().nbytes() == 4000


def test_what_was_there_before_does_not_count():
    x = torch.zeros(1000)
    with Meter() as meter:
        x.add_(1)
        assert x.sum().numel() == 1
    assert meter.peak <= 4 + 4000  # a view of what was there is seen for the first time


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2), (torch.float64, 8)])
def test_the_peak_of_a_known_graph(dtype, size, device):
    """x -> x exp -> sum: the exponential is kept for the backward pass, where its gradient comes to it."""
    x = torch.zeros(1000, device=device, dtype=dtype, requires_grad=True)
    with Meter() as meter:
        x.exp().sum().backward()
    kept, gradient, number = 1000 * size, 1000 * size, size
    assert kept + gradient <= meter.peak <= kept + gradient + 3 * number


@pytest.mark.parametrize("device", DEVICES)
def test_flop_of_a_convolution_and_its_backward_pass(device):
    x = torch.zeros(1, 3, 8, 8, device=device, requires_grad=True)
    kernel = torch.zeros(5, 3, 3, 3, device=device, requires_grad=True)
    once = 2 * (5 * 3 * 9) * 64
    with Meter() as meter:
        out = F.conv2d(x, kernel, padding=1)
    assert meter.flop == once
    with Meter() as meter:
        out.sum().backward()
    assert meter.flop == 2 * once


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("transposed", [False, True])
def test_groups_take_their_share_of_the_flop(transposed, groups, device):
    x = torch.zeros(1, 6, 8, 8, device=device, requires_grad=True)
    kernel = torch.zeros(6, 6 // groups, 3, 3, device=device, requires_grad=True)
    once = 2 * (6 * 6 * 9) * 64 // groups
    with Meter() as meter:
        out = (F.conv_transpose2d if transposed else F.conv2d)(x, kernel, padding=1, groups=groups)
    assert meter.flop == once
    with Meter() as meter:
        torch.autograd.grad(out.sum(), kernel, retain_graph=True)
    assert meter.flop == once
    with Meter() as meter:
        out.sum().backward()
    assert meter.flop == 2 * once


def test_the_short_cuts_give_the_shapes_of_torch():
    x = torch.rand(1, 3, 6, 8, device="meta")
    aten = torch.ops.aten
    arguments = {
        aten.native_batch_norm.default: (x, None, None, None, None, True, 0.1, 1e-5),
        aten.leaky_relu_.default: (x, 0.2),
        aten.leaky_relu_backward.default: (x, x, 0.2, False),
        aten.upsample_bicubic2d.default: (x, [12, 16], False),
        aten.upsample_bilinear2d.default: (x, [12, 16], False),
        aten.upsample_nearest2d.default: (x, [12, 16]),
    }
    for func in SHAPES.keys() & arguments.keys():
        ours, torchs = SHAPES[func](*arguments[func]), func(*arguments[func])
        for a, b in zip(*(made if isinstance(made, tuple) else (made,) for made in (ours, torchs)), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype


def measured(genome, size, recompute, precision="float32"):
    net = build(genome, 3, seed=1).to(memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, Convolution):
            module.recompute = recompute
        if not isinstance(module, torch.nn.BatchNorm2d):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(PRECISIONS[precision])
    z = network_input(genome, *net.size_rule.padded(*size), seeded()).to(PRECISIONS[precision])
    z = z.contiguous(memory_format=torch.channels_last)
    with Meter() as meter:
        net(z).square().mean().backward()
    return meter


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("genome", EVERY_FAMILY.values(), ids=EVERY_FAMILY)
def test_cost_predicts_the_step_that_runs(genome, recompute, precision):
    """Convolutions and what is alive, on the meta device as on the CPU; scratch memory is on neither."""
    meter = measured(genome, (32, 32), recompute, precision)
    small = cost(genome, 32, 32, precision=precision, recompute=recompute)
    large = cost(genome, 64, 64, precision=precision, recompute=recompute)
    assert small.gflop == pytest.approx(meter.flop / 1e9, rel=1e-6)
    growth = measured(genome, (64, 64), recompute, precision).peak - meter.peak
    pictures = 4 * (64 * 64 - 32 * 32) * (3 * genome.input.channels + 8 * 3)
    assert large.memory - small.memory - pictures == pytest.approx(growth, rel=0.1)


@pytest.mark.parametrize("genome", EVERY_FAMILY.values(), ids=EVERY_FAMILY)
def test_recomputing_and_bfloat16_each_take_less(genome):
    plain, less, half, least = (
        cost(genome, 256, 256, precision=precision, recompute=recompute)
        for precision in ("float32", "bfloat16")
        for recompute in (False, True)
    )
    assert less.memory < plain.memory and least.memory < half.memory < plain.memory and least.memory < less.memory
    assert {price.parameters for price in (plain, less, half, least)} == {plain.parameters}
    assert {price.gflop for price in (plain, less, half, least)} == {plain.gflop}


MEASURE = """
import re
from pathlib import Path

import torch

from dipsearch.fitting.engine import fit
from dipsearch.fitting.loop import Fitting
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import load_genome, parse_genome
from dipsearch.operator import Identity


def now(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])


genome = load_genome("dip-denoise")
small = parse_genome(genome.data() | {"channels_down": 8, "channels_up": 8})
fit(small, torch.rand(1, 3, 64, 64), device="cpu", precision="float32", iterations=2)  # what a process takes once
before = now("VmRSS")
recipe = Recipe(iterations=12, precision="float32")
fitting = Fitting(genome, torch.rand(1, 3, 192, 192), Identity(), recipe, device="cpu")
fitting.advance()
print(fitting.plan.memory, now("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_fit_takes_the_memory_that_was_predicted(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    predicted, taken = map(int, done.stdout.split())
    assert taken == pytest.approx(predicted, rel=0.25), f"{taken / 2**20:.0f} MiB, predicted {predicted / 2**20:.0f}"
