"""Genome -> score, prunable: the mean honest PSNR over a study's instances.

With at least five instances a trial can be pruned after each of them, by a paired test against the best
trial. With fewer, all instances advance together from rung to rung, and half of the trials are
pruned at each rung. What is reported at a rung is the best mean so far: curves of networks that learn
and overfit at different speeds cross, and a raw value would judge speed.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

import optuna

from dipsearch.error import DipsearchError, FitError
from dipsearch.genome import Genome
from dipsearch.metric import psnr
from dipsearch.run import RunStore
from dipsearch.search.evaluation import Protocol, failed, price_of
from dipsearch.seed import seed_of
from dipsearch.task import Observation

ENOUGH_FOR_A_TEST = 5  # instances: below, the smallest possible p of a paired test is above 0.05
RUNGS = (8, 4, 2, 1)  # fractions of the budget: an eighth, a quarter, a half, all


class Reporter(Interface):
    """What the objective asks of a trial."""

    @property
    def number(self) -> int:
        """Of the trial, from 0."""

    def report(self, value: float, step: int) -> None:
        """Tell an intermediate value."""

    def should_prune(self) -> bool:
        """Whether the pruner gives the trial up."""


class Pruned(DipsearchError):
    """A trial that is given up, with the reason why."""


@dataclass
class Objective:
    """The score of a genome under a protocol, over a fixed list of instances.

    `name` is what people call the genome; `best` gives the values of the best trial so far, by instance.
    `watch` is told the progress of a trial, from 0 to 1.
    """

    protocol: Protocol
    instances: list[Observation]
    store: RunStore
    seed: int
    max_gflop: float | None
    best: Callable[[], dict[int, float]]
    name: str
    watch: Callable[[float], None] = lambda share: None

    @property
    def tests_instances(self) -> bool:
        """Whether pruning looks at instances, rather than rungs."""
        return len(self.instances) >= ENOUGH_FOR_A_TEST

    def __call__(self, genome: Genome, trial: Reporter) -> tuple[float, bool]:
        """The score in dB, and whether all instances were fitted to the end.

        Pruned says why a trial was given up, or why the genome cannot be fitted.
        """
        stored = [self.protocol.find(self.store, genome.key(), instance) for instance in self.instances]
        for run in stored:
            if run is not None and failed(run):
                raise Pruned(f"{run['status']}: {run['reason']}")
        if all(stored):
            if self.tests_instances:  # later trials are tested against these
                for index, run in enumerate(stored):
                    trial.report(run["psnr"] if run else 0.0, index)
            return sum(run["psnr"] for run in stored if run) / len(stored), True
        gflop = price_of(genome, self.instances[0]).gflop
        if self.max_gflop is not None and gflop > self.max_gflop:
            raise Pruned(f"cost: {gflop:.1f} GFLOP an iteration, above the preset's {self.max_gflop:g}")
        if self.tests_instances:
            return self._by_instance(genome, trial)
        return self._by_rung(genome, trial, stored), True

    def _by_rung(self, genome: Genome, trial: Reporter, stored: list[dict[str, Any] | None]) -> float:
        """All instances that the store lacks, together. Where it holds one, the trial had passed every rung
        before its process died, and is not pruned."""
        iterations = self.protocol.recipe.iterations
        missing = [instance for instance, run in zip(self.instances, stored, strict=True) if run is None]
        prunable, best = len(missing) == len(self.instances), float("-inf")
        fittings = []
        for instance in missing:
            with self._failures_kept(genome, instance):
                fittings.append(self.protocol.fitting(genome, instance))
        for until in sorted({max(1, iterations // share) for share in RUNGS}):
            scores = []
            for fitting, instance in zip(fittings, missing, strict=True):
                with self._failures_kept(genome, instance):
                    fitting.advance(until)
                scores.append(psnr(fitting.current, instance.truth, self.protocol.task.metric))
                self.watch(sum(fitting.iteration for fitting in fittings) / (iterations * len(fittings)))
            best = max(best, sum(scores) / len(scores))
            if until < iterations and prunable:
                trial.report(best, until)
                if trial.should_prune():
                    raise Pruned(f"rung: {best:.2f} dB at {until} of {iterations} iterations")
        runs = [run for run in stored if run is not None]
        for fitting, instance in zip(fittings, missing, strict=True):
            runs.append(self.protocol.record(self.store, self.name, genome, instance, fitting.result()))
        return float(sum(run["psnr"] for run in runs) / len(runs))

    @contextmanager
    def _failures_kept(self, genome: Genome, instance: Observation) -> Iterator[None]:
        """Turn a fit that fails into a stored failure and a pruned trial."""
        try:
            yield
        except FitError as error:
            self.protocol.record_failure(self.store, self.name, genome, instance, error)
            raise Pruned(f"{error.reason}: {error}") from None

    def _by_instance(self, genome: Genome, trial: Reporter) -> tuple[float, bool]:
        order = list(range(len(self.instances)))
        random.Random(seed_of(self.seed, trial.number)).shuffle(order)  # noqa: S311
        values: dict[int, float] = {}
        for done, index in enumerate(order):
            run = self.protocol.evaluate(self.store, self.name, genome, self.instances[index])
            if failed(run):
                raise Pruned(f"{run['status']}: {run['reason']}")
            values[index] = run["psnr"]
            self.watch((done + 1) / len(order))
            trial.report(run["psnr"], index)
            if len(values) < len(order) and trial.should_prune():
                return imputed(values, self.best()), False
        return sum(values.values()) / len(values), True


def imputed(values: dict[int, float], best: dict[int, float]) -> float:
    """The mean over all instances of a trial that saw some: the best trial's mean, plus the mean paired
    difference to it. A mean over the instances seen would reward having seen the easy ones."""
    paired = [values[index] - best[index] for index in values if index in best]
    if not paired:
        return sum(values.values()) / len(values)
    return sum(best.values()) / len(best) + sum(paired) / len(paired)


class Gated(optuna.pruners.BasePruner):
    """Another pruner, whose verdicts count only once `start_up` trials are complete.

    It is asked from the first trial on, because successive halving compares with the trials that it has seen.
    """

    def __init__(self, inner: optuna.pruners.BasePruner, start_up: int) -> None:
        self.inner, self.start_up = inner, start_up

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether the inner pruner gives the trial up, after the start-up."""
        verdict = self.inner.prune(study, trial)
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return verdict and len(complete) >= self.start_up
