"""When to stop, without the clean picture. All state is on the device, so that a step needs no host."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dipsearch.fitting.averaging import RunningMean

SHADES = 4096  # steps of brightness, far finer than those of a picture
MOST_VALUES = 65_536  # of a picture, looked at by es-wmv and es-emv: a window of 100 then takes 26 MB


class Settings(Protocol):
    """What a stopping rule reads of a recipe."""

    @property
    def window(self) -> int: ...  # noqa: D102
    @property
    def patience(self) -> int: ...  # noqa: D102
    @property
    def warm_up(self) -> int: ...  # noqa: D102
    @property
    def averaging(self) -> float: ...  # noqa: D102
    @property
    def sigma(self) -> float | None: ...  # noqa: D102


@dataclass(frozen=True)
class Seen:
    """What a rule may look at, all on the device.

    `y` is the observation; `held_out` are the flat indices of its values that the loss does not see, and
    `observed` those that hold a measurement; None: all.
    """

    y: Tensor
    held_out: Tensor | None = None
    observed: Tensor | None = None


class Fixed:
    """The budget decides; the answer is the averaged output at its end."""

    def __init__(self, settings: Settings, seen: Seen, like: Tensor) -> None:
        self.stop = torch.zeros((), dtype=torch.bool, device=like.device)
        self.chosen = torch.zeros((), dtype=torch.int64, device=like.device)

    def update(self, tick: Tensor, x: Tensor, mean: Tensor, fitted: Tensor) -> None:
        """Take an iteration: its number from 0, the raw and the averaged output, A(raw output)."""
        self.chosen.copy_(tick + 1)

    def answer(self, mean: Tensor) -> Tensor:
        """The answer so far, given the averaged output."""
        return mean

    def state(self) -> dict[str, Tensor]:
        """What a resumed fit needs: every tensor that changes."""
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {name: value for name, value in public.items() if isinstance(value, Tensor)}


class Minimum(Fixed, ABC):
    """The answer is the averaged output where a statistic was least; stop `patience` iterations after it.

    Until a rule is ready and `warm_up` has passed, the answer is the last output.
    """

    def __init__(self, settings: Settings, seen: Seen, like: Tensor) -> None:
        super().__init__(settings, seen, like)
        self.patience, self.warm_up = settings.patience, settings.warm_up
        self.best = torch.full((), float("inf"), device=like.device)
        self.now = torch.full((), float("inf"), device=like.device)  # of the last iteration; infinite: nothing
        self.kept = torch.zeros_like(like)

    def update(self, tick: Tensor, x: Tensor, mean: Tensor, fitted: Tensor) -> None:
        """As `Fixed.update`. Once `stop` is set, nothing changes the answer."""
        statistic, ready = self.statistic(tick, x, fitted)
        self.now.copy_(torch.where(ready, statistic, float("inf")))
        early = tick + 1 <= self.warm_up
        waiting = early | ~ready
        better = ~self.stop & (waiting | (statistic < self.best))
        self.best.copy_(torch.where(better & ~waiting, statistic, self.best))
        self.chosen.copy_(torch.where(better, tick + 1, self.chosen))
        self.kept.copy_(torch.where(better, mean, self.kept))
        self.stop |= ~waiting & (tick + 1 - self.chosen >= self.patience)

    @abstractmethod
    def statistic(self, tick: Tensor, x: Tensor, fitted: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be least, and whether it means anything yet; both 0-dimensional."""

    def answer(self, mean: Tensor) -> Tensor:
        """The averaged output at the minimum so far."""
        return self.kept


class WindowedVariance(Minimum):
    """ES-WMV: variance of the last `window` outputs. Of a large picture, `MOST_VALUES` evenly spaced values.

    O(N) a step, by running sums: mean |x_i|^2 - |mean x_i|^2, in double precision where the device has it.

    Source: Wang et al., *Early Stopping for Deep Image Prior* (2021).
    """

    def __init__(self, settings: Settings, seen: Seen, like: Tensor) -> None:
        super().__init__(settings, seen, like)
        self.window = settings.window
        count = _sampled(like).numel()
        wide = torch.float32 if like.device.type == "mps" else torch.float64
        self.ring = torch.zeros(self.window, count, device=like.device)
        self.squares = torch.zeros(self.window, dtype=wide, device=like.device)
        self.sum = torch.zeros(count, dtype=wide, device=like.device)

    def statistic(self, tick: Tensor, x: Tensor, fitted: Tensor) -> tuple[Tensor, Tensor]:
        """The variance, once the window is full."""
        sample = _sampled(x)
        slot = (tick % self.window)[None]
        wide = sample.to(self.sum.dtype)
        self.sum += wide
        self.sum -= self.ring.index_select(0, slot)[0].to(self.sum.dtype)
        self.ring.index_copy_(0, slot, sample[None])
        self.squares.index_copy_(0, slot, wide.square().sum()[None])
        mean_square = self.squares.sum() / self.window
        variance = (mean_square - (self.sum / self.window).square().sum()) / sample.numel()
        return variance.to(self.best.dtype), tick + 1 >= self.window


