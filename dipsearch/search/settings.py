"""What a search is asked: all that its results depend on."""

from dataclasses import dataclass
from typing import Any

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
    sampler: str = "tpe"
    device: str = "auto"

    def config(self, instances: list[Observation], protocol: str) -> dict[str, Any]:
        """Plain data, written beside the study and compared on resume."""
        effort = self.effort.model_dump(mode="json", exclude={"trials", "timeout"})
        task = self.task.model_dump(mode="json", exclude={"search", "rerun"})
        return {
            "task": task,
            "space": self.space.model_dump(mode="json"),
            "preset": self.preset,
            "effort": effort,
            "seed": self.seed,
            "sampler": self.sampler,
            "protocol": protocol,
            "pictures": sorted({instance.digest for instance in instances}),
        }
