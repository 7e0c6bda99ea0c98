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
from dipsearch.network.meter import Meter
from dipsearch.network.shapes import SHAPES

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


DENSE = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # settings of a convolution


def calls():
    """Arguments of every operation whose shape is known without torch, on maps of one layout."""
    aten = torch.ops.aten
    x = torch.rand(2, 3, 6, 8)
    grad = torch.rand(2, 5, 6, 8)
    kernel, sides = torch.rand(5, 3, 3, 3), [12, 16]
    large = torch.rand(2, 3, 12, 16)
    pool = [[2, 2], [2, 2], [0, 0]]
    shuffled = torch.rand(2, 8, 6, 8)
    alike = dict.fromkeys(("relu", "relu_", "silu", "silu_", "elu", "elu_", "sigmoid", "ones_like"), (x,))
    alike |= dict.fromkeys(("leaky_relu", "leaky_relu_"), (x, 0.2))
    alike |= dict.fromkeys(("silu_backward", "sigmoid_backward"), (x, x))
    alike |= {
        "threshold_backward": (x, x, 0),
        "leaky_relu_backward": (x, x, 0.2, False),
        "elu_backward": (x, 1, 1, 1, False, x),
        "flip": (x, [-1]),
        "mean": (x,),
        "native_batch_norm": (x, None, None, None, None, True, 0.1, 1e-5),
        "native_batch_norm_backward": (x, x, None, None, None, *[x.new_empty(3)] * 2, True, 1e-5, [True] * 3),
        "cat": ([x, grad], 1),
        "convolution": (x, kernel, None, [2, 1], [1, 0], [1, 1], False, [0, 0], 1),
        "convolution_backward": (grad, x, kernel, [5], *DENSE, [True] * 3),
        "reflection_pad2d": (x, [1, 2, 3, 4]),
        "reflection_pad2d_backward": (torch.rand(2, 3, 8, 10), x, [1] * 4),
        "replication_pad2d": (x, [1, 2, 3, 4]),
        "replication_pad2d_backward": (torch.rand(2, 3, 8, 10), x, [1] * 4),
        "pixel_shuffle": (shuffled, 2),
        "pixel_unshuffle": (x, 2),
        "bmm": (torch.rand(3, 6, 8), torch.rand(3, 8, 5)),
        "avg_pool2d": (x, [2, 1]),
        "avg_pool2d_backward": (x, large, *pool, False, True, None),
        "max_pool2d_with_indices": (x, [2, 2], [3, 1]),
        "max_pool2d_with_indices_backward": (x, large, *pool, [1, 1], False, x.to(torch.int64)),
        "upsample_bicubic2d": (x, sides, False),
        "upsample_bilinear2d": (x, sides, False),
        "upsample_nearest2d": (x, sides),
        "upsample_nearest2d_backward": (large, sides, [2, 3, 6, 8]),
    }
    yield from ((getattr(aten, name).default, arguments) for name, arguments in alike.items())
    yield from ((each.Tensor, (x, x)) for each in (aten.add, aten.mul, aten.add_))
    yield from ((each, (x, 2)) for each in (aten.mul.Scalar, aten.div.Scalar, aten.pow.Tensor_Scalar))


CALLS = {str(func): (func, arguments) for func, arguments in calls()}


