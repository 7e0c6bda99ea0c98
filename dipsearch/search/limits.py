"""What a genome may cost: decided before its fit, and told to the sampler as constraints."""

from dataclasses import dataclass

from dipsearch.genome import Genome
from dipsearch.search.evaluation import HERE, Protocol, price_of, seconds_per_iteration
from dipsearch.search.executor import Caller
from dipsearch.search.ladder import Pruned, Reporter
from dipsearch.task import Observation

MIB = 2**20


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
        """Pruned where a genome would be too dear on the largest picture; WorkerKilled where asking that kills."""
        if self.gflop is self.seconds is self.memory is None:
            return
        largest = max(instances, key=lambda instance: instance.shape[-2] * instance.shape[-1])
        price = price_of(genome, largest, executor)
        predicted = {"gflop": price.gflop, "memory": price.memory / MIB}
        if self.seconds is not None:
            step = seconds_per_iteration(protocol, genome, largest, executor=executor)
            predicted["seconds"] = step * protocol.recipe.iterations
        units = {"gflop": "GFLOP an iteration", "memory": "MiB", "seconds": "seconds a fit"}
        excess = []
        for name, value in predicted.items():
            if (limit := getattr(self, name)) is not None:
                trial.set_constraint(name, value - limit)
                if value > limit:
                    excess.append(f"{value:.3g} {units[name]}, above the limit of {limit:g}")
        if excess:
            raise Pruned(f"cost: {'; '.join(excess)}")
