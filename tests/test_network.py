"""Networks: weights, sizes, parts with known answers, inputs and cost."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dipsearch import catalog
from dipsearch.error import UsageError
from dipsearch.genome import (
    Decoder,
    FourierInput,
    Genome,
    GuideInput,
    Hourglass,
    Linked,
    MeshgridInput,
    NoiseInput,
    Pyramid,
    ResNet,
    UNet,
    load_genome,
    parse_genome,
)
from dipsearch.network.blocks import ACTIVATIONS, NORMS, PADDINGS, conv
from dipsearch.network.build import FAMILIES, build, cost, parameter_count
from dipsearch.network.inputs import INPUTS, network_input
from dipsearch.network.resampling import (
    DOWNSAMPLERS,
    FIR_FILTERS,
    FIXED_UPSAMPLERS,
    UPSAMPLERS,
    FixedFilter,
    Lanczos2,
    lanczos2_kernel,
)
from dipsearch.network.size import SizeRule, centre_crop
from dipsearch.space import load_space

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
SMALL = {
    "hourglass": Hourglass(depth=2, channels_down=4, channels_up=4, channels_skip=2, input=NoiseInput(channels=3)),
    "linked": Linked(depth=2, channels=4, links=["11", "10"], input=NoiseInput(channels=3)),
    "unet": UNet(depth=2, width=2, input=NoiseInput(channels=3)),
    "resnet": ResNet(blocks=2, channels=4, input=NoiseInput(channels=3)),
    "pyramid": Pyramid(scales=3, channels=3, input=NoiseInput(channels=3)),
    "decoder": Decoder(depth=2, channels=4, kernel=3, input=NoiseInput(channels=3)),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


GUIDE = torch.rand(1, 3, 97, 97, generator=torch.Generator().manual_seed(9))


def check(genome: Genome, height: int, width: int, image_channels: int = 3, *, exact: bool = False) -> None:
    """What every network promises at a size, with a backward pass."""
    net = build(genome, image_channels, seed=0)
    padded = (height, width) if exact else net.size_rule.padded(height, width)
    assert padded[0] >= height and padded[1] >= width
    x = net(network_input(genome, *padded, seeded(), GUIDE[..., :height, :width]))
    assert x.shape == (1, image_channels, *padded)
    assert x.min() > 0 and x.max() < 1
    assert x.max() > x.min()
    (x - 0.25).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(parameter.grad.abs().max() > 0 for parameter in net.parameters())


# Weights


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


TWO_LEVELS = Hourglass(
    depth=2,
    channels_down=[4, 6],
    channels_up=[5, 7],
    channels_skip=[2, 3],
    kernel_down=[3, 5],
    kernel_up=[5, 3],
    kernel_skip=[1, 3],
    input=NoiseInput(channels=8),
)


def layers_by_hand() -> list[nn.Conv2d]:
    """Plain layers of TWO_LEVELS, created in the order of the original code."""
    return [
        nn.Conv2d(8, 2, 1),  # level 0: skip
        nn.Conv2d(8, 4, 3),  # down
        nn.Conv2d(4, 4, 3),  # refine
        nn.Conv2d(2 + 7, 5, 5),  # up
        nn.Conv2d(5, 5, 1),  # 1x1
        nn.Conv2d(4, 3, 3),  # level 1: skip
        nn.Conv2d(4, 6, 5),  # down
        nn.Conv2d(6, 6, 5),  # refine
        nn.Conv2d(3 + 6, 7, 3),  # up
        nn.Conv2d(7, 7, 1),  # 1x1
        nn.Conv2d(5, 3, 1),  # head
    ]


def test_weights_are_drawn_in_the_order_of_the_original_code() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        plain = layers_by_hand()
    built = convolutions(build(TWO_LEVELS, seed=5))
    assert len(built) == len(plain)
    for ours, theirs in zip(built, plain, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)


def test_levels_without_skip_or_1x1_draw_no_weights_for_them() -> None:
    genome = Hourglass(depth=1, channels_down=4, channels_up=5, channels_skip=0, conv1x1_after_up=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        plain = [nn.Conv2d(32, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 1, 1)]
    built = convolutions(build(genome, 1, seed=1))
    assert [torch.equal(ours.weight, theirs.weight) for ours, theirs in zip(built, plain, strict=True)] == [True] * 4


def normalised(x: Tensor) -> Tensor:
    """Batch norm of one picture, as freshly built."""
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def test_hourglass_computes_what_the_paper_says() -> None:
    """A second writing, in plain functions: skip first, norm right after merging, 1x1 blocks, sigmoid."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layers = iter(layers_by_hand())
    levels = [[next(layers) for _ in range(5)] for _ in range(2)]
    head = next(layers)

    def block(x: Tensor, layer: nn.Conv2d, stride: int = 1) -> Tensor:
        pad = layer.kernel_size[0] // 2
        x = F.pad(x, (pad, pad, pad, pad), mode="reflect") if pad else x
        x = normalised(F.conv2d(x, layer.weight, layer.bias, stride))
        return torch.where(x > 0, x, 0.2 * x)

    def level(x: Tensor, index: int) -> Tensor:
        skip, down, refine, up, mix = levels[index]
        deep = block(block(x, down, stride=2), refine)
        deep = level(deep, index + 1) if index + 1 < len(levels) else deep
        deep = F.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=False)
        return block(block(normalised(torch.cat([block(x, skip), deep], dim=1)), up), mix)

    z = torch.rand(1, 8, 24, 32, generator=seeded())
    with torch.no_grad():
        expected = 1 / (1 + (-F.conv2d(level(z, 0), head.weight, head.bias)).exp())
        assert torch.allclose(build(TWO_LEVELS, seed=5)(z), expected, atol=1e-5)


