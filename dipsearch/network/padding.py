"""Reflect padding, quick in both directions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dipsearch.network.pending import layout

SMALL_MAP = 2**16  # values; below, torch's own backward pass of the padding is as quick


class ReflectionPad(torch.autograd.Function):
    """Reflect `width` pixels at each side; the gradient of the border is folded back by slices.

    The same as `F.pad(x, (width,) * 4, mode="reflect")`, whose backward pass on the CPU costs about five
    times as much on a large map; with `beside`, as numpy's "symmetric", which begins with the outermost pixel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int, beside: bool) -> Tensor:
        """NCHW to NCHW, `2 * width` larger on both sides."""
        ctx.width, ctx.beside = width, beside
        return reflected(x, width, beside)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """`fold`, once."""
        return fold(grads[0], ctx.width, ctx.beside), None, None


def reflected(x: Tensor, width: int, beside: bool) -> Tensor:
    """The map with its border reflected; torch's own function would leave channels-last on CUDA."""
    if x.numel() < SMALL_MAP and not x.is_cuda and not beside:
        return F.pad(x, (width,) * 4, mode="reflect")
    height, breadth = x.shape[-2:]
    shape = (*x.shape[:2], height + 2 * width, breadth + 2 * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))
    out[..., width:-width, width:-width] = x
    for outside, inside in _ends(height, width, beside):
        out[..., outside, width:-width] = x[..., inside, :].flip(-2)
    for outside, inside in _ends(breadth, width, beside):
        out[..., outside] = out[..., inside.start + width : inside.stop + width].flip(-1)
    return out


def fold(grad: Tensor, width: int, beside: bool) -> Tensor:
    """The gradient of a map, given that of the map with `width` reflected pixels at each side."""
    inner = grad[..., width:-width, width:-width]
    if grad.numel() < SMALL_MAP and not grad.is_cuda and not beside:
        return torch.ops.aten.reflection_pad2d_backward(grad, inner, [width] * 4)  # type: ignore[no-any-return]
    x = inner.clone(memory_format=layout(grad))
    rows, columns = (_ends(side, width, beside) for side in x.shape[-2:])
    for outside, target in rows:
        x[..., target, :] += grad[..., outside, width:-width].flip(-2)
        for outside_column, target_column in columns:
            x[..., target, target_column] += grad[..., outside, outside_column].flip(-2, -1)
    for outside, target in columns:
        x[..., target] += grad[..., width:-width, outside].flip(-1)
    return x


def _ends(side: int, width: int, beside: bool) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The first and the last `width` pixels of a padded line, and the pixels of the line that they reflect."""
    near = 0 if beside else 1
    return (
        (slice(0, width), slice(near, near + width)),
        (slice(-width, None), slice(side - near - width, side - near)),
    )
