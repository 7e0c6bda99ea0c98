"""NAS-DIP: cells, links across levels, the numbering of both, and their spaces."""

import csv
import itertools
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fits import seeded
from pydantic import ValidationError
from torch import Tensor, nn

from dipsearch import catalog
from dipsearch.genome import Cell, Hourglass, Linked, NoiseInput, UNet, load_genome, parse_genome, toeplitz
from dipsearch.nas_dip import INDICES, nas_dip_cell, nas_dip_genome, nas_dip_links
from dipsearch.network.build import build, parameter_count
from dipsearch.network.cell import CONVOLUTIONS, PRIMITIVES, upsampler
from dipsearch.network.inputs import network_input
from dipsearch.space import Space, load_space

DATA = Path(__file__).parent / "data"
with (DATA / "nas-dip-cells.csv").open(encoding="utf-8") as lines:
    FACTS = {int(row["index"]): int(row["parameters_at_128_channels"] or -1) for row in csv.DictReader(lines)}
with (DATA / "isnas_models.csv").open(encoding="utf-8") as lines:
    ISNAS = [(int(index), bits) for index, bits in csv.reader(lines)]
VALID = [index for index, parameters in FACTS.items() if parameters >= 0]
RELEASED = {
    "nas-dip-denoise": (158, "1111101111001110001100001", (0, 1, 2, 3, 4)),
    "nas-dip-sr": (119, "1001011001011000011000011", (-1, 0, 3)),
    "nas-dip-inpaint": (86, "1100001100101100101100101", (-2, 0, 1)),
}
THIN = {"channels": 4, "input": NoiseInput(channels=3)}


def refusal(kind: type, **genes: object) -> str:
    """The text of the error that genes meet."""
    with pytest.raises(ValidationError) as caught:
        kind(**genes)
    return catalog.describe(caught.value)


