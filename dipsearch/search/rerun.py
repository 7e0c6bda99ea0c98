"""Fits of chosen genomes at full budget on the evaluation images, with several seeds: the evidence."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from dipsearch import catalog
from dipsearch.baseline import available
from dipsearch.error import Paused, UsageError
from dipsearch.genome import Genome, load_genome, load_genome_file, parse_genome
from dipsearch.image import normal
from dipsearch.leaderboard import search_ranking
from dipsearch.run import RunStore, subject_of
from dipsearch.search.evaluation import HERE, Protocol, seconds_per_iteration
from dipsearch.search.executor import Executor, together
from dipsearch.task import Observation, Task


@dataclass(frozen=True)
class Candidate:
    """What is to be judged: a genome, with the values of the recipe that it was found with."""

    genome: Genome
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """As in a run."""
        return subject_of(self.genome.key(), self.changes)


@dataclass
class Rerun:
    """Which genomes and baselines to run on which instances.

    Args:
        protocol: the task at a re-run preset.
        genomes: by name, for people.
        store: of runs.
        seed: every picture and repeat gets its own, made of it.
        seeds: repeats of each picture.
        part: which of how many parts of the fits, every so many-th, this process makes.
        executor: where fits run.
        task: whose searches are asked which pictures they saw; by default the protocol's.
    """

    protocol: Protocol
    genomes: dict[str, Candidate]
    store: RunStore
    seed: int
    seeds: int
    part: tuple[int, int] = (0, 1)
    executor: Executor = HERE
    task: str = ""
    instances: list[Observation] = field(init=False)

    def __post_init__(self) -> None:
        self._protocols = {
            name: catalog.validate(f"{name}: recipe", self.protocol.changed, candidate.changes)
            for name, candidate in self.genomes.items()
        }
        task, effort = self.protocol.task, self.protocol.effort
        images = list(task.images.evaluation[: effort.images])
        self.instances = self.protocol.observe(images, seed=self.seed, repeats=self.seeds)

    @property
    def searched_on(self) -> list[str]:
        """Evaluation pictures that a search of this task has seen: what they show is no evidence."""
        runs, _ = self.store.load(self.task or self.protocol.task.name)
        seen = [run for run in runs if run["purpose"] == "search"]
        names, digests = {normal(run["image"]) for run in seen}, {run["digest"] for run in seen}
        return sorted({i.image for i in self.instances if normal(i.image) in names or i.digest in digests})

    @property
    def fits(self) -> int:
        """How many there are in this part."""
        return len(self._fits())

    def _fits(self) -> list[tuple[str, Observation]]:
        """Those of this part, which takes every so many-th instance of each genome, so that parts cost alike."""
        index, count = self.part
        return [
            (name, instance)
            for row, instance in enumerate(self.instances)
            for column, name in enumerate(self.genomes)
            if (row + column) % count == index
        ]

    def iterations(self, name: str) -> int:
        """The budget of a genome, by its name here: it may bring its own."""
        return self._protocols[name].recipe.iterations

    @property
    def missing(self) -> list[tuple[str, Observation]]:
        """The fits of this part that the store does not hold, all genomes of one instance before the next instance."""
        return [(name, instance) for name, instance in self._fits() if self.stored(name, instance) is None]

    def stored(self, name: str, instance: Observation) -> dict[str, Any] | None:
        """The stored run of a genome, by its name here, on an instance."""
        return self._protocols[name].find(self.store, self.genomes[name].genome.key(), instance)

    def predict(self) -> float:
        """Seconds for the missing fits, from a few timed steps of each genome."""
        seconds = 0.0
        missing = self.missing
        for name, candidate in self.genomes.items():
            fits = [instance for other, instance in missing if other == name]
            if fits:
                where = self.executor
                step = seconds_per_iteration(self._protocols[name], candidate.genome, fits[0], executor=where)
                pixels = sum(math.prod(instance.shape) for instance in fits) / math.prod(fits[0].shape)
                seconds += step * self.iterations(name) * pixels
        return seconds / max(1, self.executor.room())

    def run(
        self, watch: Callable[[str, Observation, int, float], None], until: float = float("inf")
    ) -> Iterator[dict[str, Any]]:
        """Baselines first, where their packages are installed, then every missing fit; yields each run as it is stored.

        `watch` is told the genome's name, the instance, the iteration and the honest PSNR so far. Paused where the
        clock (`time.monotonic`) is past `until`.
        """
        for instance in self.instances[self.part[0] :: self.part[1]]:
            twin = next(each for each in self.instances if torch.equal(each.y, instance.y))
            for baseline in filter(available, self.protocol.task.baselines):
                if time.monotonic() > until:
                    raise Paused(f"{baseline} on {instance.image}: not begun")
                yield self.protocol.baseline(self.store, baseline, instance, twin)
        missing = iter(self.missing)

        def another(under_way: int) -> Callable[[], dict[str, Any]] | None:
            name, instance = next(missing, (None, None))
            if name is None or instance is None:
                return None
            if time.monotonic() > until:
                raise Paused(f"{name} on {instance.image}: not begun")
            genome, protocol = self.genomes[name].genome, self._protocols[name]
            tell = partial(watch, name, instance)
            return lambda: protocol.evaluate(self.store, name, genome, instance, tell, until, self.executor)

        yield from together(another, self.executor)


def rerun_genomes(task: Task, store: RunStore, top: int, named: list[str]) -> dict[str, Candidate]:
    """The genomes to judge, by name: the task's published one, and those named or the best `top` found.

    UsageError where nothing is named and nothing was searched.
    """
    published = Candidate(load_genome(task.genome))
    chosen = named_genomes(named) if named else _best(task, store)
    others = [(name, candidate) for name, candidate in chosen.items() if candidate.key != published.key]
    return {catalog.stem("genomes", task.genome): published} | dict(others if named else others[:top])


def named_genomes(names: list[str]) -> dict[str, Candidate]:
    """Genomes by their names or files, with the values of the recipe that they bring."""
    stems = [catalog.stem("genomes", name) for name in names]
    files = [load_genome_file(name) for name in names]
    # two files of one name are told apart by their paths
    return {
        stem if stems.count(stem) == 1 else name: Candidate(file.genome, file.recipe)
        for stem, name, file in zip(stems, names, files, strict=True)
    }


def _best(task: Task, store: RunStore) -> dict[str, Candidate]:
    ranking = search_ranking(store, task.name)
    if ranking.empty:
        raise UsageError(
            f"no finished trial for task {task.name!r} under {store.root}; run: dipsearch search --task {task.name}"
        )
    return {
        str(row["name"]): Candidate(parse_genome(row["genome"]), row["recipe_changes"])
        for row in ranking.to_dict("records")
    }
