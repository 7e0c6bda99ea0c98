"""`build`: genome to module, and `cost`: what a step of it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dipsearch.genome import Genome
from dipsearch.network.hourglass import HourglassNet
from dipsearch.network.pyramid import PyramidNet
from dipsearch.network.resnet import ResNetNet
from dipsearch.network.size import Network
from dipsearch.network.unet import UNetNet

FAMILIES: dict[str, Callable[[Any, int], Network]] = {
    "hourglass": HourglassNet,
    "unet": UNetNet,
    "resnet": ResNetNet,
    "pyramid": PyramidNet,
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
        `size_rule` says which H and W it gives back unchanged. It has to stay in training mode: with one
        picture in the batch, batch norm acts on that picture's statistics.
    """
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

    `gflop` counts the convolutions of the forward and backward pass, one multiplication and addition as two.
    `memory` is in bytes, float32: weights, gradient and two Adam moments, and what backward keeps.
    """

    parameters: int
    gflop: float
    memory: int


def cost(genome: Genome, height: int, width: int, image_channels: int = 3) -> Cost:
    """Count parameters, GFLOP per iteration and memory at a picture size, on the meta device."""
    with torch.device("meta"):
        net = build(genome, image_channels)
        z = torch.empty(1, genome.input.channels, *net.size_rule.padded(height, width))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = net(z)
        out.mean().backward()
    parameters = parameter_count(net)
    weights = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    activations = sum(size for storage, size in kept.items() if storage not in weights)
    return Cost(parameters, counter.get_total_flops() / 1e9, 16 * parameters + activations)
