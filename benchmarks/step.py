"""One optimisation step: the published loop beside the engine, in one process, in turn.

    python -m benchmarks.step                         # every cell that is missing, then the table
    python -m benchmarks.step --families hourglass --sizes 256 --widths 128 --budget 300
    python -m benchmarks.step --sharing               # eight small fits at once, and one after the other
    DIPSEARCH_KEEP=4 python -m benchmarks.step ...    # with more memory: a cell of its own

Cells are kept in a JSON-lines file as they come. Time: the median over rounds, in each of which both sides take
one untimed and some timed steps. The paper loop runs with the C library's allocator as a process has it; the
engine sets it as it does in a fit. Memory: a process of its own for each side, the most it held during 21
steps above what it held before the network was made.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from benchmarks.networks import FAMILIES, network
from benchmarks.paper import PaperLoop
from benchmarks.report import FOLDER, append, load, write
from dipsearch.fitting import heap
from dipsearch.fitting.device import pick_device
from dipsearch.fitting.loop import Fitting, advance_together
from dipsearch.fitting.plan import KEEP
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome
from dipsearch.network.build import cost
from dipsearch.operator import Identity

ROUNDS, TIMED = 3, 3  # twelve steps of the engine, one of them with its check
MEMORY_STEPS = 21  # past the second check: two snapshots
RECIPE = Recipe(iterations=1_000_000)


def sides(genome: Genome, size: int, precision: str) -> tuple[PaperLoop, Fitting]:
    """Both loops on one noisy observation."""
    truth = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    device = pick_device().type
    recipe = RECIPE.model_copy(update={"precision": precision})
    return PaperLoop(genome, truth, Identity(), truth, RECIPE, 0, device), Fitting(
        genome, truth, Identity(), recipe, truth=truth
    )


def timed(step: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each of `count` steps, after one that is not timed."""
    taken = []
    for _ in range(1 + count):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(1000 * (time.perf_counter() - started))
    return taken[1:]


def cell(family: str, width: int, size: int, precision: str) -> dict:
    """Time and memory of one network at one size."""
    genome = network(family, width)
    paper, engine = sides(genome, size, precision)
    milliseconds: dict[str, list[float]] = {"paper": [], "engine": []}
    for _ in range(ROUNDS):
        heap.default()
        heap.give_back()
        milliseconds["paper"] += timed(paper.step, TIMED)
        heap.prepare(engine.plan.keep)
        milliseconds["engine"] += timed(lambda fit=engine: fit.advance(fit.iteration + 1), TIMED)
    heap.default()
    heap.give_back()
    price = cost(genome, size, size)
    row = {"family": family, "width": width, "size": size, "asked": precision, "precision": engine.plan.precision}
    row["keep"] = os.environ.get(KEEP)
    row |= {"recompute": engine.plan.recompute, "predicted": engine.plan.memory / 2**20, "gflop": price.gflop}
    row |= {"parameters": price.parameters, "ms": milliseconds, "memory_steps": MEMORY_STEPS}
    del paper, engine
    row["memory"] = {side: memory(side, family, width, size, row["precision"]) for side in ("paper", "engine")}
    return row


def memory(side: str, family: str, width: int, size: int, precision: str) -> float:
    """MiB that a side took, by a process of its own."""
    command = [sys.executable, "-m", "benchmarks.step", "--memory", side, family, str(width), str(size), precision]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(side: str, family: str, width: str, size: str, precision: str) -> None:
    """Print the MiB that this process took for some steps of a side."""
    genome = network(family, int(width))
    truth = torch.rand(1, 3, int(size), int(size))
    cuda = torch.cuda.is_available()
    small = truth[..., :32, :32]
    PaperLoop(network("two-level", 4), small, Identity(), small, RECIPE, 0, pick_device().type).step()
    Fitting(network("two-level", 4), small, Identity(), RECIPE).advance(1)
    heap.default()
    heap.give_back()
    before = 0 if cuda else _status("VmRSS")
    if side == "paper":
        loop = PaperLoop(genome, truth, Identity(), truth, RECIPE, 0, pick_device().type)
        for _ in range(MEMORY_STEPS):
            loop.step()
    else:
        recipe = RECIPE.model_copy(update={"precision": precision})
        Fitting(genome, truth, Identity(), recipe).advance(MEMORY_STEPS)
    after = torch.cuda.max_memory_reserved() / 1024 if cuda else _status("VmHWM")
    print((after - before) / 1024)


