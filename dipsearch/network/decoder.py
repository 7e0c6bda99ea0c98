"""The decoder family: from a few noisy pixels to a picture, by upsampling only."""

from torch import Tensor, nn

from dipsearch.genome import Cell, Decoder
from dipsearch.network.blocks import ACTIVATIONS, NORMS, conv
from dipsearch.network.cell import upsampler
from dipsearch.network.pending import Pending, pending
from dipsearch.network.size import Network, SizeRule, picture


class Layer(nn.Module):
    """Convolution without bias, activation, norm; where it doubles the sides, just before or just after the
    convolution."""

    def __init__(self, genome: Decoder, channels_in: int, *, doubles: bool) -> None:
        super().__init__()
        width = genome.channels
        before, after = doubles and genome.order == "before", doubles and genome.order == "after"
        self.enlarge = upsampler(genome.upsample, channels_in) if before else None
        self.conv = conv(channels_in, width, genome.kernel, bias=False, padding=genome.padding)
        activation = ACTIVATIONS[genome.activation]()
        # the output of the convolution may be kept, or that of a cell's activation
        kept = not after or isinstance(genome.upsample, Cell)
        if kept and hasattr(activation, "inplace"):
            activation.inplace = False  # type: ignore[assignment]
        finish = [activation, NORMS[genome.norm](width)]
        self.finish = nn.Sequential(*([upsampler(genome.upsample, width)] if after else []), *finish)

    def forward(self, x: Pending) -> Pending:
        """NCHW to NCHW, of the same sides or doubled."""
        return pending(self.conv(x if self.enlarge is None else x.then(self.enlarge))).then(self.finish)


class DecoderNet(Network):
    """z (N, genome.input.channels, H, W) to a picture in (0, 1) with `image_channels` channels.

    The network begins at H / 2^depth and W / 2^depth. It takes z as every other network does and keeps the
    pixel at the middle of each 2^depth x 2^depth cell: noise that is picked has the distribution that it had
    (an average would have 2^-depth of its deviation), so that `scale` and a recipe's input noise mean the same.
    """

    def __init__(self, genome: Decoder, image_channels: int) -> None:
        super().__init__()
        genome = genome.canonical()  # a 1x1 convolution before a fixed upsampler, where there is less to do
        self.cell = 2**genome.depth
        self.size_rule = size_rule(genome)
        self.body = nn.Sequential(
            *(
                Layer(genome, genome.channels if index else genome.input.channels, doubles=index < genome.depth)
                for index in range(genome.depth + 1)
            )
        )
        self.head = conv(genome.channels, image_channels, 1, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Sides that 2^depth divides; others come back rounded to a multiple."""
        middle = self.cell // 2
        return picture(self.head(self.body(pending(z[..., middle :: self.cell, middle :: self.cell]))))


def size_rule(genome: Decoder) -> SizeRule:
    """The first convolution sees more pixels than it reflects; of a single one, 1x1 kernels make a plain area."""
    multiple = 2**genome.depth
    least = genome.kernel // 2 + 1 if genome.padding == "reflect" else 1
    if genome.order == "before":  # the sides are doubled already
        least = -(-least // 2)
    return SizeRule(minimum=max(2, least) * multiple, multiple_of=multiple)
