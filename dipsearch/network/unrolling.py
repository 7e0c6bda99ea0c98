"""The gradient of a convolution's kernels by unrolling, where oneDNN's own is slow.

Without AVX-512, oneDNN (of torch 2.13) takes the gradient of the kernels of a wide, large channels-last map up to ten
times as slowly as the convolution itself. Here some rows of results are taken at a time: what their pixels see is laid
out as the rows of a matrix, small enough for the cache, and one product of matrices gives their share of the gradient.
Where Winograd's filtering is possible, it is quicker still. That of the bias is slow there with two
threads, too, and is but a sum.

Source: Chellapilla, Puri and Simard, *High Performance Convolutional Neural Networks for Document Processing*, 2006.
"""

import torch
from torch import Tensor

from dipsearch.network import winograd

SLOW = ("AVX2",)  # what torch calls the processors on which this was measured to be quicker
BLOCK = 2**20  # values that are laid out at once
# Below, oneDNN is as quick; measured, with one and two threads.
LEAST_PAIRS = 512  # of a channel before and one after
LEAST_PRODUCTS = 2**23  # those, times the pixels of the result, about
LEAST_FILTERED = 32  # channels before and after, for Winograd's filtering


def suits(x: Tensor, weight: Tensor, step: tuple[int, int]) -> bool:
    """Whether this is quicker, for a convolution of x with these strides and no padding."""
    pairs, pixels = weight.shape[0] * weight.shape[1], x.shape[-2] * x.shape[-1] // (step[0] * step[1])
    return pairs >= LEAST_PAIRS and pairs * pixels >= LEAST_PRODUCTS and weight.shape[2:] != (1, 1) and slow(x)


def slow(x: Tensor) -> bool:
    """Whether x is such a map, on such a processor."""
    return (
        winograd.ordinary(x)
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.backends.cpu.get_cpu_capability() in SLOW
    )


def kernel_gradient(grad: Tensor, x: Tensor, weight: Tensor, step: tuple[int, int]) -> Tensor:
    """That of the kernels, (O, C, k, l), given that of the results, (1, O, h, w), of x, (1, C, H, W); channels-last."""
    if step == (1, 1) and min(weight.shape[:2]) >= LEAST_FILTERED and winograd.possible(x, weight):
        return winograd.kernel_gradient(grad, x)
    many, channels, high, broad = weight.shape
    rows, columns = grad.shape[-2:]
    seen = x[0].unfold(1, high, step[0]).unfold(2, broad, step[1]).permute(1, 2, 3, 4, 0)  # (h, w, k, l, C), a view
    results = grad[0].permute(1, 2, 0).reshape(-1, many)
    most = max(1, BLOCK // (columns * high * broad * channels))
    room = x.new_empty(min(most, rows), columns, high, broad, channels)
    total = x.new_zeros(many, high * broad * channels)
    for top in range(0, rows, most):
        count = min(most, rows - top)
        patches = room[:count].copy_(seen[top : top + count]).view(count * columns, -1)
        total.addmm_(results[top * columns : (top + count) * columns].T, patches)
    return total.view(many, high, broad, channels).permute(0, 3, 1, 2)
