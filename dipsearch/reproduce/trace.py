"""A fit that is watched: its loss at every iteration, its picture at chosen ones; kept in a file, resumed from it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dipsearch.atomic import write_atomically
from dipsearch.error import Paused
from dipsearch.fitting.engine import start
from dipsearch.fitting.ensemble import Ensemble
from dipsearch.fitting.loop import Fitting
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome
from dipsearch.image import digest
from dipsearch.kept import Kept, calling
from dipsearch.operator import Downsample, Identity
from dipsearch.run import hashed


@dataclass(frozen=True)
class Trace:
    """What is fitted, and what is kept of it.

    Args:
        label: for people.
        genome: the network.
        y: the observation, (1, C, h, w).
        recipe: how it is run, to the end of its budget.
        operator: A.
        at: iterations whose pictures are kept: multiples of 10, or the last.
        truth: the clean picture, if there is one to compare with.
        guide: what goes into the network in place of z, if it takes a picture.
        seed: of everything random.
    """

    label: str
    genome: Genome
    y: Tensor
    recipe: Recipe
    operator: nn.Module = field(default_factory=Identity)
    at: tuple[int, ...] = ()
    truth: Tensor | None = None
    guide: Tensor | None = None
    seed: int = 0

    @property
    def key(self) -> str:
        """What makes it the same as another: its inputs."""
        pictures = getattr(self.operator, "known", None), self.guide
        made: list[Any] = [type(self.operator).__name__, *(None if each is None else digest(each) for each in pictures)]
        made += [self.operator.factor] if isinstance(self.operator, Downsample) else []
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
    if path.exists():
        return Watched(**torch.load(path, weights_only=True))
    kept = Kept(path.with_suffix(".unfinished"), lambda: _begin(trace, device), {"losses": [], "frames": {}})
    fitting, seen = kept.fitting, kept.gathered

    def look(iteration: int, x: Tensor) -> None:
        seen["losses"] += fitting.losses
        if iteration in trace.at:
            seen["frames"][iteration] = x
        tell(iteration)
        over = time.monotonic() > until
        kept.save(now=over)
        if over:
            raise Paused(f"{trace.label}: kept at iteration {iteration}")

    with calling(fitting, look):
        fitting.advance()
    write_atomically(path, lambda temporary: torch.save(seen, temporary))
    kept.drop()
    return Watched(**seen)


def _begin(trace: Trace, device: str) -> Fitting | Ensemble:
    return start(
        trace.genome,
        trace.y,
        trace.operator,
        trace.recipe,
        seed=trace.seed,
        device=device,
        truth=trace.truth,
        guide=trace.guide,
    )
