"""Does the engine give what the published loop gives? PSNR of the engine minus that of the paper loop.

    python -m benchmarks.parity            # every fit that is missing, then the table
    python -m benchmarks.parity --arms paper --budget 540

Fits are kept in a JSON-lines file as they come, so that it resumes. Pairs share picture, damage, weights, z
and noise; rounding parts them after some hundred iterations, so that a difference has the spread of two runs.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.networks import network
from benchmarks.paper import PaperLoop
from dipsearch.fit.fitting import Fitting
from dipsearch.fit.recipe import Recipe
from dipsearch.metric import psnr
from dipsearch.run import environment
from dipsearch.task import Observation, load_task, observe

AT = (300, 600, 1200)
TASKS = ("denoise", "inpaint", "sr")
SIZE, IMAGES, WIDTH = 128, 3, 24
FOLDER = Path("results/benchmarks")


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


ARMS = {"paper": paper, "float32": engine("float32"), "bfloat16": engine("bfloat16")}


def measure(path: Path, arms: list[str], seeds: int, budget: float) -> None:
    """Every fit that is missing, seeds first, until the budget of seconds is spent."""
    started = time.perf_counter()
    done = {(row["arm"], row["task"], row["image"], row["seed"]) for row in load(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for name in TASKS:
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
                    row |= {"seconds": round(time.perf_counter() - before, 1), "threads": torch.get_num_threads()}
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row | {"machine": environment()}) + "\n")


def load(path: Path) -> list[dict]:
    """The stored fits."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def main() -> None:
    """Measure what is missing, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds, after which no fit starts")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    measure(given.out / "parity.jsonl", given.arms, given.seeds, given.budget)


if __name__ == "__main__":
    main()
