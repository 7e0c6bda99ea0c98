"""dipsearch: find the network architecture that makes the best deep image prior for a restoration task.

Names load what they need when they are first used, so that importing the package is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipsearch.error import DipsearchError
    from dipsearch.fitting.engine import fit
    from dipsearch.fitting.loop import Fit
    from dipsearch.fitting.recipe import Recipe
    from dipsearch.genome import Genome, load_genome, parse_genome
    from dipsearch.image import read
    from dipsearch.metric import psnr
    from dipsearch.network.build import build, cost
    from dipsearch.restoring.arrays import restore
    from dipsearch.space import load_space
    from dipsearch.task import load_task

_HOMES = {
    "DipsearchError": "error",
    "Fit": "fitting.loop",
    "Genome": "genome",
    "Recipe": "fitting.recipe",
    "build": "network.build",
    "cost": "network.build",
    "fit": "fitting.engine",
    "load_genome": "genome",
    "load_space": "space",
    "load_task": "task",
    "parse_genome": "genome",
    "psnr": "metric",
    "read": "image",
    "restore": "restoring.arrays",
}

__all__ = [
    "DipsearchError",
    "Fit",
    "Genome",
    "Recipe",
    "build",
    "cost",
    "fit",
    "load_genome",
    "load_space",
    "load_task",
    "parse_genome",
    "psnr",
    "read",
    "restore",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dipsearch' has no attribute {name!r}")
    return getattr(import_module(f"dipsearch.{_HOMES[name]}"), name)
