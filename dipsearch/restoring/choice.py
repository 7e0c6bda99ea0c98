"""What restores a picture where nobody says otherwise: a genome and a recipe, by task, preset and size."""

import math
from dataclasses import dataclass
from typing import Any

from dipsearch import catalog
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome, load_genome_file
from dipsearch.task import RestoreEffort, Suited, Task, choose_effort

BALANCED = "balanced"


@dataclass(frozen=True)
class Choice:
    """A genome, by its name, how it is fitted, and pixels a side of the largest picture that it is fitted to."""

    name: str
    genome: Genome
    recipe: Recipe
    tile: int


def choose(
    task: Task,
    preset: str = BALANCED,
    genome: Genome | catalog.Name | None = None,
    *,
    size: tuple[int, int],
    **settings: Any,
) -> Choice:
    """The genome and recipe of a task's preset for a picture of a size.

    A task without presets has one, `balanced`: its published genome and recipe. A genome brings the values of the
    recipe that it was found with; the preset may have values for a size, which its own genome there takes. With a
    noise level and no rule, the fit stops where it reaches that level.

    Args:
        task: what is to be undone.
        preset: how much time it may take.
        genome: one, a name or a file, in place of the preset's.
        size: (height, width) of what is fitted.
        **settings: values of the recipe; None stands for the preset's.

    Raises:
        UsageError: a name is not known, or a value does not fit.
    """
    effort = effort_of(task, preset)
    begun = max(side for side in effort.genome if side <= math.sqrt(size[0] * size[1]))
    return _choice(task, effort, genome or effort.genome[begun], settings)


def choices(task: Task, preset: str = BALANCED, genome: str | None = None, **settings: Any) -> list[Choice]:
    """What `choose` may give, over all sizes."""
    effort = effort_of(task, preset)
    if genome:
        return [_choice(task, effort, genome, settings)]
    return [_choice(task, effort, suited, settings) for _, suited in sorted(effort.genome.items())]


def effort_of(task: Task, preset: str) -> RestoreEffort:
    """A preset by its name; UsageError names the choices."""
    presets = task.restore or {BALANCED: RestoreEffort(genome={0: Suited(genome=task.genome)})}
    return choose_effort(presets, preset)  # type: ignore[no-any-return]


def _choice(
    task: Task, effort: RestoreEffort, wanted: Genome | catalog.Name | Suited, settings: dict[str, Any]
) -> Choice:
    preset = effort.recipe
    if isinstance(wanted, Suited):
        preset = preset | wanted.recipe
        wanted = wanted.genome
    if isinstance(wanted, Genome):
        name, genome, own = wanted.key(), wanted, {}
    else:
        file = load_genome_file(wanted)
        name, genome, own = catalog.stem("genomes", wanted), file.genome, file.recipe
    given = {field: value for field, value in settings.items() if value is not None}
    if "sigma" in given:
        given = {"stop": "discrepancy"} | given
    recipe = task.recipe.model_dump() | preset | own | given
    return Choice(name, genome, catalog.validate("recipe", Recipe.model_validate, recipe), effort.tile)
