"""What restores a picture where nobody says otherwise: a genome and a recipe, by task and preset."""

from dataclasses import dataclass
from typing import Any

from dipsearch import catalog
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome, load_genome_file
from dipsearch.task import RestoreEffort, Task, choose_effort

BALANCED = "balanced"


@dataclass(frozen=True)
class Choice:
    """A genome, by its name, and how it is fitted."""

    name: str
    genome: Genome
    recipe: Recipe


def choose(task: Task, preset: str = BALANCED, genome: str | None = None, **settings: Any) -> Choice:
    """The genome and recipe of a task's preset.

    A task without presets has one, `balanced`: its published genome and recipe. A genome brings the values of the
    recipe that it was found with. With a noise level and no rule, the fit stops where it reaches that level.

    Args:
        task: what is to be undone.
        preset: how much time it may take.
        genome: a name or a file, in place of the preset's.
        **settings: values of the recipe; None stands for the preset's.

    Raises:
        UsageError: a name is not known, or a value does not fit.
    """
    effort = choose_effort(task.restore or {BALANCED: RestoreEffort(genome=task.genome)}, preset)
    name = genome or effort.genome
    file = load_genome_file(name)
    given = {field: value for field, value in settings.items() if value is not None}
    if "sigma" in given:
        given = {"stop": "discrepancy"} | given
    recipe = task.recipe.model_dump() | effort.recipe | file.recipe | given
    stem = catalog.stem("genomes", name)
    return Choice(stem, file.genome, catalog.validate("recipe", Recipe.model_validate, recipe))
