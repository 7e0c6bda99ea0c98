"""What a genome may cost: decided before its fit, and told to the sampler as constraints."""

from collections.abc import Callable
from dataclasses import dataclass

from dipsearch.genome import Genome
from dipsearch.search.evaluation import HERE, Protocol, price_of, seconds_per_iteration
from dipsearch.search.executor import Caller
from dipsearch.search.ladder import Pruned, Reporter
from dipsearch.task import Observation

MIB = 2**20
UNITS = {"gflop": "GFLOP an iteration", "memory": "MiB", "seconds": "seconds a fit"}


@dataclass(frozen=True)
class Limits:
    """Of one fit: GFLOP an iteration, seconds (measured in a few steps on this machine), MiB of memory."""

    gflop: float | None = None
    seconds: float | None = None
    memory: float | None = None

    def check(
        self,
        protocol: Protocol,
        genome: Genome,
        instances: list[Observation],
        trial: Reporter,
        executor: Caller = HERE,
    ) -> None:
        """Pruned where a genome would be too dear on the largest picture; WorkerKilled where asking that kills. It is
        timed only where the other limits allow that."""
        over = self.exceeded(genome, instances, executor, trial.set_constraint)
        if self.seconds is not None and not over:
            step = seconds_per_iteration(protocol, genome, _largest(instances), executor=executor)
            over = self._over({"seconds": step * protocol.recipe.iterations}, trial.set_constraint)
        if over:
            raise Pruned(f"cost: {'; '.join(over)}")

    def exceeded(
        self,
        genome: Genome,
        instances: list[Observation],
        executor: Caller = HERE,
        tell: Callable[[str, float], None] = lambda name, excess: None,
    ) -> list[str]:
        """Which of the limits that are computed, GFLOP and memory, a genome is above, in words. `tell` is given each
        limit's name and by how much."""
        if self.gflop is self.memory is None:
            return []
        price = price_of(genome, _largest(instances), executor)
        return self._over({"gflop": price.gflop, "memory": price.memory / MIB}, tell)

    def _over(self, predicted: dict[str, float], tell: Callable[[str, float], None]) -> list[str]:
        excess = []
        for name, value in predicted.items():
            if (limit := getattr(self, name)) is not None:
                tell(name, value - limit)
                if value > limit:
                    excess.append(f"{value:.3g} {UNITS[name]}, above the limit of {limit:g}")
        return excess


def _largest(instances: list[Observation]) -> Observation:
    return max(instances, key=lambda instance: instance.shape[-2] * instance.shape[-1])
