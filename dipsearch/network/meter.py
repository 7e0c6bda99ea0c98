"""What operations would cost, found without computing anything."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from dipsearch.network.shapes import SHAPES

aten = torch.ops.aten


def _convolved_backward(grad: Tensor, x: Tensor, weight: Tensor, *settings: Any, out_val: Any = None) -> int:
    """As many as forward for each gradient that is asked for; torch's own count takes groups for a dense kernel."""
    *_, transposed, _, _, wanted = settings
    once = conv_flop_count([*x.shape], [*weight.shape], [*grad.shape], transposed)
    return sum(wanted[:2]) * once  # type: ignore[no-any-return]


USUAL = (None, False, torch.preserve_format)  # what says nothing, where it is given by name

FLOPS: dict[Any, Callable[..., Any]] = flop_registry | {aten.convolution_backward: _convolved_backward}


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations and the memory of what they make, while it is active, on any device, "meta" as well.

    `flop` counts convolutions and matrix products, one multiplication and addition as two. `peak` is the most
    bytes that were alive at once; what existed before does not count.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop = 0
        self.peak = 0
        self._now = 0
        self._sizes: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing here is compiled, and to say so torch (2.13) would import its compiler, for a second and more."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = args[0] if args else None
        if isinstance(first, list | tuple) and first:
            first = first[0]
        known = isinstance(first, Tensor) and first.is_meta and first.is_floating_point()
        usual = all(any(value is each for each in USUAL) for value in (kwargs or {}).values())
        make = SHAPES.get(func, func) if known and usual else func
        made = make(*args, **(kwargs or {}))
        if (count := FLOPS.get(func._overloadpacket)) is not None:
            self.flop += count(*args, **(kwargs or {}), out_val=made)
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        return made

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._sizes.pop(key)
