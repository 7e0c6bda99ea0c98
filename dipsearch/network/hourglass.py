"""The encoder-decoder family: hourglass networks, and skip networks."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from dipsearch.genome import Hourglass
from dipsearch.network.blocks import NORMS, ConvBlock, conv
from dipsearch.network.cell import upsampler
from dipsearch.network.pending import Pending, concatenate, join
from dipsearch.network.resampling import DOWNSAMPLERS
from dipsearch.network.size import Network, SizeRule, centre_crop, picture


class Level(nn.Module):
    """One resolution, and inside it all lower ones. Level 0 works at full resolution.

    Layers are created in the order of the original code, so that one seed gives the same weights.
    """

    def __init__(self, genome: Hourglass, index: int, channels_in: int) -> None:
        super().__init__()
        block = partial(ConvBlock, norm=genome.norm, activation=genome.activation, padding=genome.padding)
        down, up = genome.channels_down[index], genome.channels_up[index]
        deep = genome.channels_merged()[index]
        kernel = genome.kernel_down[index]
        self.merge = genome.merge
        skip = deep if genome.merge == "add" else genome.channels_skip[index]
        has_skip = genome.channels_skip[index] > 0

        self.skip = block(channels_in, skip, genome.kernel_skip[index]) if has_skip else None
        self.down = halve(block, channels_in, down, kernel, genome.downsample)
        self.refine = block(down, down, kernel)
        merged = deep + (skip if has_skip and genome.merge == "concatenate" else 0)
        self.norm = NORMS[genome.norm](merged)
        self.up = block(merged, up, genome.kernel_up[index])
        self.mix = block(up, up, 1) if genome.conv1x1_after_up else None
        self.enlarge = upsampler(genome.upsample[index], deep)
        deepest = index + 1 == genome.depth
        self.inner = None if deepest else Level(genome, index + 1, down)

    def forward(self, x: Tensor) -> Pending:
        """NCHW to NCHW of the same size, where the network's size rule holds."""
        refined = self.refine(self.down(x))
        deep = (refined if self.inner is None else self.inner(refined.tensor())).then(self.enlarge)
        merged = deep if self.skip is None else join([self.skip(x), deep], self.merged)
        up = self.up(merged.then(self.norm))
        return up if self.mix is None else self.mix(up)  # type: ignore[no-any-return]

    def merged(self, skip: Tensor, deep: Tensor) -> Tensor:
        """Concatenate (skip first) or add, both cut to their common size around the centre."""
        height, width = min(skip.shape[-2], deep.shape[-2]), min(skip.shape[-1], deep.shape[-1])
        parts = [centre_crop(skip, height, width), centre_crop(deep, height, width)]
        return concatenate(*parts) if self.merge == "concatenate" else parts[0] + parts[1]


def halve(
    block: Callable[..., nn.Module], channels_in: int, channels_out: int, kernel: int, downsample: str
) -> nn.Module:
    """A convolution block that halves both sides, by its stride or by what follows it."""
    downsampler = DOWNSAMPLERS[downsample]
    if downsampler is None:
        return block(channels_in, channels_out, kernel, stride=2)
    return block(channels_in, channels_out, kernel, after=downsampler())


class HourglassNet(Network):
    """z (N, genome.input.channels, H, W) to a picture in (0, 1) with `image_channels` channels."""

    def __init__(self, genome: Hourglass, image_channels: int) -> None:
        super().__init__()
        self.size_rule = size_rule(genome)
        self.body = Level(genome, 0, genome.input.channels)
        self.head = conv(genome.channels_up[0], image_channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Any input whose bottleneck keeps two pixels a side; a size outside the rule may come back cut, or
        rounded up."""
        return picture(self.head(self.body(z)))


def size_rule(genome: Hourglass) -> SizeRule:
    """Every level halves; the bottleneck needs two pixels a side (norm), and reflection more than its pad."""
    multiple = 2**genome.depth
    halves = multiple  # bottleneck of one pixel
    for index in range(genome.depth):
        reflected = genome.kernel_down[index] // 2 + 1 if genome.padding == "reflect" else 1
        halves = max(halves, 2 ** (index + 1) * max(2 if index + 1 == genome.depth else 1, reflected))
        kernels = (genome.kernel_up[index], genome.kernel_skip[index] if genome.channels_skip[index] else 1)
        above = max(kernels) // 2 + 1 if genome.padding == "reflect" else 1
        halves = max(halves, 2**index * above)
    return SizeRule(minimum=-(-halves // multiple) * multiple, multiple_of=multiple)
