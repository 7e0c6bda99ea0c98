"""When to stop, without the clean picture."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

MOST_VALUES = 65_536  # of a picture, looked at by es-wmv: a window of 100 then takes 26 MB


class Settings(Protocol):
    """What a stopping rule reads of a recipe."""

    @property
    def window(self) -> int: ...  # noqa: D102
    @property
    def patience(self) -> int: ...  # noqa: D102
    @property
    def warm_up(self) -> int: ...  # noqa: D102


class Fixed:
    """The budget decides; the answer is the last output."""

    looks_back = False  # whether an earlier answer may have to be kept

    def __init__(self, settings: Settings) -> None:
        self.stop = False

    def update(self, iteration: int, x: Tensor) -> bool:
        """Whether this output is the answer so far: always."""
        return True


class WindowedVariance:
    """ES-WMV (Wang et al., *Early Stopping for Deep Image Prior*, 2021): the answer is the output at the
    minimum of the variance of the last `window` outputs; stop `patience` iterations after it.

    Takes O(N) time a step, by running sums: mean |x_i|^2 - |mean x_i|^2, in double precision. Of a large
    picture it looks at `MOST_VALUES` evenly spaced values. Until the window is full and `warm_up` has
    passed, the answer is the last output.
    """

    looks_back = True

    def __init__(self, settings: Settings) -> None:
        self.window, self.patience, self.warm_up = settings.window, settings.patience, settings.warm_up
        self.stop = False
        self.variance = float("inf")  # of the current window
        self.minimum = float("inf")
        self._waited = 0
        self._ring: Tensor | None = None
        self._squares: list[float] = []
        self._count = 0

    def update(self, iteration: int, x: Tensor) -> bool:
        """Take the raw output of an iteration (counted from 1); whether it is the answer so far.

        Once `stop` is set, nothing changes the answer.
        """
        if self.stop:
            return False
        flat = x.detach().flatten()
        sample = flat[:: -(-flat.numel() // MOST_VALUES)].cpu()  # not every device has double precision
        if self._ring is None:
            self._ring = torch.zeros(self.window, sample.numel())
            self._sum = torch.zeros(sample.numel(), dtype=torch.float64)
            self._squares = [0.0] * self.window
        slot = self._count % self.window
        self._sum += sample.double() - self._ring[slot].double()
        self._ring[slot] = sample
        self._squares[slot] = float(sample.double().square().sum())
        self._count += 1
        if self._count < self.window:
            return True
        mean_square = sum(self._squares) / self.window
        self.variance = (mean_square - float((self._sum / self.window).square().sum())) / sample.numel()
        if iteration <= self.warm_up:
            return True
        if self.variance < self.minimum:
            self.minimum, self._waited = self.variance, 0
            return True
        self._waited += 1
        self.stop = self._waited >= self.patience
        return False


STOPPERS: dict[str, Callable[[Settings], Fixed | WindowedVariance]] = {
    "fixed": Fixed,
    "es-wmv": WindowedVariance,
}
