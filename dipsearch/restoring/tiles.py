"""Large pictures in parts: where the tiles lie, and how their answers become one picture."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dipsearch.error import UsageError
from dipsearch.operator import Downsample, Identity, Mask

OVERLAP = 32  # pixels that neighbours share, at least
SMALLEST_TILE = 64


@dataclass(frozen=True)
class Tile:
    """A rectangle of the restored picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, x: Tensor, factor: int = 1) -> Tensor:
        """Its pixels of (1, C, H, W), or of a picture `factor` times smaller."""
        top, left, height, width = (value // factor for value in (self.top, self.left, self.height, self.width))
        return x[..., top : top + height, left : left + width].contiguous()


def grid(height: int, width: int, side: int, multiple: int = 1) -> list[Tile]:
    """As few tiles of at most `side` pixels a side as cover a picture, all alike, and no larger than that takes;
    neighbours share at least OVERLAP pixels.

    Their corners are multiples of `multiple`, which has to divide OVERLAP and the picture's sides.
    """
    side = side // multiple * multiple
    (rows, tall), (columns, wide) = (_along(length, side, multiple) for length in (height, width))
    return [Tile(top, left, tall, wide) for top in rows for left in columns]


def _along(length: int, side: int, multiple: int) -> tuple[list[int], int]:
    """Where tiles begin along a side of the picture, and how long they are."""
    if length <= side:
        return [0], length
    count = math.ceil((length - OVERLAP) / (side - OVERLAP))
    needed = math.ceil((length + (count - 1) * OVERLAP) / count / multiple) * multiple
    return [index * (length - needed) // (count - 1) // multiple * multiple for index in range(count)], needed


def largest_side(height: int, width: int, fits: Callable[[int, int], bool], most: int) -> int:
    """The side of the largest tiles that fit, up to `most`, in steps of a quarter; the longer side where the whole
    picture does.

    UsageError where even the smallest does not.
    """
    side = min(most, max(height, width))
    while not fits(min(side, height), min(side, width)):
        if side <= SMALLEST_TILE:
            raise UsageError(f"not even a tile of {SMALLEST_TILE}x{SMALLEST_TILE} pixels fits into the memory")
        side = max(SMALLEST_TILE, side * 3 // 4 // 32 * 32)
    return side


def wholly_missing(operator: nn.Module, tiles: list[Tile]) -> Tile | None:
    """One that holds no pixel that is known, if there is one: nothing can be fitted to it."""
    if not isinstance(operator, Mask):
        return None
    return next((tile for tile in tiles if not tile.of(operator.known).any()), None)


def lacks(operator: nn.Module, tile: Tile) -> bool:
    """Whether anything of a tile is to be restored."""
    return not isinstance(operator, Mask) or not bool(tile.of(operator.known).all())


def part(operator: nn.Module, tile: Tile, y: Tensor) -> tuple[Tensor, nn.Module]:
    """The observation of a tile, and what made it; UsageError where the operator cannot be cut."""
    if isinstance(operator, Identity):
        return tile.of(y), operator
    if isinstance(operator, Mask):
        return tile.of(y), Mask(tile.of(operator.known))
    if isinstance(operator, Downsample):
        return tile.of(y, operator.factor), operator
    raise UsageError(f"{type(operator).__name__}: an operator that cannot be cut into tiles; shrink the picture")


def join(tiles: list[Tile], answers: list[Tensor], height: int, width: int) -> Tensor:
    """One picture (1, C, H, W) of the tiles' answers: neighbours fade into each other by half a sine over what they
    share."""
    channels = answers[0].shape[1]
    total, weights = torch.zeros(1, channels, height, width), torch.zeros(1, 1, height, width)
    for tile, answer in zip(tiles, answers, strict=True):
        weight = _fade(tile.height)[:, None] * _fade(tile.width)[None, :]
        rows, columns = slice(tile.top, tile.top + tile.height), slice(tile.left, tile.left + tile.width)
        total[..., rows, columns] += answer * weight
        weights[..., rows, columns] += weight
    return total / weights


def _fade(length: int) -> Tensor:
    """Weights along a side: half a sine up at its beginning and down at its end, 1 between; never 0."""
    ramp = torch.sin((torch.arange(OVERLAP) + 0.5) / OVERLAP * math.pi / 2) ** 2
    weights = torch.ones(length)
    reach = min(OVERLAP, length // 2)
    weights[:reach] *= ramp[:reach]
    weights[length - reach :] *= ramp[:reach].flip(0)
    return weights.clamp_min(1e-3)
