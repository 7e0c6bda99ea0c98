"""What a search is asked: all that its results depend on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dipsearch import catalog
from dipsearch.error import UsageError
from dipsearch.genome import Genome, load_genome, parse_genome
from dipsearch.leaderboard import search_ranking
from dipsearch.run import RunStore
from dipsearch.search.screen import Screen
from dipsearch.space import Space
from dipsearch.task import Observation, SearchEffort, Task


@dataclass(frozen=True)
class Settings:
    """All that a search depends on; a study is resumed under the same ones only."""

    task: Task
    space: Space
    preset: str
    effort: SearchEffort
    seed: int = 0
    sampler: str = "auto"
    device: str = "auto"
    pruner: str = "auto"
    goals: tuple[str, ...] = ("psnr",)
    screen: Screen | None = None
    start: tuple[Genome, ...] = ()  # tried first
    around: Genome | None = None  # searched around

    def config(self, instances: list[Observation], protocol: str) -> dict[str, Any]:
        """Plain data, written beside the study and compared on resume."""
        effort = self.effort.model_dump(mode="json", exclude={"trials", "timeout"})
        task = self.task.model_dump(mode="json", exclude={"search", "rerun", "restore"})
        return {
            "task": task,
            "space": self.space.model_dump(mode="json"),
            "preset": self.preset,
            "effort": effort,
            "seed": self.seed,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "goals": list(self.goals),
            "screen": asdict(self.screen) if self.screen else None,
            "around": self.around.data() if self.around else None,
            "protocol": protocol,
            "pictures": sorted({instance.digest for instance in instances}),
        }


def start_genomes(names: Sequence[str], store: RunStore, top: int = 5) -> tuple[Genome, ...]:
    """The genomes to try first: each name is a genome's, or a task's, which stands for the best `top` found for it.

    UsageError where a task has no finished search under the store.
    """
    chosen: list[Genome] = []
    for name in names:
        if name not in catalog.names("tasks"):
            chosen.append(load_genome(name))
            continue
        ranking = search_ranking(store, name)
        if ranking.empty:
            raise UsageError(f"--start-from {name}: no finished trial for that task under {store.root}")
        chosen += [parse_genome(genome) for genome in ranking["genome"].head(top)]
    return tuple(chosen)
