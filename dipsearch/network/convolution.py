"""Convolution of maps that may still be pending, sparing of memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dipsearch.network import doubling
from dipsearch.network.geometry import Geometry
from dipsearch.network.padding import fold
from dipsearch.network.pending import Pending, layout, pending


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
    def geometry(self) -> Geometry:
        """Stride and borders."""
        step = (1, 1) if self.kernel_size == (1, 1) else (int(self.stride[0]), int(self.stride[1]))
        if self.padding_mode == "reflect":
            return Geometry(step, mirrored=int(self.padding[0]))
        return Geometry(step, zeros=(int(self.padding[0]), int(self.padding[1])))

    def _made(self, x: Pending, geometry: Geometry, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.recompute or not torch.is_grad_enabled():
            return geometry.convolve(geometry.padded(x.tensor()), weight, bias)
        out: Tensor = _Recomputing.apply(geometry, x, *x.parts, *x.parameters, weight, *_given(bias))  # type: ignore[no-untyped-call]
        return out


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
            _, weight, bias = geometry.gradients(grad, padded, kernels, (False, *learned))
            return (None, None, *(None for _ in parts), *(None for _ in ctx.parameters), weight, *_given(bias))
        if geometry.mirrored:  # one gradient after the other: the padded map is the largest here
            shape = padded.shape
            _, weight, bias = geometry.gradients(grad, padded, kernels, (False, *learned))
            del padded

            def into() -> Tensor:
                empty = grad.new_empty(1).expand(shape)
                larger, _, _ = geometry.gradients(grad, empty, kernels, (True, False, False))
                return fold(larger, geometry.mirrored, geometry.beside)

        else:
            whole, weight, bias = geometry.gradients(grad, padded, kernels, (True, *learned))
            del padded
            into = [whole].pop
            del whole
        with torch.enable_grad():
            token = _Deferred.apply(x, into)  # type: ignore[no-untyped-call]
        del x, into
        sources = [*parts, *ctx.parameters]
        found = iter(torch.autograd.grad(token, [source for source in sources if source.requires_grad]))
        given = [next(found) if source.requires_grad else None for source in sources]
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