def test_every_short_cut_is_tried():
    assert {func for func, _ in CALLS.values()} == SHAPES.keys()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_the_short_cuts_give_the_shapes_of_torch(call, layout):
    """Those of real maps: of the layout of maps without memory, torch does not always keep account."""

    def placed(value, device):
        if isinstance(value, list):
            return [placed(each, device) for each in value]
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device, memory_format=layout if value.ndim == 4 else torch.preserve_format)

    func, arguments = CALLS[call]
    torchs, ours = func(*placed([*arguments], "cpu")), SHAPES[func](*placed([*arguments], "meta"))
    for a, b in zip(*(made if isinstance(made, tuple) else (made,) for made in (ours, torchs)), strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


def views():
    """Calls on maps that are parts of others, or of several layouts."""
    aten = torch.ops.aten
    last = torch.rand(2, 8, 6, 6).to(memory_format=torch.channels_last)
    plain, inner = torch.rand(2, 8, 6, 6), last[..., 1:-1, 1:-1]
    first, second = last.chunk(2, dim=1)
    yield from ((aten.cat.default, ([a, b], 1)) for a in (last, plain, last[:, :3]) for b in (last, plain, last[:, 5:]))
    yield aten.add.Tensor, (first, second)
    yield from ((func, (inner,)) for func in (aten.sigmoid.default, aten.relu.default, aten.silu.default))
    yield aten.flip.default, (last[..., :2], [-1])
    yield aten.reflection_pad2d.default, (last[..., ::2, ::2], [1] * 4)
    yield aten.reflection_pad2d_backward.default, (last, inner, [1] * 4)
    yield from ((aten.cat.default, ([x, x.double()], 1)) for x in (plain, last))
    for kernel in (torch.rand(5, 8, 1, 1), torch.rand(8, 1, 3, 3)):
        for x in (plain, last, inner):
            yield aten.convolution.default, (x, kernel, None, *DENSE[:-1], 8 // kernel.shape[1])
    yield aten.avg_pool2d.default, (plain, [3, 3], [2, 2], [1, 1], True)
    yield aten.max_pool2d_with_indices.default, (plain, [3, 3], [2, 2], [1, 1], [1, 1], True)


@pytest.mark.parametrize(("func", "arguments"), [*views()])
def test_the_short_cuts_know_parts_of_maps(func, arguments):
    def away(value):
        if isinstance(value, list):
            return [away(each) for each in value]
        if not isinstance(value, torch.Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    ours, torchs = SHAPES[func](*map(away, arguments)), func(*arguments)
    for a, b in zip(*(made if isinstance(made, tuple) else (made,) for made in (ours, torchs)), strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


def test_what_is_no_short_cuts_business_is_torchs():
    x = torch.rand(2, 3, device="meta")
    with Meter():
        assert x.mean(dtype=torch.float64).dtype == torch.ones_like(x, dtype=torch.float64).dtype == torch.float64
        assert (x.to(torch.int64) / 2).dtype == torch.float32


@pytest.mark.parametrize(("stride", "dilation", "groups", "added"), [(1, 1, 1, 0), (2, 1, 1, 1), (2, 2, 3, 0)])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_short_cut_of_a_convolution_knows_its_settings(transposed, stride, dilation, groups, added):
    x, kernel = torch.rand(1, 6, 11, 12, device="meta"), torch.rand(6, 6 // groups, 3, 4, device="meta")
    settings = (None, [stride] * 2, [1, 2], [dilation] * 2, transposed, [added * transposed] * 2, groups)
    func = torch.ops.aten.convolution.default
    assert SHAPES[func](x, kernel, *settings).shape == func(x, kernel, *settings).shape


@pytest.mark.parametrize("other", [torch.rand(1, 3, 1, 4), torch.rand(2, 3, 5, 4, dtype=torch.float64)])
def test_the_short_cut_of_a_sum_knows_unequal_maps(other):
    for func in (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor):
        x = torch.rand(2, 3, 5, 4)
        ours, torchs = SHAPES[func](x.to("meta"), other.to("meta")), func(x, other)
        assert (ours.shape, ours.dtype) == (torchs.shape, torchs.dtype)


def test_a_prediction_does_not_wait_for_torchs_compiler():
    code = (
        "import sys; from dipsearch.genome import load_genome, parse_genome; from dipsearch.network.build import cost;"
        "[cost(load_genome(name), 64, 64) for name in ('dip-denoise', 'pyramid', 'dip-resnet', 'dip-library-6')];"
        "data = load_genome('dip-denoise').data();"
        "[cost(parse_genome(data | {'upsample': name}), 64, 64) for name in ('lpf3', 'pixel-shuffle', 'transposed')];"
        "cost(parse_genome(data | {'downsample': 'lanczos2'}), 64, 64);"
        "assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
