"""`build`: genome to module, and `cost`: what a step of it takes."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dipsearch.error import UsageError
from dipsearch.genome import Genome, Part
from dipsearch.network.convolution import Convolution
from dipsearch.network.decoder import DecoderNet
from dipsearch.network.hourglass import HourglassNet
from dipsearch.network.linked import LinkedNet
from dipsearch.network.meter import Meter
from dipsearch.network.pyramid import PyramidNet
from dipsearch.network.resnet import ResNetNet
from dipsearch.network.size import Network
from dipsearch.network.unet import UNetNet

FAMILIES: dict[str, Callable[[Any, int], Network]] = {
    "hourglass": HourglassNet,
    "linked": LinkedNet,
    "unet": UNetNet,
    "resnet": ResNetNet,
    "pyramid": PyramidNet,
    "decoder": DecoderNet,
}


def build(genome: Genome, image_channels: int = 3, *, seed: int | None = None) -> Network:
    """Build the network that a genome describes, with fresh weights.

    Args:
        genome: any family.
        image_channels: channels of the picture to restore: 3 for RGB, 1 for grey.
        seed: draws the weights from this seed and leaves torch's global generator alone; without it
            they come from the global generator, as for any module.

    Returns:
        A plain module from z (N, genome.input.channels, H, W) to (N, image_channels, H, W) in (0, 1). Its
        `size_rule` says which H and W it gives back unchanged. Norms take the batch's own statistics, in
        training and evaluation mode alike.

    Raises:
        UsageError: this is no genome, but a name, say.
    """
    if not isinstance(genome, Part):
        raise UsageError(f"{str(genome)[:60]!r} is no genome; one by its name: load_genome(NAME)")
    if seed is None:
        return FAMILIES[genome.family](genome, image_channels)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed a GPU, too
        return FAMILIES[genome.family](genome, image_channels)


def parameter_count(net: nn.Module) -> int:
    """Learned numbers in a module."""
    return sum(parameter.numel() for parameter in net.parameters())


@dataclass(frozen=True)
class Cost:
    """What one optimisation step takes, predicted without running it.

    `gflop` counts the convolutions of the forward and backward pass, and the products of matrices by which fixed
    filters (lpf2 to kaiser100) are computed, one multiplication and addition as two; a CPU is spared some of them
    (`winograd`, `doubling`).
    `memory` is in bytes, of a whole fit on the CPU, as if nothing were spared: the step's peak, master weights, Adam,
    two snapshots. What the libraries take when a process makes its first fit (about 100 MiB) comes on top. `lasting` is
    what of it stays between two steps, with gradients.
    """

    parameters: int
    gflop: float
    memory: int
    lasting: int


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STATE = 36  # bytes for each parameter beside its gradient: weight, two moments, and all three in two snapshots
LIBRARIES = 32 * 2**20  # bytes: scratch memory of convolutions; measured: 12 MiB, and 33 where they are filtered


def cost(
    genome: Genome,
    height: int,
    width: int,
    image_channels: int = 3,
    precision: str = "float32",
    *,
    recompute: bool = False,
) -> Cost:
    """Count parameters, GFLOP per iteration and memory at a picture size, on the meta device.

    Args:
        genome: any family.
        height, width: of the picture.
        image_channels: of the picture.
        precision: a name in `PRECISIONS`.
        recompute: as `Convolution.recompute`.
    """
    return _cost(genome.canonical(), height, width, image_channels, precision, recompute)


@functools.lru_cache(maxsize=4096)
def _cost(genome: Genome, height: int, width: int, image_channels: int, precision: str, recompute: bool) -> Cost:
    dtype = PRECISIONS[precision]
    with torch.device("meta"):
        net = build(genome, image_channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        z = torch.empty(1, genome.input.channels, *net.size_rule.padded(height, width), dtype=dtype)
        z = z.to(memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, Convolution):
            module.recompute = recompute
        if not isinstance(module, nn.BatchNorm2d):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    with Meter() as meter:
        net(z).square().mean().backward()
    parameters = parameter_count(net)
    pictures = 4 * height * width * (3 * genome.input.channels + 8 * image_channels)  # z, its noise; averages
    memory = meter.peak + STATE * parameters + pictures + LIBRARIES
    return Cost(parameters, meter.flop / 1e9, memory, (STATE + 4) * parameters + pictures)
