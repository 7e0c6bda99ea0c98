"""The encoder-decoder with links across levels: maps reach other resolutions by chains of shared steps."""

from functools import partial, reduce

import torch
from torch import Tensor, nn

from dipsearch.genome import Linked
from dipsearch.network.blocks import NORMS, ConvBlock, conv
from dipsearch.network.cell import upsampler
from dipsearch.network.pending import Pending, concatenate, join, pending
from dipsearch.network.size import Network, SizeRule, picture


def add(*maps: Tensor) -> Tensor:
    """Their sum."""
    return reduce(torch.add, maps)


MERGES = {"add": add, "concatenate": concatenate}


class Decoder(nn.Module):
    """What a level starts from is doubled, merged with what is linked to it, normed, and convolved three times."""

    def __init__(self, genome: Linked, links: int) -> None:
        super().__init__()
        block = partial(ConvBlock, norm=genome.norm, activation=genome.activation, padding=genome.padding)
        width = genome.channels
        merged = width * (1 + links) if genome.merge == "concatenate" else width
        self.merge = MERGES[genome.merge]
        self.enlarge = upsampler(genome.upsample, width)
        self.norm = NORMS[genome.norm](merged)
        self.refine = nn.Sequential(block(merged, width, 3), block(width, width, 3), block(width, width, 1))

    def forward(self, deep: Pending, linked: list[Pending]) -> Pending:
        """The map of the level below, and maps of this level's size."""
        doubled = deep.then(self.enlarge)
        merged = join([*linked, doubled], self.merge) if linked else doubled
        return self.refine(merged.then(self.norm))  # type: ignore[no-any-return]


class LinkedNet(Network):
    """z (N, genome.input.channels, H, W) to a picture in (0, 1) with `image_channels` channels.

    `same`, `rises` and `sinks` hold one module for each level that a link stays at, and for each step between two
    levels that a chain takes, called by the level that it arrives at. All chains share them.
    """

    def __init__(self, genome: Linked, image_channels: int) -> None:
        super().__init__()
        block = partial(ConvBlock, norm=genome.norm, activation=genome.activation, padding=genome.padding)
        width, levels, links = genome.channels, range(genome.depth), genome.links
        self.size_rule = SizeRule(minimum=2 ** (genome.depth + 1), multiple_of=2**genome.depth)
        self.targets = [[level for level in levels if links[level][source]] for source in levels]
        ends = [(source, target) for source in levels for target in self.targets[source]]
        widths = [genome.input.channels, *(width for _ in levels)]

        self.encoders = nn.ModuleList(
            nn.Sequential(block(widths[level], width, 3, stride=2), block(width, width, 3)) for level in levels
        )
        self.same = nn.ModuleDict({str(at): block(widths[at], width, 1) for at in levels if (at, at) in ends})
        rises = [at for at in levels if any(target <= at < source for source, target in ends)]
        self.rises = nn.ModuleDict({str(at): upsampler(genome.upsample, width) for at in rises})
        sinks = [at for at in levels if any(source < at <= target for source, target in ends)]
        self.sinks = nn.ModuleDict({str(at): block(widths[at - 1], width, 3, stride=2) for at in sinks})
        self.decoders = nn.ModuleList(Decoder(genome, sum(links[level])) for level in levels)
        self.head = conv(width, image_channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Sides that 2^depth divides, and at least twice that."""
        sources, deep = [], pending(z)
        for encoder in self.encoders:
            sources.append(deep.tensor())
            deep = encoder(sources[-1])
        linked = self.linked(sources)
        for decoder in reversed(self.decoders):
            deep = decoder(deep, linked.pop())
        return picture(self.head(deep))

    def linked(self, sources: list[Tensor]) -> list[list[Pending]]:
        """For each level, the maps that its links bring, in the order of their sources."""
        arrived: list[list[Pending]] = [[] for _ in sources]
        for source, (x, targets) in enumerate(zip(sources, self.targets, strict=True)):
            if source in targets:
                arrived[source].append(self.same[str(source)](x))
            now = x
            for level in range(source - 1, min(targets, default=source) - 1, -1):
                now = self.rises[str(level)](now)
                if level in targets:
                    arrived[level].append(pending(now))
            now = x
            for level in range(source + 1, max(targets, default=source) + 1):
                now = self.sinks[str(level)](now).tensor()
                if level in targets:
                    arrived[level].append(pending(now))
        return arrived