def layer(cell: Cell, channels: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return upsampler(cell, channels)


# Cells by index


def test_every_index_is_what_the_released_code_makes_of_it() -> None:
    assert list(FACTS) == list(range(INDICES)) and len(VALID) == 297
    for index in VALID:
        with torch.device("meta"):
            assert parameter_count(upsampler(nas_dip_cell(index), 128)) == FACTS[index], index


def test_the_other_indices_are_refused_saying_why() -> None:
    for index in FACTS.keys() - set(VALID):
        with pytest.raises(
            ValueError, match=rf"cell {index}: .*changes the number of channels, not '(depthwise|none)'"
        ):
            nas_dip_cell(index)
    for index in (249, 250, 251):
        with pytest.raises(ValueError, match="not 'none'; choose from: plain, transposed, split-sum, separable"):
            nas_dip_cell(index)


@pytest.mark.parametrize("index", [-1, 324, 1000, 1.5, "3", None])
def test_what_is_no_index_is_refused(index: object) -> None:
    with pytest.raises(ValueError, match="from 0 to 323"):
        nas_dip_cell(index)


@pytest.mark.parametrize(
    ("index", "genes"),
    [
        (0, ("bilinear", "plain", 1, "none")),
        (16, ("bilinear", "transposed", 3, "relu")),
        (59, ("bilinear", "depthwise", 7, "leaky-relu")),
        (62, ("bilinear", "none", 1, "leaky-relu")),
        (63, ("bicubic", "plain", 1, "none")),
        (86, ("bicubic", "transposed", 7, "leaky-relu")),
        (119, ("bicubic", "depthwise", 5, "leaky-relu")),
        (124, ("bicubic", "none", 1, "relu")),
        (158, ("nearest", "split-sum", 5, "leaky-relu")),
        (186, ("nearest", "none", 1, "none")),
        (189, ("pixel-shuffle", "plain", 1, "none")),
        (236, ("pixel-shuffle", "separable", 7, "leaky-relu")),
        (252, ("pixel-shuffle-last", "plain", 1, "none")),
        (299, ("pixel-shuffle-last", "separable", 7, "leaky-relu")),
        (312, ("transposed", "none", 1, "none")),
        (319, ("transposed", "none", 5, "relu")),
        (323, ("transposed", "none", 7, "leaky-relu")),
    ],
)
def test_index_by_hand(index: int, genes: tuple[object, ...]) -> None:
    assert nas_dip_cell(index) == Cell(
        **dict(zip(("primitive", "convolution", "kernel", "activation"), genes, strict=True))
    )


def test_no_two_indices_are_one_network() -> None:
    assert len({Linked(upsample=nas_dip_cell(index)).key() for index in VALID}) == 297


# What cells compute


def by_hand(cell: Cell, weights: list[Tensor], x: Tensor) -> Tensor:
    """A second writing, in plain functions; the weights are taken in the order of their use."""
    left, half = iter(weights), cell.kernel // 2
    act = {"none": lambda x: x, "relu": lambda x: x.clamp(min=0), "leaky-relu": lambda x: torch.where(x > 0, x, x / 5)}

    def convolved(x: Tensor) -> Tensor:
        if cell.convolution == "transposed":
            return F.conv_transpose2d(x, next(left), next(left), padding=half)
        if cell.convolution == "split-sum":
            quarter = x.shape[1] // 4
            x = sum(x[:, quarter * group : quarter * (group + 1)] for group in range(4))
        groups = x.shape[1] if cell.convolution in ("depthwise", "separable") else 1
        x = F.conv2d(x, next(left), padding=half, groups=groups)
        return F.conv2d(x, next(left)) if cell.convolution == "separable" else x

    def doubled(x: Tensor) -> Tensor:
        if cell.primitive == "transposed":
            return F.conv_transpose2d(x, next(left), next(left), stride=2, padding=half, output_padding=1)
        if cell.primitive.startswith("pixel-shuffle"):
            return F.pixel_shuffle(x, 2)
        return F.interpolate(x, scale_factor=2, mode=cell.primitive)

    steps = [doubled] if cell.convolution == "none" else [doubled, convolved]
    for step in reversed(steps) if cell.primitive == "pixel-shuffle-last" else steps:
        x = act[cell.activation](step(x))
    assert next(left, None) is None
    return x


def test_every_cell_computes_what_its_genes_say() -> None:
    x = torch.rand(2, 16, 4, 5, generator=seeded()) - 0.5
    for index in VALID:
        cell = nas_dip_cell(index)
        net = layer(cell, 16, seed=index)
        with torch.no_grad():
            given = x.clone()
            out = net(given)
            assert out.shape == (2, 16, 8, 10), index
            assert torch.allclose(out, by_hand(cell, list(net.parameters()), x), atol=1e-6), index
            assert torch.equal(given, x), index  # activations in place are on the cell's own maps


def test_every_cell_has_finite_gradients_for_all_its_weights() -> None:
    x = (torch.rand(1, 16, 4, 4, generator=seeded()) - 0.5).requires_grad_()
    for index in VALID:
        net = layer(nas_dip_cell(index), 16)
        found = torch.autograd.grad((net(x) - 1).square().sum(), [x, *net.parameters()])
        assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in found), index


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_the_divisor_says_at_which_numbers_of_channels_a_cell_works(primitive: str, convolution: str) -> None:
    try:
        cell = Cell(primitive=primitive, convolution=convolution)
    except ValidationError:
        assert convolution != "plain" or primitive == "transposed"
        return

    def keeps(channels: int) -> bool:
        try:
            return upsampler(cell, channels)(torch.zeros(1, channels, 2, 2)).shape == (1, channels, 4, 4)
        except (ValueError, RuntimeError, ZeroDivisionError):
            return False

    assert [channels for channels in range(1, 40) if keeps(channels)] == list(range(cell.divisor, 40, cell.divisor))


# Cells as genes


@pytest.mark.parametrize(
    ("genes", "words"),
    [
        ({}, ["primitive"]),
        ({"primitive": "magic"}, ["primitive", "magic", *PRIMITIVES]),
        ({"primitive": "nearest", "convolution": "magic"}, ["convolution", "magic", *CONVOLUTIONS]),
        ({"primitive": "nearest", "activation": "magic"}, ["activation", "magic", "relu"]),
        ({"primitive": "nearest", "kernel": 4}, ["kernel", "odd", "4"]),
        ({"primitive": "nearest", "dilation": 2}, ["dilation"]),
        ({"primitive": "transposed", "convolution": "plain"}, ["'transposed' convolves already", "'plain'"]),
        ({"primitive": "pixel-shuffle"}, ["'pixel-shuffle'", "'none'", "plain, transposed, split-sum, separable"]),
        ({"primitive": "pixel-shuffle-last", "convolution": "depthwise"}, ["'pixel-shuffle-last'", "'depthwise'"]),
    ],
    ids=str,
)
def test_a_cell_that_cannot_be_is_refused(genes: dict[str, object], words: list[str]) -> None:
    text = refusal(Cell, **genes)
    assert all(word in text for word in words), text
    nested = refusal(Hourglass, upsample=genes)
    assert "upsample" in nested and all(word in nested for word in words), nested


