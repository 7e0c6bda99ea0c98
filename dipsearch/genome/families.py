"""Genomes: the complete description of a network, one class for each family."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from dipsearch.genome.parts import (
    Activation,
    Channels,
    Depth,
    Downsampler,
    Input,
    Kernel,
    NoiseInput,
    Norm,
    Padding,
    Part,
    SkipChannels,
    Upsampler,
    canonical_upsampler,
    check_divisor,
)
from dipsearch.network.resampling import FIXED_UPSAMPLERS


class Genome(Part, ABC):
    """What all families share. Two genomes describe the same network if their keys are equal."""

    family: str
    input: Input = NoiseInput()
    activation: Activation = "leaky-relu"
    norm: Norm = "batch"
    padding: Padding = "reflect"

    def canonical(self) -> Self:
        """The same network with every gene that cannot matter set to its default."""
        return self

    def key(self) -> str:
        """A stable 16-digit hexadecimal hash of the canonical form."""
        data = self.canonical().model_dump(mode="json", exclude_defaults=True)
        data["family"] = self.family
        if "input" in data:  # its kind is a default of its class, but tells the classes apart
            data["input"]["kind"] = self.input.kind
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def data(self) -> dict[str, Any]:
        """Plain data for YAML or JSON: family first, a uniform per-level list as one value."""
        plain = {"family": self.family} | self.model_dump(mode="json")
        return {name: _collapse(value) for name, value in plain.items()}

    @abstractmethod
    def summary(self) -> str:
        """A few words for a table."""


def _collapse(value: Any) -> Any:
    uniform = isinstance(value, list) and value and all(entry == value[0] for entry in value)
    return value[0] if uniform and not isinstance(value[0], list) else value  # a matrix stays


def _brief(values: tuple[Any, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "-".join(str(value) for value in values)


class Hourglass(Genome):
    """The paper's encoder-decoder: an hourglass without skips, a skip network with them.

    Level 0 works at full resolution, and each level halves it. A per-level gene is a list of `depth`
    entries, or one value for all levels; `channels_skip` may also be `{deepest: 2, channels: 4}`, which gives
    the two deepest levels a skip of 4 channels and the others none. With `merge: add`, a level whose
    `channels_skip` is above 0 has a skip branch, which takes the width of what it is added to.
    """

    family: Literal["hourglass"] = "hourglass"
    depth: Depth = 5
    channels_down: tuple[Channels, ...] = Field((128,), validate_default=False)
    channels_up: tuple[Channels, ...] = Field((128,), validate_default=False)
    channels_skip: tuple[SkipChannels, ...] = Field((4,), validate_default=False)
    kernel_down: tuple[Kernel, ...] = Field((3,), validate_default=False)
    kernel_up: tuple[Kernel, ...] = Field((3,), validate_default=False)
    kernel_skip: tuple[Kernel, ...] = Field((1,), validate_default=False)
    upsample: tuple[Upsampler, ...] = Field(("bilinear",), validate_default=False)
    downsample: Downsampler = "stride"
    merge: Literal["concatenate", "add"] = "concatenate"
    conv1x1_after_up: bool = True

    @model_validator(mode="before")
    @classmethod
    def _broadcast(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(depth := data.get("depth", 5), int):
            return data
        levels = range(min(max(depth, 0), 64))
        filled = dict(data)
        if isinstance(skip := filled.get("channels_skip"), dict):
            filled["channels_skip"] = _skips_of_deepest(skip, len(levels))
        for name in PER_LEVEL:
            value = filled.get(name, cls.model_fields[name].default[0])
            filled[name] = tuple(value) if isinstance(value, list | tuple) else tuple(value for _ in levels)
        return filled

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        for name in PER_LEVEL:
            if (entries := len(getattr(self, name))) != self.depth:
                raise ValueError(f"{name} has {entries} entries for depth {self.depth}")
        for upsampler, channels in zip(self.upsample, self.channels_merged(), strict=True):
            check_divisor(upsampler, channels)
        return self

    def canonical(self) -> Self:
        """Unused skip genes, the merge of nothing, and the padding of nothing are set to their defaults."""
        changes: dict[str, Any] = {"upsample": tuple(canonical_upsampler(upsampler) for upsampler in self.upsample)}
        if not any(self.channels_skip):
            changes["merge"] = "concatenate"
        elif self.merge == "add":
            changes["channels_skip"] = tuple(
                width if skip else 0 for skip, width in zip(self.channels_skip, self.channels_merged(), strict=True)
            )
        changes["kernel_skip"] = tuple(
            kernel if skip else 1 for kernel, skip in zip(self.kernel_skip, self.channels_skip, strict=True)
        )
        if set(self.kernel_down + self.kernel_up + changes["kernel_skip"]) == {1}:
            changes["padding"] = "reflect"
        return self.model_copy(update=changes)

    def channels_merged(self) -> tuple[int, ...]:
        """Channels that each level receives from the level below it."""
        return (*self.channels_up[1:], self.channels_down[-1])

    def summary(self) -> str:
        """A few words for a table."""
        skips = f"skip {_brief(self.channels_skip)}" if any(self.channels_skip) else "no skip"
        return f"hourglass {self.depth} x {_brief(self.channels_down)}, {skips}, {_brief(self.upsample)}"


def _skips_of_deepest(skip: dict[str, Any], depth: int) -> list[Any]:
    """`{deepest: 2, channels: 4}` as one entry for each level; all levels where there are fewer."""
    count = skip.get("deepest")
    if skip.keys() != {"deepest", "channels"} or not isinstance(count, int) or isinstance(count, bool) or count < 0:
        given = ", ".join(f"{name}: {value}" for name, value in skip.items())
        raise ValueError(f"channels_skip is {{deepest: how many levels, channels: of each}}, got {{{given}}}")
    with_skip = min(count, depth)
    return [0] * (depth - with_skip) + [skip["channels"]] * with_skip


PER_LEVEL = (
    "channels_down", "channels_up", "channels_skip", "kernel_down", "kernel_up", "kernel_skip", "upsample",
)  # fmt: skip


Bit = Annotated[int, Field(ge=0, le=1)]
Bits = Annotated[tuple[Bit, ...], BeforeValidator(lambda row: tuple(row) if isinstance(row, str) else row)]


class Linked(Genome):
    """An encoder-decoder whose decoder levels may take maps of every encoder level (NAS-DIP).

    Level i works at 1 / 2^i of the resolution. `links[i][j]` is 1 where decoder level i merges source j, which is z
    for j = 0, and else what the encoder passes from level j - 1 to level j. A link within a level is a 1x1 block;
    one to a finer level repeats `upsample`, one to a coarser level a block of stride 2, and each step between two
    levels is one module that all links share. Links are written as rows of bits, or as `{offsets: [-1, 0, 3]}`:
    the same offsets j - i at every level.
    """

    family: Literal["linked"] = "linked"
    depth: Depth = 5
    channels: Channels = 128
    upsample: Upsampler = "bilinear"
    links: tuple[Bits, ...] = Field(((1,),), validate_default=False)
    merge: Literal["add", "concatenate"] = "add"

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(depth := data.get("depth", 5), int) or not 1 <= depth <= 8:
            return data
        links = data.get("links", {"offsets": [0]})
        if isinstance(links, dict):
            offsets = links.get("offsets")
            if set(links) != {"offsets"} or not isinstance(offsets, list | tuple):
                raise ValueError("links: rows of bits, or {offsets: [...]}")
            for offset in offsets:
                if offset not in range(1 - depth, depth):
                    raise ValueError(f"links.offsets: from {1 - depth} to {depth - 1} at depth {depth}, got {offset!r}")
            links = toeplitz(offsets, depth)
        return data | {"links": links}

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if (rows := len(self.links)) != self.depth:
            raise ValueError(f"links has {rows} rows for depth {self.depth}")
        for index, row in enumerate(self.links):
            if len(row) != self.depth:
                raise ValueError(f"links.{index} has {len(row)} bits for depth {self.depth}")
        check_divisor(self.upsample, self.channels)
        return self

    def canonical(self) -> Self:
        """The merge of nothing is set to its default, and so is the kernel of an interpolation."""
        merge = self.merge if any(map(any, self.links)) else "add"
        return self.model_copy(update={"merge": merge, "upsample": canonical_upsampler(self.upsample)})

    @property
    def offsets(self) -> tuple[int, ...] | None:
        """The offsets source - level of its links, or None where they differ from level to level."""
        found = {j - i for i, row in enumerate(self.links) for j, bit in enumerate(row) if bit}
        return tuple(sorted(found)) if toeplitz(found, self.depth) == self.links else None

    def summary(self) -> str:
        """A few words for a table."""
        offsets = self.offsets
        links = f"{sum(map(sum, self.links))} links" if offsets is None else f"links {' '.join(map(str, offsets))}"
        return f"linked {self.depth} x {self.channels}, {links if offsets != () else 'no links'}, {self.upsample}"


def toeplitz(offsets: Collection[int], depth: int) -> tuple[tuple[int, ...], ...]:
    """The matrix of links whose bits depend on the offset (source - decoder level) only."""
    return tuple(tuple(int(j - i in offsets) for j in range(depth)) for i in range(depth))


class UNet(Genome):
    """The U-Net of the paper's architecture comparison: max pooling, concatenated encoder maps.

    `width` channels at full resolution, doubled at each of `depth` halvings; `plain_depth` further
    halvings keep the number. The paper's norm sits in the encoder only.
    """

    family: Literal["unet"] = "unet"
    activation: Activation = "relu"
    norm: Norm = "instance"
    padding: Padding = "zero"
    depth: Annotated[int, Field(ge=1, le=6)] = 4
    plain_depth: Annotated[int, Field(ge=0, le=2)] = 0
    width: Annotated[int, Field(ge=1, le=256)] = 16
    upsample: Upsampler = "transposed"

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        check_divisor(self.upsample, 2 * self.width)  # which divides the width of every level below
        return self

    def canonical(self) -> Self:
        """The kernel of an interpolation is set to its default."""
        return self.model_copy(update={"upsample": canonical_upsampler(self.upsample)})

    def summary(self) -> str:
        """A few words for a table."""
        return f"U-Net {self.depth + self.plain_depth} x {self.width}, {self.upsample}"


class ResNet(Genome):
    """The paper's single-scale residual chain. `padding` concerns its first and last convolution only."""

    family: Literal["resnet"] = "resnet"
    blocks: Annotated[int, Field(ge=1, le=64)] = 8
    channels: Channels = 32

    def summary(self) -> str:
        """A few words for a table."""
        return f"ResNet {self.blocks} x {self.channels}"


