"""How a trial climbs to its score: on few instances and for few iterations first, on all of them to the end last.

At each rung but the last a trial is compared with all that reached it, and only the best go on (successive
halving: Karnin et al., ICML 2013; asynchronous: Li et al., MLSys 2020, as Optuna has it).
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Protocol

import optuna

from dipsearch.error import DipsearchError

Values = Callable[[int, int], list[float]]


class Reporter(Protocol):
    """What a climb asks of a trial."""

    @property
    def number(self) -> int:
        """Of the trial, from 0."""

    def report(self, value: float, step: int) -> None:
        """Tell an intermediate value."""

    def should_prune(self) -> bool:
        """Whether the pruner gives the trial up."""

    def set_constraint(self, key: str, constraint: float) -> None:
        """Tell a constraint, met where it is at most 0."""

    def set_user_attr(self, key: str, value: float) -> None:
        """Note something with the trial."""


class Pruned(DipsearchError):
    """A trial that is given up, with the reason why."""


@dataclass(frozen=True)
class Ladder:
    """Rungs, each a share of the instances and a share of the iterations; the last is (1, 1).

    One trial in `keep` goes on from each rung.
    """

    rungs: tuple[tuple[float, float], ...]
    keep: int = 2

    def stages(self, instances: int, iterations: int) -> list[tuple[int, int]]:
        """The rungs for so many instances and iterations; the same numbers once."""
        stages = [(max(1, round(share * instances)), max(1, round(part * iterations))) for share, part in self.rungs]
        return list(dict.fromkeys(stages))

    def pruner(self) -> optuna.pruners.BasePruner:
        """Optuna's pruner for trials that climb this ladder. Rung k is reported as step `keep`^k."""
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=self.keep)

    def climb(
        self, stages: list[tuple[int, int]], values: Values, trial: Reporter, best: dict[int, float]
    ) -> tuple[float, bool]:
        """The mean value at the last stage, and that it is that; or an estimate of it, and that it is none.

        A trial that is given up after whole fits of some instances gets the estimate (`imputed`), so that the
        sampler learns from it; one that is given up before is Pruned.

        Args:
            stages: of this ladder.
            values: gives those of the first so many instances after so many iterations.
            trial: is told what was reached.
            best: the values of the best trial so far, by instance.
        """
        most, end = stages[-1]
        for rung, (instances, iterations) in enumerate(stages[:-1]):
            now = values(instances, iterations)
            trial.report(mean(now), self.keep**rung)
            if trial.should_prune():
                if iterations == end and best:
                    return imputed(dict(enumerate(now)), best), False
                raise Pruned(
                    f"rung: {mean(now):.2f} dB at {iterations} of {end} iterations, on {instances} of {most} pictures"
                )
        return mean(values(*stages[-1])), True


def imputed(values: dict[int, float], best: dict[int, float]) -> float:
    """The mean over all instances of a trial that saw some: the best trial's mean, plus the mean paired
    difference to it. A mean over the instances seen would reward having seen the easy ones."""
    paired = [values[index] - best[index] for index in values if index in best]
    return mean(best.values()) + mean(paired) if paired else mean(values.values())


LADDERS: dict[str, Ladder] = {
    "none": Ladder(((1, 1),)),
    "halving": Ladder(((1, 1 / 8), (1, 1 / 4), (1, 1 / 2), (1, 1))),
    "steep": Ladder(((1 / 4, 1 / 8), (1 / 2, 1 / 4), (1, 1)), keep=4),
}


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
