"""The network's fixed input z."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dipsearch.genome import FourierInput, Genome, MeshgridInput, NoiseInput


def noise(kind: NoiseInput, height: int, width: int, generator: torch.Generator) -> Tensor:
    """U(0, scale) in every channel."""
    return torch.rand(1, kind.channels, height, width, generator=generator) * kind.scale


def meshgrid(kind: MeshgridInput, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Column, then row, both in [0, 1]."""
    rows, columns = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    return torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)])[None].contiguous()


def fourier(kind: FourierInput, height: int, width: int, generator: torch.Generator) -> Tensor:
    """sin and cos of pi f u for both coordinates u in [0, 1], with f from 1 to 256 in equal ratios."""
    exponents = torch.linspace(0, 8, kind.frequencies)
    grid = meshgrid(MeshgridInput(), height, width, generator)
    angles = math.pi * torch.pow(2.0, exponents)[:, None, None, None] * grid
    return torch.cat([angles.sin(), angles.cos()]).reshape(1, kind.channels, height, width)


INPUTS: dict[str, Callable[[Any, int, int, torch.Generator], Tensor]] = {
    "noise": noise,
    "meshgrid": meshgrid,
    "fourier": fourier,
}


def network_input(genome: Genome, height: int, width: int, generator: torch.Generator) -> Tensor:
    """z for one picture: (1, genome.input.channels, height, width), float32, on the CPU.

    The draw happens on the CPU on every machine, so that a seed means the same z everywhere.
    """
    return INPUTS[genome.input.kind](genome.input, height, width, generator)