class Pyramid(Genome):
    """The texture network of Ulyanov et al. (ICML 2016), listed among the paper's networks.

    The input is averaged down by 2^(scales-1) … 1; each scale brings `channels` channels, merged from
    coarse to fine with nearest upsampling.
    """

    family: Literal["pyramid"] = "pyramid"
    scales: Annotated[int, Field(ge=2, le=8)] = 6
    channels: Channels = 8

    def summary(self) -> str:
        """A few words for a table."""
        return f"pyramid {self.scales} x {self.channels}"


class Decoder(Genome):
    """A decoder without an encoder: the Deep Decoder (Heckel & Hand, ICLR 2019) with 1x1 kernels, the
    ConvDecoder (Darestani & Heckel, 2021) with 3x3.

    `depth` layers double the sides, `before` or `after` their convolution, and one more does not; each is
    followed by activation and norm, in this order, and no convolution has a bias. The network begins with
    2^-depth of the picture's sides.
    """

    family: Literal["decoder"] = "decoder"
    activation: Activation = "relu"
    depth: Depth = 5
    channels: Channels = 128
    kernel: Kernel = 1
    upsample: Upsampler = "bilinear"
    order: Literal["before", "after"] = "after"

    @model_validator(mode="after")
    def _check_widths(self) -> Self:
        check_divisor(self.upsample, self.channels)
        if self.order == "before":
            check_divisor(self.upsample, self.input.channels)
        return self

    def canonical(self) -> Self:
        """A 1x1 convolution has no padding, and comes to the same on either side of a fixed upsampler."""
        upsample = canonical_upsampler(self.upsample)
        if self.kernel > 1:
            return self.model_copy(update={"upsample": upsample})
        order = "after" if upsample in FIXED_UPSAMPLERS else self.order
        return self.model_copy(update={"upsample": upsample, "padding": "reflect", "order": order})

    def summary(self) -> str:
        """A few words for a table."""
        return f"decoder {self.depth} x {self.channels}, {self.kernel}x{self.kernel}, {self.upsample}"


AnyGenome = Annotated[Hourglass | Linked | UNet | ResNet | Pyramid | Decoder, Field(discriminator="family")]
parse_genome: Callable[[Any], Genome] = TypeAdapter(AnyGenome).validate_python
