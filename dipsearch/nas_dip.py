"""NAS-DIP's numbers for its networks: an index for a cell, 25 bits for the links.

Lists of networks that others have published (NAS-DIP, ISNAS-DIP) are written so. The numbering is that of the released
code of Chen et al., *NAS-DIP* (ECCV 2020).
"""

from pydantic import ValidationError

from dipsearch import catalog
from dipsearch.genome import Cell, Linked

PRIMITIVES = ("bilinear", "bicubic", "nearest", "pixel-shuffle", "pixel-shuffle-last")  # 63 indices each, the last 60
CONVOLUTIONS = ("plain", "transposed", "split-sum", "separable", "depthwise", "none")  # 12 indices each, the last 3
KERNELS = (1, 3, 5, 7)
ACTIVATIONS = ("none", "relu", "leaky-relu")
TRANSPOSED = 312  # the first index of the primitive that convolves by itself
INDICES = 324
DEPTH = 5


def nas_dip_cell(index: int) -> Cell:
    """The cell with an index from 0 to 323; ValueError says why 27 of them cannot keep the number of channels."""
    if index not in range(INDICES):
        raise ValueError(f"NAS-DIP's cells are numbered from 0 to {INDICES - 1}, got {index!r}")
    block, place = divmod(index, 63)
    if index >= TRANSPOSED:
        block, place = len(PRIMITIVES), index - TRANSPOSED
    try:
        return Cell(
            primitive=(*PRIMITIVES, "transposed")[block],
            convolution="none" if index >= TRANSPOSED else CONVOLUTIONS[place // 12],
            kernel=KERNELS[place // 3 % 4],
            activation=ACTIVATIONS[place % 3],
        )
    except ValidationError as error:
        raise ValueError(f"NAS-DIP's cell {index}: {catalog.describe(error)}") from None


def nas_dip_links(bits: str) -> tuple[tuple[int, ...], ...]:
    """The links of 25 bits, decoder level by decoder level; ValueError for anything else."""
    if len(bits) != DEPTH * DEPTH or set(bits) - {"0", "1"}:
        raise ValueError(f"NAS-DIP's links are {DEPTH * DEPTH} bits, got {bits!r}")
    return tuple(tuple(map(int, bits[start : start + DEPTH])) for start in range(0, len(bits), DEPTH))


def nas_dip_genome(index: int, bits: str) -> Linked:
    """The network with that cell and those links, with 128 channels on five levels."""
    return Linked(upsample=nas_dip_cell(index), links=nas_dip_links(bits))
