"""A genome as a tree of words."""

import io
from typing import Any

from rich.console import Console
from rich.tree import Tree

from dipsearch.genome import PER_LEVEL, GenomeFile, Hourglass


def genome_tree(name: str, file: GenomeFile) -> str:
    """The genome's genes, level by level where it has levels."""
    genome = file.genome
    tree = Tree(f"{name}: {genome.summary()}")
    for label, text in (("about", file.about), ("source", file.source)):
        if text:
            tree.add(f"{label}: {text}")
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
    sink = Console(file=io.StringIO(), width=140, color_system=None)
    sink.print(tree, markup=False, highlight=False)
    return sink.file.getvalue().rstrip()  # type: ignore[attr-defined, no-any-return]


def _words(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
