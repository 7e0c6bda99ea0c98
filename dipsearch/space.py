"""Search spaces: sets of genomes, written as YAML under search_spaces/.

A space names genes with their choices, and one template of a genome for each family, in which `$gene`
stands for the chosen value. It may free values of the task's recipe, too: then what is searched for are pairs
of a genome and a recipe. Optuna always sees every gene, also those that the chosen family or depth
does not use: a fixed length keeps its joint models usable.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from dipsearch import catalog
from dipsearch.error import UsageError, unknown
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import MOST_LEVELS, Genome, Part, parse_genome
from dipsearch.template import Choice, Choices, Gene, fill, gene_name, genes_in, read

Suggest = Callable[[str, list[Choice]], Choice]  # Optuna's `trial.suggest_categorical` is one
FAMILY = "family"
RECIPE = "recipe."  # what the slots of a recipe's values begin with
BUDGET = ("iterations", "ensemble", "time_limit")  # of a recipe, and not free: trials are compared at one budget
DRAWN = 200  # of a space, to see whether anything in it is valid


class Space(Part):
    """A set of genomes."""

    name: str
    about: str
    source: str = ""
    genes: dict[str, Gene]
    templates: dict[str, dict[str, Any]] = Field(min_length=1)
    recipe: dict[str, Choices] = Field(
        default_factory=dict, description="fields of the task's recipe with their choices"
    )
    start: tuple[str, ...] = Field((), description="genomes by name that a search tries first")

    @model_validator(mode="before")
    @classmethod
    def _short_genes(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(genes := data.get("genes"), dict):
            full = {name: {"choices": gene} if isinstance(gene, list) else gene for name, gene in genes.items()}
            return data | {"genes": full}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        used = set()
        for family, template in self.templates.items():
            if FAMILY in template:
                raise ValueError(f"templates.{family}.{FAMILY}: a template is called as its family is; remove this key")
            for where, name in genes_in(template, f"templates.{family}"):
                if name not in self.genes:
                    raise ValueError(f"{where}: {unknown('gene', name, self.genes)}")
                used.add(name)
        if unused := set(self.genes) - used:
            raise ValueError(f"genes.{min(unused)}: no template uses it")
        for name in self.genes:
            if name == FAMILY or "." in name:
                raise ValueError(f"genes.{name}: a gene may not be called {FAMILY!r} or have a dot in its name")
        for family, template in self.templates.items():
            self._check_depth(family, template.get("depth", 1))
        self._check_recipe()
        for family, template in self.templates.items():
            gene = gene_name(template.get("depth"))
            fixed: dict[str, Choice] = {FAMILY: family} if len(self.templates) > 1 else {}
            for depth in [{gene: depth} for depth in self.genes[gene].choices] if gene else [{}]:
                self._check_draws(fixed | depth)
        return self

    def _check_draws(self, fixed: dict[str, Choice]) -> None:
        """ValueError where none of many draws with some slots fixed is a network: a template is wrong, or a choice."""
        draws = [self.draw(_random(seed)) | fixed for seed in range(DRAWN)]
        if not any(map(self._valid, draws)):
            raise ValueError(self._problem(draws[0], fixed))

    def _check_depth(self, family: str, depth: Any) -> None:
        """The depth says how many slots of a per-level gene count, so it has to be known beforehand."""
        where = f"templates.{family}.depth"
        choices: tuple[Any, ...] = (depth,)
        if name := gene_name(depth):
            where, choices = f"genes.{name}", self.genes[name].choices
            if self.genes[name].levels is not None:
                raise ValueError(f"{where}: the depth is one number, not one for each level")
        for choice in choices:
            if not isinstance(choice, int) or isinstance(choice, bool):
                raise ValueError(f"{where}: a depth is a whole number, got {choice!r}")
            if choice not in range(1, MOST_LEVELS + 1):
                raise ValueError(f"{where}: a depth is from 1 to {MOST_LEVELS}, got {choice}")

    def _check_recipe(self) -> None:
        """Each value alone; what the task's recipe and the values together cannot be is known with the task."""
        free = [name for name in Recipe.model_fields if name not in BUDGET]
        for name, choices in self.recipe.items():
            if name in BUDGET:
                raise ValueError(f"recipe.{name}: trials are compared at one budget; choose from: {', '.join(free)}")
            if name not in free:
                raise ValueError(f"recipe.{name}: {unknown('field of a recipe', name, free)}")
            for choice in choices:
                try:
                    Recipe.model_validate({name: choice})
                except ValidationError as error:
                    if any(item["loc"] for item in error.errors()):
                        raise ValueError(f"recipe.{catalog.describe(error)}") from None

    @property
    def slots(self) -> dict[str, list[Choice]]:
        """What Optuna sees: every slot with its choices, in a fixed order."""
        slots: dict[str, list[Choice]] = {}
        if len(self.templates) > 1:
            slots[FAMILY] = list(self.templates)
        for name, gene in self.genes.items():
            levels = [name] if gene.levels is None else [f"{name}.{level}" for level in range(gene.levels)]
            slots |= {slot: list(gene.choices) for slot in levels}
        return slots | {RECIPE + name: list(choices) for name, choices in self.recipe.items()}

    def suggest(self, suggest: Suggest) -> dict[str, Choice]:
        """Ask for every slot: `space.suggest(trial.suggest_categorical)`."""
        return {slot: suggest(slot, choices) for slot, choices in self.slots.items()}

    def draw(self, rng: random.Random) -> dict[str, Choice]:
        """Choose every slot at random, all choices alike."""
        return self.suggest(lambda slot, choices: rng.choice(choices))

    def sample(self, seed: int) -> Genome:
        """A random valid genome; the same for the same seed."""
        rng = _random(seed)
        for _ in range(1000):
            if genome := self._valid(self.draw(rng)):
                return genome
        raise UsageError(f"space {self.name!r}: {self._problem(self.draw(_random(0)), {})}")

    def genomes(self) -> Iterator[Genome]:
        """Every valid genome, each network once; for a space that is small enough."""
        seen = set()
        for values in itertools.product(*self.slots.values()):
            genome = self._valid(dict(zip(self.slots, values, strict=True)))
            if genome is not None and genome.key() not in seen:
                seen.add(genome.key())
                yield genome

    def genome(self, chosen: dict[str, Choice]) -> Genome:
        """The genome of chosen slots; ValidationError where the space allows what no network can be."""
        family = str(chosen.get(FAMILY, next(iter(self.templates))))
        return parse_genome({FAMILY: family} | fill(self.templates[family], self.genes, chosen))

    def changes(self, chosen: dict[str, Choice]) -> dict[str, Choice]:
        """The chosen values of the task's recipe."""
        return {name: chosen[RECIPE + name] for name in self.recipe}

    def active(self, chosen: dict[str, Choice]) -> list[str]:
        """The slots that matter where so much is chosen: another choice there gives another network, or makes one
        impossible or possible.

        The others belong to another family, lie below the depth, or do nothing there, as the kernel of a skip that
        is not there.
        """

        def key(slots: dict[str, Choice]) -> str | None:
            genome = self._valid(slots)
            return genome.key() if genome else None

        now = key(chosen)
        return [
            slot
            for slot, choices in self.slots.items()
            if slot.startswith(RECIPE) or any(key(chosen | {slot: it}) != now for it in choices)
        ]

    def find(self, genome: Genome) -> dict[str, Choice] | None:
        """Slots that give a genome with this key, or None; values of the recipe are the first of their choices.

        The genome is read as it is written, then in its canonical form; a third way of writing the same
        network is not found.
        """
        return self._find(genome) or self._find(genome.canonical())

    def _find(self, genome: Genome) -> dict[str, Choice] | None:
        template = self.templates.get(genome.family)
        if template is None:
            return None
        chosen: dict[str, Choice] = {slot: choices[0] for slot, choices in self.slots.items()}
        if FAMILY in chosen:
            chosen[FAMILY] = genome.family
        wanted: dict[str, set[Choice]] = {}
        for slot, value in read(template, genome.data(), self.genes):
            if isinstance(value, dict | list):  # a cell where the space has names
                return None
            wanted.setdefault(slot, set()).add(value)
        for slot, values in wanted.items():
            if len(values) > 1 or (value := next(iter(values))) not in self.slots.get(slot, []):
                return None
            chosen[slot] = value
        found = self._valid(chosen)
        return chosen if found is not None and found.key() == genome.key() else None

    def __contains__(self, genome: Genome) -> bool:
        return self.find(genome) is not None

    def size(self) -> int:
        """How many different choices of what matters there are: at least the number of its genomes, times that of
        its recipes.

        Nested parts with genes of their own, such as an upsampling cell, count exactly: without what is invalid, and
        without what is written in two ways.
        """
        recipes = math.prod(len(choices) for choices in self.recipe.values())
        return recipes * sum(self._family_size(family) for family in self.templates)

    def _family_size(self, family: str) -> int:
        template = self.templates[family]
        used = {name for _, name in genes_in(template)}
        depth = template.get("depth")
        gene = gene_name(depth)
        depths = self.genes[gene].choices if gene else (depth if isinstance(depth, int) else 5,)
        parts = [names for part in template.values() if (names := self._own_genes(part, template))]
        nested = math.prod(self._distinct(family, names) for names in parts)
        total = 0
        for chosen in depths:
            count = nested
            for name in used.difference([gene], *parts):
                choices = len(self.genes[name].choices)
                count *= choices if self.genes[name].levels is None else choices ** int(chosen)
            total += count
        return total

    def _own_genes(self, part: Any, template: dict[str, Any]) -> set[str]:
        """The genes of a nested part of a template, if they are one slot each and stand nowhere else."""
        inside, everywhere = (Counter(name for _, name in genes_in(where)) for where in (part, template))
        own = isinstance(part, dict) and "deepest" not in part  # what that means depends on the depth
        own = own and all(
            count == everywhere[name] and self.genes[name].levels is None for name, count in inside.items()
        )
        return set(inside) if own else set()

    def _distinct(self, family: str, names: set[str]) -> int:
        """How many different genomes these genes make where all others stay as they are."""
        rng = _random(0)
        draws = (self.draw(rng) | ({FAMILY: family} if len(self.templates) > 1 else {}) for _ in range(1000))
        others = next((chosen for chosen in draws if self._valid(chosen)), None)
        if others is None:
            return 0
        every = itertools.product(*(self.genes[name].choices for name in names))
        genomes = (self._valid(others | dict(zip(names, values, strict=True))) for values in every)
        return len({genome.key() for genome in genomes if genome})

    def _valid(self, chosen: dict[str, Choice]) -> Genome | None:
        try:
            return self.genome(chosen)
        except ValidationError:
            return None

    def _problem(self, chosen: dict[str, Choice], fixed: dict[str, Choice]) -> str:
        """Why what was chosen is no network, where none is that was drawn with some slots fixed."""
        depth = "".join(f" with {slot} {value}" for slot, value in fixed.items() if slot != FAMILY)
        where = f"templates.{chosen.get(FAMILY, next(iter(self.templates)))}: no valid genome among those drawn{depth}"
        try:
            self.genome(chosen)
        except ValidationError as error:
            return f"{where}; for example: {catalog.describe(error)}"
        return where


def _random(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 (nothing here is a secret)


def load_space(name: catalog.Name) -> Space:
    """Load a space by the name of a built-in one or by the path of a YAML file; UsageError says what is wrong."""
    return catalog.load_named("search_spaces", name, Space.model_validate)
