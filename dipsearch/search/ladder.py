"""How a trial climbs to its score: on few instances and for few iterations first, on all of them to the end last.

At each rung but the last a trial is judged: it is compared with all that reached the rung, and only the best go on
(successive halving: Karnin et al., ICML 2013; asynchronous: Li et al., MLSys 2020, as Optuna has it); or a model of
all that was seen says whether it can still become the best.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any, Protocol

import optuna

from dipsearch.error import DipsearchError
from dipsearch.search.cokriging import SEEN, Fidelity, Promising, note

# of an instance, after so many iterations; None where a fit is past them, and it was not noted
Value = Callable[[int, int], float | None]


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

    def set_user_attr(self, key: str, value: Any) -> None:
        """Note something with the trial."""


class Pruned(DipsearchError):
    """A trial that is given up, with the reason why."""


class Failed(Pruned):
    """A trial whose fit failed."""


@dataclass(frozen=True)
class Ladder:
    """Rungs, each a share of the instances and a share of the iterations; the last is (1, 1).

    Trials are judged at each rung but the last. Where `learned`, a model of all that was seen says which can still
    become the best, which instance is tried first, and a trial that was given up may be proposed again, to go on
    where it was; otherwise one trial in `keep` goes on from each rung. Nothing is given up before `gate` trials are
    complete; None: the start-up of the search.
    """

    rungs: tuple[tuple[float, float], ...]
    keep: int = 2
    learned: bool = False
    gate: int | None = None

    def stages(self, instances: int, iterations: int) -> list[tuple[int, int]]:
        """The rungs for so many instances and iterations; the same numbers once."""
        stages = [(max(1, round(share * instances)), max(1, round(part * iterations))) for share, part in self.rungs]
        return list(dict.fromkeys(stages))

    def pruner(self, start_up: int) -> "Gated":
        """Optuna's pruner for trials that climb this ladder. Rung k is reported as step `keep`^k."""
        halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=self.keep)
        return Gated(Promising() if self.learned else halving, start_up if self.gate is None else self.gate)

    def climb(
        self,
        stages: list[tuple[int, int]],
        value: Value,
        trial: Reporter,
        best: dict[int, float],
        known: dict[Fidelity, float] | None = None,
        order: list[int] | None = None,
    ) -> tuple[float, bool]:
        """The mean value at the last stage, and that it is that; or an estimate of it, and that it is none.

        A trial that is given up after whole fits of some instances gets the estimate (`imputed`), so that the
        sampler learns from it; one that is given up before is Pruned. All that it saw is noted with the trial.

        Args:
            stages: of this ladder.
            value: asked for each instance at each number of iterations, in rising order.
            trial: is told what was reached.
            best: the values of the best trial so far, by instance.
            known: what earlier trials of the same genome saw; where the ladder learns, a rung that shows nothing new is
                not judged.
            order: the instances, the one to begin with first; None: as they are.
        """
        (most, end), seen = stages[-1], dict(known or {})
        order = list(range(most)) if order is None else order
        for rung, (instances, iterations) in enumerate(stages):
            last, before = (instances, iterations) == (most, end), len(seen)
            for instance in order[:instances]:
                for mark in sorted({each for _, each in stages if each <= iterations}):
                    if (instance, mark) in seen and not (last and mark == end):
                        continue
                    if (now := value(instance, mark)) is not None:
                        seen[instance, mark] = now
            trial.set_user_attr(SEEN, note(seen))
            if any((instance, iterations) not in seen for instance in order[:instances]):
                continue  # past that rung
            reached = {instance: seen[instance, iterations] for instance in order[:instances]}
            if last:
                break
            trial.report(mean(reached.values()), self.keep**rung)
            if (len(seen) > before or not self.learned) and trial.should_prune():
                if iterations == end and best:
                    return imputed(reached, best), False
                raise Pruned(
                    f"rung: {mean(reached.values()):.2f} dB at {iterations} of {end} iterations, "
                    f"on {instances} of {most} pictures"
                )
        return mean(reached.values()), True


def imputed(values: dict[int, float], best: dict[int, float]) -> float:
    """The mean over all instances of a trial that saw some: the best trial's mean, plus the mean paired
    difference to it. A mean over the instances seen would reward having seen the easy ones."""
    paired = [values[index] - best[index] for index in values if index in best]
    return mean(best.values()) + mean(paired) if paired else mean(values.values())


LADDERS: dict[str, Ladder] = {
    "none": Ladder(((1, 1),)),
    "halving": Ladder(((1, 1 / 8), (1, 1 / 4), (1, 1 / 2), (1, 1))),
    "steep": Ladder(((1 / 4, 1 / 8), (1 / 2, 1 / 4), (1, 1)), keep=4),
    "promising": Ladder(((1 / 4, 1 / 4), (1 / 2, 1), (1, 1)), learned=True, gate=2),
}


class Gated(optuna.pruners.BasePruner):
    """Another pruner, whose verdicts count only once `start` trials are complete.

    It is asked from the first trial on, because successive halving compares with the trials that it has seen.
    """

    def __init__(self, inner: optuna.pruners.BasePruner, start: int) -> None:
        self.inner, self.start = inner, start

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether the inner pruner gives the trial up, after the start."""
        verdict = self.inner.prune(study, trial)
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return verdict and len(complete) >= self.start
