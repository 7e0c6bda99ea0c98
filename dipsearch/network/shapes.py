"""What operations make of maps without memory ("meta"): shape, precision and layout, as of real ones on a CPU.

torch would find out by running Python stand-ins. They take many times as long as all the rest of a prediction, the
first of them imports torch's compiler, for more than a second, and of the layout they do not always keep account.
For maps of floating-point numbers, and what has no further settings by name; all else is left to torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _laid_out(x.shape, x)


def _combined(x: Tensor, other: Any, *_: Any, **__: Any) -> Tensor:
    same = isinstance(other, Tensor) and (x.shape, x.dtype) == (other.shape, other.dtype)
    return _like(x) if same else aten.add.Tensor(x, other)


def _like_second(_: Tensor, x: Tensor, *__: Any, **___: Any) -> Tensor:
    return _like(x)


def _itself(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _last(x: Tensor) -> bool:
    """Whether the channels of a pixel lie side by side, in a part of a map as well."""
    return x.ndim == 4 and x.stride(1) < x.stride(3)


def _laid_out(shape: Sequence[int], like: Tensor, last: bool | None = None) -> Tensor:
    """With the layout of `like`, where nothing else is said."""
    layout = torch.channels_last if (_last(like) if last is None else last) else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device="meta", memory_format=layout)


def _mean(x: Tensor) -> Tensor:
    return x.new_empty(())


def _normalised(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    channels = torch.empty(x.shape[1], device="meta")
    return _like(x), channels, _like(channels)


def _resized(x: Tensor, size: list[int], *_: Any, **__: Any) -> Tensor:
    return _laid_out((*x.shape[:2], *size), x)


def _resized_back(grad: Tensor, _: list[int], size: list[int], *__: Any, **___: Any) -> Tensor:
    return _laid_out(size, grad)


def _pooled(x: Tensor, kernel: Sequence[int], stride: Sequence[int] = (), *settings: Any) -> Tensor:
    if settings:  # padding and the like
        return aten.avg_pool2d(x, kernel, stride, *settings)  # type: ignore[no-any-return]
    lines = zip(x.shape[2:], kernel, stride or kernel, strict=True)
    sides = [(side - reach) // step + 1 for side, reach, step in lines]
    return _laid_out((*x.shape[:2], *sides), x)


def _most(x: Tensor, kernel: Sequence[int], stride: Sequence[int] = (), *settings: Any) -> tuple[Tensor, Tensor]:
    if settings:
        return aten.max_pool2d_with_indices(x, kernel, stride, *settings)  # type: ignore[no-any-return]
    values = _pooled(x, kernel, stride)
    return values, torch.empty_strided(values.shape, values.stride(), dtype=torch.int64, device="meta")


def _padded(x: Tensor, padding: list[int]) -> Tensor:
    left, right, top, bottom = padding
    return _laid_out((*x.shape[:-2], x.shape[-2] + top + bottom, x.shape[-1] + left + right), x)


def _joined(maps: Sequence[Tensor], dim: int = 0) -> Tensor:
    if len({x.dtype for x in maps}) > 1:
        return aten.cat(maps, dim)  # type: ignore[no-any-return]
    shape = [*maps[0].shape]
    shape[dim] = sum(x.shape[dim] for x in maps)
    return _laid_out(shape, maps[0], all(_last(x) for x in maps))


def _shuffled(x: Tensor, factor: int) -> Tensor:
    channels, height, width = x.shape[-3:]
    return _laid_out((*x.shape[:-3], channels // factor**2, height * factor, width * factor), x)


def _unshuffled(x: Tensor, factor: int) -> Tensor:
    channels, height, width = x.shape[-3:]
    return _laid_out((*x.shape[:-3], channels * factor**2, height // factor, width // factor), x)


def _products(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[1], b.shape[2])


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    stride, padding, dilation, transposed, added, groups = settings
    reach = [each * (side - 1) for each, side in zip(dilation, weight.shape[2:], strict=True)]
    lines = zip(x.shape[2:], reach, stride, padding, added, strict=True)
    if transposed:
        sides = [(side - 1) * step - 2 * pad + far + more + 1 for side, far, step, pad, more in lines]
    else:
        sides = [(side + 2 * pad - far - 1) // step + 1 for side, far, step, pad, _ in lines]
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return _laid_out((x.shape[0], channels, *sides), x, _last(x) or _last(weight))


def _convolution_gradients(grad: Tensor, x: Tensor, weight: Tensor, biases: Any, *settings: Any) -> tuple[Any, ...]:
    into, kernels, bias = settings[-1]
    last = _last(x) or _last(weight)
    return (
        _laid_out(x.shape, x, last) if into else None,
        _laid_out(weight.shape, weight, last) if kernels else None,
        grad.new_empty(biases) if bias else None,
    )


SHAPES: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: _combined,
    aten.mul.Tensor: _combined,
    aten.native_batch_norm.default: _normalised,
    aten.native_batch_norm_backward.default: _normalised,
    aten.convolution.default: _convolved,
    aten.convolution_backward.default: _convolution_gradients,
    aten.cat.default: _joined,
    aten.mean.default: _mean,
    aten.bmm.default: _products,
    aten.pixel_shuffle.default: _shuffled,
    aten.pixel_unshuffle.default: _unshuffled,
    aten.reflection_pad2d.default: _padded,
    aten.reflection_pad2d_backward.default: _like_second,
    aten.replication_pad2d.default: _padded,
    aten.replication_pad2d_backward.default: _like_second,
    aten.avg_pool2d.default: _pooled,
    aten.avg_pool2d_backward.default: _like_second,
    aten.max_pool2d_with_indices.default: _most,
    aten.max_pool2d_with_indices_backward.default: _like_second,
    aten.upsample_bicubic2d.default: _resized,
    aten.upsample_bilinear2d.default: _resized,
    aten.upsample_nearest2d.default: _resized,
    aten.upsample_nearest2d_backward.default: _resized_back,
    **dict.fromkeys(
        (
            *(aten.mul.Scalar, aten.div.Scalar, aten.pow.Tensor_Scalar, aten.flip.default, aten.ones_like.default),
            *(aten.relu.default, aten.leaky_relu.default, aten.silu.default, aten.elu.default, aten.sigmoid.default),
            *(aten.threshold_backward.default, aten.leaky_relu_backward.default, aten.silu_backward.default),
            *(aten.elu_backward.default, aten.sigmoid_backward.default),
        ),
        _like,
    ),
    **dict.fromkeys(
        (aten.add_.Tensor, aten.relu_.default, aten.leaky_relu_.default, aten.silu_.default, aten.elu_.default),
        _itself,
    ),
}