class MovingVariance(Minimum):
    """ES-EMV: an exponential moving variance of the outputs, with a weight of 0.1 for the newest.

    Its first 100 outputs do not count, as in the authors' code. Of a large picture, `MOST_VALUES` values.

    Source: Wang et al., *Early Stopping for Deep Image Prior* (2021).
    """

    weight = 0.1
    start = 100

    def __init__(self, settings: Settings, seen: Seen, like: Tensor) -> None:
        super().__init__(settings, seen, like)
        self.mean = torch.zeros_like(_sampled(like))
        self.variance = torch.zeros((), device=like.device)

    def statistic(self, tick: Tensor, x: Tensor, fitted: Tensor) -> tuple[Tensor, Tensor]:
        """The variance, after `start` outputs."""
        sample = _sampled(x)
        change = (sample - self.mean) * (tick > 0)
        self.mean.copy_(torch.where(tick > 0, self.mean + self.weight * change, sample).clamp(0, 1))
        self.variance.copy_((1 - self.weight) * (self.variance + self.weight * change.square().mean()))
        return self.variance, tick + 1 > self.start


class HeldOut(Minimum):
    """Held-out pixels: the error of the averaged A(output) where the loss does not see the observation.

    Where the noise of pixels is independent, that error is the true one plus the variance of the noise, so
    that its minimum needs neither the truth nor the noise level (Batson and Royer, *Noise2Self*, 2019).
    """

    def __init__(self, settings: Settings, seen: Seen, like: Tensor) -> None:
        super().__init__(settings, seen, like)
        if seen.held_out is None or not seen.held_out.numel():
            raise ValueError("no pixel of the observation can be held out")
        self._places = seen.held_out
        self._target = seen.y.flatten()[seen.held_out]
        self.average = RunningMean(settings.averaging, self._target)  # as the answer is averaged

    def statistic(self, tick: Tensor, x: Tensor, fitted: Tensor) -> tuple[Tensor, Tensor]:
        """The mean square error."""
        self.average.update(tick, fitted.flatten()[self._places])
        return (self.average.value - self._target).square().mean(), tick >= 0

    def state(self) -> dict[str, Tensor]:
        """As `Fixed.state`."""
        return super().state() | {"average": self.average.value}


class Discrepancy(Fixed):
    """The discrepancy principle, for noise of known `sigma`: stop as soon as the averaged misfit of the output to
    the observation is down to what the noise makes of it.

    That is the variance of the noise; less where an observation that stays in [0, 1] was clipped to it, as a picture
    in a file is: there, what is expected at the output's own brightness (`clipped_misfit`).

    Source: Morozov (1966).
    """

    decay = 0.9  # of the averaged misfit

    def __init__(self, settings: Settings, seen: Seen, like: Tensor) -> None:
        super().__init__(settings, seen, like)
        if settings.sigma is None:
            raise ValueError("the rule needs the noise level: sigma, on the scale of 0…255")
        self._sigma, self._y, self._observed = settings.sigma / 255, seen.y, seen.observed
        measured = seen.y if seen.observed is None else seen.y.flatten()[seen.observed]
        self._clipped = bool(measured.numel()) and bool(measured.min() >= 0) and bool(measured.max() <= 1)
        # by brightness: to compute it for each value would take ten times as long as the rest of the rule
        self._expected = clipped_misfit(torch.linspace(0, 1, SHADES + 1, device=like.device), self._sigma)
        self.misfit = torch.zeros((), device=like.device)
        self.kept = torch.zeros_like(like)

    def update(self, tick: Tensor, x: Tensor, mean: Tensor, fitted: Tensor) -> None:
        """As `Fixed.update`. Once `stop` is set, nothing changes the answer."""
        squares, fitted = (fitted - self._y).square().flatten(), fitted.flatten()
        if self._observed is not None:
            squares, fitted = squares[self._observed], fitted[self._observed]
        now = squares.mean()
        self.misfit.copy_(torch.where(tick > 0, self.decay * self.misfit + (1 - self.decay) * now, now))
        self.chosen.copy_(torch.where(self.stop, self.chosen, tick + 1))
        self.kept.copy_(torch.where(self.stop, self.kept, mean))
        self.stop |= self.misfit <= (self._at_brightness(fitted) if self._clipped else self._sigma**2)

    def _at_brightness(self, x: Tensor) -> Tensor:
        """What clipped noise makes of the misfit, where the truth is x; a mean over `MOST_VALUES` at most."""
        return self._expected[(_sampled(x).clamp(0, 1) * SHADES).round().long()].mean()

    def answer(self, mean: Tensor) -> Tensor:
        """The averaged output where the rule stopped."""
        return self.kept


def clipped_misfit(x: Tensor, sigma: float) -> Tensor:
    """E|clip(x + n) - x|^2 for n ~ N(0, sigma^2), clipped to [0, 1], of values x in [0, 1]."""
    x = x.clamp(0, 1)
    low, high = x / sigma, (1 - x) / sigma
    below: Tensor = torch.special.ndtr(-low)
    above: Tensor = torch.special.ndtr(-high)
    edges = (low * torch.exp(-low.square() / 2) + high * torch.exp(-high.square() / 2)) / math.sqrt(2 * math.pi)
    return x.square() * below + (1 - x).square() * above + sigma**2 * (1 - below - above - edges)


def _sampled(x: Tensor) -> Tensor:
    flat = x.flatten()
    stride = -(-flat.numel() // MOST_VALUES)
    return flat[:: stride if stride == 1 else stride | 1]  # odd: an even one would see the same columns again and again


STOPPERS: dict[str, Callable[[Settings, Seen, Tensor], Fixed]] = {
    "fixed": Fixed,
    "es-wmv": WindowedVariance,
    "es-emv": MovingVariance,
    "held-out": HeldOut,
    "discrepancy": Discrepancy,
}
