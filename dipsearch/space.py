"""Search spaces: sets of genomes, written as YAML under search_spaces/.

A space names genes with their choices, and one template of a genome for each family, in which `$gene`
stands for the chosen value. Optuna always sees every gene, also those that the chosen family or depth
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
from dipsearch.genome import INTERPOLATIONS, Cell, Genome, Part, parse_genome

Choice = bool | int | float | str
Suggest = Callable[[str, list[Choice]], Choice]  # Optuna's `trial.suggest_categorical` is one
FAMILY = "family"
MOST_LEVELS = 8


class Gene(Part):
    """Choices of one gene; with `levels`, one slot for each of so many levels (`gene.0`, `gene.1`, …)."""

    choices: tuple[Choice, ...] = Field(min_length=1)
    levels: int | None = Field(None, ge=1, le=MOST_LEVELS)


class Space(Part):
    """A set of genomes."""

    name: str
    about: str
    source: str = ""
    genes: dict[str, Gene]
    templates: dict[str, dict[str, Any]] = Field(min_length=1)
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
        used = {name for template in self.templates.values() for name in _genes_in(template)}
        for name in used:
            if name not in self.genes:
                raise ValueError(unknown("gene", name, self.genes))
        if unused := set(self.genes) - used:
            raise ValueError(f"genes.{min(unused)}: no template uses it")
        for name in self.genes:
            if name == FAMILY or "." in name:
                raise ValueError(f"genes.{name}: a gene may not be called {FAMILY!r} or have a dot in its name")
        for family, template in self.templates.items():
            self._check_depth(family, template.get("depth", 1))
        if not any(self._valid(self.draw(_random(seed))) for seed in range(200)):
            raise ValueError(f"the space has no valid genome; {self._first_problem()}")
        return self

    def _check_depth(self, family: str, depth: Any) -> None:
        """The depth says how many slots of a per-level gene count, so it has to be known beforehand."""
        where = f"templates.{family}.depth"
        choices: tuple[Any, ...] = (depth,)
        if name := _gene_name(depth):
            where, choices = f"genes.{name}", self.genes[name].choices
            if self.genes[name].levels is not None:
                raise ValueError(f"{where}: the depth is one number, not one for each level")
        for choice in choices:
            if not isinstance(choice, int) or isinstance(choice, bool):
                raise ValueError(f"{where}: a depth is a whole number, got {choice!r}")

    @property
    def slots(self) -> dict[str, list[Choice]]:
        """What Optuna sees: every slot with its choices, in a fixed order."""
        slots: dict[str, list[Choice]] = {}
        if len(self.templates) > 1:
            slots[FAMILY] = list(self.templates)
        for name, gene in self.genes.items():
            levels = [name] if gene.levels is None else [f"{name}.{level}" for level in range(gene.levels)]
            slots |= {slot: list(gene.choices) for slot in levels}
        return slots

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
        raise UsageError(f"space {self.name!r}: no valid genome among 1000 drawn; {self._first_problem()}")

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
        return parse_genome({FAMILY: family} | _fill(self.templates[family], self.genes, chosen))

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
        return [slot for slot, choices in self.slots.items() if any(key(chosen | {slot: it}) != now for it in choices)]

    def find(self, genome: Genome) -> dict[str, Choice] | None:
        """Slots that give a genome with this key, or None.

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
        read: dict[str, set[Choice]] = {}
        for slot, value in _read(template, genome.data(), self.genes):
            if isinstance(value, dict | list):  # a cell where the space has names
                return None
            read.setdefault(slot, set()).add(value)
        for slot, values in read.items():
            if len(values) > 1 or (value := next(iter(values))) not in self.slots.get(slot, []):
                return None
            chosen[slot] = value
        found = self._valid(chosen)
        return chosen if found is not None and found.key() == genome.key() else None

    def __contains__(self, genome: Genome) -> bool:
        return self.find(genome) is not None

    def size(self) -> int:
        """How many different choices of genes that matter there are: at least the number of its genomes.

        Nested parts with genes of their own, such as an upsampling cell, count exactly: without what is invalid, and
        without what is written in two ways.
        """
        return sum(self._family_size(family) for family in self.templates)

    def _family_size(self, family: str) -> int:
        template = self.templates[family]
        used = set(_genes_in(template))
        depth = template.get("depth")
        gene = _gene_name(depth)
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
        inside, everywhere = Counter(_genes_in(part)), Counter(_genes_in(template))
        own = isinstance(part, dict) and all(
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

    def _first_problem(self) -> str:
        try:
            self.genome(self.draw(_random(0)))
        except ValidationError as error:
            return f"for example: {catalog.describe(error)}"
        return "try again"


def _random(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 (nothing here is a secret)


def _gene_name(value: Any) -> str | None:
    return value[1:] if isinstance(value, str) and value.startswith("$") else None


def _genes_in(template: Any) -> Iterator[str]:
    if name := _gene_name(template):
        yield name
    elif isinstance(template, dict | list):
        for part in template.values() if isinstance(template, dict) else template:
            yield from _genes_in(part)


def _fill(template: Any, genes: dict[str, Gene], chosen: dict[str, Choice]) -> Any:
    """The template with every `$gene` replaced; a per-level gene becomes a list as long as the depth."""
    depth = template.get("depth", 5)
    depth = int(chosen[name]) if (name := _gene_name(depth)) else depth

    def fill(part: Any) -> Any:
        if name := _gene_name(part):
            if genes[name].levels is None:
                return chosen[name]
            return [chosen[f"{name}.{level}"] for level in range(min(depth, genes[name].levels or 0))]
        if isinstance(part, dict):
            return {key: fill(value) for key, value in part.items()}
        return [fill(value) for value in part] if isinstance(part, list) else part

    return fill(template)


def _read(template: Any, data: Any, genes: dict[str, Gene]) -> Iterator[tuple[str, Choice]]:
    """What each slot would have to be for the template to give this data."""
    depth = data.get("depth", 1)

    def walk(part: Any, value: Any) -> Iterator[tuple[str, Choice]]:
        if name := _gene_name(part):
            levels = genes[name].levels
            values = value if isinstance(value, list) else itertools.repeat(value, depth if levels else 1)
            for level, item in enumerate(values):
                yield (f"{name}.{level}" if levels else name), item
        elif isinstance(part, dict) and value in INTERPOLATIONS:  # the name of a cell
            yield from walk(part, Cell(primitive=value).model_dump())
        elif isinstance(part, dict) and isinstance(value, dict):
            for key, inner in part.items():
                yield from walk(inner, value.get(key))
        elif isinstance(part, list):
            entries = value if isinstance(value, list) else itertools.repeat(value)  # uniform lists are collapsed
            for inner, entry in zip(part, entries, strict=False):
                yield from walk(inner, entry)

    return walk(template, data)


def load_space(name: str) -> Space:
    """Load a space by the name of a built-in one or by the path of a YAML file; UsageError says what is wrong."""
    return catalog.load_named("search_spaces", name, Space.model_validate)
