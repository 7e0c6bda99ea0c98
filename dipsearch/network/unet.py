"""The U-Net family, as in the paper's architecture comparison."""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from dipsearch.genome import UNet
from dipsearch.network.blocks import ConvBlock, conv
from dipsearch.network.cell import upsampler
from dipsearch.network.pending import Pending, concatenate, join, pending
from dipsearch.network.size import Network, SizeRule, centre_crop, picture


def pair(channels_in: int, channels_out: int, genome: UNet, norm: str) -> nn.Sequential:
    """Two 3x3 convolution blocks."""
    block = partial(ConvBlock, norm=norm, activation=genome.activation, padding=genome.padding)
    return nn.Sequential(block(channels_in, channels_out, 3), block(channels_out, channels_out, 3))


class Up(nn.Module):
    """Doubling to `channels_out`, concatenated with the encoder's map, then two convolutions without norm."""

    def __init__(self, channels_in: int, channels_out: int, genome: UNet) -> None:
        super().__init__()
        if genome.upsample == "transposed":  # changes the number of channels by itself
            self.enlarge: nn.Module = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
            self.follow = None
        else:
            self.enlarge = upsampler(genome.upsample, channels_in)
            self.follow = conv(channels_in, channels_out, 3, padding=genome.padding)
        self.refine = pair(2 * channels_out, channels_out, genome, norm="none")

    def forward(self, deep: Pending, encoded: Tensor) -> Pending:
        """The encoder's map is cut to the doubled one where an odd side made them differ."""
        doubled = self.enlarge(deep.tensor()) if self.follow is None else self.follow(deep.then(self.enlarge))
        encoded = centre_crop(encoded, doubled.shape[-2], doubled.shape[-1])
        merged = join([pending(doubled), pending(encoded)], concatenate)
        return self.refine(merged)  # type: ignore[no-any-return]


class UNetNet(Network):
    """z (N, genome.input.channels, H, W) to a picture in (0, 1) with `image_channels` channels."""

    def __init__(self, genome: UNet, image_channels: int) -> None:
        super().__init__()
        depth = genome.depth + genome.plain_depth
        self.size_rule = SizeRule(minimum=2 ** (depth + 1), multiple_of=2**depth)
        widths = [genome.width * 2 ** min(level, genome.depth) for level in range(depth + 1)]
        self.start = pair(genome.input.channels, widths[0], genome, genome.norm)
        self.downs = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), pair(a, b, genome, genome.norm)) for a, b in pairwise(widths)
        )
        self.ups = nn.ModuleList(Up(widths[level + 1], widths[level], genome) for level in reversed(range(depth)))
        self.head = conv(widths[0], image_channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Any input of at least 2^(depth+1) pixels a side; a size outside the rule may come back cut."""
        deep, maps = self.start(z), []
        for down in self.downs:
            maps.append(deep.tensor())
            deep = down(maps[-1])
        for up in self.ups:
            deep = up(deep, maps.pop())
        return picture(self.head(deep))
