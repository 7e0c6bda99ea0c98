"""3x3 convolution by Winograd's minimal filtering: a quarter of the products, on a CPU.

A map is taken in tiles of 4x4 results, each from 6x6 values. Where V are the transformed values of all tiles, U the
transformed kernels and M = V U, one product of matrices for each of the 36 places in a tile, the results are the
transformed M. The gradients are the same steps transposed, not those of the paper, which filters once more. Tiles are
taken in blocks that stay in the cache, without which the transforms cost more than the products save.

Results differ from those of a direct convolution by rounding: about 1e-5 of the largest value in float32.

Source: Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016, section 4.3, F(4x4, 3x3).
"""

from collections.abc import Iterator
from functools import cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

RESULT, TILE = 4, 6  # pixels a side
BLOCK = 128  # tiles that a thread takes at once: enough rows for a product of matrices, few enough for its cache
MOST_THREADS = 4  # that a block grows with: more share the same products, and memory stays small
LEAST_CHANNELS, LEAST_PIXELS = 96, 32**2  # below, a direct convolution is as quick; measured, with one and two threads

# B^T, G and A^T of the paper, for the points 0, 1, -1, 2, -2 and infinity.
VALUES = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
KERNEL = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
RESULTS = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


@cache
def _both_ways(name: str, dtype: torch.dtype) -> Tensor:
    """A transform of columns and rows at once, as one matrix."""
    rows = {"values": VALUES, "kernel": KERNEL, "results": RESULTS}[name]
    matrix = torch.tensor(rows, dtype=torch.float64, device="cpu")  # whatever the default is when it is first asked for
    return torch.kron(matrix, matrix).to(dtype)


def ordinary(x: Tensor) -> bool:
    """Whether a map is one picture's numbers of full precision in a CPU's memory.

    Not a tensor that only stands for another, while a program is traced, nor where autocast chooses the precision.
    """
    return (
        type(x) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.shape[0] == 1
    )


