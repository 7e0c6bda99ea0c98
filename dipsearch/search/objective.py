"""Genome -> score, prunable: the mean over a study's instances of what the search wants.

A trial climbs a ladder of rungs, or is tested after each instance against the best trial (a paired test, which
needs five instances). What counts at a rung is the best so far: curves of networks that learn and overfit at
different speeds cross, and a raw value would judge speed.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dipsearch.error import FitError
from dipsearch.genome import Genome
from dipsearch.kept import SAVE_EVERY
from dipsearch.metric import from_mse
from dipsearch.run import RunStore
from dipsearch.search.cokriging import SEEN, Fidelity
from dipsearch.search.evaluation import HERE, Protocol, failed
from dipsearch.search.executor import Caller
from dipsearch.search.goals import GOALS
from dipsearch.search.ladder import Failed, Ladder, Pruned, Reporter, imputed
from dipsearch.search.leg import Reached
from dipsearch.search.limits import Limits
from dipsearch.seed import seed_of
from dipsearch.task import Observation


@dataclass
class Objective:
    """The values of a genome under a protocol, over a fixed list of instances.

    `goals` are names in `GOALS`, the quality first; `ladder` None tests instance by instance. `name` is what people
    call the genome; `best` gives the values of the best trial so far, by instance. `watch` is told the progress of a
    trial, from 0 to 1, and the host that it was made on, if it is another process; `screen` may prune a genome before
    its fits; it and the measured limit are not asked again of a genome that has `passed` them. `known` is what earlier
    trials of the same genome saw, and `order` that of the instances, for ladders that learn. `executor` makes the fits.
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
    watch: Callable[[float, str], None] = lambda share, host: None
    screen: Callable[[Genome, Reporter], None] = lambda genome, trial: None
    passed: bool = False
    known: dict[Fidelity, float] = field(default_factory=dict)
    order: list[int] | None = None
    executor: Caller = HERE

    def __call__(self, genome: Genome, trial: Reporter) -> tuple[list[float], bool]:
        """The values, and whether all instances were fitted to the end.

        Pruned says why a trial was given up, or why the genome cannot be fitted.
        """
        if not self.passed:
            try:
                self.limits.check(self.protocol, genome, self.instances, trial, self.executor)
                self.screen(genome, trial)  # runs the network, so only where the limits allow that
            except FitError as error:
                raise Pruned(f"{error.reason}: {error}") from None
        stored = [self.protocol.find(self.store, genome.key(), instance) for instance in self.instances]
        for run in stored:
            if run is not None and failed(run):
                raise Pruned(f"{run['status']}: {run['reason']}")
        try:
            if self.ladder is None:
                return self._by_instance(genome, trial, stored)
            return self._climb(self.ladder, genome, trial, stored)
        except Failed:
            trial.set_user_attr(SEEN, [])  # what it promised does not count
            raise

    def _values(self, runs: list[dict[str, Any]]) -> list[float]:
        return [float(sum(GOALS[goal].of(run) for run in runs) / len(runs)) for goal in self.goals]

    def _climb(
        self, ladder: Ladder, genome: Genome, trial: Reporter, stored: list[dict[str, Any] | None]
    ) -> tuple[list[float], bool]:
        """All instances, rung by rung. Where the store holds one, the rungs before whole fits were passed before: they
        count again only for a trial that goes on after an interruption."""
        fits = Fits(self, genome, stored)
        end = self.protocol.recipe.iterations
        stages = ladder.stages(len(self.instances), end)
        if any(stored) and not ladder.learned and not self.known:
            stages = [stage for stage in stages if stage[1] == end]
        estimate, whole = ladder.climb(stages, fits.value, trial, self.best(), self.known, self.order)
        return (self._values(fits.runs), True) if whole else ([estimate], False)

    def _by_instance(
        self, genome: Genome, trial: Reporter, stored: list[dict[str, Any] | None]
    ) -> tuple[list[float], bool]:
        order = list(range(len(self.instances)))
        random.Random(seed_of(self.seed, genome.key())).shuffle(order)  # noqa: S311
        quality, runs = GOALS[self.goals[0]].of, dict[int, dict[str, Any]]()
        for done, index in enumerate(order):
            run = stored[index] or self.protocol.evaluate(
                self.store, self.name, genome, self.instances[index], executor=self.executor
            )
            if failed(run):
                raise Pruned(f"{run['status']}: {run['reason']}")
            runs[index] = run
            self.watch((done + 1) / len(order), "")
            trial.report(quality(run), index)
            trial.set_user_attr(
                SEEN, [(place, self.protocol.recipe.iterations, quality(run)) for place, run in runs.items()]
            )
            if not all(stored) and len(runs) < len(order) and trial.should_prune():
                return [imputed({index: quality(run) for index, run in runs.items()}, self.best())], False
        return self._values(list(runs.values())), True

    def fail(self, genome: Genome, instance: Observation, error: FitError) -> NoReturn:
        """Turn a fit that fails into a stored failure and a pruned trial."""
        self.protocol.record_failure(self.store, self.name, genome, instance, error)
        raise Failed(f"{error.reason}: {error}") from None


class Fits:
    """The fits of one genome, one for each instance: stored runs, and fits begun when they are first asked for."""

    def __init__(self, objective: Objective, genome: Genome, stored: list[dict[str, Any] | None]) -> None:
        self._objective, self._genome, self._stored = objective, genome, stored
        self._reached, self._missing = dict[int, Reached](), sum(run is None for run in stored)
        self._best, self._floor = dict[int, float](), dict[int, float]()
        for (index, _), value in objective.known.items():
            self._floor[index] = max(value, self._floor.get(index, value))

    def value(self, index: int, iterations: int) -> float | None:
        """The best so far of an instance, advanced to so many iterations; at the end, what its run says."""
        objective, instance = self._objective, self._objective.instances[index]
        goal, end = objective.goals[0], objective.protocol.recipe.iterations
        if self._stored[index] is None:
            reached = self._advanced(index, iterations)
            now = quality_of(goal, reached)
            self._best[index] = max(now, self._best.get(index, self._floor.get(index, now)))
            if reached.fit is not None:
                self._stored[index] = objective.protocol.record(
                    objective.store, objective.name, self._genome, instance, reached.fit, reached
                )
        if (run := self._stored[index]) is not None and iterations == end:
            return GOALS[goal].of(run)
        return self._best.get(index)

    def _advanced(self, index: int, iterations: int) -> Reached:
        """Where the fit to an instance is after so many iterations, or at its end."""
        objective, instance = self._objective, self._objective.instances[index]
        longest = float("inf") if objective.executor.near else SAVE_EVERY  # what a lost node costs at most
        while True:
            before = self._reached.get(index, Reached())
            leg = objective.protocol.leg(self._genome, until=iterations, seconds=longest, kept=before.kept)
            self._reached[index] = reached = objective.protocol.reach(objective.executor, instance, leg)
            if reached.error is not None:
                objective.fail(self._genome, instance, reached.error)
            done = sum(each.iteration for each in self._reached.values())
            share = min(1.0, done / (objective.protocol.recipe.iterations * self._missing))
            objective.watch(share, "" if objective.executor.near else reached.host)
            if reached.fit is not None or reached.iteration >= iterations:
                return reached

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Those of every fit that has ended, in the order of the instances."""
        return [run for run in self._stored if run is not None]


def quality_of(goal: str, reached: Reached) -> float:
    """The quality of a fit under way, in dB."""
    if goal == "psnr" and reached.psnr is not None:
        return reached.psnr
    return from_mse(reached.statistic) if reached.statistic is not None else float("nan")