def test_unet_computes_what_the_paper_says() -> None:
    """Norm in the encoder only, the doubled map first, then the encoder's."""
    net = build(UNet(depth=1, width=2), seed=5)
    layers = convolutions(net)
    (enlarge,) = (module for module in net.modules() if isinstance(module, nn.ConvTranspose2d))

    def pair(x: Tensor, first: int, norm: nn.Module) -> Tensor:
        for layer in layers[first : first + 2]:
            x = norm(F.conv2d(x, layer.weight, layer.bias, padding=1)).relu()
        return x

    z = torch.rand(1, 32, 8, 12, generator=seeded())
    with torch.no_grad():
        encoded = pair(z, 0, nn.InstanceNorm2d(2))
        deep = pair(F.max_pool2d(encoded, 2), 2, nn.InstanceNorm2d(4))
        doubled = F.conv_transpose2d(deep, enlarge.weight, enlarge.bias, stride=2, padding=1)
        decoded = pair(torch.cat([doubled, encoded], dim=1), 4, nn.Identity())
        expected = F.conv2d(decoded, layers[6].weight, layers[6].bias).sigmoid()
        assert torch.allclose(net(z), expected, atol=1e-6)


def test_resnet_computes_what_the_paper_says() -> None:
    """Blocks add to what they are given, without an activation after the sum."""
    net = build(ResNet(blocks=2, channels=4), seed=5)
    layers = convolutions(net)

    def layer(x: Tensor, index: int, mode: str) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), layers[index].weight, layers[index].bias)

    z = torch.rand(1, 32, 8, 12, generator=seeded())
    with torch.no_grad():
        x = F.leaky_relu(layer(z, 0, "reflect"), 0.2)
        for first in (1, 3):
            change = F.leaky_relu(normalised(layer(x, first, "constant")), 0.2)
            x = x + normalised(layer(change, first + 1, "constant"))
        expected = layer(normalised(layer(x, 5, "constant")), 6, "reflect").sigmoid()
        assert torch.allclose(net(z), expected, atol=1e-5)