def possible(x: Tensor, weight: Tensor) -> bool:
    """Whether this computes a convolution with stride one and no padding, and is quicker where there are channels
    enough."""
    height, width = (side - 2 for side in x.shape[-2:])
    return (
        ordinary(x)
        and weight.shape[2:] == (3, 3)
        and height * width >= LEAST_PIXELS
        and height % RESULT == width % RESULT == 0
    )


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether this is possible and quicker than a direct convolution, in both directions."""
    return min(weight.shape[:2]) >= LEAST_CHANNELS and possible(x, weight)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(1, C, H + 2, W + 2) with (O, C, 3, 3) to (1, O, H, W), where it is `possible`; values alone, no graph."""
    x, many = _last(x), weight.shape[0]
    out = _map(many, x.shape[-2] - 2, x.shape[-1] - 2, x)
    room, kernels, back = _Room(x), _kernels(weight), _both_ways("results", x.dtype)
    for block in _blocks(out):
        products = room("products", TILE**2, block.tiles, many)
        torch.bmm(room.values(x, block), kernels, out=products)
        results = room("results", RESULT**2, block.tiles * many)
        torch.mm(back, products.view(TILE**2, -1), out=results)
        if bias is not None:
            results.view(-1, many).add_(bias)
        block.of(out, RESULT).copy_(results.view(block.shape(RESULT, many)))
    return out


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Those of x, of the kernels and of the bias, where they are wanted; of x itself, only that of the kernels needs
    the values."""
    grad = _last(grad)
    return (
        _value_gradient(grad, weight) if wanted[0] else None,
        kernel_gradient(grad, x) if wanted[1] else None,
        grad.sum((0, 2, 3)) if wanted[2] else None,
    )


def kernel_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """That of the kernels, (O, C, 3, 3), given that of the results of x."""
    grad, x = _last(grad), _last(x)
    channels, many = x.shape[1], grad.shape[1]
    room, total = _Room(x), grad.new_zeros(TILE**2, channels, many)
    for block in _blocks(grad):
        total.baddbmm_(room.values(x, block).transpose(1, 2), room.products(grad, block))
    transform = _both_ways("kernel", grad.dtype)
    kernels = (transform.T @ total.view(TILE**2, -1)).view(3, 3, channels, many).permute(3, 2, 0, 1)
    return kernels.contiguous(memory_format=torch.channels_last)


def _value_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    channels = weight.shape[1]
    out = _map(channels, grad.shape[-2] + 2, grad.shape[-1] + 2, grad).zero_()
    room, kernels, back = _Room(grad), _kernels(weight).transpose(1, 2), _both_ways("values", grad.dtype).T
    halves = ((0, RESULT), (RESULT, TILE))  # tiles share their last two rows and columns with their neighbours
    for block in _blocks(grad):
        transformed = room("values", TILE**2, block.tiles, channels)
        torch.bmm(room.products(grad, block), kernels, out=transformed)
        flat = room("tiles", TILE**2, block.tiles * channels)
        torch.mm(back, transformed.view(TILE**2, -1), out=flat)
        values, tiles = flat.view(block.shape(TILE, channels)), block.of(out, TILE)
        for top, bottom in halves:
            for left, right in halves:
                tiles[top:bottom, left:right].add_(values[top:bottom, left:right])
    return out


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _map(channels: int, height: int, width: int, like: Tensor) -> Tensor:
    return torch.empty(
        (1, channels, height, width), dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def _kernels(weight: Tensor) -> Tensor:
    """U: (36, C, O)."""
    many, channels = weight.shape[:2]
    flat = weight.permute(2, 3, 1, 0).reshape(9, channels * many)
    return (_both_ways("kernel", weight.dtype) @ flat).view(TILE**2, channels, many)


class _Block(NamedTuple):
    """Neighbouring tiles, counted in tiles."""

    top: int
    left: int
    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        return self.rows * self.columns

    def shape(self, side: int, channels: int) -> tuple[int, ...]:
        return side, side, self.rows, self.columns, channels

    def of(self, x: Tensor, side: int) -> Tensor:
        """Tiles of `side` pixels of a map, four pixels apart: a view (side, side, rows, columns, C)."""
        bottom = RESULT * (self.top + self.rows - 1) + side
        right = RESULT * (self.left + self.columns - 1) + side
        area = x[0, :, RESULT * self.top : bottom, RESULT * self.left : right]
        return area.unfold(1, side, RESULT).unfold(2, side, RESULT).permute(3, 4, 1, 2, 0)


class _Room:
    """Memory for what is made of one block, used again for the next: fresh memory would cost as much as the work."""

    def __init__(self, like: Tensor) -> None:
        self._like, self._kept = like, dict[str, Tensor]()

    def __call__(self, name: str, *shape: int) -> Tensor:
        count = prod(shape)
        if name not in self._kept or self._kept[name].numel() < count:
            self._kept[name] = self._like.new_empty(count)
        return self._kept[name][:count].view(shape)

    def values(self, x: Tensor, block: _Block) -> Tensor:
        """V: (36, tiles, C)."""
        return self._transformed("values", _both_ways("values", x.dtype), x, block, TILE)

    def products(self, grad: Tensor, block: _Block) -> Tensor:
        """The gradient of M: (36, tiles, O)."""
        return self._transformed("products", _both_ways("results", grad.dtype).T, grad, block, RESULT)

    def _transformed(self, name: str, transform: Tensor, x: Tensor, block: _Block, side: int) -> Tensor:
        channels = x.shape[1]
        tiles = self("tiles", *block.shape(side, channels)).copy_(block.of(x, side))
        out = self(name, TILE**2, block.tiles, channels)
        torch.mm(transform, tiles.view(side**2, -1), out=out.view(TILE**2, -1))
        return out


def _blocks(results: Tensor) -> Iterator[_Block]:
    rows, columns = (side // RESULT for side in results.shape[-2:])
    count = BLOCK * min(torch.get_num_threads(), MOST_THREADS)
    broad = -(-columns // -(-columns // count))  # alike, without a narrow rest
    high = min(rows, max(1, count // broad))
    for top in range(0, rows, high):
        for left in range(0, columns, broad):
            yield _Block(top, left, min(high, rows - top), min(broad, columns - left))