SPLIT = {"primitive": "pixel-shuffle", "convolution": "split-sum"}


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        (Linked, {"channels": 24}, {"channels": 32}),
        (UNet, {"width": 4}, {"width": 8}),
        (Hourglass, {"channels_up": 24}, {"channels_up": 32}),
        (Hourglass, {"depth": 1, "channels_down": 24}, {"depth": 1, "channels_down": 32, "channels_up": 3}),
    ],
    ids=str,
)
def test_channels_that_a_cell_cannot_keep_are_refused(kind: type, wrong: dict, right: dict) -> None:
    assert "pixel-shuffle split-sum 3x3 needs a multiple of 16 channels" in refusal(kind, upsample=SPLIT, **wrong)
    genome = kind(upsample=SPLIT, **right)
    with torch.no_grad():
        assert build(genome)(network_input(genome, 64, 64, seeded())).shape == (1, 3, 64, 64)


def test_an_upsampler_that_is_neither_name_nor_cell_is_refused_once() -> None:
    for wrong in ("magic", 3, None):
        text = refusal(Linked, upsample=wrong)
        assert "upsample" in text and ";" not in text.replace("; choose", ""), text


@pytest.mark.parametrize("cell", [nas_dip_cell(index) for index in (61, 125, 158, 252, 319)], ids=str)
@pytest.mark.parametrize(
    "genome", [Hourglass(depth=2), UNet(depth=2), Linked(depth=2)], ids=lambda genome: genome.family
)
def test_cells_are_read_and_written_in_every_family(genome: Hourglass, cell: Cell, tmp_path: Path) -> None:
    written = parse_genome(genome.data() | {"upsample": cell.model_dump()})
    path = tmp_path / "genome.yaml"
    path.write_text(catalog.dump_yaml(written.data()), encoding="utf-8")
    again = load_genome(str(path))
    assert again == written and again.key() == written.key() != genome.key()
    assert written.data()["upsample"] == cell.model_dump()
    assert str(cell) in written.summary()
    assert len({written, again}) == 1


def output(genome: Hourglass) -> Tensor:
    z = network_input(genome, 16, 16, seeded())
    with torch.no_grad():
        return build(genome, seed=1)(z)


THIN_ONES = [
    Hourglass(depth=2, channels_down=4, channels_up=4, channels_skip=2),
    UNet(depth=2, width=2),
    Linked(depth=2, channels=4),
]


@pytest.mark.parametrize("genome", THIN_ONES, ids=lambda genome: genome.family)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        *((name, {"primitive": name}) for name in ("bilinear", "bicubic", "nearest")),
        ({"primitive": "nearest", "kernel": 1}, {"primitive": "nearest", "kernel": 7}),
        ({"primitive": "bicubic", "activation": "relu"}, {"primitive": "bicubic", "activation": "relu", "kernel": 5}),
    ],
    ids=str,
)
def test_cells_written_in_two_ways_have_one_key(genome: Hourglass, one: object, other: object) -> None:
    genomes = [parse_genome(genome.data() | {"upsample": upsample}) for upsample in (one, other)]
    assert genomes[0] != genomes[1]
    assert genomes[0].key() == genomes[1].key()
    assert genomes[0].canonical() == genomes[1].canonical() == genomes[1].canonical().canonical()
    assert torch.equal(output(genomes[0]), output(genomes[1]))


