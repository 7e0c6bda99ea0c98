"""Genomes: the complete description of a network, as frozen, validated data.

A genome is a tagged union over families. Every choice by name is checked against the registry that
builds it, so a new upsampler or norm is known here as soon as it is in its dict.
"""

from dipsearch.genome.families import (
    PER_LEVEL,
    Decoder,
    Genome,
    Hourglass,
    Linked,
    Pyramid,
    ResNet,
    UNet,
    parse_genome,
    toeplitz,
)
from dipsearch.genome.file import GenomeFile, load_genome, load_genome_file
from dipsearch.genome.parts import (
    INTERPOLATIONS,
    MOST_LEVELS,
    Cell,
    FourierInput,
    GuideInput,
    MeshgridInput,
    NoiseInput,
    Part,
)

__all__ = [
    "INTERPOLATIONS",
    "MOST_LEVELS",
    "PER_LEVEL",
    "Cell",
    "Decoder",
    "FourierInput",
    "Genome",
    "GenomeFile",
    "GuideInput",
    "Hourglass",
    "Linked",
    "MeshgridInput",
    "NoiseInput",
    "Part",
    "Pyramid",
    "ResNet",
    "UNet",
    "load_genome",
    "load_genome_file",
    "parse_genome",
    "toeplitz",
]
