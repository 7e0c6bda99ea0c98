"""The single-scale residual family, as in the paper's architecture comparison."""

from functools import partial

import torch
from torch import Tensor, nn

from dipsearch.genome import ResNet
from dipsearch.network.blocks import ConvBlock, conv
from dipsearch.network.pending import Pending, join, pending
from dipsearch.network.size import Network, SizeRule, picture


class Residual(nn.Module):
    """x + (convolution, norm, activation, convolution, norm)(x), with no activation after the sum."""

    def __init__(self, genome: ResNet) -> None:
        super().__init__()
        block = partial(ConvBlock, norm=genome.norm, padding="zero", bias=False)
        width = genome.channels
        self.first = block(width, width, 3, activation=genome.activation)
        self.second = block(width, width, 3, activation="none")

    def forward(self, x: Pending) -> Pending:
        """NCHW to NCHW."""
        now = x.tensor()
        return join([pending(now), self.second(self.first(now))], torch.add)


class ResNetNet(Network):
    """z (N, genome.input.channels, H, W) to a picture in (0, 1) with `image_channels` channels."""

    def __init__(self, genome: ResNet, image_channels: int) -> None:
        super().__init__()
        width = genome.channels
        self.size_rule = SizeRule(minimum=2, multiple_of=1)
        self.body = nn.Sequential(
            ConvBlock(
                genome.input.channels, width, 3, norm="none", activation=genome.activation, padding=genome.padding
            ),
            *(Residual(genome) for _ in range(genome.blocks)),
            ConvBlock(width, width, 3, norm=genome.norm, activation="none", padding="zero"),
        )
        self.head = conv(width, image_channels, 3, padding=genome.padding)

    def forward(self, z: Tensor) -> Tensor:
        """Any input of at least two pixels a side keeps its size."""
        return picture(self.head(self.body(z)))
