"""Convolution with reflect padding, quick in both directions and sparing of memory."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dipsearch.network import unrolling, winograd
from dipsearch.network.pending import Pending, layout, pending

SMALL_MAP = 2**16  # values; below, torch's own backward pass of the padding is as quick


class Convolution(nn.Conv2d):
    """torch's own 2-D convolution, with four differences, of which its values show rounding alone.

    It takes a map that is still `Pending`. With `recompute`, it keeps only that map's parts for the
    backward pass, where it makes the padded map again: cheap steps done twice in place of two to four
    kept maps. Where that is quicker, it is computed by Winograd's filtering, or the gradient of its kernels
    by unrolling. A 1x1 kernel with a stride takes the pixels that it sees, and has none then.
    """

    recompute = False

    def forward(self, x: Tensor | Pending) -> Tensor:
        """NCHW to NCHW."""
        if isinstance(x, Tensor):
            x = pending(x)
        if self.kernel_size == (1, 1) and self.stride != (1, 1):
            x = x.then(Thinned(int(self.stride[0])))
        if not self.recompute or not torch.is_grad_enabled():
            return self._convolve(self.padded(x.tensor()))
        bias = () if self.bias is None else (self.bias,)
        out: Tensor = _Recomputing.apply(self, x, *x.parts, *x.parameters, self.weight, *bias)  # type: ignore[no-untyped-call]
        return out

    def padded(self, x: Tensor) -> Tensor:
        """The map with its border reflected; zeros are left to the convolution."""
        if not self.reflected:
            return x
        return ReflectionPad.apply(x, self.reflected)  # type: ignore[no-any-return, no-untyped-call]

    @property
    def reflected(self) -> int:
        """Pixels reflected at each side."""
        return int(self.padding[0]) if self.padding_mode == "reflect" else 0

    def _convolve(self, padded: Tensor) -> Tensor:
        if self._filtered(padded) or self._unrolled(padded):
            return _Convolved.apply(self, padded, self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]
        return self._values(padded)

    def _filtered(self, padded: Tensor) -> bool:
        """Whether Winograd's filtering computes it."""
        return self._step == (1, 1) and self._zeros == (0, 0) and winograd.suits(padded, self.weight)

    def _unrolled(self, padded: Tensor) -> bool:
        """Whether the gradient of its kernels is computed by unrolling."""
        return self._zeros == (0, 0) and unrolling.suits(padded, self.weight, self._step)

    def _values(self, padded: Tensor) -> Tensor:
        """The convolution itself."""
        if self._filtered(padded):
            return winograd.convolve(padded, self.weight, self.bias)
        return F.conv2d(padded, self.weight, self.bias, self._step, self._zeros)

    def _gradients(
        self, grad: Tensor, padded: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        """Those of the padded map, of which only the shape counts for its own, the kernels and the bias."""
        if self._filtered(padded):
            return winograd.gradients(grad, padded, weight, wanted)
        unrolled = wanted[1] and self._unrolled(padded)
        asked = (wanted[0], False, False) if unrolled else wanted  # that of the bias alone would cost as much
        into, kernels, bias = torch.ops.aten.convolution_backward(
            grad,
            padded,
            weight,
            bias_sizes=None if self.bias is None else [self.out_channels],
            stride=self._step,
            padding=self._zeros,
            dilation=self.dilation,
            transposed=False,
            output_padding=[0, 0],
            groups=1,
            output_mask=asked,
        )
        if unrolled:
            kernels = unrolling.kernel_gradient(grad, padded, weight, self._step)
            bias = grad.sum((0, 2, 3)) if wanted[2] else None
        return into, kernels, bias

    @property
    def _step(self) -> tuple[int, int]:
        """The stride over the map that is convolved."""
        return (1, 1) if self.kernel_size == (1, 1) else (int(self.stride[0]), int(self.stride[1]))

    @property
    def _zeros(self) -> tuple[int, int]:
        """What the convolution itself pads."""
        return (0, 0) if self.padding_mode == "reflect" else (int(self.padding[0]), int(self.padding[1]))


class Thinned(nn.Module):
    """The first of every so many pixels, in rows and columns.

    A 1x1 convolution of them is one with a stride, whose gradient of the kernel in bfloat16 writes beyond its memory
    in oneDNN of torch 2.13 (with native bfloat16, below 16 channels), and ends the process.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW, its sides divided and rounded up."""
        return x[..., :: self.step, :: self.step].contiguous(memory_format=layout(x))


class _Convolved(torch.autograd.Function):
    """A convolution of a padded map with gradients of its own."""

    @staticmethod
    def forward(ctx: Any, conv: Convolution, padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.conv = conv
        ctx.save_for_backward(padded, weight)
        return conv._values(padded)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        padded, weight = ctx.saved_tensors
        return None, *ctx.conv._gradients(grads[0], padded, weight.detach(), ctx.needs_input_grad[1:])


class _Recomputing(torch.autograd.Function):
    """A convolution that keeps the parts of its pending input, not the input."""

    @staticmethod
    def forward(ctx: Any, conv: Convolution, x: Pending, *tensors: Tensor) -> Tensor:
        ctx.conv, ctx.make, ctx.parameters, ctx.count = conv, x.make, x.parameters, len(x.parts)
        ctx.save_for_backward(*x.parts)
        return conv._values(conv.padded(x.make(*tensors[: ctx.count])))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        conv, needed = ctx.conv, ctx.needs_input_grad[2:]
        parts = [
            part.detach().requires_grad_(need)
            for part, need in zip(ctx.saved_tensors, needed[: ctx.count], strict=True)
        ]
        with torch.enable_grad():
            x = ctx.make(*parts)
        padded, inside, learned = conv.padded(x.detach()), x.requires_grad, (True, conv.bias is not None)
        kernels = conv.weight.detach()
        if not inside:
            _, weight, bias = conv._gradients(grad, padded, kernels, (False, *learned))
            return (None, None, *(None for _ in needed[: -1 - (conv.bias is not None)]), weight, *_given(bias))
        if conv.reflected:  # one gradient after the other: the padded map is the largest here
            shape = padded.shape
            _, weight, bias = conv._gradients(grad, padded, kernels, (False, *learned))
            del padded

            def into() -> Tensor:
                larger, _, _ = conv._gradients(grad, grad.new_empty(1).expand(shape), kernels, (True, False, False))
                return fold(larger, conv.reflected)

        else:
            whole, weight, bias = conv._gradients(grad, padded, kernels, (True, *learned))
            del padded
            into = [whole].pop
            del whole
        with torch.enable_grad():
            token = _Deferred.apply(x, into)  # type: ignore[no-untyped-call]
        del x, into
        sources = [*(part for part in parts if part.requires_grad), *ctx.parameters]
        found = iter(torch.autograd.grad(token, sources))
        given = [next(found) if part.requires_grad else None for part in parts]
        given += [next(found) for _ in ctx.parameters]
        return (None, None, *given, weight, *_given(bias))


class _Deferred(torch.autograd.Function):
    """A number whose backward pass gives `x` the gradient that a function makes: so that nobody else holds it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
        ctx.gradient = gradient
        return x.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.gradient(), None


def _given(bias: Tensor | None) -> tuple[Tensor, ...]:
    return () if bias is None else (bias,)


class ReflectionPad(torch.autograd.Function):
    """Reflect `width` pixels at each side; the gradient of the border is folded back by slices.

    The same as `F.pad(x, (width,) * 4, mode="reflect")`, whose backward pass on the CPU costs about five
    times as much on a large map.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int) -> Tensor:
        """NCHW to NCHW, `2 * width` larger on both sides."""
        ctx.width = width
        return reflected(x, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """`fold`, once."""
        return fold(grads[0], ctx.width), None


def reflected(x: Tensor, width: int) -> Tensor:
    """The map with its border reflected; torch's own function would leave channels-last on CUDA."""
    if x.numel() < SMALL_MAP and not x.is_cuda:
        return F.pad(x, (width,) * 4, mode="reflect")
    height, breadth = x.shape[-2:]
    shape = (*x.shape[:2], height + 2 * width, breadth + 2 * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))
    out[..., width:-width, width:-width] = x
    out[..., :width, width:-width] = x[..., 1 : width + 1, :].flip(-2)
    out[..., -width:, width:-width] = x[..., -width - 1 : -1, :].flip(-2)
    out[..., :width] = out[..., width + 1 : 2 * width + 1].flip(-1)
    out[..., -width:] = out[..., -2 * width - 1 : -width - 1].flip(-1)
    return out


def fold(grad: Tensor, width: int) -> Tensor:
    """The gradient of a map, given that of the map with `width` reflected pixels at each side."""
    inner = grad[..., width:-width, width:-width]
    if grad.numel() < SMALL_MAP and not grad.is_cuda:
        return torch.ops.aten.reflection_pad2d_backward(grad, inner, [width] * 4)  # type: ignore[no-any-return]
    x = inner.clone(memory_format=layout(grad))
    ends = (  # of the larger map, and where they fold to
        (slice(0, width), slice(1, width + 1)),
        (slice(-width, None), slice(-width - 1, -1)),
    )
    for outside, target in ends:
        x[..., target, :] += grad[..., outside, width:-width].flip(-2)
        x[..., target] += grad[..., width:-width, outside].flip(-1)
        for outside_column, target_column in ends:
            x[..., target, target_column] += grad[..., outside, outside_column].flip(-2, -1)
    return x
