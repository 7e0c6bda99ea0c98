"""`restore`: a damaged picture in memory to a restored one."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dipsearch.catalog import Name
from dipsearch.error import UsageError
from dipsearch.fitting.engine import fit
from dipsearch.genome import Genome
from dipsearch.operator import Downsample, Identity, Mask, restored_size
from dipsearch.restoring.choice import BALANCED, choose
from dipsearch.task import load_task

Picture = TypeVar("Picture", Tensor, np.ndarray)

TASKS = {Identity: "denoise", Mask: "inpaint", Downsample: "sr"}
LEVELS = {torch.uint8: 255, torch.uint16: 65535}
RANGE = (-1.0, 2.0)  # of float pictures: noise may reach beyond [0, 1], but 0…255 is a mistake


def restore(
    y: Picture,
    operator: Callable[[Tensor], Tensor] | None = None,
    *,
    genome: Genome | Name | None = None,
    task: Name | None = None,
    preset: str = BALANCED,
    seed: int = 0,
    device: str = "auto",
    size: tuple[int, int] | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
    **settings: Any,
) -> Picture:
    """Restore a damaged picture, without the clean one, as a whole.

    Args:
        y: the observation. A tensor (1, C, h, w), (C, h, w) or (h, w), or an array (h, w, C) or (h, w), with C = 1 or
            3: unsigned integers over the whole range of their type, or floats, about [0, 1].
        operator: A, which made it: any callable on (1, C, H, W), such as `Mask(known)`, `Downsample(4)` or a physics of
            deepinv, whose own noise is left out. Without one, y is a noisy picture. What stands in the holes of a
            `Mask` is not read.
        genome: one, a name or a file; by default the best that is known for the task and size.
        task: which defaults to take: a name or a file. By default what fits the operator.
        preset: of the task: fast, balanced or best.
        seed: of everything random.
        device: auto, cpu, cuda or mps.
        size: (H, W) of the picture, where it is not y's, times the operator's `factor` if it has one.
        callback: called every 10 iterations with the iteration and the answer so far, (1, C, H, W).
        **settings: values of the recipe, such as `iterations=500`, or `sigma=25`, the level of the noise on the scale
            of 0…255, which then says when to stop.

    Returns:
        The picture, in y's type, form and range.

    Raises:
        UsageError: the picture, the operator or the settings do not fit together.
        FitError: the fit failed.
    """
    if not (operator is None or callable(operator)):
        raise UsageError(f"an operator is a callable on (1, C, H, W), not {type(operator).__name__}")
    checked = operator is None or isinstance(operator, tuple(TASKS))
    observed = _observation(y, checked=checked)
    if isinstance(operator, Mask):
        observed = operator.observed(observed)
    low, high = float(observed.min()), float(observed.max())
    if checked and (low < RANGE[0] or high > RANGE[1]):
        raise UsageError(f"floats are about [0, 1]; these reach from {low:g} to {high:g}: scale them")
    undone = load_task(task or TASKS.get(type(operator), "denoise"))
    if operator is None and undone.operator.name != "identity":
        raise UsageError(f"task {undone.name}: which operator made the picture?")
    chosen = choose(undone, preset, genome, size=size or restored_size(observed, operator), **settings)
    found = fit(
        chosen.genome,
        observed,
        operator,
        recipe=chosen.recipe,
        seed=seed,
        device=device,
        size=size,
        callback=callback,
    )
    x = operator.filled(observed, found.x) if isinstance(operator, Mask) else found.x
    return _alike(x, y)


def _observation(y: Any, *, checked: bool) -> Tensor:
    """(1, C, h, w) in floats."""
    if isinstance(y, Tensor):
        x = y.detach().cpu()
        whole = x.reshape((1,) * (4 - x.ndim) + x.shape) if 2 <= x.ndim <= 4 else x
    elif isinstance(y, np.ndarray):
        if y.dtype.kind not in "uif" or y.dtype.itemsize > 8:
            raise UsageError(f"a picture has unsigned integers of 8 or 16 bits, or floats, not {y.dtype}")
        x = torch.from_numpy(np.array(y, dtype=y.dtype.newbyteorder("="), order="C"))
        whole = x[None, None] if x.ndim == 2 else x.movedim(2, 0)[None] if x.ndim == 3 else x.new_empty(0)
    else:
        raise UsageError(f"a picture is a tensor or an array, not {type(y).__name__}")
    if whole.ndim != 4 or not whole.numel() or whole.shape[0] != 1 or (checked and whole.shape[1] not in (1, 3)):
        raise UsageError(
            "a picture is a tensor (1, C, h, w), (C, h, w) or (h, w), or an array (h, w, C) or (h, w), with one or "
            f"three channels; this is {tuple(y.shape)}"
        )
    if x.dtype in LEVELS:
        return whole.to(torch.float32) / LEVELS[x.dtype]
    if not x.is_floating_point():
        raise UsageError(f"a picture has unsigned integers of 8 or 16 bits, or floats, not {x.dtype}")
    return whole.to(torch.float32)


def _alike(x: Tensor, y: Picture) -> Picture:
    """A restored picture (1, C, H, W) in y's type, form and range."""
    kind = y.dtype if isinstance(y, Tensor) else torch.from_numpy(np.empty(0, y.dtype.newbyteorder("="))).dtype
    x = (x.clamp(0, 1) * LEVELS[kind]).round().to(kind) if kind in LEVELS else x.to(kind)
    if isinstance(y, Tensor):
        return x.reshape(x.shape[4 - y.ndim :]).to(y.device)
    return (x[0, 0] if y.ndim == 2 else x[0].movedim(0, 2).contiguous()).numpy()
