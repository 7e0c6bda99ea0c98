"""The single-scale residual family, as in the paper's architecture comparison."""

import torch
from torch import Tensor, nn

from dipsearch.genome import ResNet
from dipsearch.network.blocks import ACTIVATIONS, NORMS, conv
from dipsearch.network.size import Network, SizeRule


class Residual(nn.Module):
    """x + (convolution, norm, activation, convolution, norm)(x), with no activation after the sum."""

    def __init__(self, genome: ResNet) -> None:
        super().__init__()
        width = genome.channels
        self.change = nn.Sequential(
            conv(width, width, 3, bias=False, padding="zero"),
            NORMS[genome.norm](width),
            ACTIVATIONS[genome.activation](),
            conv(width, width, 3, bias=False, padding="zero"),
            NORMS[genome.norm](width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW."""
        return x + self.change(x)  # type: ignore[no-any-return]


class ResNetNet(Network):
    """z (N, genome.input.channels, H, W) to a picture in (0, 1) with `image_channels` channels."""

    def __init__(self, genome: ResNet, image_channels: int) -> None:
        super().__init__()
        width = genome.channels
        self.size_rule = SizeRule(minimum=2, multiple_of=1)
        self.body = nn.Sequential(
            conv(genome.input.channels, width, 3, padding=genome.padding),
            ACTIVATIONS[genome.activation](),
            *(Residual(genome) for _ in range(genome.blocks)),
            conv(width, width, 3, padding="zero"),
            NORMS[genome.norm](width),
            conv(width, image_channels, 3, padding=genome.padding),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Any input of at least two pixels a side keeps its size."""
        return torch.sigmoid(self.body(z))
