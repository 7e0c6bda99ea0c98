"""Maps that are not computed yet: cheap steps wait for the convolution that needs them.

Between two convolutions of these networks lie only cheap steps: norm, activation, upsampling, merging,
padding. Autograd keeps a map for almost each of them. A `Pending` names the maps that are kept (outputs of
convolutions) and the cheap steps still to do, so that a convolution can do them again in its backward pass
and keep nothing else. Steps that a doubling of pixels only makes dearer come before it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Pending:
    """`make(*parts)` gives the map, or what `doubler` has still to make twice as high and wide, each pixel four times;
    `modules` are those that `make` uses."""

    parts: tuple[Tensor, ...]
    make: Callable[..., Tensor]
    modules: tuple[nn.Module, ...] = ()
    doubler: nn.Module | None = None

    def then(self, module: nn.Module) -> "Pending":
        """The map after one more module.

        A norm of one picture's own statistics comes before the doubler: four times each pixel have the mean and the
        variance of one.
        """
        if self.doubler is None and _repeats_pixels(module):
            return replace(self, doubler=module)
        if self.doubler is not None and not _sees_no_repetition(module):
            return self.whole.then(module)
        make = self.make
        return replace(self, make=lambda *parts: module(make(*parts)), modules=(*self.modules, module))

    @property
    def halved(self) -> "Pending":
        """The map before the doubler, if any."""
        return replace(self, doubler=None)

    @property
    def whole(self) -> "Pending":
        """The same, with the doubler, if any, done by `make`."""
        if (doubler := self.doubler) is None:
            return self
        make = self.make
        return Pending(self.parts, lambda *parts: doubler(make(*parts)), (*self.modules, doubler))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The learned ones that `make` uses."""
        return [parameter for module in self.modules for parameter in module.parameters()]

    def tensor(self) -> Tensor:
        """The map itself."""
        return self.whole.make(*self.parts)


def pending(x: Tensor) -> Pending:
    """A map with nothing left to do."""
    return Pending((x,), _itself)


def join(maps: list[Pending], merge: Callable[..., Tensor]) -> Pending:
    """One map made of several: `merge` takes them in order."""
    maps = [each.whole for each in maps]
    makes = [(each.make, len(each.parts)) for each in maps]  # not the maps, which would keep their parts alive

    def make(*parts: Tensor) -> Tensor:
        made, start = [], 0
        for each, count in makes:
            made.append(each(*parts[start : start + count]))
            start += count
        return merge(*made)

    parts: tuple[Any, ...] = sum((each.parts for each in maps), ())
    return Pending(parts, make, sum((each.modules for each in maps), ()))


def concatenate(*maps: Tensor) -> Tensor:
    """Along the channels."""
    return _Concatenation.apply(*maps)  # type: ignore[no-any-return, no-untyped-call]


class _Concatenation(torch.autograd.Function):
    """`torch.cat`, whose gradients are dense, not views: what upsampling makes of a view takes ten times as long."""

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        ctx.widths = [x.shape[1] for x in maps]
        return torch.cat(maps, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        return tuple(part.contiguous(memory_format=layout(grad)) for part in torch.split(grad, ctx.widths, dim=1))


def layout(x: Tensor) -> torch.memory_format:
    """Channels-last, or else contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _repeats_pixels(module: nn.Module) -> bool:
    return isinstance(module, nn.Upsample) and (module.mode, module.scale_factor) == ("nearest", 2)


def _sees_no_repetition(module: nn.Module) -> bool:
    if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
        return not module.track_running_stats  # whose variance is that of a sample, and counts the pixels
    return isinstance(module, nn.Identity)


def _itself(x: Tensor) -> Tensor:
    return x
