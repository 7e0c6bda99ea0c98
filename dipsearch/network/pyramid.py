"""The multi-scale texture network: averaged inputs, merged from coarse to fine."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from dipsearch.genome import Pyramid
from dipsearch.network.blocks import NORMS, ConvBlock, conv
from dipsearch.network.pending import concatenate, join
from dipsearch.network.resampling import UPSAMPLERS
from dipsearch.network.size import Network, SizeRule, picture


def triple(channels_in: int, channels_out: int, genome: Pyramid) -> nn.Sequential:
    """Three convolution blocks, 3x3, 3x3 and 1x1."""
    block = partial(ConvBlock, norm=genome.norm, activation=genome.activation, padding=genome.padding)
    return nn.Sequential(
        block(channels_in, channels_out, 3),
        block(channels_out, channels_out, 3),
        block(channels_out, channels_out, 1),
    )


class PyramidNet(Network):
    """z (N, genome.input.channels, H, W) to a picture in (0, 1) with `image_channels` channels."""

    def __init__(self, genome: Pyramid, image_channels: int) -> None:
        super().__init__()
        scales, width = genome.scales, genome.channels
        self.size_rule = SizeRule(minimum=2**scales, multiple_of=2 ** (scales - 1))
        self.ratios = [2**scale for scale in reversed(range(scales))]
        self.entries = nn.ModuleList(triple(genome.input.channels, width, genome) for _ in self.ratios)
        norm = NORMS[genome.norm]
        self.coarse_norms = nn.ModuleList(norm(width * scale) for scale in range(1, scales))
        self.fine_norms = nn.ModuleList(norm(width) for _ in range(1, scales))
        self.merges = nn.ModuleList(
            triple(width * (scale + 1), width * (scale + 1), genome) for scale in range(1, scales)
        )
        self.head = conv(width * scales, image_channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Sides that 2^(scales-1) divides, and at least twice that."""
        entered = [
            entry(F.avg_pool2d(z, ratio) if ratio > 1 else z)
            for entry, ratio in zip(self.entries, self.ratios, strict=True)
        ]
        current = entered[0]
        levels = zip(entered[1:], self.coarse_norms, self.fine_norms, self.merges, strict=True)
        for fine, coarse_norm, fine_norm, merge in levels:
            doubled = current.then(UPSAMPLERS["nearest"](0)).then(coarse_norm)
            current = merge(join([doubled, fine.then(fine_norm)], concatenate))
        return picture(self.head(current))
