"""Templates: a genome's data with `$gene` where a gene goes; filled with chosen values, and read back."""

import itertools
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from dipsearch.genome import INTERPOLATIONS, MOST_LEVELS, Cell, Part

Choice = bool | int | float | str


def _once(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    for place, choice in enumerate(choices):
        if choice in choices[:place]:
            raise ValueError(f"the choice {choice!r} is there twice")
    return choices


Choices = Annotated[tuple[Choice, ...], Field(min_length=1), AfterValidator(_once)]


class Gene(Part):
    """Choices of one gene; with `levels`, one slot for each of so many levels (`gene.0`, `gene.1`, …)."""

    choices: Choices
    levels: int | None = Field(None, ge=1, le=MOST_LEVELS)


def gene_name(value: Any) -> str | None:
    """The gene that a part of a template stands for, or None."""
    return value[1:] if isinstance(value, str) and value.startswith("$") else None


def genes_in(template: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every gene that a template names, after the place where it does."""
    if name := gene_name(template):
        yield where, name
    elif isinstance(template, dict | list):
        for key, part in template.items() if isinstance(template, dict) else enumerate(template):
            yield from genes_in(part, f"{where}.{key}")


def fill(template: Any, genes: dict[str, Gene], chosen: dict[str, Choice]) -> Any:
    """The template with every `$gene` replaced; a per-level gene becomes a list as long as the depth."""
    depth = template.get("depth", 5)
    depth = int(chosen[name]) if (name := gene_name(depth)) else depth

    def filled(part: Any) -> Any:
        if name := gene_name(part):
            if genes[name].levels is None:
                return chosen[name]
            return [chosen[f"{name}.{level}"] for level in range(min(depth, genes[name].levels or 0))]
        if isinstance(part, dict):
            return {key: filled(value) for key, value in part.items()}
        return [filled(value) for value in part] if isinstance(part, list) else part

    return filled(template)


def read(template: Any, data: Any, genes: dict[str, Gene]) -> Iterator[tuple[str, Choice]]:
    """What each slot would have to be for the template to give this data."""
    depth = data.get("depth", 1)

    def walk(part: Any, value: Any) -> Iterator[tuple[str, Choice]]:
        if name := gene_name(part):
            levels = genes[name].levels
            values = value if isinstance(value, list) else itertools.repeat(value, depth if levels else 1)
            for level, item in enumerate(values):
                yield (f"{name}.{level}" if levels else name), item
        elif isinstance(part, dict) and value in INTERPOLATIONS:  # the name of a cell
            yield from walk(part, Cell(primitive=value).model_dump())
        elif isinstance(part, dict) and isinstance(value, dict):
            for key, inner in part.items():
                yield from walk(inner, value.get(key))
        elif isinstance(part, dict) and "deepest" in part:
            yield from _read_deepest(part, value, genes, depth)
        elif isinstance(part, list):
            entries = value if isinstance(value, list) else itertools.repeat(value)  # uniform lists are collapsed
            for inner, entry in zip(part, entries, strict=False):
                yield from walk(inner, entry)

    return walk(template, data)


def _read_deepest(part: dict[str, Any], value: Any, genes: dict[str, Gene], depth: int) -> Iterator[tuple[str, Choice]]:
    """What `{deepest: …, channels: …}` would have to be; any number from the depth on means every level."""
    widths = value if isinstance(value, list) else [value] * depth
    count = depth - widths.count(0)
    if name := gene_name(part["deepest"]):
        choices = [choice for choice in genes[name].choices if isinstance(choice, int)]
        yield name, next((choice for choice in choices if min(choice, depth) == count), count)
    if count and (name := gene_name(part.get("channels"))):
        yield name, widths[-1]
