"""A fit that is watched: its loss at every iteration, its picture at chosen ones; kept in a file, resumed from it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dipsearch.error import Paused
from dipsearch.fitting.loop import Fitting
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome
from dipsearch.image import digest
from dipsearch.operator import Identity
from dipsearch.run import hashed, write_atomically

SAVE_EVERY = 60.0  # seconds


@dataclass(frozen=True)
class Trace:
    """What is fitted, and what is kept of it.

    Args:
        label: for people.
        genome: the network.
        y: the observation, (1, C, h, w).
        recipe: how it is run; one fit, to the end of its budget.
        operator: A.
        at: iterations whose pictures are kept: multiples of 10, or the last.
        truth: the clean picture, if there is one to compare with.
        seed: of everything random.
    """

    label: str
    genome: Genome
    y: Tensor
    recipe: Recipe
    operator: nn.Module = field(default_factory=Identity)
    at: tuple[int, ...] = ()
    truth: Tensor | None = None
    seed: int = 0

    @property
    def key(self) -> str:
        """What makes it the same as another: its inputs."""
        known = getattr(self.operator, "known", None)
        made = [type(self.operator).__name__, None if known is None else digest(known)]
        return hashed([self.genome.key(), digest(self.y), made, self.recipe.model_dump(), sorted(self.at), self.seed])


@dataclass(frozen=True)
class Watched:
    """What came of it: the loss of every iteration, and the kept pictures (1, C, H, W) by iteration."""

    losses: list[float]
    frames: dict[int, Tensor]


def watch(
    trace: Trace,
    folder: Path,
    *,
    until: float = float("inf"),
    device: str = "auto",
    tell: Callable[[int], None] = lambda iteration: None,
) -> Watched:
    """Run a trace, or go on with it, or look it up. `tell` is given the iteration, every 10.

    Raises:
        Paused: the clock (`time.monotonic`) is past `until`; it goes on from there the next time.
        FitError: it cannot be fitted.
    """
    path = folder / f"{trace.key}.pt"
    kept: dict[str, Any] = {"state": None, "losses": [], "frames": {}, "done": False}
    if path.exists():
        kept = torch.load(path, weights_only=True)
    if kept["done"]:
        return Watched(kept["losses"], kept["frames"])
    fitting = Fitting(trace.genome, trace.y, trace.operator, trace.recipe, trace.seed, device, truth=trace.truth)
    if kept["state"] is not None:
        fitting.resume(kept["state"])
    last = time.monotonic()

    def keep(*, done: bool) -> None:
        kept.update(state=None if done else fitting.state(), done=done)
        write_atomically(path, lambda temporary: torch.save(kept, temporary))

    def look(iteration: int, x: Tensor) -> None:
        nonlocal last
        kept["losses"] += fitting.losses
        if iteration in trace.at:
            kept["frames"][iteration] = x
        tell(iteration)
        now = time.monotonic()
        if now > until or now - last > SAVE_EVERY:
            keep(done=False)
            last = now
        if now > until:
            raise Paused(f"{trace.label}: kept at iteration {iteration}")

    fitting.callback = look
    fitting.advance()
    keep(done=True)
    return Watched(kept["losses"], kept["frames"])