@pytest.mark.parametrize(("kernel", "order"), [(1, "after"), (3, "after"), (3, "before")])
def test_decoder_computes_what_the_papers_say(kernel: int, order: str) -> None:
    """Convolutions without bias, ReLU before the norm, and a last layer that keeps the size."""
    genome = Decoder(depth=2, channels=4, kernel=kernel, order=order, padding="zero", input=NoiseInput(channels=3))
    net = build(genome, seed=5)
    layers = convolutions(net)
    assert [layer.bias for layer in layers] == [None] * 4

    def double(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    z = torch.rand(1, 3, 8, 12, generator=seeded())
    with torch.no_grad():
        x = z[:, :, 2::4, 2::4]
        for layer in layers[:2]:
            x = double(x) if order == "before" else x
            x = F.conv2d(x, layer.weight, padding=kernel // 2)
            x = normalised((double(x) if order == "after" else x).relu())
        x = normalised(F.conv2d(x, layers[2].weight, padding=kernel // 2).relu())
        expected = F.conv2d(x, layers[3].weight).sigmoid()
        assert torch.allclose(net(z), expected, atol=1e-6)


def test_the_low_resolution_input_of_a_decoder_has_the_deviation_of_z() -> None:
    z = torch.rand(1, 3, 256, 256, generator=seeded())
    net, seen = build(Decoder(depth=3, channels=2, input=NoiseInput(channels=3))), []
    net.body[0].conv.register_forward_hook(lambda module, given, made: seen.append(given[0].tensor()))
    net(z)
    assert seen[0].shape == (1, 3, 32, 32)
    assert seen[0].std().item() == pytest.approx(z.std().item(), rel=0.03)
    assert seen[0].mean().item() == pytest.approx(z.mean().item(), rel=0.03)


def test_added_skips_take_the_width_of_what_they_are_added_to() -> None:
    genome = parse_genome(TWO_LEVELS.data() | {"merge": "add"})
    skips = [module.skip.conv for module in build(genome).modules() if getattr(module, "skip", None) is not None]
    assert [skip.out_channels for skip in skips] == [7, 6]


@pytest.mark.parametrize("genome", SMALL.values(), ids=SMALL)
def test_a_seed_gives_the_weights_and_leaves_the_global_generator_alone(genome: Genome) -> None:
    before = torch.random.get_rng_state()
    one, same, other = build(genome, seed=3), build(genome, seed=3), build(genome, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    states = [net.state_dict() for net in (one, same, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize("genome", SMALL.values(), ids=SMALL)
def test_without_a_seed_the_global_generator_gives_the_weights(genome: Genome) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        free = build(genome)
        again = build(genome)
    kept = build(genome, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(free.parameters(), kept.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(free.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("genome", SMALL.values(), ids=SMALL)
def test_equal_weights_and_input_give_equal_pictures(genome: Genome) -> None:
    with torch.no_grad():
        one, same = (build(genome, 2, seed=1)(network_input(genome, 16, 24, seeded())) for _ in range(2))
    assert torch.equal(one, same)


# Parameter counts by formula


@quick
@given(data=st.data(), depth=st.integers(1, 3), image_channels=st.sampled_from([1, 3, 4]), mix=st.booleans())
def test_hourglass_count(data: st.DataObject, depth: int, image_channels: int, mix: bool) -> None:
    def a_list(values: st.SearchStrategy[int]) -> list[int]:
        return data.draw(st.lists(values, min_size=depth, max_size=depth))

    down, up, skip = a_list(st.integers(1, 9)), a_list(st.integers(1, 9)), a_list(st.integers(0, 5))
    kernels = [a_list(st.sampled_from([1, 3, 5])) for _ in range(3)]
    genome = Hourglass(
        depth=depth, channels_down=down, channels_up=up, channels_skip=skip,
        kernel_down=kernels[0], kernel_up=kernels[1], kernel_skip=kernels[2], conv1x1_after_up=mix,
    )  # fmt: skip
    expected, entering = image_channels * (up[0] + 1), 32
    for d, u, s, kd, ku, ks, k in zip(down, up, skip, *kernels, [*up[1:], down[-1]], strict=True):
        expected += s * (entering * ks**2 + 1) + 2 * s + 2 * (s + k)
        expected += d * (entering * kd**2 + 1) + 2 * d + d * (d * kd**2 + 1) + 2 * d
        expected += u * ((s + k) * ku**2 + 1) + 2 * u + (u * (u + 1) + 2 * u if mix else 0)
        entering = d
    assert parameter_count(build(genome, image_channels)) == expected


@pytest.mark.parametrize(("blocks", "width", "entering", "out"), [(1, 4, 2, 1), (3, 5, 8, 3), (2, 1, 1, 2)])
def test_resnet_count(blocks: int, width: int, entering: int, out: int) -> None:
    genome = ResNet(blocks=blocks, channels=width, input=NoiseInput(channels=entering))
    chain = blocks * (2 * 9 * width**2 + 4 * width)
    ends = 9 * entering * width + width + 9 * width**2 + width + 2 * width + 9 * width * out + out
    assert parameter_count(build(genome, out)) == chain + ends


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize(("depth", "plain"), [(1, 0), (2, 0), (2, 1), (3, 2)])
def test_unet_count(depth: int, plain: int, norm: str) -> None:
    genome = UNet(depth=depth, plain_depth=plain, width=2, norm=norm, input=NoiseInput(channels=5))
    widths = [2 * 2 ** min(level, depth) for level in range(depth + plain + 1)]

    def pair(a: int, b: int, scale_and_shift: int) -> int:
        return 9 * a * b + b + 9 * b * b + b + 2 * 2 * b * scale_and_shift

    learned = 1 if norm == "batch" else 0  # instance norm has nothing to learn, and only the encoder has a norm
    encoder = sum(pair(a, b, learned) for a, b in zip([5, *widths], widths, strict=False))
    decoder = sum(16 * b * a + a + pair(2 * a, a, 0) for a, b in itertools.pairwise(widths))
    assert parameter_count(build(genome, 3)) == encoder + decoder + 3 * (widths[0] + 1)


@pytest.mark.parametrize(("scales", "width"), [(2, 3), (3, 8), (6, 8)])
def test_pyramid_count(scales: int, width: int) -> None:
    def triple(a: int, b: int) -> int:
        return 9 * a * b + 9 * b * b + b * b + 3 * (b + 2 * b)

    entries = scales * triple(32, width)
    norms = sum(2 * width * scale + 2 * width for scale in range(1, scales))
    merges = sum(triple(width * scale, width * scale) for scale in range(2, scales + 1))
    genome = Pyramid(scales=scales, channels=width)
    assert parameter_count(build(genome, 3)) == entries + norms + merges + 3 * (width * scales + 1)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(("depth", "width", "entering", "kernel"), [(1, 4, 2, 1), (5, 128, 128, 1), (2, 3, 5, 3)])
def test_decoder_count(depth: int, width: int, entering: int, kernel: int, order: str) -> None:
    genome = Decoder(depth=depth, channels=width, kernel=kernel, order=order, input=NoiseInput(channels=entering))
    weights = entering * width * kernel**2 + depth * width**2 * kernel**2 + 3 * width
    assert parameter_count(build(genome, 3)) == weights + (depth + 1) * 2 * width


# Every part with every other


AXES = {
    "upsample": list(UPSAMPLERS),
    "downsample": list(DOWNSAMPLERS),
    "merge": ["concatenate", "add"],
    "norm": list(NORMS),
    "padding": list(PADDINGS),
    "activation": list(ACTIVATIONS),
    "conv1x1_after_up": [True, False],
    "input": list(INPUTS),
}


def every_pair() -> Iterator[dict[str, object]]:
    """Genes in which each choice of an axis meets each choice of every other axis."""
    seen = set()
    for one, other in itertools.combinations(AXES, 2):
        for pair in itertools.product(AXES[one], AXES[other]):
            genes = {name: choices[0] for name, choices in AXES.items()} | dict(zip((one, other), pair, strict=True))
            if tuple(genes.values()) not in seen:
                seen.add(tuple(genes.values()))
                yield genes


@pytest.mark.parametrize("genes", list(every_pair()), ids=lambda genes: "-".join(map(str, genes.values())))
def test_every_pair_of_parts_works_in_an_hourglass(genes: dict[str, object]) -> None:
    tiny = {"family": "hourglass", "depth": 2, "channels_down": [4, 6], "channels_up": [5, 4], "channels_skip": [2, 0]}
    genome = parse_genome(tiny | genes | {"input": {"kind": genes["input"]}})
    check(genome, 16, 17, image_channels=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_norm_and_padding_works_in_every_family(family: str, norm: str, padding: str) -> None:
    genome = parse_genome(SMALL[family].data() | {"norm": norm, "padding": padding})
    check(genome, 17, 16, image_channels=4)


@pytest.mark.parametrize("upsample", UPSAMPLERS)
def test_every_upsampler_works_in_a_unet(upsample: str) -> None:
    check(UNet(depth=2, plain_depth=1, width=2, upsample=upsample), 31, 16)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("upsample", UPSAMPLERS)
def test_every_upsampler_works_in_a_decoder(upsample: str, kernel: int, order: str) -> None:
    check(Decoder(depth=2, channels=4, kernel=kernel, upsample=upsample, order=order), 4, 9)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_input_works_in_every_family(family: str, kind: str) -> None:
    check(parse_genome(SMALL[family].data() | {"input": {"kind": kind}}), 16, 16)


# Sizes


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (16, 16), (17, 33), (31, 97), (97, 16), (64, 65)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_at_every_size(family: str, size: tuple[int, int]) -> None:
    check(SMALL[family], *size)


@pytest.mark.parametrize(
    "genome",
    [
        *SMALL.values(),
        Hourglass(depth=1, channels_down=2, channels_up=2, kernel_down=1, kernel_up=1),
        Hourglass(depth=1, channels_down=2, channels_up=2, kernel_down=7),
        Hourglass(depth=2, channels_down=2, channels_up=2, kernel_down=[1, 9], kernel_up=[11, 1], channels_skip=0),
        Hourglass(depth=2, channels_down=2, channels_up=2, kernel_down=[15, 1], downsample="max"),
        Hourglass(depth=2, channels_down=2, channels_up=2, kernel_up=[1, 15], downsample="lanczos2"),
        Hourglass(depth=3, channels_down=2, channels_up=2, kernel_down=5, padding="zero", norm="instance"),
        Hourglass(depth=1, channels_down=2, channels_up=2, channels_skip=2, kernel_skip=15),
        Hourglass(depth=2, channels_down=2, channels_up=2, kernel_down=1, kernel_up=1, kernel_skip=[1, 9]),
        Linked(depth=1, channels=2, links=["1"], upsample="nearest"),
        Linked(depth=3, channels=2, links=["111", "111", "111"], padding="zero", norm="instance"),
        UNet(depth=1, width=2, padding="reflect", upsample="bicubic"),
        UNet(depth=2, plain_depth=2, width=1),
        Pyramid(scales=2, channels=2, norm="instance"),
        Decoder(depth=1, channels=2, upsample="nearest"),
        Decoder(depth=3, channels=4, kernel=5, order="before", upsample="kaiser60"),
        Decoder(depth=2, channels=4, kernel=7, order="after", upsample="transposed"),
        Decoder(depth=2, channels=4, kernel=3, padding="zero", norm="instance"),
    ],
    ids=lambda genome: genome.summary(),
)
def test_the_smallest_allowed_size_works(genome: Genome) -> None:
    rule = build(genome).size_rule
    least = rule.padded(1, 1)[0]
    assert least == max(rule.minimum, rule.multiple_of)
    check(genome, least, least, exact=True)
    check(genome, least, least + rule.multiple_of, exact=True)


@settings(quick, max_examples=100)
@given(multiple_of=st.integers(1, 64), minimum=st.integers(1, 256), side=st.integers(1, 500))
def test_padded_side_is_the_smallest_allowed_one(multiple_of: int, minimum: int, side: int) -> None:
    padded, again = SizeRule(minimum, multiple_of).padded(side, side)
    assert padded == again
    assert padded % multiple_of == 0
    assert padded >= max(side, minimum) > padded - multiple_of


def test_size_rules_of_the_named_networks() -> None:
    assert build(load_genome("dip-denoise")).size_rule == SizeRule(minimum=64, multiple_of=32)
    assert build(load_genome("dip-library-unet")).size_rule == SizeRule(minimum=64, multiple_of=32)
    assert build(load_genome("nas-dip-sr")).size_rule == SizeRule(minimum=64, multiple_of=32)
    assert build(load_genome("dip-library-resnet")).size_rule == SizeRule(minimum=2, multiple_of=1)
    assert build(load_genome("dip-texture")).size_rule == SizeRule(minimum=64, multiple_of=32)
    assert build(load_genome("deep-decoder")).size_rule == SizeRule(minimum=64, multiple_of=32)


@pytest.mark.parametrize("size", [(33, 64), (100, 100), (127, 65), (50, 333)], ids=str)
def test_a_skip_at_full_resolution_restores_any_size(size: tuple[int, int]) -> None:
    genome = Hourglass(channels_down=2, channels_up=2, channels_skip=1)
    check(genome, *size, exact=True)


def test_without_skips_the_size_is_rounded_up() -> None:
    genome = Hourglass(channels_down=2, channels_up=2, channels_skip=0)
    z = network_input(genome, 100, 65, seeded())
    assert build(genome)(z).shape[-2:] == (128, 96)


@pytest.mark.parametrize("count", [1, 2])
def test_several_inputs_give_several_pictures(count: int) -> None:
    for genome in SMALL.values():
        z = torch.rand(count, genome.input.channels, 16, 16, generator=seeded())
        assert build(genome, 3)(z).shape == (count, 3, 16, 16)


def test_centre_crop_keeps_the_middle() -> None:
    x = torch.arange(5.0).expand(1, 1, 4, 5)
    assert centre_crop(x, 4, 2)[0, 0, 0].tolist() == [1, 2]
    assert centre_crop(x, 4, 3)[0, 0, 0].tolist() == [1, 2, 3]
    assert centre_crop(x.mT, 3, 4)[0, 0, :, 0].tolist() == [1, 2, 3]
    assert centre_crop(x, 4, 5) is x


# Genomes of the built-in spaces


def thin(genome: Genome) -> Genome:
    """The same structure with narrow layers: widths decide how long a pass takes."""
    narrow: dict[str, dict[str, object]] = {
        "hourglass": {"channels_down": 6, "channels_up": 5},
        "linked": {"channels": 16},
        "unet": {"width": 2, "activation": "leaky-relu"},  # behind two channels of ReLU, all may be zero
        "resnet": {"channels": 4},
        "pyramid": {"channels": 2},
        "decoder": {"channels": 4},
    }
    return parse_genome(genome.data() | narrow[genome.family])


def affordable(genome: Genome, height: int, width: int) -> Genome:
    with torch.device("meta"):
        net = build(genome)
    padded = net.size_rule.padded(height, width)
    return genome if parameter_count(net) * math.prod(padded) < 1e9 else thin(genome)


@pytest.mark.slow
@pytest.mark.parametrize("space", catalog.names("search_spaces"))
@quick
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(16, 97),
    width=st.integers(16, 97),
    image_channels=st.sampled_from([1, 3]),
)
@example(seed=0, height=16, width=97, image_channels=3)
@example(seed=1, height=97, width=97, image_channels=1)
@example(seed=2, height=16, width=16, image_channels=3)
def test_genomes_of_a_space_at_any_size(space: str, seed: int, height: int, width: int, image_channels: int) -> None:
    genome = affordable(load_space(space).sample(seed), height, width)
    check(genome, height, width, image_channels)


# Resampling


@pytest.mark.parametrize(("factor", "largest"), [(4, 0.05746), (8, 0.01508)])
def test_lanczos2_kernel_is_the_paper_s(factor: int, largest: float) -> None:
    kernel = lanczos2_kernel(factor)
    assert kernel.shape == (4 * factor, 4 * factor)
    assert kernel.max().item() == pytest.approx(largest, abs=5e-6)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_lanczos2_kernel_is_symmetric_and_sums_to_one(factor: int) -> None:
    kernel = lanczos2_kernel(factor)
    assert kernel.double().sum().item() == pytest.approx(1, abs=1e-6)
    for flipped in (kernel.flip(0), kernel.flip(1), kernel.mT):
        assert torch.allclose(kernel, flipped, atol=1e-8)
    assert kernel.min() < 0  # the outer lobes


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_lanczos2_keeps_constants_and_floors_sides(factor: int) -> None:
    for height, width in ((16, 24), (17, 31), (factor, 2 * factor)):
        x = torch.full((2, 3, height, width), 0.3)
        down = Lanczos2(factor)(x)
        assert down.shape == (2, 3, height // factor, width // factor)
        assert torch.allclose(down, torch.tensor(0.3), atol=1e-6)


def test_lanczos2_keeps_ramps_away_from_the_edge() -> None:
    x = torch.arange(64.0).expand(1, 1, 64, 64)
    line = Lanczos2(4)(x)[0, 0, 8]
    assert torch.allclose(line[2:-2], (torch.arange(16.0) * 4 + 1.5)[2:-2], atol=1e-3)


def test_lanczos2_works_on_each_channel_alone_and_in_double() -> None:
    x = torch.rand(1, 3, 16, 16, generator=seeded(), dtype=torch.float64)
    down = Lanczos2(2)(x)
    assert down.dtype == torch.float64
    assert torch.allclose(down[:, 1:2], Lanczos2(2)(x[:, 1:2]))
    assert not list(Lanczos2(2).parameters()) and not Lanczos2(2).state_dict()


@pytest.mark.parametrize("name", UPSAMPLERS)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 4, 4), (3, 5, 7), (8, 2, 3)])
def test_upsamplers_double_both_sides_and_keep_channels(name: str, channels: int, height: int, width: int) -> None:
    x = torch.rand(2, channels, height, width, generator=seeded())
    assert UPSAMPLERS[name](channels)(x).shape == (2, channels, 2 * height, 2 * width)


@pytest.mark.parametrize("name", [name for name in DOWNSAMPLERS if DOWNSAMPLERS[name] is not None])
def test_downsamplers_halve_both_sides_and_keep_channels(name: str) -> None:
    x = torch.rand(2, 3, 8, 12, generator=seeded())
    down = DOWNSAMPLERS[name]()
    assert down(x).shape == (2, 3, 4, 6)
    assert torch.allclose(down(torch.full((1, 1, 8, 8), 0.7)), torch.tensor(0.7))
    assert not list(down.parameters())


@pytest.mark.parametrize("name", DOWNSAMPLERS)
def test_every_downsampler_halves_inside_a_level(name: str) -> None:
    genome = Hourglass(depth=1, channels_down=2, channels_up=2, channels_skip=0, downsample=name)
    z = torch.rand(1, 32, 16, 8, generator=seeded())
    assert build(genome).body.down(z).tensor().shape == (1, 2, 8, 4)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nearest", [0, 0, 4, 4, 8, 8]),
        ("bilinear", [0, 1, 3, 5, 7, 8]),
        ("bilinear-corners", [0, 1.6, 3.2, 4.8, 6.4, 8]),
        ("lpf2", [0, 2, 4, 6, 8, 8]),
    ],
)
def test_known_answers_of_upsamplers(name: str, line: list[float]) -> None:
    x = torch.tensor([0.0, 4.0, 8.0]).expand(1, 1, 3, 3)
    assert UPSAMPLERS[name](1)(x)[0, 0, 2].tolist() == pytest.approx(line)


def zeros_then_filter(x: Tensor, taps: tuple[float, ...]) -> Tensor:
    """Upsampling by a fixed filter as it is defined."""
    reach = len(taps) // 2
    long = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    long[..., ::2, ::2] = x
    line = 2 * torch.tensor(taps, dtype=x.dtype)
    kernel = torch.outer(line, line).expand(x.shape[1], 1, len(taps), len(taps))
    return F.conv2d(F.pad(long, (reach,) * 4, mode="reflect"), kernel, groups=x.shape[1])


@pytest.mark.parametrize("size", [(5, 5), (9, 6), (16, 31)], ids=str)
@pytest.mark.parametrize("name", FIR_FILTERS)
def test_fixed_filters_are_zeros_then_a_filter(name: str, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=seeded(), dtype=torch.float64)
    assert torch.allclose(UPSAMPLERS[name](3)(x), zeros_then_filter(x, FIR_FILTERS[name]), atol=1e-12)


@pytest.mark.parametrize("name", FIR_FILTERS)
def test_fixed_filters_answer_an_impulse_with_their_taps(name: str) -> None:
    x = torch.zeros(1, 1, 16, 20)
    x[0, 0, 7, 9] = 1
    taps = torch.tensor(FIR_FILTERS[name])
    reach = len(taps) // 2
    y = UPSAMPLERS[name](1)(x)[0, 0]
    assert torch.allclose(y[14 - reach : 15 + reach, 18 - reach : 19 + reach], 4 * torch.outer(taps, taps), atol=1e-7)
    assert y.abs().sum().item() == pytest.approx(4 * taps.abs().sum().item() ** 2, rel=1e-5)  # nothing elsewhere


# what a filter makes of a constant is 1 + leak and 1 - leak in turn, in each direction
@pytest.mark.parametrize(
    ("name", "even", "odd"),
    [("lpf2", 1, 1), ("lpf3", 2 * 0.536, 4 * (0.3389 - 0.107)), ("kaiser60", 1, 1), ("kaiser100", 1, 1)],
)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 20)], ids=str)
def test_fixed_filters_keep_a_constant(name: str, even: float, odd: float, size: tuple[int, int]) -> None:
    y = UPSAMPLERS[name](1)(torch.full((1, 1, *size), 0.5))[0, 0]
    for (row, first), (column, second) in itertools.product(enumerate((even, odd)), repeat=2):
        assert torch.allclose(y[row::2, column::2], torch.tensor(0.5 * first * second), atol=1e-4)


@pytest.mark.parametrize(("name", "attenuation", "edge"), [("kaiser60", 60, 0.8), ("kaiser100", 95, 0.9)])
def test_kaiser_filters_have_the_stop_band_that_they_are_named_for(name: str, attenuation: float, edge: float) -> None:
    taps = FIR_FILTERS[name]
    window = ("kaiser", scipy.signal.kaiser_beta(float(name.removeprefix("kaiser"))))
    assert np.allclose(taps, scipy.signal.firwin(17, 0.5, window=window), atol=1e-12)
    frequencies, response = scipy.signal.freqz(taps, worN=1024)
    assert np.abs(response[frequencies >= edge * np.pi]).max() < 10 ** (-attenuation / 20)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FIR_FILTERS)
def test_fixed_filters_follow_type_and_layout_and_learn_nothing(name: str, dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 6, 5, generator=seeded()).to(memory_format=torch.channels_last)
    layer = UPSAMPLERS[name](3)
    y = layer(x.to(dtype))
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(y.float(), layer(x.contiguous()), atol=0.03 if dtype == torch.bfloat16 else 1e-5)
    assert not list(layer.parameters()) and not layer.state_dict()


def test_a_fixed_filter_that_was_looked_at_can_be_trained_through() -> None:
    layer, x = FixedFilter(FIR_FILTERS["lpf3"]), torch.rand(1, 2, 4, 4, generator=seeded())
    with torch.inference_mode():
        seen = layer(x)
    x.requires_grad_(True)
    layer(x).sum().backward()
    assert torch.equal(layer(x), seen) and x.grad is not None


def test_a_fixed_filter_has_the_gradient_of_its_values() -> None:
    x = torch.rand(1, 2, 3, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FixedFilter(FIR_FILTERS["lpf3"]), (x,))


def test_fixed_upsamplers_are_those_without_weights() -> None:
    learned = [name for name in UPSAMPLERS if parameter_count(UPSAMPLERS[name](3))]
    assert sorted([*learned, *FIXED_UPSAMPLERS]) == sorted(UPSAMPLERS)


@pytest.mark.parametrize(("name", "value"), [("average", 2.5), ("max", 4.0)])
def test_known_answers_of_downsamplers(name: str, value: float) -> None:
    assert DOWNSAMPLERS[name]()(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).item() == value


# Blocks


@pytest.mark.parametrize(
    ("name", "below", "above"),
    [
        ("leaky-relu", -0.4, 3.0),
        ("relu", 0.0, 3.0),
        ("swish", -2 / (1 + math.e**2), 3 / (1 + math.e**-3)),
        ("elu", math.e**-2 - 1, 3.0),
        ("none", -2.0, 3.0),
    ],
)
def test_known_answers_of_activations(name: str, below: float, above: float) -> None:
    assert ACTIVATIONS[name]()(torch.tensor([-2.0, 3.0])).tolist() == pytest.approx([below, above], abs=1e-6)


@pytest.mark.parametrize(("name", "learned"), [("batch", 6), ("instance", 0), ("none", 0)])
def test_norms(name: str, learned: int) -> None:
    norm = NORMS[name](3)
    assert parameter_count(norm) == learned
    x = 5 + 2 * torch.rand(1, 3, 8, 8, generator=seeded())
    y = norm(x)
    if name == "none":
        assert torch.equal(x, y)
    else:
        assert y.mean((2, 3)).abs().max() < 1e-4
        assert torch.allclose(y.var((2, 3), unbiased=False), torch.tensor(1.0), atol=1e-3)


def test_scales_of_batch_norm_begin_at_one_or_between_zero_and_one() -> None:
    assert bool((NORMS["batch"](1000).weight == 1).all())
    torch.manual_seed(0)
    norm = NORMS["batch-uniform"](1000)
    scales = norm.weight.detach()
    assert (
        0 <= scales.min() < 0.02 and 0.98 < scales.max() <= 1 and scales.mean().item() == pytest.approx(0.5, abs=0.03)
    )
    assert not norm.bias.any()
    x = torch.rand(1, 1000, 4, 4, generator=seeded())
    assert torch.allclose(norm(x), NORMS["batch"](1000)(x) * scales[:, None, None], atol=1e-5)


@pytest.mark.parametrize(("padding", "line"), [("reflect", [4, 4, 6, 8, 8]), ("zero", [2, 4, 6, 8, 4])])
def test_paddings_at_the_edge(padding: str, line: list[float]) -> None:
    layer = conv(1, 1, 3, bias=False, padding=padding)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.weight[0, 0, 1] = torch.tensor([1.0, 0.0, 1.0])
        y = layer(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).expand(1, 1, 5, 5))
    assert y[0, 0, 2].tolist() == line


# The input z


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_have_the_promised_shape_and_repeat(kind: str) -> None:
    genome = parse_genome({"family": "resnet", "input": {"kind": kind}})
    guide = GUIDE[..., :9, :14]
    z = network_input(genome, 9, 14, seeded(1), guide)
    assert z.shape == (1, genome.input.channels, 9, 14)
    assert z.dtype == torch.float32 and z.isfinite().all() and not z.requires_grad
    assert torch.equal(z, network_input(genome, 9, 14, seeded(1), guide))
    assert network_input(genome, 1, 1, seeded(), GUIDE[..., :1, :1]).shape == (1, genome.input.channels, 1, 1)


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_leave_the_global_generator_alone(kind: str) -> None:
    before = torch.random.get_rng_state()
    network_input(parse_genome({"family": "resnet", "input": {"kind": kind}}), 8, 8, seeded(), GUIDE[..., :8, :8])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("channels", "scale"), [(1, 0.1), (32, 0.1), (3, 2.5)])
