"""A genome, or a space, as a tree of words."""

import io
from typing import Any

from rich.console import Console
from rich.tree import Tree

from dipsearch.genome import PER_LEVEL, GenomeFile, Hourglass
from dipsearch.space import Space


def genome_tree(name: str, file: GenomeFile) -> str:
    """The genome's genes, level by level where it has levels."""
    genome = file.genome
    tree = Tree(f"{name}: {genome.summary()}")
    for label, text in (("about", file.about), ("source", file.source)):
        if text:
            tree.add(f"{label}: {text}")
    if file.recipe:
        tree.add(f"found with: {_words(file.recipe)}")
    data = genome.data()
    for gene, value in data.items():
        if gene not in PER_LEVEL or not isinstance(genome, Hourglass):
            tree.add(f"{gene}: {_words(value)}")
    if isinstance(genome, Hourglass):
        levels = tree.add("levels, from full resolution down")
        for index in range(genome.depth):
            skip = (
                f"skip {genome.channels_skip[index]} (k{genome.kernel_skip[index]})"
                if genome.channels_skip[index]
                else "no skip"
            )
            levels.add(
                f"{index}: down {genome.channels_down[index]} (k{genome.kernel_down[index]}), "
                f"up {genome.channels_up[index]} (k{genome.kernel_up[index]}), {skip}, {genome.upsample[index]}"
            )
    return _printed(tree)


def space_tree(space: Space) -> str:
    """The space's facts, the choices of its genes and of the recipe, and its families with what is fixed there."""
    tree = Tree(f"{space.name}: {space.about}")
    if space.source:
        tree.add(f"source: {space.source}")
    tree.add(f"size: {space.size():,} ({space.size():.1e}) of {', '.join(space.templates)}")
    genes = tree.add("genes")
    for name, gene in space.genes.items():
        each = f" for each of {gene.levels} levels" if gene.levels else ""
        genes.add(f"{name}{each}: {', '.join(map(str, gene.choices))}")
    if space.recipe:
        recipe = tree.add("recipe, beside the task's")
        for name, choices in space.recipe.items():
            recipe.add(f"{name}: {', '.join(map(str, choices))}")
    for family, template in space.templates.items():
        branch = tree.add(family)
        for part, value in template.items():
            branch.add(f"{part}: {_words(value)}")
    if space.start:
        tree.add(f"a search starts from: {', '.join(space.start)}")
    return _printed(tree)


def _printed(tree: Tree) -> str:
    sink = Console(file=io.StringIO(), width=140, color_system=None)
    sink.print(tree, markup=False, highlight=False)
    return sink.file.getvalue().rstrip()  # type: ignore[attr-defined, no-any-return]


def _words(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
