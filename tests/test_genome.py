"""Genomes: reading, refusing, keys, and the parameter counts of the published networks."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dipsearch import catalog
from dipsearch.error import UsageError
from dipsearch.genome import (
    PER_LEVEL,
    Decoder,
    FourierInput,
    Hourglass,
    Linked,
    MeshgridInput,
    NoiseInput,
    Pyramid,
    ResNet,
    UNet,
    load_genome,
    load_genome_file,
    parse_genome,
)
from dipsearch.network.blocks import ACTIVATIONS, NORMS, PADDINGS
from dipsearch.network.build import FAMILIES, build, parameter_count
from dipsearch.network.inputs import INPUTS, network_input
from dipsearch.network.resampling import DOWNSAMPLERS, FIXED_UPSAMPLERS, UPSAMPLERS
from dipsearch.space import load_space

# name -> parameters, tensors that hold them, numbers in the norms' buffers, counted on the released code (None: not
# counted there). Typed from the published table, not from the files.
PUBLISHED = {
    "dip-denoise": (2_217_831, 112, 6510),
    "dip-sr": (2_217_831, 112, 6510),
    "dip-inpaint": (2_217_573, 112, None),
    "dip-flash": (2_184_307, 112, None),
    "dip-jpeg": (572_827, 100, 2779),
    "dip-vase": (2_157_955, 92, None),
    "dip-text": (3_002_627, 112, None),
    "dip-library-6": (2_996_467, 86, None),
    "dip-library-4": (1_060_339, 58, None),
    "dip-library-2": (59_635, 30, None),
    "dip-library-paper": (2_446_387, None, None),
    "dip-library-paper-plain": (2_390_371, None, None),
    "dip-library-unet": (1_616_315, 56, 0),
    "dip-library-resnet": (158_979, 56, 1105),
    "dip-kate": (1_027_379, 92, None),
    "dip-inversion": (2_606_763, 134, None),
    "dip-inversion-2": (2_583_123, 134, None),
    "dip-actmax": (2_948_567, 130, None),
    "dip-unet": (2_164_899, 66, None),
    "dip-resnet": (54_131, None, None),
    "dip-texture": (129_443, None, None),
    "double-dip-dehaze": (573_187, None, None),
    "double-dip-dehaze-mask": (573_169, None, None),
    "double-dip-watermark": (1_544_787, None, None),
    "double-dip-watermark-mask": (144_045, None, None),
    "double-dip-segment": (35_179, None, None),
    "double-dip-segment-mask": (35_161, None, None),
    "gp-dip-kernel": (49_685_673, None, None),
    "nas-dip-denoise": (3_924_867, None, None),
    "nas-dip-sr": (3_512_835, None, None),
    "nas-dip-inpaint": (10_710_273, None, None),
}


def counted_hourglass(channels: list[int], z: int, kernel_down: int, kernel_up: int) -> int:
    """Parameters of an hourglass without skips, block by block: convolution, bias, norm."""
    total, before = 0, z
    for width in channels:
        total += kernel_down**2 * before * width + kernel_down**2 * width**2 + 2 * 3 * width
        before = width
    for width, below in zip(channels, [*channels[1:], channels[-1]], strict=True):
        total += 2 * below + kernel_up**2 * below * width + width**2 + 2 * 3 * width
    return total + 3 * (channels[0] + 1)


# Counted by hand: below by formula, per level two or three 3x3 blocks, one 1x1 block, one norm; then the head.
COUNTED = {
    **{
        name: counted_hourglass([16, 32, 64, 128, 128, 128][:depth], z=32, kernel_down=3, kernel_up=5)
        for name, depth in (("dip-library-paper", 6), ("dip-library-paper-4", 4), ("dip-library-paper-2", 2))
    },
    "deep-decoder": 6 * 128**2 + 6 * 2 * 128 + 3 * 128,  # 100,224, as the paper says
    "conv-decoder": 6 * 9 * 128**2 + 6 * 2 * 128 + 3 * 128,
    "fasterdip-2-32": 6 * (9 * 32 * 32 + 32 + 64) + 2 * (32 * 32 + 32 + 64) + 2 * 64 + 3 * 33,
    "fasterdip-2-64": (9 * 32 * 64 + 64 + 128) + 5 * (9 * 64**2 + 64 + 128) + 2 * (64**2 + 64 + 128) + 2 * 128 + 3 * 65,
    "fasterdip-2-128": (
        (9 * 32 * 128 + 128 + 256) + 5 * (9 * 128**2 + 128 + 256) + 2 * (128**2 + 128 + 256) + 2 * 256 + 3 * 129
    ),
}
NAMED = list(catalog.names("genomes"))
EVERY_KIND = [
    Hourglass(),
    Hourglass(depth=2, channels_down=[8, 16], channels_skip=[0, 4], upsample=["nearest", "transposed"]),
    Hourglass(depth=1, merge="add", input=MeshgridInput(), conv1x1_after_up=False),
    Hourglass(depth=2, upsample=[{"primitive": "nearest", "convolution": "plain"}, "nearest"]),
    Linked(depth=2, links=["11", "01"], upsample={"primitive": "transposed", "activation": "relu"}),
    UNet(depth=2, plain_depth=1, width=4, input=FourierInput(frequencies=3)),
    ResNet(blocks=2, activation="swish", input=NoiseInput(channels=3, scale=1.5)),
    Pyramid(scales=3, norm="none"),
    Decoder(depth=3, channels=8, kernel=3, upsample="lpf3", order="before", padding="zero"),
]
SMALL = {
    "depth": 2,
    "channels_down": [4, 6],
    "channels_up": [5, 4],
    "channels_skip": [2, 0],
    "input": NoiseInput(channels=3),
}


def small(**genes: object) -> Hourglass:
    """A two-level network whose levels differ, with some genes changed."""
    return Hourglass(**(SMALL | genes))


def output(genome: Hourglass, seed: int = 1) -> torch.Tensor:
    """What the network says about a fixed 16 x 16 input, with weights from a seed."""
    z = network_input(genome, 16, 16, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return build(genome, seed=seed)(z)


def refusal(**genes: object) -> str:
    """The text of the error that a genome meets."""
    with pytest.raises(ValidationError) as caught:
        parse_genome({"family": "hourglass"} | genes)
    return catalog.describe(caught.value)


# The published networks


@pytest.mark.parametrize("name", NAMED)
def test_named_genome_has_the_parameters_its_file_states(name: str) -> None:
    file = load_genome_file(name)
    assert parameter_count(build(file.genome, file.image_channels)) == file.parameters
    assert file.about and file.source


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_genome_has_the_published_counts(name: str) -> None:
    parameters, tensors, buffers = PUBLISHED[name]
    file = load_genome_file(name)
    with torch.device("meta"):
        net = build(file.genome, file.image_channels)
    assert parameter_count(net) == parameters
    assert tensors is None or len(list(net.parameters())) == tensors
    # The published networks keep running statistics, mean, variance and a count, which nothing reads: not here.
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert buffers is None or sum(2 * norm.num_features + 1 for norm in norms) == buffers
    assert not list(net.buffers())


@pytest.mark.parametrize("name", COUNTED)
def test_named_genome_has_the_parameters_counted_by_hand(name: str) -> None:
    assert load_genome_file(name).parameters == COUNTED[name]


def test_the_deep_decoder_has_the_size_that_its_paper_says() -> None:
    for width, parameters in ((64, 25_536), (128, 100_224)):
        genome = Decoder(channels=width, input=NoiseInput(channels=width))
        assert parameter_count(build(genome)) == parameters


def test_every_published_network_is_built_in() -> None:
    assert set(PUBLISHED) <= set(NAMED)


def test_super_resolution_uses_the_denoising_network() -> None:
    assert load_genome("dip-sr").key() == load_genome("dip-inpaint").key() == load_genome("dip-denoise").key()


# Reading and writing


@pytest.mark.parametrize("genome", EVERY_KIND, ids=lambda genome: genome.summary())
def test_yaml_round_trip(genome: Hourglass, tmp_path: Path) -> None:
    path = tmp_path / "genome.yaml"
    path.write_text(catalog.dump_yaml(genome.data()), encoding="utf-8")
    for again in (parse_genome(catalog.read_yaml(path)), load_genome(str(path))):
        assert again == genome
        assert again.key() == genome.key()


@pytest.mark.parametrize("genome", EVERY_KIND, ids=lambda genome: genome.summary())
def test_json_round_trip(genome: Hourglass) -> None:
    for text in (json.dumps(genome.data()), genome.model_dump_json()):
        again = parse_genome(json.loads(text))
        assert again == genome
        assert again.key() == genome.key()


@pytest.mark.parametrize("space", catalog.names("search_spaces"))
def test_sampled_genomes_survive_yaml(space: str, tmp_path: Path) -> None:
    path = tmp_path / "genomes.yaml"
    sampled = load_space(space)
    genomes = [sampled.sample(seed) for seed in range(30)]
    path.write_text(catalog.dump_yaml([genome.data() for genome in genomes]), encoding="utf-8")
    assert [parse_genome(data) for data in catalog.read_yaml(path)] == genomes


@pytest.mark.parametrize("name", NAMED)
def test_named_genome_survives_its_data(name: str) -> None:
    genome = load_genome(name)
    assert parse_genome(genome.data()) == genome
    assert next(iter(genome.data())) == "family"


def test_a_file_may_hold_the_genome_alone_or_beside_what_is_known(tmp_path: Path) -> None:
    alone, beside = tmp_path / "alone.yaml", tmp_path / "beside.yml"
    alone.write_text("family: resnet\nblocks: 3\n")
    beside.write_text("about: mine\nimage_channels: 1\ngenome: {family: resnet, blocks: 3}\n")
    assert load_genome(str(alone)) == load_genome(str(beside)) == ResNet(blocks=3)
    assert load_genome_file(str(beside)).image_channels == 1


def test_uniform_levels_are_written_as_one_value() -> None:
    data = small(channels_down=8).data()
    assert data["channels_down"] == 8
    assert data["channels_up"] == [5, 4]


@pytest.mark.parametrize(
    ("genome", "words"),
    [
        (Hourglass(), "hourglass 5 x 128, skip 4, bilinear"),
        (Hourglass(depth=2, channels_skip=0, upsample="nearest"), "hourglass 2 x 128, no skip, nearest"),
        (Hourglass(depth=2, channels_down=[8, 16], channels_skip=[0, 4]), "hourglass 2 x 8-16, skip 0-4, bilinear"),
        (UNet(plain_depth=1), "U-Net 5 x 16, transposed"),
        (ResNet(), "ResNet 8 x 32"),
        (Pyramid(), "pyramid 6 x 8"),
        (Decoder(), "decoder 5 x 128, 1x1, bilinear"),
    ],
)
def test_summary(genome: Hourglass, words: str) -> None:
    assert genome.summary() == words


# Refusing


@pytest.mark.parametrize("genome", EVERY_KIND, ids=lambda genome: genome.summary())
def test_genome_is_frozen_and_hashable(genome: Hourglass) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        genome.norm = "none"
    with pytest.raises(ValidationError, match="frozen"):
        genome.input.kind = "noise"
    assert len({genome, parse_genome(genome.data())}) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_keys_are_refused(family: str) -> None:
    for data in ({"colour": 3}, {"input": {"kind": "noise", "colour": 3}}):
        with pytest.raises(ValidationError, match="colour"):
            parse_genome({"family": family} | data)


@pytest.mark.parametrize(
    ("gene", "choices"),
    [
        ("activation", ACTIVATIONS),
        ("norm", NORMS),
        ("padding", PADDINGS),
        ("downsample", DOWNSAMPLERS),
        ("upsample", UPSAMPLERS),
        ("merge", ["concatenate", "add"]),
    ],
)
def test_an_unknown_name_is_answered_with_the_choices(gene: str, choices: dict[str, object]) -> None:
    text = refusal(**{gene: "magic"})
    assert gene in text and "magic" in text
    assert all(choice in text for choice in choices)
    for choice in choices:
        assert parse_genome({"family": "hourglass", gene: choice}).data()[gene] == choice


@pytest.mark.parametrize(("data", "choices"), [({"family": "magic"}, FAMILIES), ({"input": {"kind": "magic"}}, INPUTS)])
def test_an_unknown_family_or_input_is_answered_with_the_choices(data: dict[str, object], choices: list[str]) -> None:
    text = refusal(**data)
    assert "magic" in text
    assert all(choice in text for choice in choices)


@pytest.mark.parametrize("gene", PER_LEVEL)
def test_one_value_stands_for_all_levels(gene: str) -> None:
    value = getattr(Hourglass(), gene)[0]
    for depth in (1, 2, 8):
        assert getattr(Hourglass(depth=depth), gene) == (value,) * depth
        assert Hourglass(**{"depth": depth, gene: value}) == Hourglass(**{"depth": depth, gene: [value] * depth})


@pytest.mark.parametrize("gene", PER_LEVEL)
@pytest.mark.parametrize("entries", [0, 1, 2, 4])
def test_a_list_of_the_wrong_length_is_refused(gene: str, entries: int) -> None:
    value = getattr(Hourglass(), gene)[0]
    assert f"{gene} has {entries} entries for depth 3" in refusal(**{"depth": 3, gene: [value] * entries})


@pytest.mark.parametrize(
    ("deepest", "skips"), [(0, (0, 0, 0)), (1, (0, 0, 4)), (2, (0, 4, 4)), (3, (4, 4, 4)), (8, (4, 4, 4))]
)
def test_skips_at_the_deepest_levels_only(deepest: int, skips: tuple[int, ...]) -> None:
    data = {"family": "hourglass", "depth": 3, "channels_skip": {"deepest": deepest, "channels": 4}}
    assert parse_genome(data) == Hourglass(depth=3, channels_skip=skips)


@pytest.mark.parametrize(
    "skip",
    [
        {"deepest": 2},
        {"channels": 4},
        {"deepest": -1, "channels": 4},
        {"deepest": "two", "channels": 4},
        {"deepest": True, "channels": 4},
        {"deepest": 2, "channels": "four"},
        {"deepest": 2, "channels": -4},
        {"deepest": 2, "chanels": 4},
    ],
    ids=str,
)
def test_malformed_skips_at_the_deepest_levels_are_refused(skip: dict[str, object]) -> None:
    assert "channels_skip" in refusal(depth=3, channels_skip=skip)


@pytest.mark.parametrize("gene", ["kernel_down", "kernel_up", "kernel_skip"])
@pytest.mark.parametrize("kernel", [2, 4, 0, -1, 17, [3, 4]])
def test_even_and_absurd_kernels_are_refused(gene: str, kernel: int | list[int]) -> None:
    assert gene in refusal(**{"depth": 2, gene: kernel})


@pytest.mark.parametrize(
    "genes",
    [
        {"depth": 0}, {"depth": 9}, {"depth": 10**9}, {"depth": -1}, {"depth": None},
        {"channels_down": 0}, {"channels_up": -4}, {"channels_skip": -1}, {"channels_down": 4097},
        {"channels_down": None}, {"channels_down": {"a": 1}}, {"channels_down": []},
        {"input": {"kind": "noise", "channels": 0}}, {"input": {"kind": "noise", "scale": 0}},
        {"input": {"kind": "noise", "scale": float("nan")}}, {"input": {"kind": "noise", "scale": "wide"}},
        {"input": 3}, {"input": {"kind": "fourier", "frequencies": 0}}, {"input": {"kind": "meshgrid", "channels": 2}},
    ],
    ids=str,
)  # fmt: skip
def test_absurd_values_are_refused(genes: dict[str, object]) -> None:
    assert next(iter(genes)) in refusal(**genes)


def test_a_file_of_a_malformed_genome_is_named_with_key_and_choices(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("family: hourglass\nnorm: batsch\n")
    with pytest.raises(UsageError) as caught:
        load_genome(str(path))
    text = str(caught.value)
    assert str(path) in text and "norm" in text and "'batsch'" in text and "instance" in text
    assert len(text.splitlines()) == 1


# Keys


def test_key_of_the_default_network_stays() -> None:
    assert load_genome("dip-denoise").key() == "1986a2f49f29818c"


def test_key_is_sixteen_hexadecimal_digits_for_every_family() -> None:
    keys = [genome.key() for genome in (Hourglass(), Linked(), UNet(), ResNet(), Pyramid(), Decoder())]
    assert len(set(keys)) == 6
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


SAME = [
    ("kernel_skip where no level has a skip", {"channels_skip": 0}, {"kernel_skip": 5}),
    ("kernel_skip where one level has no skip", {"channels_skip": [2, 0]}, {"kernel_skip": [1, 7]}),
    ("merge without skips", {"channels_skip": 0}, {"merge": "add"}),
    ("widths of added skips", {"merge": "add", "channels_skip": [1, 0]}, {"channels_skip": [64, 0]}),
    ("widths of added skips at both levels", {"merge": "add", "channels_skip": 1}, {"channels_skip": [3, 9]}),
    ("padding of 1x1 kernels", {"kernel_down": 1, "kernel_up": 1, "kernel_skip": 1}, {"padding": "zero"}),
    (
        "padding of 1x1 kernels beside absent skips",
        {"kernel_down": 1, "kernel_up": 1, "channels_skip": 0, "kernel_skip": 3},
        {"padding": "zero"},
    ),
]


@pytest.mark.parametrize(("genes", "change"), [case[1:] for case in SAME], ids=[case[0] for case in SAME])
def test_what_cannot_matter_changes_neither_key_nor_function(
    genes: dict[str, object], change: dict[str, object]
) -> None:
    one, other = small(**genes), small(**(genes | change))
    assert one != other
    assert one.key() == other.key()
    assert one.canonical() == other.canonical()
    assert torch.equal(output(one), output(other))


TINY_DECODER = {"family": "decoder", "depth": 2, "channels": 4, "input": {"kind": "noise", "channels": 3}}


@pytest.mark.parametrize("upsample", FIXED_UPSAMPLERS)
def test_a_1x1_convolution_comes_to_the_same_before_and_after_a_fixed_upsampler(upsample: str) -> None:
    one = parse_genome(TINY_DECODER | {"upsample": upsample})
    other = parse_genome(TINY_DECODER | {"upsample": upsample, "order": "before", "padding": "zero"})
    assert one != other and one.key() == other.key()
    assert torch.equal(output(one), output(other))
    larger = [parse_genome(genome.data() | {"kernel": 3}) for genome in (one, other)]
    assert larger[0].key() != larger[1].key()
    assert not torch.allclose(output(larger[0]), output(larger[1]))


@pytest.mark.parametrize("upsample", [name for name in UPSAMPLERS if name not in FIXED_UPSAMPLERS])
def test_the_order_matters_where_the_upsampler_learns(upsample: str) -> None:
    one = parse_genome(TINY_DECODER | {"upsample": upsample})
    other = parse_genome(TINY_DECODER | {"upsample": upsample, "order": "before"})
    assert one.key() != other.key()
    assert not torch.allclose(output(one), output(other))


MATTERS: dict[str, dict[str, object]] = {
    "itself": {},
    "depth": {"depth": 1, "channels_down": 4, "channels_up": 5, "channels_skip": 2},
    "channels_down": {"channels_down": [4, 7]},
    "channels_up": {"channels_up": [6, 4]},
    "channels_skip": {"channels_skip": [3, 0]},
    "skip elsewhere": {"channels_skip": [0, 2]},
    "no skip": {"channels_skip": 0},
    "kernel_down": {"kernel_down": [5, 3]},
    "kernel_up": {"kernel_up": [3, 1]},
    "kernel_skip": {"kernel_skip": 3},
    "upsample": {"upsample": ["nearest", "bilinear"]},
    "upsample below": {"upsample": ["bilinear", "nearest"]},
    "downsample": {"downsample": "max"},
    "merge": {"merge": "add"},
    "mix": {"conv1x1_after_up": False},
    "activation": {"activation": "elu"},
    "norm": {"norm": "none"},
    "padding": {"padding": "zero"},
    "noise channels": {"input": NoiseInput(channels=4)},
    "noise scale": {"input": NoiseInput(channels=3, scale=0.2)},
    "meshgrid": {"input": MeshgridInput()},
    "fourier": {"input": FourierInput()},
    "fourier frequencies": {"input": FourierInput(frequencies=4)},
}


def test_what_matters_changes_the_key() -> None:
    names: dict[str, str] = {}
    for name, genes in MATTERS.items():
        first = names.setdefault(small(**genes).key(), name)
        assert first == name, f"{first} and {name} have one key"


@pytest.mark.parametrize(
    ("genome", "changes"),
    [
        (UNet(depth=2), [{"depth": 3}, {"plain_depth": 1}, {"width": 8}, {"upsample": "nearest"}, {"norm": "batch"}]),
        (ResNet(), [{"blocks": 3}, {"channels": 8}, {"norm": "none"}, {"padding": "zero"}, {"activation": "relu"}]),
        (Pyramid(), [{"scales": 3}, {"channels": 4}, {"norm": "none"}, {"padding": "zero"}, {"activation": "relu"}]),
        (
            Decoder(kernel=3),
            [
                {"depth": 3},
                {"channels": 8},
                {"kernel": 1},
                {"kernel": 5},
                {"upsample": "lpf2"},
                {"order": "before"},
                {"norm": "none"},
                {"padding": "zero"},
                {"activation": "elu"},
                {"input": {"kind": "meshgrid"}},
            ],
        ),
    ],
    ids=["unet", "resnet", "pyramid", "decoder"],
)
def test_every_gene_of_the_other_families_changes_the_key(genome: UNet, changes: list[dict[str, object]]) -> None:
    keys = {genome.key()} | {parse_genome(genome.data() | change).key() for change in changes}
    assert len(keys) == len(changes) + 1


def test_one_key_never_stands_for_two_named_networks() -> None:
    seen: dict[str, object] = {}
    for name in NAMED:
        genome = load_genome(name)
        assert seen.setdefault(genome.key(), genome.canonical()) == genome.canonical(), name


def a_few(values: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    return st.lists(values, min_size=2, max_size=2)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    skip=a_few(st.sampled_from([0, 0, 2, 5])),
    kernel_skip=a_few(st.sampled_from([1, 3])),
    kernel=st.sampled_from([1, 1, 3]),
    merge=st.sampled_from(["concatenate", "add"]),
    padding=st.sampled_from(list(PADDINGS)),
)
def test_canonical_form_is_the_same_function_and_final(
    skip: list[int], kernel_skip: list[int], kernel: int, merge: str, padding: str
) -> None:
    genome = small(
        channels_skip=skip, kernel_skip=kernel_skip, kernel_down=kernel, kernel_up=kernel, merge=merge, padding=padding
    )
    canonical = genome.canonical()
    assert canonical.canonical() == canonical
    assert canonical.key() == genome.key()
    assert parse_genome(canonical.data()) == canonical
    assert torch.equal(output(genome), output(canonical))
