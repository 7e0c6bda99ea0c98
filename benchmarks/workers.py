"""Fits an hour of a search with one worker and with two, in turn: each a process with one thread.

    python -m benchmarks.workers                   # three rounds; wants two cores with nothing else on them

The workers are there before the search begins, and its first fits are the same in both. Runs go to a temporary folder.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.report import FOLDER, append, load, write
from dipsearch.run import RunStore
from dipsearch.search.settings import Settings
from dipsearch.search.study import Search
from dipsearch.search.workers import Workers
from dipsearch.space import load_space
from dipsearch.task import choose_effort, load_task

TRIALS, ITERATIONS = 24, 100


def rate(workers: Workers, folder: Path, trials: int) -> tuple[int, float]:
    """Fits of a search of so many trials, and its seconds."""
    task = load_task("denoise")
    effort = choose_effort(task.search, "quick").changed(
        {"iterations": ITERATIONS, "precision": "float32"}, trials=trials, timeout=1e9
    )
    space = load_space("small")
    settings = Settings(task, space, "quick", effort, sampler="random", pruner="none", device="cpu")
    work = Search(settings, folder / "study", RunStore(folder / "runs"), executor=workers)
    with work.opened():
        started = time.perf_counter()
        work.run()
        return len(list((folder / "runs").glob("*/*.json"))), time.perf_counter() - started


def main() -> None:
    """Measure, and write the table of all that was measured so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    path = chosen.out / "workers.jsonl"
    for _ in range(chosen.rounds):
        row: dict[str, Any] = {}
        for count in (1, 2):
            workers = Workers(count)
            with tempfile.TemporaryDirectory() as folder:
                rate(workers, Path(folder) / "warm", 2 * count)
                fits, seconds = rate(workers, Path(folder) / "timed", TRIALS)
            workers.stop()
            row |= {"fits": fits, f"seconds_{count}": seconds}
        append(path, row)
    rows = load(path)
    table = pd.DataFrame(
        {
            "round": range(1, len(rows) + 1),
            "fits": [row["fits"] for row in rows],
            "an hour, one worker": [f"{3600 * row['fits'] / row['seconds_1']:.0f}" for row in rows],
            "an hour, two": [f"{3600 * row['fits'] / row['seconds_2']:.0f}" for row in rows],
            "ratio": [f"{row['seconds_1'] / row['seconds_2']:.2f}" for row in rows],
        }
    )
    median = statistics.median(row["seconds_1"] / row["seconds_2"] for row in rows)
    notes = [
        f"Random search of the space small for denoise (quick), {TRIALS} trials of {ITERATIONS} iterations.",
        f"Median of the ratio: {median:.2f}.",
    ]
    write(path.with_suffix(".md"), "Two workers against one", "python -m benchmarks.workers", notes, table, rows)


if __name__ == "__main__":
    main()
