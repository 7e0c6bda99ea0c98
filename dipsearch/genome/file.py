"""Genomes as files."""

from typing import Any

from pydantic import Field

from dipsearch import catalog
from dipsearch.genome.families import AnyGenome, Genome, parse_genome
from dipsearch.genome.parts import Part


class GenomeFile(Part):
    """A genome as a file: the genome, and what is known about it."""

    about: str = ""
    source: str = ""
    image_channels: int = Field(3, ge=1, le=64)
    parameters: int | None = Field(None, description="with that number of image channels")
    provenance: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(
        default_factory=dict, description="values of a recipe that it was published or found with"
    )
    genome: AnyGenome


def load_genome(name: catalog.Name) -> Genome:
    """Load a genome by the name of a built-in one or by the path of a YAML file.

    The file holds a genome's own keys (`family: hourglass`, …), or `genome:` beside `about:` and the like.
    UsageError names the file, the key and the choices.
    """
    return load_genome_file(name).genome


def load_genome_file(name: catalog.Name) -> GenomeFile:
    """As `load_genome`, with what the file says about the genome."""
    return catalog.load("genomes", name, _parse_file)


def _parse_file(data: Any) -> GenomeFile:
    if isinstance(data, dict) and "family" in data:
        return GenomeFile(genome=parse_genome(data))
    return GenomeFile.model_validate(data)
