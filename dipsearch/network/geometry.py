"""How kernels go over a map, and the quickest way to compute that in both directions."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dipsearch.network import unrolling, winograd
from dipsearch.network.padding import ReflectionPad

LARGE_MAP = 2**19  # values; below, oneDNN's gradient of the bias is as quick as a sum; measured, with two threads


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
        self, grad: Tensor, padded: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
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
            bias_sizes=[weight.shape[0]] if wanted[2] else None,
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


class _Convolved(torch.autograd.Function):
    """A convolution of a padded map with gradients of its own."""

    @staticmethod
    def forward(ctx: Any, geometry: Geometry, padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(padded, weight)
        return geometry.values(padded, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        padded, weight = ctx.saved_tensors
        return None, *ctx.geometry.gradients(grads[0], padded, weight.detach(), ctx.needs_input_grad[1:])
