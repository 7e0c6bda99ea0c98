"""Sizes: what a network asks of its input, and how its maps are cut to fit one another."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SizeRule:
    """The sizes a network gives back unchanged: sides of at least `minimum` that `multiple_of` divides.

    The network states the rule, the caller makes a larger input and crops the output.
    """

    minimum: int
    multiple_of: int

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The smallest allowed (height, width) that holds the given one."""
        return self._side(height), self._side(width)

    def _side(self, side: int) -> int:
        return -(-max(side, self.minimum) // self.multiple_of) * self.multiple_of


class Network(nn.Module):
    """A module from z to a picture that states its size rule."""

    size_rule: SizeRule


def picture(x: Tensor) -> Tensor:
    """The last map of a network to a picture in (0, 1), float32 whatever the network computes in."""
    return torch.sigmoid(x.float())


def centre_crop(x: Tensor, height: int, width: int) -> Tensor:
    """The central height x width pixels of NCHW `x`; `x` itself where nothing is to be cut."""
    if x.shape[-2:] == (height, width):
        return x
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