def test_noise_is_uniform_up_to_its_scale(channels: int, scale: float) -> None:
    genome = ResNet(input=NoiseInput(channels=channels, scale=scale))
    z = network_input(genome, 64, 64, seeded())
    assert z.shape[1] == channels
    assert 0 <= z.min() < 0.01 * scale and 0.99 * scale < z.max() <= scale
    assert z.mean().item() == pytest.approx(scale / 2, rel=0.05)
    assert not torch.equal(z, network_input(genome, 64, 64, seeded(1)))


def test_a_guide_stands_in_the_middle_of_its_border():
    z = network_input(ResNet(input=GuideInput()), 12, 16, seeded(), GUIDE[..., :9, :13])
    assert torch.equal(z[..., 1:10, 1:14], GUIDE[..., :9, :13])
    for row, border in ((0, 1), (10, 9), (11, 9)):
        assert torch.equal(z[..., row, :], z[..., border, :])
    for column, border in ((0, 1), (14, 13), (15, 13)):
        assert torch.equal(z[..., column], z[..., border])


@pytest.mark.parametrize(
    ("guide", "message"),
    [(None, "none was given"), (GUIDE[:, :1], r"guide is \(1, 3, H, W\), got \(1, 1"), (GUIDE[0], "got")],
)
def test_a_guide_has_to_be_given_and_to_fit(guide: torch.Tensor | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        network_input(ResNet(input=GuideInput()), 97, 97, seeded(), guide)


def test_meshgrid_holds_the_column_then_the_row() -> None:
    z = network_input(ResNet(input=MeshgridInput()), 3, 5, seeded())[0]
    assert z[0].tolist() == [[0.0, 0.25, 0.5, 0.75, 1.0]] * 3
    assert z[1].tolist() == [[0.0] * 5, [0.5] * 5, [1.0] * 5]


@pytest.mark.parametrize("frequencies", [1, 2, 8, 16])
def test_fourier_holds_sines_and_cosines_of_both_coordinates(frequencies: int) -> None:
    genome = ResNet(input=FourierInput(frequencies=frequencies))
    z = network_input(genome, 9, 17, seeded())[0]
    assert z.shape[0] == genome.input.channels == 4 * frequencies
    assert z.abs().max() <= 1
    columns, rows = torch.meshgrid(torch.linspace(0, 1, 17), torch.linspace(0, 1, 9), indexing="xy")
    ratio = 256 ** (1 / max(frequencies - 1, 1))
    expected = [
        function(math.pi * ratio**index * grid)
        for function, index, grid in itertools.product((torch.sin, torch.cos), range(frequencies), (columns, rows))
    ]
    assert torch.allclose(z, torch.stack(expected), atol=1e-3)


# Cost


def test_cost_of_the_default_network() -> None:
    price = cost(load_genome("dip-denoise"), 256, 256)
    assert price.parameters == 2_217_831
    assert price.gflop == pytest.approx(115, rel=0.01)
    assert price.memory > 16 * price.parameters


@pytest.mark.parametrize("genome", SMALL.values(), ids=SMALL)
def test_cost_grows_with_the_size(genome: Genome) -> None:
    sizes = [(16, 16), (16, 32), (32, 32), (64, 64)]
    prices = [cost(genome, *size) for size in sizes]
    assert {price.parameters for price in prices} == {parameter_count(build(genome))}
    for less, more in itertools.pairwise(prices):
        assert 0 < less.gflop < more.gflop
        assert 0 < less.memory < more.memory
    assert prices[-1].gflop == pytest.approx(4 * prices[-2].gflop, rel=1e-6)


def test_cost_counts_each_convolution_forward_and_twice_backward() -> None:
    genome = ResNet(blocks=1, channels=4, input=NoiseInput(channels=2))
    first, others = 9 * 2 * 4, 9 * (4 * 4 * 3 + 4 * 3)
    multiplications = 16 * 24 * (2 * first + 3 * others)  # z needs no gradient
    assert cost(genome, 16, 24).gflop == pytest.approx(2 * multiplications / 1e9)


def test_cost_is_that_of_the_padded_size_and_draws_nothing() -> None:
    genome = SMALL["hourglass"]
    before = torch.random.get_rng_state()
    less, more = cost(genome, 13, 30), cost(genome, 16, 32)
    assert (less.parameters, less.gflop) == (more.parameters, more.gflop)
    pictures = 4 * (3 * genome.input.channels + 8 * 3)  # bytes a pixel: z and the averages
    assert more.memory - less.memory == pictures * (16 * 32 - 13 * 30)
    assert cost(genome, 16, 16, image_channels=1).parameters < cost(genome, 16, 16).parameters
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("wrong", ["dip-denoise", {"family": "hourglass"}])
def test_what_is_no_genome_is_not_built(wrong):
    with pytest.raises(UsageError, match="is no genome; one by its name: load_genome"):
        build(wrong)
