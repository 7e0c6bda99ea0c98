"""What is in DIPBench: which genomes, on which pictures, with which seeds. The preset `bench` of a task says how."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dipsearch import catalog
from dipsearch.error import UsageError
from dipsearch.genome import Genome, load_genome
from dipsearch.network.build import cost
from dipsearch.search.evaluation import Protocol
from dipsearch.seed import seed_of
from dipsearch.space import load_space
from dipsearch.task import Observation, SearchEffort, load_task

PRESET = "bench"
WHOLE, SAMPLED = "bench", "wide"  # the space that is enumerated whole, the one that is sampled
NAMED = "named"
SAMPLES = 100
TWICE = 4  # every so many genomes of the two spaces have a second seed
LARGER = 10  # every so many of `bench` are fitted to the same parts of the pictures at `FACTOR` times the resolution
FACTOR = 2


@dataclass(frozen=True)
class Entry:
    """A genome of the table: its name, and the space it is of (`named`: a genome that is built in)."""

    name: str
    origin: str
    genome: Genome


def protocol_of(task: str) -> Protocol:
    """The protocol of a task's part of DIPBench; UsageError where it has no such preset."""
    loaded = load_task(task)
    if PRESET not in loaded.search:
        raise UsageError(f"task {task!r} has no search preset {PRESET!r}, which DIPBench is made with")
    effort = loaded.search[PRESET]
    return Protocol(loaded, effort, PRESET, PRESET, loaded.recipe_for(effort), device="cpu")


def observations(protocol: Protocol) -> list[list[Observation]]:
    """The observations of the first seed, those of the second, and larger ones of the first."""
    effort = protocol.effort
    images = list(protocol.task.images.search[: effort.images])
    everything = protocol.observe(images, seed=0, repeats=2)
    larger = []
    if effort.size and effort.shrink % FACTOR == 0:
        finer = effort.model_copy(update={"shrink": effort.shrink // FACTOR, "size": effort.size * FACTOR})
        larger = replace(protocol, effort=finer).observe(images, seed=0, repeats=1)
    return [everything[: len(images)], everything[len(images) :], larger]


def entries(effort: SearchEffort) -> list[Entry]:
    """Every genome of the space `bench` in a random order, then samples of `wide`, then built-in genomes.

    A genome that would take more than the preset's `max_gflop` is left out.
    """
    found: dict[str, Entry] = {}
    side, limit = effort.size or 64, effort.max_gflop or float("inf")

    def add(entry: Entry) -> None:
        if cost(entry.genome, side, side).gflop <= limit:
            found.setdefault(entry.genome.key(), entry)

    whole = list(load_space(WHOLE).genomes())
    random.Random(seed_of(WHOLE, "order")).shuffle(whole)  # noqa: S311
    for genome in whole:
        add(Entry(f"{WHOLE}-{genome.key()[:6]}", WHOLE, genome))
    sampled, wanted = load_space(SAMPLED), len(found) + SAMPLES
    for seed in range(100 * SAMPLES):
        if len(found) >= wanted:
            break
        genome = sampled.sample(seed)
        add(Entry(f"{SAMPLED}-{genome.key()[:6]}", SAMPLED, genome))
    for name in catalog.names("genomes"):
        add(Entry(name, NAMED, load_genome(name)))
    return list(found.values())


def fits(protocol: Protocol) -> Iterator[tuple[Entry, Observation]]:
    """Every fit of the table, in the order in which they are made: those of the space `bench` first."""
    once, again, larger = observations(protocol)
    everything = entries(protocol.effort)  # type: ignore[arg-type]
    whole, sampled, named = ([each for each in everything if each.origin == name] for name in (WHOLE, SAMPLED, NAMED))
    for some, instances in (
        (whole, once),
        (whole[::TWICE], again),
        (whole[::LARGER], larger),
        (sampled, once),
        (named, once),
        (sampled[::TWICE], again),
    ):
        yield from itertools.product(some, instances)
