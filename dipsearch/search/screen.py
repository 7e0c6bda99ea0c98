"""A screen before any fit: a genome whose zero-cost score is low among those proposed so far is not fitted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from dipsearch.error import Diverged, UsageError, unknown
from dipsearch.genome import Genome
from dipsearch.search.evaluation import price_of
from dipsearch.search.executor import Caller
from dipsearch.search.ladder import Pruned, Reporter
from dipsearch.search.scores import SCORES, score
from dipsearch.task import Observation

NOTED = "screen"  # the attribute of a trial that keeps its score
FEWEST = 8  # scores, before which nothing is screened out


@dataclass(frozen=True)
class Screen:
    """A name in `SCORES`; genomes pass that are among the best half of those scored so far."""

    score: str
    passing: float = 0.5

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise UsageError(unknown("zero-cost score", self.score, SCORES))

    def check(
        self,
        genome: Genome,
        instances: Sequence[Observation],
        before: Sequence[float],
        trial: Reporter,
        executor: Caller,
    ) -> None:
        """Note the genome's mean score with the trial; Pruned where too many of those `before` are better, FitError
        where it has none."""
        value = mean(
            executor.call(score, self.score, genome, instance, memory=price_of(genome, instance, executor).memory)
            for instance in instances
        )
        if not math.isfinite(value):
            raise Diverged(f"its score {self.score} is no number")
        trial.set_user_attr(NOTED, value)
        if not self.passes(value, before):
            raise Pruned(f"screen: {self.score} {value:.3g} is not among the best {self.passing:.0%} so far")

    def passes(self, value: float, before: Sequence[float]) -> bool:
        """Whether a score is good enough beside those before it."""
        better = sum(other > value for other in before)
        return len(before) < FEWEST or better < self.passing * len(before)
