"""Does the engine give what the published loop gives? PSNR of the engine minus that of the paper loop.

    python -m benchmarks.parity            # every fit that is missing, then the table
    python -m benchmarks.parity --arms paper --budget 540

Fits are kept in a JSON-lines file as they come, so that it resumes. Pairs share picture, damage, weights, z
and noise; rounding parts them after some hundred iterations, so that a difference has the spread of two runs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pandas as pd

from benchmarks.networks import network
from benchmarks.paper import PaperLoop
from benchmarks.report import FOLDER, append, load, write
from dipsearch.fitting.loop import Fitting
from dipsearch.fitting.recipe import Recipe
from dipsearch.metric import psnr
from dipsearch.network import winograd
from dipsearch.task import Observation, load_task, observe

AT = (300, 600, 1200)
TASKS = ("denoise", "inpaint", "sr")
SIZE, IMAGES, WIDTH = 128, 3, 24


def paper(instance: Observation, recipe: Recipe, metric: str) -> dict[str, float]:
    """PSNR of the paper loop's averaged output, by iteration."""
    loop = PaperLoop(network("hourglass", WIDTH), instance.y, instance.operator, instance.truth, recipe, instance.seed)
    scores = {}
    for _ in range(max(AT)):
        loop.step()
        if loop.iteration in AT:
            scores[str(loop.iteration)] = psnr(loop.average, instance.truth, metric)
    return scores


def engine(precision: str) -> Callable[[Observation, Recipe, str], dict[str, float]]:
    """PSNR of the engine's answer in a precision, by iteration."""

    def run(instance: Observation, recipe: Recipe, metric: str) -> dict[str, float]:
        fitting = Fitting(
            network("hourglass", WIDTH),
            instance.y,
            instance.operator,
            recipe.model_copy(update={"precision": precision}),
            seed=instance.seed,
        )
        scores = {}
        for iteration in AT:
            fitting.advance(iteration)
            scores[str(iteration)] = psnr(fitting.current, instance.truth, metric)
        return scores

    return run


def filtered(instance: Observation, recipe: Recipe, metric: str) -> dict[str, float]:
    """The engine with Winograd's filtering of every convolution that can be, however narrow."""
    with patch.multiple(winograd, LEAST_CHANNELS=1, LEAST_PIXELS=1):
        return engine("float32")(instance, recipe, metric)


ARMS = {
    "paper": paper,
    "float32": engine("float32"),
    "float32, filtered": filtered,
    "bfloat16": engine("bfloat16"),
}


def measure(path: Path, arms: list[str], tasks: list[str], seeds: int, budget: float) -> None:
    """Every fit that is missing, seeds first, until the budget of seconds is spent."""
    started = time.perf_counter()
    done = {(row["arm"], row["task"], row["image"], row["seed"]) for row in load(path)}
    for seed in range(seeds):
        for name in tasks:
            task = load_task(name)
            effort = task.rerun["standard"].changed(size=SIZE)
            recipe = task.recipe_for(effort).model_copy(
                update={"iterations": max(AT), "averaging": 0.99, "learning_rate": 0.01}
            )
            for image in task.images.evaluation[:IMAGES]:
                instance = None
                for arm in arms:
                    if (arm, name, image, seed) in done:
                        continue
                    if time.perf_counter() - started > budget:
                        return
                    instance = instance or observe(task, effort, image, seed=0, repeat=seed)
                    before = time.perf_counter()
                    scores = ARMS[arm](instance, recipe, task.metric)
                    row = {"arm": arm, "task": name, "image": image, "seed": seed, "psnr": scores}
                    append(path, row | {"seconds": round(time.perf_counter() - before, 1)})


def table(path: Path) -> pd.DataFrame:
    """One row for each task, iteration and precision."""
    flat = pd.DataFrame(
        {**{name: row[name] for name in ("arm", "task", "image", "seed")}, "iteration": int(at), "psnr": value}
        for row in load(path)
        for at, value in row["psnr"].items()
    )
    wide = flat.pivot(index=["task", "iteration", "image", "seed"], columns="arm", values="psnr")
    rows = []
    for arm in [arm for arm in ARMS if {arm, "paper"} <= set(wide) and arm != "paper"]:
        for (task, iteration), group in wide.groupby(["task", "iteration"]):
            pairs = group[["paper", arm]].dropna()
            difference = pairs[arm] - pairs["paper"]
            spread = pairs.groupby("image").std(ddof=1).mean()  # over seeds, mean over pictures
            rows.append(
                {
                    "task": task,
                    "iteration": iteration,
                    "precision": arm,
                    "pairs": len(pairs),
                    "paper loop, dB": f"{pairs['paper'].mean():.2f}",
                    "engine, dB": f"{pairs[arm].mean():.2f}",
                    "difference": f"{difference.mean():+.3f}",
                    "its standard error": f"{difference.std(ddof=1) / len(pairs) ** 0.5:.3f}",
                    "sd over seeds, paper loop": f"{spread['paper']:.3f}",
                    "sd over seeds, engine": f"{spread[arm]:.3f}",
                    "ratio of sd": f"{spread[arm] / spread['paper']:.2f}",
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Measure what is missing, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds, after which no fit starts")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    path = given.out / "parity.jsonl"
    measure(path, given.arms, given.tasks, given.seeds, given.budget)
    notes = [
        f"Averaged output of an hourglass (5 levels, {WIDTH} channels, skip 4), {SIZE}x{SIZE} pixels, Adam 0.01,",
        f"{IMAGES} pictures of scikit-image for each task, three seeds each, and more where three left a row",
        "undecided: `--tasks sr --seeds 12` (bfloat16: 6), `--tasks inpaint --arms paper bfloat16 --seeds 6`;",
        "PSNR under the task's metric. Filtered: 3x3 convolutions with stride one by Winograd's filtering, for which",
        "these are too narrow by themselves.",
        "Pairs share picture, damage, weights, z and noise. Spread: deviation over seeds, mean over pictures.",
    ]
    write(
        given.out / "parity.md",
        "Parity: engine minus paper loop",
        "python -m benchmarks.parity",
        notes,
        table(path),
        load(path),
    )


if __name__ == "__main__":
    main()
