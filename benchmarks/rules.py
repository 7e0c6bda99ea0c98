"""What stopping rules and averages cost, as a share of the step that they follow.

python -m benchmarks.rules
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from benchmarks.networks import network
from benchmarks.report import FOLDER, append, load, write
from benchmarks.step import timed
from dipsearch.fitting.averaging import Posterior, RunningMean
from dipsearch.fitting.device import pick_device
from dipsearch.fitting.loop import Fitting
from dipsearch.fitting.recipe import Recipe
from dipsearch.fitting.stopping import STOPPERS, Seen
from dipsearch.operator import Identity

CASES = (("hourglass", 128, 128), ("hourglass", 128, 256), ("hourglass", 32, 128))
REPEATS, STEPS = 200, 5


def measure(family: str, width: int, size: int) -> dict:
    """Milliseconds of a step with a fixed budget, and of each rule's and average's update; medians."""
    device = pick_device()
    y = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(iterations=1_000_000)
    fitting = Fitting(network(family, width), y, Identity(), recipe)
    fitting.advance(2)
    step = pd.Series(timed(lambda: fitting.advance(fitting.iteration + 1), STEPS)).median()
    x = y.to(device)
    places = torch.arange(0, x.numel(), 20, device=device)
    seen, tick = Seen(x, places), torch.zeros((), dtype=torch.int64, device=device)
    taken = {}
    for name, kind in STOPPERS.items():
        told = recipe if name != "discrepancy" else Recipe(iterations=1_000_000, stop=name, sigma=25)
        rule = kind(told, seen, x)
        taken[name] = timed(lambda rule=rule: (rule.update(tick, x, x, x), tick.add_(1)), REPEATS)
    for name, average in (("EMA", RunningMean(0.99, x)), ("SGLD mean", Posterior(0.99, x, 0, 50))):
        taken[name] = timed(lambda average=average: (average.update(tick, x), tick.add_(1)), REPEATS)
    costs = {name: float(pd.Series(values).median()) for name, values in taken.items()}
    return {"family": family, "width": width, "size": size, "step": float(step), "costs": costs}


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    path = parser.parse_args().out / "rules.jsonl"
    path.unlink(missing_ok=True)
    for case in CASES:
        append(path, measure(*case))
    rows = [
        {
            "network": f"{row['family']}, {row['width']}",
            "size": row["size"],
            "step, ms": f"{row['step']:.0f}",
            **{name: f"{value:.2f} ms, {value / row['step']:.2%}" for name, value in row["costs"].items()},
        }
        for row in load(path)
    ]
    title, command = "Stopping rules and averages: cost of an iteration", "python -m benchmarks.rules"
    write(path.with_suffix(".md"), title, command, ["Share of a whole step."], pd.DataFrame(rows), load(path))


if __name__ == "__main__":
    main()