@pytest.mark.parametrize("genome", THIN_ONES, ids=lambda genome: genome.family)
def test_cells_that_differ_have_different_keys(genome: Hourglass) -> None:
    cells = [nas_dip_cell(index) for index in VALID] + list(map(Cell.canonical, [nas_dip_cell(60)]))
    named = ["bilinear", "bicubic", "nearest", "transposed", "pixel-shuffle"]
    wide = {"channels_up": 16, "channels_down": 16, "width": 16, "channels": 16}
    data = genome.data() | {name: width for name, width in wide.items() if name in genome.data()}
    keys = {parse_genome(data | {"upsample": chosen}).key() for chosen in [*cells, *named]}
    assert len(keys) == 297 + 2  # three of the names are cells as well


KEYS_BEFORE_CELLS = {
    "dip-denoise": "1986a2f49f29818c",
    "dip-jpeg": "def19f33d1482abb",
    "dip-library-6": "d07b551639d82d61",
    "dip-library-resnet": "7fb8df26a0255f8e",
    "dip-texture": "e048565da4e285e2",
    "dip-unet": "e0191693e368858d",
}


def test_the_keys_of_networks_without_cells_stay() -> None:
    assert {name: load_genome(name).key() for name in KEYS_BEFORE_CELLS} == KEYS_BEFORE_CELLS


def test_a_cell_in_a_skip_network_adds_its_weights_at_each_level() -> None:
    """The network that NAS-DIP searches cells with: the paper's own, its skips of 4 channels concatenated."""
    with torch.device("meta"):
        assert parameter_count(build(Hourglass(upsample=nas_dip_cell(119)))) == 2_217_831 + 5 * FACTS[119]
    levels = [nas_dip_cell(158), "nearest"]
    mixed = Hourglass(depth=2, channels_down=8, channels_up=8, upsample=levels)
    assert parse_genome(mixed.data()) == mixed
    assert mixed.summary() == "hourglass 2 x 8, skip 4, nearest split-sum 5x5 leaky-relu-nearest"


# Links


@pytest.mark.parametrize("name", RELEASED)
def test_released_networks_by_number(name: str) -> None:
    index, bits, offsets = RELEASED[name]
    genome = load_genome(name)
    assert nas_dip_genome(index, bits) == genome
    assert genome.offsets == offsets


def test_offsets_and_matrices_say_the_same() -> None:
    for bits in itertools.product((0, 1), repeat=9):
        offsets = tuple(offset for offset, bit in zip(range(-4, 5), bits, strict=True) if bit)
        genome = Linked(links={"offsets": offsets})
        assert genome.offsets == offsets
        for i, j in itertools.product(range(5), repeat=2):
            assert genome.links[i][j] == bits[j - i + 4]
    assert toeplitz([1], 3) == ((0, 1, 0), (0, 0, 1), (0, 0, 0))
    assert Linked(links=["10000", "01000", "00100", "00010", "00000"]).offsets is None


