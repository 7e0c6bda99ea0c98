"""What a fit costs that pauses at a rung, its state going to the driver and back, beside what the other way would:
the driver ends a fit that it gives up, and with it the worker, for which another is started.

    python -m benchmarks.pausing
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.report import FOLDER, append, load, write
from dipsearch.genome import load_genome
from dipsearch.search.evaluation import Protocol
from dipsearch.search.executor import packed
from dipsearch.search.leg import Reached
from dipsearch.search.workers import Workers
from dipsearch.task import choose_effort, load_task

SIZES = {
    "denoise-quick": 64,
    "dip-denoise": 256,
}  # a committed small genome and the paper's network, at a side in pixels
REPEATS, ITERATIONS = 5, 20


def measure(name: str, size: int) -> dict[str, Any]:
    """Seconds of a pause and of a new worker, and the size of a state."""
    task, genome = load_task("denoise"), load_genome(name)
    effort = choose_effort(task.search, "quick").changed({"precision": "float32"}).model_copy(update={"size": size})
    protocol = Protocol(task, effort, "quick", "search", task.recipe_for(effort), "cpu")
    instance = protocol.observe(list(task.images.search[:1]), seed=0, repeats=1)[0]
    workers = Workers(1)

    def leg(until: int, before: Reached) -> tuple[Reached, float]:
        started = time.perf_counter()
        reached = protocol.reach(workers, instance, protocol.leg(genome, until=until, kept=before.kept))
        return reached, time.perf_counter() - started

    begun, worker = leg(1, Reached())  # with the start of the process
    pauses = [leg(1, begun)[1] for _ in range(REPEATS)]  # legs without an iteration
    pause = statistics.median(pauses)
    step = (leg(1 + ITERATIONS, begun)[1] - pause) / ITERATIONS
    workers.stop()
    return {
        "genome": name,
        "size": size,
        "step": step,
        "pause": pause,
        "worker": worker,
        "state_mb": len(packed(begun.kept)) / 1e6,
    }


def main() -> None:
    """Measure, and write the table of all that was measured so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    path = chosen.out / "pausing.jsonl"
    for name, size in SIZES.items():
        append(path, measure(name, size))
    rows = load(path)
    table = pd.DataFrame(
        {
            "genome": [row["genome"] for row in rows],
            "side": [f"{row['size']} px" for row in rows],
            "state": [f"{row['state_mb']:.1f} MB" for row in rows],
            "an iteration": [f"{1000 * row['step']:.0f} ms" for row in rows],
            "a pause": [f"{1000 * row['pause']:.0f} ms" for row in rows],
            "a new worker": [f"{1000 * row['worker']:.0f} ms" for row in rows],
        }
    )
    notes = [
        "A worker of one thread. A pause: the state goes to the worker, the fit is made of it, the state comes back.",
        "A new worker: from its start until its first iteration has come back.",
    ]
    title = "A fit that pauses, and a worker that is ended"
    write(path.with_suffix(".md"), title, "python -m benchmarks.pausing", notes, table, rows)


if __name__ == "__main__":
    main()
