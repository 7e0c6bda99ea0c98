"""Convolution with reflect padding, quick in both directions and sparing of memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dipsearch.network import doubling, unrolling, winograd
from dipsearch.network.pending import Pending, layout, pending

SMALL_MAP = 2**16  # values; below, torch's own backward pass of the padding is as quick
LARGE_MAP = 2**19  # values; below, oneDNN's gradient of the bias is as quick as a sum; measured, with two threads


class Convolution(nn.Conv2d):
    """torch's own 2-D convolution, with five differences, of which its values show rounding alone.

    It takes a map that is still `Pending`. With `recompute`, it keeps only that map's parts for the
    backward pass, where it makes the padded map again: cheap steps done twice in place of two to four
    kept maps. Where that is quicker, it is computed by Winograd's filtering, or the gradient of its kernels
    by unrolling, or that of its bias apart, or, of a map with doubled pixels, all of it on the map before. A 1x1 kernel
    with a stride takes the pixels that it sees, and has none then.
    """

    recompute = False

    def forward(self, x: Tensor | Pending) -> Tensor:
        """NCHW to NCHW."""
        if isinstance(x, Tensor):
            x = pending(x)
        if self.kernel_size == (1, 1) and self.stride != (1, 1):
            x = x.then(Thinned(int(self.stride[0])))
        if x.doubler is None or not doubling.suits(x.parts[0], self):
            return self._made(x.whole, self.geometry, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.repeat(len(doubling.PHASES))
        geometry = replace(self.geometry, beside=bool(self.geometry.mirrored))  # what is beside a pixel is its double
        return doubling.interleaved(self._made(x.halved, geometry, doubling.kernels(self.weight), bias))

    @property
    def geometry(self) -> "Geometry":
        """Stride and borders."""
        step = (1, 1) if self.kernel_size == (1, 1) else (int(self.stride[0]), int(self.stride[1]))
        if self.padding_mode == "reflect":
            return Geometry(step, mirrored=int(self.padding[0]))
        return Geometry(step, zeros=(int(self.padding[0]), int(self.padding[1])))

    def _made(self, x: Pending, geometry: "Geometry", weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.recompute or not torch.is_grad_enabled():
            return geometry.convolve(geometry.padded(x.tensor()), weight, bias)
        out: Tensor = _Recomputing.apply(geometry, x, *x.parts, *x.parameters, weight, *_given(bias))  # type: ignore[no-untyped-call]
        return out


@dataclass(frozen=True)
class Geometry:
    """How kernels go over a map: their stride, and what is made of its borders.

    `mirrored` pixels at each side are reflected, from the second one on; with `beside`, from the first. The
    convolution itself adds `zeros`.
    """

    step: tuple[int, int] = (1, 1)
    zeros: tuple[int, int] = (0, 0)
    mirrored: int = 0
    beside: bool = False

    def padded(self, x: Tensor) -> Tensor:
        """The map with its border reflected; zeros are left to the convolution."""
        if not self.mirrored:
            return x
        return ReflectionPad.apply(x, self.mirrored, self.beside)  # type: ignore[no-any-return, no-untyped-call]

    def convolve(self, padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution, with the gradients that are quickest."""
        own = self.filtered(padded, weight) or self.unrolled(padded, weight)
        if own or (bias is not None and self.summed(padded, weight)):
            return _Convolved.apply(self, padded, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
        return self.values(padded, weight, bias)

    def filtered(self, padded: Tensor, weight: Tensor) -> bool:
        """Whether Winograd's filtering computes it."""
        return self.step == (1, 1) and self.zeros == (0, 0) and winograd.suits(padded, weight)

    def unrolled(self, padded: Tensor, weight: Tensor) -> bool:
        """Whether the gradient of the kernels is computed by unrolling."""
        return self.zeros == (0, 0) and unrolling.suits(padded, weight, self.step)

    def summed(self, padded: Tensor, weight: Tensor) -> bool:
        """Whether the gradient of the bias is computed apart from that of the kernels."""
        results = weight.shape[0] * padded.shape[-2] * padded.shape[-1] // (self.step[0] * self.step[1])
        return results >= LARGE_MAP and unrolling.slow(padded)

    def values(self, padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution itself."""
        if self.filtered(padded, weight):
            return winograd.convolve(padded, weight, bias)
        return F.conv2d(padded, weight, bias, self.step, self.zeros)

    def gradients(
        self, grad: Tensor, padded: Tensor, weight: Tensor, biased: bool, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        """Those of the padded map, of which only the shape counts for its own, the kernels and the bias."""
        if self.filtered(padded, weight):
            return winograd.gradients(grad, padded, weight, wanted)
        unrolled = wanted[1] and self.unrolled(padded, weight)
        summed = wanted[2] and (unrolled or self.summed(padded, weight))  # alone, oneDNN's would cost as much as both
        into, kernels, bias = torch.ops.aten.convolution_backward(
            grad,
            padded,
            weight,
            bias_sizes=[weight.shape[0]] if biased else None,
            stride=self.step,
            padding=self.zeros,
            dilation=(1, 1),
            transposed=False,
            output_padding=[0, 0],
            groups=1,
            output_mask=(wanted[0], wanted[1] and not unrolled, wanted[2] and not summed),
        )
        if unrolled:
            kernels = unrolling.kernel_gradient(grad, padded, weight, self.step)
        if summed:
            bias = grad.sum((0, 2, 3))
        return into, kernels, bias


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
    def forward(ctx: Any, geometry: Geometry, padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.geometry, ctx.biased = geometry, bias is not None
        ctx.save_for_backward(padded, weight)
        return geometry.values(padded, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        padded, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        return None, *ctx.geometry.gradients(grads[0], padded, weight.detach(), ctx.biased, wanted)


class _Recomputing(torch.autograd.Function):
    """A convolution that keeps the parts of its pending input, not the input."""

    @staticmethod
    def forward(ctx: Any, geometry: Geometry, x: Pending, *tensors: Tensor) -> Tensor:
        """`tensors`: the parts of x, the parameters that make it of them, the kernels, and the bias, if any."""
        parts, learned = len(x.parts), len(x.parts) + len(x.parameters)
        weight, *bias = tensors[learned:]
        ctx.geometry, ctx.make, ctx.parameters, ctx.biased = geometry, x.make, x.parameters, bool(bias)
        ctx.save_for_backward(*x.parts, weight)
        return geometry.values(geometry.padded(x.make(*tensors[:parts])), weight, bias[0] if bias else None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        geometry, learned = ctx.geometry, (True, ctx.biased)
        *kept, kernels = ctx.saved_tensors
        needed = ctx.needs_input_grad[2 : 2 + len(kept)]
        parts = [part.detach().requires_grad_(need) for part, need in zip(kept, needed, strict=True)]
        with torch.enable_grad():
            x = ctx.make(*parts)
        padded, inside, kernels = geometry.padded(x.detach()), x.requires_grad, kernels.detach()
        if not inside:
            _, weight, bias = geometry.gradients(grad, padded, kernels, ctx.biased, (False, *learned))
            return (None, None, *(None for _ in parts), *(None for _ in ctx.parameters), weight, *_given(bias))
        if geometry.mirrored:  # one gradient after the other: the padded map is the largest here
            shape = padded.shape
            _, weight, bias = geometry.gradients(grad, padded, kernels, ctx.biased, (False, *learned))
            del padded

            def into() -> Tensor:
                empty = grad.new_empty(1).expand(shape)
                larger, _, _ = geometry.gradients(grad, empty, kernels, ctx.biased, (True, False, False))
                return fold(larger, geometry.mirrored, geometry.beside)

        else:
            whole, weight, bias = geometry.gradients(grad, padded, kernels, ctx.biased, (True, *learned))
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
