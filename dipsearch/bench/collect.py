"""Making DIPBench: fit after fit into a part file, part files into one Parquet file for each task.

A part file is written by one process, a line a fit, so that making can be interrupted, and spread over
processes and machines: part K of N takes every N-th fit.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dipsearch.bench.design import Entry, fits, protocol_of
from dipsearch.bench.table import SCORE, STEPS, have, part_path
from dipsearch.error import DipsearchError, FitError, OutOfMemory, WorkerKilled
from dipsearch.run import OK
from dipsearch.search.evaluation import HERE, Protocol, price_of
from dipsearch.search.executor import Executor, together
from dipsearch.search.scores import scores
from dipsearch.task import Observation

MACHINES = (OutOfMemory.reason, WorkerKilled.reason)  # ends of fits that say nothing of the genome


def described(entry: Entry, instance: Observation) -> dict[str, Any]:
    """What is known of a row before its fit."""
    price = price_of(entry.genome, instance)
    return {
        "key": entry.genome.key(),
        "name": entry.name,
        "origin": entry.origin,
        "genome": json.dumps(entry.genome.data()),
        "image": instance.image,
        "digest": instance.digest,
        "repeat": instance.repeat,
        "size": max(instance.shape[1:]),
        "seed": instance.seed,
        "parameters": price.parameters,
        "gflop": round(price.gflop, 5),
        "status": OK,
    }


def measure(protocol: Protocol, entry: Entry, instance: Observation) -> dict[str, Any]:
    """One row: the learning curve of a genome on an observation."""
    row = described(entry, instance)
    started = time.process_time()
    try:
        fitting = protocol.leg(entry.genome).begun(instance)
        for step in [step for step in STEPS if step <= protocol.recipe.iterations]:
            fitting.advance(step)
            row[f"average_{step}"] = fitting.curve["psnr"][-1]
            row[f"honest_{step}"] = fitting.result().psnr
            row[f"held_out_{step}"] = fitting.statistic
        row["seconds"] = round(time.process_time() - started, 2)
        fit = fitting.result()
    except FitError as error:
        return row | {"status": error.reason, "rollbacks": error.rollbacks}
    return row | {
        "psnr": fit.psnr,
        "held_out": fitting.statistic,
        "chosen": fit.chosen,
        "final_psnr": fit.final_psnr,
        "oracle_psnr": fit.oracle.psnr if fit.oracle else None,
        "oracle_iteration": fit.oracle.iteration if fit.oracle else None,
        "iterations": fit.iterations,
        "rollbacks": fit.rollbacks,
        **{f"{SCORE}{name}": value for name, value in scores(entry.genome, instance).items()},
    }


def _row(executor: Executor, protocol: Protocol, entry: Entry, instance: Observation) -> dict[str, Any]:
    try:
        memory = price_of(entry.genome, instance).memory
        return executor.call(measure, protocol, entry, instance, memory=memory)
    except WorkerKilled as error:
        return described(entry, instance) | {"status": error.reason}


def _add(path: Path, row: dict[str, Any]) -> None:
    """A line more; what an interruption tore before it stays a line of its own."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(row).encode() + b"\n")


def collect(
    folder: Path,
    task: str,
    *,
    part: tuple[int, int] = (0, 1),
    budget: float = float("inf"),
    watch: Callable[[int, int, dict[str, Any]], None] = lambda done, total, row: None,
    executor: Executor = HERE,
) -> int:
    """Make the missing rows of one part until `budget` seconds are over; how many are still missing.

    Fits run on one thread, so that `seconds` (of processor time) and the last bits do not depend on the
    machine's cores. `watch` is told the rows done, of how many, and the newest row; one of a fit that the machine could
    not hold is not kept.
    """
    path = part_path(folder, task, *part)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DipsearchError(f"{path.parent}: {error.strerror}") from None
    protocol, made = protocol_of(task), have(folder, task)
    mine = list(fits(protocol))[part[0] :: part[1]]
    missing = [each for each in mine if (each[0].genome.key(), each[1].digest, each[1].seed) not in made]
    started, threads = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        waiting, done = iter(missing), 0

        def another(under_way: int) -> Callable[[], dict[str, Any]] | None:
            if time.monotonic() - started > budget or (each := next(waiting, None)) is None:
                return None
            return lambda: _row(executor, protocol, *each)

        for row in together(another, executor):
            if row["status"] not in MACHINES:
                done += 1
                _add(path, row)
            watch(len(mine) - len(missing) + done, len(mine), row)
    finally:
        torch.set_num_threads(threads)
    return len(missing) - done
