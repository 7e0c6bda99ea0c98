"""A part of a fit, as data: it runs in any process on any machine, and its state comes back.

A fit pauses at the rungs of a search, and once a minute in a long one. It goes on from its state, to the same bits
on CPUs of one kind, wherever the next leg runs.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dipsearch import frames
from dipsearch.error import FitError
from dipsearch.fitting.engine import start
from dipsearch.fitting.ensemble import Ensemble
from dipsearch.fitting.loop import Fit, Fitting
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome
from dipsearch.kept import SAVE_EVERY, calling, going_on
from dipsearch.metric import psnr
from dipsearch.run import environment
from dipsearch.task import Observation

Tell = Callable[[int, float], None]  # the iteration, and the PSNR of the averaged output


@dataclass(frozen=True)
class Leg:
    """What is to be fitted, from where, and how far.

    Args:
        genome: of the network.
        recipe: how.
        metric: of the task.
        device: where.
        until: the iteration that ends it; None: the fit's own end.
        seconds: time after which it ends at the next check, every 10 iterations.
        framed: whether progress frames are taken.
        kept: where the leg before it ended, with its frames; None: the fit begins.
    """

    genome: Genome
    recipe: Recipe
    metric: str
    device: str = "auto"
    until: int | None = None
    seconds: float = float("inf")
    framed: bool = False
    kept: dict[str, Any] | None = None

    def begun(self, instance: Observation) -> Fitting | Ensemble:
        """The fit to an instance, not yet started."""
        return start(
            self.genome,
            instance.y,
            instance.operator,
            self.recipe,
            seed=instance.seed,
            device=self.device,
            truth=instance.truth,
            protocol=self.metric,
        )


@dataclass(frozen=True)
class Reached:
    """Where a leg ended.

    `psnr` is that of the answer so far under the stopping rule, `average` that of the averaged output, both None
    without a truth; `statistic` is what the rule watches. One of `kept`, `fit` and `error` says how it goes on: from
    there, not at all since it has ended, or not at all since it failed. `machine` is that of a fit that has ended,
    `host` the name of where it ran.
    """

    iteration: int = 0
    psnr: float | None = None
    average: float = float("nan")
    statistic: float | None = None
    seen: dict[int, Tensor] | None = None
    kept: dict[str, Any] | None = None
    fit: Fit | None = None
    error: FitError | None = None
    machine: dict[str, Any] | None = None
    host: str = field(default_factory=socket.gethostname)


class _Over(Exception):
    """The time of a leg is over."""


def go(
    instance: Observation,
    leg: Leg,
    tell: Tell | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
) -> Reached:
    """Run a leg of a fit to an instance.

    `tell` is given the iteration and the PSNR of the averaged output, every 10 iterations, and `save` what is to be
    kept, once a minute.
    """
    saved = begun = time.monotonic()
    try:
        fitting, gathered = going_on(lambda: leg.begun(instance), leg.kept, {"frames": {}})
        seen = gathered["frames"]

        def check(iteration: int, x: Tensor) -> None:
            if leg.framed and (iteration in frames.AT or fitting.done):
                seen[iteration] = frames.frame(fitting.outputs[0])
            nonlocal saved
            if save is not None and time.monotonic() >= saved + SAVE_EVERY:
                save({"state": fitting.state(), "gathered": gathered})
                saved = time.monotonic()
            if tell is not None:
                tell(iteration, fitting.curve["psnr"][-1])
            if not fitting.done and time.monotonic() > begun + leg.seconds:
                raise _Over

        with suppress(_Over), calling(fitting, check):
            fitting.advance(leg.until)
    except FitError as error:
        return Reached(error=error)
    truth, curve = instance.truth, fitting.curve["psnr"]
    return Reached(
        fitting.iteration,
        None if truth is None else psnr(fitting.current, truth, leg.metric),
        curve[-1] if curve else float("nan"),
        fitting.statistic,
        seen,
        None if fitting.done else {"state": fitting.state(), "gathered": gathered},
        fitting.result() if fitting.done else None,
        machine=environment() if fitting.done else None,
    )


def timed(instance: Observation, leg: Leg, steps: int, warm_up: int) -> float:
    """Seconds of a step where this runs: the median of a few, after some to warm up; 0 where they fail."""
    times = []
    try:
        fitting = leg.begun(instance)
        fitting.advance(warm_up)
        for step in range(steps):
            before = fitting.seconds
            fitting.advance(warm_up + 1 + step)
            times.append(fitting.seconds - before)
    except FitError:
        return 0.0
    return sorted(times)[steps // 2]