def test_links_may_be_written_in_several_ways() -> None:
    rows = [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    one = Linked(depth=3, links=rows)
    assert one == Linked(depth=3, links=["101", "010", "001"]) == Linked(depth=3, links={"offsets": (0, 2)})
    assert one.data()["links"] == rows == parse_genome(one.data()).data()["links"]
    assert Linked(depth=3) == Linked(depth=3, links={"offsets": [0]})
    full = Linked(depth=2, links=["11", "11"])
    assert full.data()["links"] == [[1, 1], [1, 1]] and parse_genome(full.data()) == full


@pytest.mark.parametrize(
    ("links", "words"),
    [
        (["11", "11"], ["links has 2 rows for depth 3"]),
        (["111", "11", "111"], ["links.1 has 2 bits for depth 3"]),
        (["111", "121", "111"], ["links.1.1"]),
        (["111", "1x1", "111"], ["links.1.1", "'x'"]),
        ([[1, 1, 1], [1, 1, -1], [0, 0, 0]], ["links.1.2"]),
        ("111", ["links"]),
        (111, ["links"]),
        ([111, 111, 111], ["links.0"]),
        ({"offsets": [0, 3]}, ["links.offsets", "from -2 to 2", "3"]),
        ({"offsets": ["0"]}, ["links.offsets", "'0'"]),
        ({"offsets": 1}, ["links", "offsets"]),
        ({"offset": [1]}, ["links", "offsets"]),
        ({}, ["links", "offsets"]),
    ],
    ids=str,
)
def test_links_of_the_wrong_form_are_refused(links: object, words: list[str]) -> None:
    text = refusal(Linked, depth=3, links=links)
    assert all(word in text for word in words), text


@pytest.mark.parametrize("bits", ["", "1" * 24, "1" * 26, "2" + "1" * 24, "x" * 25])
def test_what_is_no_25_bits_is_refused(bits: str) -> None:
    with pytest.raises(ValueError, match="25 bits"):
        nas_dip_links(bits)


def test_the_benchmark_of_isnas_decodes() -> None:
    genomes = [nas_dip_genome(index, bits) for index, bits in ISNAS]
    assert len(genomes) == 522
    assert len({genome.key() for genome in genomes}) == len(set(ISNAS))
    assert all(
        "".join(str(bit) for row in genome.links for bit in row) == bits
        for genome, (_, bits) in zip(genomes, ISNAS, strict=True)
    )
    assert all(genome.offsets is None for genome in genomes)


@pytest.mark.parametrize(
    ("genome", "words"),
    [
        (load_genome("nas-dip-denoise"), "linked 5 x 128, links 0 1 2 3 4, nearest split-sum 5x5 leaky-relu"),
        (Linked(depth=2, channels=8, links=["01", "11"], upsample="nearest"), "linked 2 x 8, 3 links, nearest"),
        (Linked(depth=2, links=["00", "00"]), "linked 2 x 128, no links, bilinear"),
        (Linked(upsample=nas_dip_cell(319)), "linked 5 x 128, links 0, transposed 5x5 relu"),
        (Linked(upsample=nas_dip_cell(62)), "linked 5 x 128, links 0, bilinear leaky-relu"),
    ],
)
def test_summary(genome: Linked, words: str) -> None:
    assert genome.summary() == words


def test_what_matters_in_a_linked_network_changes_its_key() -> None:
    one = Linked(depth=2, channels=8)
    changes = [
        {},
        {"channels": 4},
        {"upsample": "nearest"},
        {"merge": "concatenate"},
        {"norm": "none"},
        {"padding": "zero"},
    ]
    changes += [{"links": rows} for rows in (["00", "00"], ["11", "01"], ["10", "11"], ["01", "01"])]
    changes += [{"depth": 3, "links": {"offsets": [0]}}, {"activation": "relu"}, {"input": {"kind": "meshgrid"}}]
    assert len({parse_genome(one.data() | change).key() for change in changes}) == len(changes)


def test_the_merge_of_nothing_does_not_matter() -> None:
    genes = THIN | {"depth": 2, "links": ["00", "00"]}
    one, other = Linked(**genes), Linked(**genes, merge="concatenate")
    assert one.key() == other.key() and torch.equal(output(one), output(other))


# Linked networks


def normalised(x: Tensor) -> Tensor:
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


@pytest.mark.parametrize("merge", ["add", "concatenate"])
@pytest.mark.parametrize("index", [60, 119, 158, 252, 323])
@pytest.mark.parametrize("links", [["101", "110", "011"], ["011", "101", "110"], ["001", "000", "100"]], ids="-".join)
def test_a_linked_network_computes_what_the_code_says(links: list[str], index: int, merge: str) -> None:
    """A second writing, path by path: every link runs its own chain of the shared modules from its source."""
    genome = Linked(
        depth=3, upsample=nas_dip_cell(index), links=links, merge=merge, channels=8, input={"kind": "meshgrid"}
    )
    net = build(genome, seed=3)
    for position, parameter in enumerate(net.parameters()):  # so that no two of them are alike
        with torch.no_grad():
            parameter.add_(torch.rand(parameter.shape, generator=seeded(position)) / 10)

    def block(x: Tensor, module: nn.Module, stride: int = 1) -> Tensor:
        conv, norm = module.conv, module.finish[0]
        pad = conv.kernel_size[0] // 2
        x = F.pad(x, (pad,) * 4, mode="reflect") if pad else x
        x = F.conv2d(x, conv.weight, conv.bias, stride)
        return F.leaky_relu(F.batch_norm(x, None, None, norm.weight, norm.bias, training=True), 0.2)

    def link(x: Tensor, source: int, level: int) -> Tensor:
        if source == level:
            return block(x, net.same[str(level)])
        while source > level:
            source -= 1
            x = net.rises[str(source)](x)
        while source < level:
            source += 1
            x = block(x, net.sinks[str(source)], stride=2)
        return x

    z = torch.rand(1, 2, 16, 24, generator=seeded())
    with torch.no_grad():
        sources = [z]
        for first, second in net.encoders:
            sources.append(block(block(sources[-1], first, stride=2), second))
        x = sources.pop()
        for level in (2, 1, 0):
            decoder = net.decoders[level]
            maps = [link(sources[source], source, level) for source in range(3) if int(links[level][source])]
            maps.append(decoder.enlarge(x))
            x = sum(maps) if merge == "add" else torch.cat(maps, dim=1)
            x = F.batch_norm(x, None, None, decoder.norm.weight, decoder.norm.bias, training=True)
            for module, kernel in zip(decoder.refine, (3, 3, 1), strict=True):
                assert module.conv.kernel_size == (kernel, kernel)
                x = block(x, module)
        expected = F.conv2d(x, net.head.weight, net.head.bias).sigmoid()
        assert torch.allclose(net(z), expected, atol=1e-5)


def test_chains_share_one_module_for_each_step_and_take_each_step_once() -> None:
    genome = load_genome("nas-dip-denoise").model_copy(update=THIN)
    net = build(genome, seed=0)
    assert list(net.rises) == ["0", "1", "2", "3"] and not net.sinks and list(net.same) == list("01234")
    calls = dict.fromkeys(net.rises, 0)
    for level, module in net.rises.items():
        module.register_forward_hook(lambda *_, level=level: calls.update({level: calls[level] + 1}))
    net(network_input(genome, 64, 64, seeded()))
    assert calls == {"0": 4, "1": 3, "2": 2, "3": 1}  # one for each source below; the ten chains have 20 steps


@pytest.mark.parametrize(
    ("offsets", "same", "rises", "sinks"),
    [
        ([], 0, [], []),
        ([4], 0, [0, 1, 2, 3], []),
        ([-1], 0, [], [1, 2, 3, 4]),
        ([-2, 3], 0, [0, 1, 2, 3], [1, 2, 3, 4]),
        ([0, -4], 5, [], [1, 2, 3, 4]),
    ],
)
def test_only_steps_that_a_link_takes_are_built(
    offsets: list[int], same: int, rises: list[int], sinks: list[int]
) -> None:
    net = build(Linked(links={"offsets": offsets}, **THIN))
    assert (len(net.same), [int(at) for at in net.rises], [int(at) for at in net.sinks]) == (same, rises, sinks)
    free = build(Linked(depth=3, links=["000", "001", "100"], **THIN))
    assert (list(free.same), list(free.rises), list(free.sinks)) == ([], ["1"], ["1", "2"])


@pytest.mark.parametrize(("index", "bits"), ISNAS[::40])
def test_every_weight_of_an_isnas_network_is_used(index: int, bits: str) -> None:
    genome = nas_dip_genome(index, bits).model_copy(update={"channels": 16, "input": NoiseInput(channels=3)})
    net = build(genome, 1, seed=0)
    x = net(network_input(genome, 64, 64, seeded()))
    (x - 0.25).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("count", [1, 3, 9])
def test_concatenated_links_widen_the_first_convolution_of_a_level(count: int) -> None:
    rows = [[int(3 * i + j < count) for j in range(3)] for i in range(3)]
    plain, wide = (
        parameter_count(build(Linked(depth=3, links=rows, merge=merge, **THIN))) for merge in ("add", "concatenate")
    )
    assert wide - plain == count * (9 * 4 * 4 + 2 * 4)  # kernels, and scale and shift of the norm


# Spaces


SPACES = {"nas-dip": 152_064, "nas-dip-free": 297 * 2**25}


@pytest.mark.parametrize("name", SPACES)
def test_spaces_have_the_published_sizes(name: str) -> None:
    assert load_space(name).size() == SPACES[name]


CELL_SPACE = {
    "name": "cells",
    "about": "a test",
    "genes": {
        "primitive": list(PRIMITIVES),
        "convolution": list(CONVOLUTIONS),
        "kernel": [1, 3, 5, 7],
        "activation": ["none", "relu", "leaky-relu"],
        "same": [0, 1],
        "depth": [1, 2],
    },
    "templates": {
        "linked": {
            "depth": 1,
            "channels": 16,
            "upsample": {name: f"${name}" for name in ("primitive", "convolution", "kernel", "activation")},
            "links": [["$same"]],
        },
        "hourglass": {"depth": "$depth", "upsample": "nearest"},
    },
}


def test_size_is_what_enumeration_counts() -> None:
    space = Space.model_validate(CELL_SPACE)
    keys = set()
    for values in itertools.product(*space.slots.values()):
        try:
            keys.add(space.genome(dict(zip(space.slots, values, strict=True))).key())
        except ValidationError:
            continue
    assert space.size() == len(keys) == 297 * 2 + 2


def test_a_gene_of_two_nested_parts_counts_once() -> None:
    template = {
        "upsample": {"primitive": "nearest", "convolution": "plain", "kernel": "$shared"},
        "input": {"kind": "noise", "channels": "$shared"},
    }
    space = {"name": "x", "about": "x", "genes": {"shared": [1, 3, 5]}, "templates": {"linked": template}}
    assert Space.model_validate(space).size() == 3


def test_the_cells_of_a_space_are_those_with_an_index() -> None:
    space = load_space("nas-dip")
    known = {Linked(upsample=nas_dip_cell(index)).key() for index in VALID}
    found = set()
    cell_slots = {slot: space.slots[slot] for slot in ("primitive", "convolution", "kernel", "activation")}
    rest = dict.fromkeys(space.slots, 0) | {"same": 1}
    for values in itertools.product(*cell_slots.values()):
        try:
            found.add(space.genome(rest | dict(zip(cell_slots, values, strict=True))).key())
        except ValidationError:
            continue
    assert found == known


@pytest.mark.parametrize("name", RELEASED)
def test_released_networks_are_members(name: str) -> None:
    genome = load_genome(name)
    for space in map(load_space, SPACES):
        slots = space.find(genome)
        assert slots is not None and space.genome(slots) == genome
    slots = load_space("nas-dip").find(genome)
    coarser = [slots["same"], *(slots[f"coarser_{step}"] for step in range(1, 5))]
    assert coarser == [int(offset in genome.offsets) for offset in range(5)]


def test_networks_of_isnas_are_members_of_the_free_space_only() -> None:
    narrow, free = map(load_space, SPACES)
    for index, bits in random.Random(0).sample(ISNAS, 40):
        genome = nas_dip_genome(index, bits)
        assert genome not in narrow
        assert free.genome(free.find(genome)) == genome


def test_membership_does_not_depend_on_how_a_cell_is_written() -> None:
    space = load_space("nas-dip")
    ways = ["nearest", {"primitive": "nearest"}, {"primitive": "nearest", "kernel": 9}]
    for way in ways:
        genome = Linked(upsample=way)
        assert genome in space and space.genome(space.find(genome)).key() == genome.key()
    assert Linked(upsample="transposed") not in space  # 4x4, which no cell is
    assert Linked(merge="concatenate") not in space
    assert Linked(channels=64) not in space


def test_a_space_of_names_has_no_cells_and_a_space_of_cells_has_the_names() -> None:
    names = load_space("wide")
    sample = next(genome for seed in range(100) if (genome := names.sample(seed)).family == "hourglass")
    for cell in (nas_dip_cell(158), nas_dip_cell(60)):
        data = sample.data() | {"channels_up": 16, "channels_down": 16}
        assert (parse_genome(data | {"upsample": cell}) in names) == (cell == nas_dip_cell(60))
    searched = CELL_SPACE | {"templates": {"hourglass": {"upsample": CELL_SPACE["templates"]["linked"]["upsample"]}}}
    genes = {name: searched["genes"][name] for name in ("primitive", "convolution", "kernel", "activation")}
    cells = Space.model_validate(searched | {"genes": genes})
    assert cells.size() == 297
    assert load_genome("dip-denoise") in cells
    assert Hourglass(upsample=nas_dip_cell(158)) in cells
    assert Hourglass(upsample=[nas_dip_cell(158)] * 4 + ["nearest"]) not in cells
