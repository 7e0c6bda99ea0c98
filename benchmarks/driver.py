"""What a trial costs the driver of a search beside its fits: the growth with the number of trials.

    python -m benchmarks.driver                    # to 1,000 trials, with the default sampler, tpe and random
    python -m benchmarks.driver --trials 10000 --samplers random tpe

Fits, and what they are predicted to cost, are looked up: a score is made of the genome's key. What is left is the
driver's: proposing, storing runs, telling the study; not what it takes to send a call to a worker. Runs go to a
temporary folder.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line has it

import pandas as pd
import torch

from benchmarks.report import FOLDER, append, load, write
from dipsearch.fitting.loop import Fit, Oracle
from dipsearch.network.build import Cost, cost
from dipsearch.run import RunStore
from dipsearch.search.executor import Here
from dipsearch.search.leg import Leg, Reached, go
from dipsearch.search.settings import Settings
from dipsearch.search.study import Event, Search
from dipsearch.space import load_space
from dipsearch.task import Observation, choose_effort, load_task

T = TypeVar("T")
AT = (10, 100, 300, 1000, 3000, 10_000)  # finished trials; the mean of the last tenth before each is told
SAMPLERS = ("auto", "tpe", "random")


class Table(Here):
    """Answers without a fit."""

    def call(self, function: Callable[..., T], *given: Any, memory: int = 0, **near: Any) -> T:
        """As a `Caller`."""
        return ANSWERS[function](*given)  # type: ignore[no-any-return]


@dataclass
class Timed(Search):
    """A search that counts the seconds of its proposals."""

    proposing: float = 0.0

    def _propose(self) -> tuple[Any, dict[str, Any]]:
        started = time.perf_counter()
        try:
            return super()._propose()
        finally:
            self.proposing += time.perf_counter() - started


def looked_up(instance: Observation, leg: Leg) -> Reached:
    """What a leg reaches, by its genome alone."""
    at = min(leg.until or leg.recipe.iterations, leg.recipe.iterations)
    score = 20 + int(leg.genome.key()[:4], 16) / 0x10000 * 8 + at / leg.recipe.iterations
    if at < leg.recipe.iterations:
        return Reached(at, score, score, None, {}, {"state": None})
    curve = {"iteration": [float(at)], "loss": [0.01], "psnr": [score], "raw": [score]}
    x = instance.truth if instance.truth is not None else instance.y
    fit = Fit(x, at, at, "budget", score, Oracle(score, at), curve, 1.0, 0, 0, "cpu", "float32")
    return Reached(at, score, score, None, {}, None, fit)


PRICE = Cost(10**6, 0.1, 2**28, 2**26)
ANSWERS: dict[Callable[..., Any], Callable[..., Any]] = {go: looked_up, cost: lambda *size: PRICE}


def measure(sampler: str, trials: int, folder: Path) -> list[dict[str, Any]]:
    """Milliseconds of a trial, and of its proposal, at each of `AT`, for one search."""
    task = load_task("denoise")
    effort = choose_effort(task.search, "quick").changed({}, trials=trials, timeout=1e9)
    settings = Settings(task, load_space("dip"), "quick", effort, sampler=sampler, device="cpu")
    ended: list[tuple[float, float]] = []  # seconds, and of them those of proposals

    def watch(event: Event) -> None:
        if event.kind == "end":
            ended.append((time.perf_counter(), work.proposing))

    work = Timed(settings, folder / "study", RunStore(folder / "runs"), watch=watch, executor=Table())
    with work.opened():
        work.run()
    rows = []
    for at in (at for at in AT if at <= trials):
        first = at - max(1, at // 10)
        whole, proposing = (1000 * (b - a) / (at - first) for a, b in zip(ended[first - 1], ended[at - 1], strict=True))
        rows.append({"sampler": sampler, "trials": at, "ms": whole, "proposing": proposing})
    return rows


def main() -> None:
    """Measure, and write the table of all that was measured so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--beside", default="nothing", help="What else this machine does meanwhile, for the table.")
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    path = chosen.out / "driver.jsonl"
    for sampler in chosen.samplers:
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(sampler, chosen.trials, Path(folder)):
                append(path, row | {"beside": chosen.beside})
    rows = load(path)
    shown = [
        {
            "sampler": row["sampler"],
            "beside": row["beside"],
            "trials": row["trials"],
            "ms a trial": f"{row['ms']:.0f}",
            "proposing": f"{row['proposing']:.0f}",
            "the rest": f"{row['ms'] - row['proposing']:.0f}",
        }
        for row in rows
    ]
    title, command = "The driver's own time for a trial of a search", "python -m benchmarks.driver"
    notes = ["Fits are looked up; the space is dip, the preset quick, two pictures. Of all, `tpe` is Optuna's own."]
    write(path.with_suffix(".md"), title, command, notes, pd.DataFrame(shown), rows)


if __name__ == "__main__":
    main()
