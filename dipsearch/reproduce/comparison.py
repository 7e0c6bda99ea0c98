"""Genomes beside one another on the pictures of a task: the architecture comparison of Ulyanov et al. (IJCV 2020)."""

import torch

from dipsearch import catalog
from dipsearch.error import FitError
from dipsearch.metric import psnr
from dipsearch.reproduce.figures import Cell
from dipsearch.reproduce.trace import Trace, Watched
from dipsearch.search.evaluation import Protocol
from dipsearch.search.rerun import Candidate
from dipsearch.task import Observation


def traces(protocol: Protocol, candidates: dict[str, Candidate], instance: Observation) -> list[Trace]:
    """The fits of a row: each genome on one observation, to the end of its budget.

    A genome brings its own values of the recipe; UsageError where they do not fit together with the others.
    """
    made = []
    for name, candidate in candidates.items():
        changes = {**candidate.changes, "stop": "fixed", "sigma": None, "time_limit": None}
        recipe = catalog.validate(f"{name}: recipe", protocol.changed, changes).recipe
        made.append(
            Trace(
                name,
                candidate.genome,
                instance.y,
                recipe,
                instance.operator,
                at=(recipe.iterations,),
                truth=instance.truth,
                seed=instance.seed,
            )
        )
    return made


def row(instance: Observation, made: list[Trace], watched: list[Watched | FitError], metric: str) -> list[Cell]:
    """The pictures of a row: original, if it is known, observation, and what each genome gave, with its PSNR; grey
    where its fit failed."""
    cells = [] if instance.truth is None else [Cell("original", instance.truth)]
    cells.append(Cell("observation", instance.y))
    for trace, seen in zip(made, watched, strict=True):
        if isinstance(seen, FitError):
            cells.append(Cell(f"{trace.label}\nfailed", torch.full_like(cells[0].x, 0.5)))
            continue
        answer = seen.frames[trace.recipe.iterations]
        told = "" if instance.truth is None else f"\n{psnr(answer, instance.truth, metric):.2f} dB"
        cells.append(Cell(f"{trace.label}{told}", answer))
    return cells