def _status(name: str) -> int:
    """KiB, of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def peaks() -> dict[str, float]:
    """GFLOP/s of a 4096^3 matrix product, best of three, in each precision."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.rand(4096, 4096, device=pick_device(), dtype=dtype)
        found[name] = 2 * 4096**3 / min(timed(lambda a=a: a @ a, 3)) / 1e6
    return found


def by_round(milliseconds: dict[str, list[float]]) -> list[float]:
    """How many times faster, from the medians of each round."""
    medians = {
        side: [float(pd.Series(taken[start : start + TIMED]).median()) for start in range(0, len(taken), TIMED)]
        for side, taken in milliseconds.items()
    }
    return [a / b for a, b in zip(medians["paper"], medians["engine"], strict=True)]


def table(path: Path) -> pd.DataFrame:
    """One row for each cell."""
    rows = []
    for row in load(path):
        paper, engine = (float(pd.Series(row["ms"][side]).median()) for side in ("paper", "engine"))
        speed = row["gflop"] / engine * 1000
        rows.append(
            {
                "network": f"{row['family']}, {row['width']}",
                "size": row["size"],
                "GFLOP": f"{row['gflop']:.1f}",
                "precision": ", ".join(
                    [row["precision"], *(["recomputing"] if row["recompute"] else [])]
                    + ([f"{KEEP}={row['keep']}"] if row.get("keep") else [])
                ),
                "paper loop, ms": f"{paper:.0f}" if paper > 20 else f"{paper:.1f}",
                "engine, ms": f"{engine:.0f}" if engine > 20 else f"{engine:.1f}",
                "times faster": f"{paper / engine:.2f}",
                "over rounds": " ".join(f"{ratio:.2f}" for ratio in by_round(row["ms"])),
                "GFLOP/s": f"{speed:.0f}",
                "of the peak": f"{speed / row['peak'][row['precision']]:.0%}",
                "paper loop, MiB": f"{row['memory']['paper']:.0f}",
                "engine, MiB": f"{row['memory']['engine']:.0f}",
                "of it": f"{row['memory']['engine'] / row['memory']['paper']:.0%}",
                "predicted, MiB": f"{row['predicted']:.0f}",
                "steps": row["memory_steps"],
            }
        )
    return pd.DataFrame(rows).sort_values(["network", "size"]) if rows else pd.DataFrame()


def sharing(count: int = 8, steps: int = 200) -> None:
    """Small fits (64 channels, 128x128) at once against one after the other: iterations a second of all."""
    y = torch.rand(1, 3, 128, 128)
    genome, rates = network("hourglass", 64), {}
    for name in ("one after the other", "at once"):
        fits = [Fitting(genome, y, Identity(), RECIPE, seed=seed) for seed in range(count)]
        advance_together(fits, 20)
        started = time.perf_counter()
        for group in [fits] if name == "at once" else [[each] for each in fits]:
            advance_together(group, 20 + steps)
        rates[name] = count * steps / (time.perf_counter() - started)
        print(f"{count} fits {name}: {rates[name]:.1f} iterations/s")
    print(f"at once / one after the other: {rates['at once'] / rates['one after the other']:.2f}")


def main() -> None:
    """Measure what is missing, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 256, 512])
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds, after which no cell starts")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--memory", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--sharing", action="store_true", help="several small fits on one device")
    given = parser.parse_args()
    if given.memory:
        return measure_memory(*given.memory)
    if given.sharing:
        return sharing()
    path = given.out / "step.jsonl"
    keep = os.environ.get(KEEP)
    done = {(row["family"], row["width"], row["size"], row["asked"]) for row in load(path) if row.get("keep") == keep}
    wanted = [(f, w, s, given.precision) for f in given.families for s in given.sizes for w in given.widths]
    started, peak = time.perf_counter(), None
    for each in wanted:
        if each in done or time.perf_counter() - started > given.budget:
            continue
        peak = peak or peaks()
        append(path, cell(*each) | {"peak": peak})
        print("measured", *each, file=sys.stderr)
    notes = [
        "GFLOP: of the convolutions, forward and backward, as if all were direct; filtered ones need fewer.",
        "Peak: a 4096 x 4096 matrix product in that precision.",
        "Memory: the most a process held over so many steps, less what it held after a tiny fit.",
    ]
    title = "One step: engine and paper loop"
    write(given.out / "step.md", title, "python -m benchmarks.step", notes, table(path), load(path))
    return None


if __name__ == "__main__":
    main()
