"""Fits of chosen genomes at full budget on the evaluation images, with several seeds: the evidence."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dipsearch import catalog
from dipsearch.error import UsageError
from dipsearch.genome import Genome, load_genome, parse_genome
from dipsearch.image import normal
from dipsearch.leaderboard import search_ranking
from dipsearch.run import RunStore
from dipsearch.search.evaluation import Protocol, seconds_per_iteration
from dipsearch.task import Observation, Task


@dataclass
class Rerun:
    """Which genomes and baselines to run on which instances.

    Args:
        protocol: the task at a re-run preset.
        genomes: by name, for people.
        store: of runs.
        seed: every picture and repeat gets its own, made of it.
        seeds: repeats of each picture.
    """

    protocol: Protocol
    genomes: dict[str, Genome]
    store: RunStore
    seed: int
    seeds: int
    instances: list[Observation] = field(init=False)

    def __post_init__(self) -> None:
        task, effort = self.protocol.task, self.protocol.effort
        images = list(task.images.evaluation[: effort.images])
        self.instances = self.protocol.observe(images, seed=self.seed, repeats=self.seeds)

    @property
    def searched_on(self) -> list[str]:
        """Evaluation pictures that a search of this task has seen: what they show is no evidence."""
        runs, _ = self.store.load(self.protocol.task.name)
        seen = [run for run in runs if run["purpose"] == "search"]
        names, digests = {normal(run["image"]) for run in seen}, {run["digest"] for run in seen}
        return sorted({i.image for i in self.instances if normal(i.image) in names or i.digest in digests})

    @property
    def missing(self) -> list[tuple[str, Genome, Observation]]:
        """The fits that the store does not hold, all genomes of one instance before the next instance."""
        return [
            (name, genome, instance)
            for instance in self.instances
            for name, genome in self.genomes.items()
            if self.protocol.find(self.store, genome.key(), instance) is None
        ]

    def predict(self) -> float:
        """Seconds for the missing fits, from a few timed steps of each genome."""
        seconds = 0.0
        missing = self.missing
        for name, genome in self.genomes.items():
            fits = [instance for other, _, instance in missing if other == name]
            if fits:
                step = seconds_per_iteration(self.protocol, genome, fits[0])
                pixels = sum(math.prod(instance.shape) for instance in fits) / math.prod(fits[0].shape)
                seconds += step * self.protocol.recipe.iterations * pixels
        return seconds

    def run(self, watch: Callable[[str, Observation, int, float], None]) -> Iterator[dict[str, Any]]:
        """Baselines first, then every missing fit; yields each run as it is stored.

        `watch` is told the genome's name, the instance, the iteration and the honest PSNR so far.
        """
        for instance in self.instances:
            for baseline in self.protocol.task.baselines:
                yield self.protocol.baseline(self.store, baseline, instance)
        for name, genome, instance in self.missing:

            def tell(iteration: int, score: float, name: str = name, instance: Observation = instance) -> None:
                watch(name, instance, iteration, score)

            yield self.protocol.evaluate(self.store, name, genome, instance, tell)


def rerun_genomes(task: Task, store: RunStore, top: int, named: list[str]) -> dict[str, Genome]:
    """The genomes to judge, by name: the task's published one, and those named or the best `top` found.

    UsageError where nothing is named and nothing was searched.
    """
    published = load_genome(task.genome)
    chosen = _named(named) if named else _best(task, store)
    others = [(name, genome) for name, genome in chosen.items() if genome.key() != published.key()]
    return {catalog.stem("genomes", task.genome): published} | dict(others if named else others[:top])


def _named(names: list[str]) -> dict[str, Genome]:
    stems = [catalog.stem("genomes", name) for name in names]
    # two files of one name are told apart by their paths
    return {
        stem if stems.count(stem) == 1 else name: load_genome(name) for stem, name in zip(stems, names, strict=True)
    }


def _best(task: Task, store: RunStore) -> dict[str, Genome]:
    ranking = search_ranking(store, task.name)
    if ranking.empty:
        raise UsageError(
            f"no finished trial for task {task.name!r} under {store.root}; run: dipsearch search --task {task.name}"
        )
    return {str(row["name"]): parse_genome(row["genome"]) for row in ranking.to_dict("records")}
