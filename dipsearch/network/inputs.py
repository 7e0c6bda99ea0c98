"""The network's fixed input z. Each kind is a function of its genes, the size, a generator and the guide."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dipsearch.error import UsageError
from dipsearch.genome import FourierInput, Genome, GuideInput, MeshgridInput, NoiseInput


def noise(kind: NoiseInput, height: int, width: int, generator: torch.Generator, guide: Tensor | None) -> Tensor:
    """U(0, scale) in every channel."""
    return torch.rand(1, kind.channels, height, width, generator=generator) * kind.scale


def meshgrid(kind: MeshgridInput, height: int, width: int, generator: torch.Generator, guide: Tensor | None) -> Tensor:
    """Column, then row, both in [0, 1]."""
    rows, columns = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    return torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)])[None].contiguous()


def fourier(kind: FourierInput, height: int, width: int, generator: torch.Generator, guide: Tensor | None) -> Tensor:
    """sin and cos of pi f u for both coordinates u in [0, 1], with f from 1 to 256 in equal ratios."""
    exponents = torch.linspace(0, 8, kind.frequencies)
    grid = meshgrid(MeshgridInput(), height, width, generator, guide)
    angles = math.pi * torch.pow(2.0, exponents)[:, None, None, None] * grid
    return torch.cat([angles.sin(), angles.cos()]).reshape(1, kind.channels, height, width)


def guided(kind: GuideInput, height: int, width: int, generator: torch.Generator, guide: Tensor | None) -> Tensor:
    """The guide as it is, in the middle; around it, its border again and again."""
    if guide is None:
        raise UsageError("this network's input is a picture of the same scene, and none was given (`guide`)")
    if guide.ndim != 4 or guide.shape[:2] != (1, kind.channels):
        raise UsageError(f"this network's guide is (1, {kind.channels}, H, W), got {tuple(guide.shape)}")
    top, left = (height - guide.shape[2]) // 2, (width - guide.shape[3]) // 2
    sides = (left, width - guide.shape[3] - left, top, height - guide.shape[2] - top)
    return pad(guide.to("cpu", torch.float32), sides, mode="replicate")


INPUTS: dict[str, Callable[[Any, int, int, torch.Generator, Tensor | None], Tensor]] = {
    "noise": noise,
    "meshgrid": meshgrid,
    "fourier": fourier,
    "guide": guided,
}


def network_input(
    genome: Genome, height: int, width: int, generator: torch.Generator, guide: Tensor | None = None
) -> Tensor:
    """z for one picture: (1, genome.input.channels, height, width), float32, on the CPU.

    The draw happens on the CPU on every machine, so that a seed means the same z everywhere. `guide` is a picture,
    (1, C, h, w), no larger than z; networks of another input leave it alone. UsageError where it is wanted and missing.
    """
    return INPUTS[genome.input.kind](genome.input, height, width, generator, guide)
