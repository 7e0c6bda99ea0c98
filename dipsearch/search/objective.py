"""Genome -> score, prunable: the mean over a study's instances of what the search wants.

A trial climbs a ladder of rungs, or is tested after each instance against the best trial (a paired test, which
needs five instances). What counts at a rung is the best so far: curves of networks that learn and overfit at
different speeds cross, and a raw value would judge speed.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dipsearch.error import FitError
from dipsearch.fitting.ensemble import Ensemble
from dipsearch.fitting.loop import Fitting
from dipsearch.genome import Genome
from dipsearch.metric import from_mse, psnr
from dipsearch.run import RunStore
from dipsearch.search.evaluation import Protocol, failed
from dipsearch.search.goals import GOALS
from dipsearch.search.ladder import Ladder, Pruned, Reporter, imputed
from dipsearch.search.limits import Limits
from dipsearch.seed import seed_of
from dipsearch.task import Observation


@dataclass
class Objective:
    """The values of a genome under a protocol, over a fixed list of instances.

    `goals` are names in `GOALS`, the quality first; `ladder` None tests instance by instance. `name` is what
    people call the genome; `best` gives the values of the best trial so far, by instance. `watch` is told the
    progress of a trial, from 0 to 1; `screen` may prune a genome before its fits.
    """

    protocol: Protocol
    instances: list[Observation]
    store: RunStore
    seed: int
    limits: Limits
    goals: tuple[str, ...]
    ladder: Ladder | None
    best: Callable[[], dict[int, float]]
    name: str
    watch: Callable[[float], None] = lambda share: None
    screen: Callable[[Genome, Reporter], None] = lambda genome, trial: None

    def __call__(self, genome: Genome, trial: Reporter) -> tuple[list[float], bool]:
        """The values, and whether all instances were fitted to the end.

        Pruned says why a trial was given up, or why the genome cannot be fitted.
        """
        self.limits.check(self.protocol, genome, self.instances, trial)
        self.screen(genome, trial)  # runs the network, so only where the limits allow that
        stored = [self.protocol.find(self.store, genome.key(), instance) for instance in self.instances]
        for run in stored:
            if run is not None and failed(run):
                raise Pruned(f"{run['status']}: {run['reason']}")
        if self.ladder is None:
            return self._by_instance(genome, trial, stored)
        return self._climb(self.ladder, genome, trial, stored)

    def _values(self, runs: list[dict[str, Any]]) -> list[float]:
        return [float(sum(GOALS[goal].of(run) for run in runs) / len(runs)) for goal in self.goals]

    def _climb(
        self, ladder: Ladder, genome: Genome, trial: Reporter, stored: list[dict[str, Any] | None]
    ) -> tuple[list[float], bool]:
        """All instances that the store lacks, rung by rung. Where it holds one, the trial had passed every rung
        before its process died, and is not pruned."""
        runs = [run for run in stored if run is not None]
        missing = [instance for instance, run in zip(self.instances, stored, strict=True) if run is None]
        if missing:
            fits = Fits(self, genome, missing)
            stages = ladder.stages(len(self.instances), self.protocol.recipe.iterations)
            estimate, whole = ladder.climb(stages[-1:] if runs else stages, fits.values, trial, self.best())
            runs += fits.record()
            if not whole:
                return [estimate], False
        return self._values(runs), True

    def _by_instance(
        self, genome: Genome, trial: Reporter, stored: list[dict[str, Any] | None]
    ) -> tuple[list[float], bool]:
        order = list(range(len(self.instances)))
        random.Random(seed_of(self.seed, trial.number)).shuffle(order)  # noqa: S311
        quality, runs = GOALS[self.goals[0]].of, dict[int, dict[str, Any]]()
        for done, index in enumerate(order):
            run = stored[index] or self.protocol.evaluate(self.store, self.name, genome, self.instances[index])
            if failed(run):
                raise Pruned(f"{run['status']}: {run['reason']}")
            runs[index] = run
            self.watch((done + 1) / len(order))
            trial.report(quality(run), index)
            if not all(stored) and len(runs) < len(order) and trial.should_prune():
                return [imputed({index: quality(run) for index, run in runs.items()}, self.best())], False
        return self._values(list(runs.values())), True

    @contextmanager
    def failures_kept(self, genome: Genome, instance: Observation) -> Iterator[None]:
        """Turn a fit that fails into a stored failure and a pruned trial."""
        try:
            yield
        except FitError as error:
            self.protocol.record_failure(self.store, self.name, genome, instance, error)
            raise Pruned(f"{error.reason}: {error}") from None


class Fits:
    """The fits of one genome, one for each instance, begun when they are first asked for."""

    def __init__(self, objective: Objective, genome: Genome, instances: list[Observation]) -> None:
        self._objective, self._genome, self._instances = objective, genome, instances
        self._fittings: list[Fitting | Ensemble] = []
        self._best = [float("-inf")] * len(instances)

    def values(self, instances: int, iterations: int) -> list[float]:
        """The best so far of each of the first so many instances, advanced to so many iterations."""
        objective, total = self._objective, self._objective.protocol.recipe.iterations * len(self._instances)
        for index, instance in enumerate(self._instances[:instances]):
            with objective.failures_kept(self._genome, instance):
                if index == len(self._fittings):
                    self._fittings.append(objective.protocol.fitting(self._genome, instance))
                self._fittings[index].advance(iterations)
            now = quality_now(objective.goals[0], self._fittings[index], instance, objective.protocol.task.metric)
            self._best[index] = max(self._best[index], now)
            objective.watch(sum(fitting.iteration for fitting in self._fittings) / total)
        return self._best[:instances]

    def record(self) -> list[dict[str, Any]]:
        """Store every fit that has ended."""
        objective = self._objective
        return [
            objective.protocol.record(objective.store, objective.name, self._genome, instance, fitting.result())
            for fitting, instance in zip(self._fittings, self._instances, strict=False)
            if fitting.done
        ]


def quality_now(goal: str, fitting: Fitting | Ensemble, instance: Observation, metric: str) -> float:
    """The quality of a fit under way, in dB."""
    if goal == "psnr" and instance.truth is not None:
        return psnr(fitting.current, instance.truth, metric)
    return from_mse(fitting.statistic) if fitting.statistic is not None else float("nan")
