"""Whole searches replayed on a table: what samplers and pruners are worth, in iterations of fits."""

import bisect
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import torch

from dipsearch.bench import design
from dipsearch.bench.table import SCORE, STEPS, load, smallest
from dipsearch.error import UsageError, unknown
from dipsearch.run import OK
from dipsearch.search.cokriging import SEEN, Cokriging, Fidelity, note, noted, order_of
from dipsearch.search.ladder import LADDERS, Pruned
from dipsearch.search.samplers import SAMPLERS
from dipsearch.search.scores import SCORES
from dipsearch.search.screen import Screen
from dipsearch.space import Space, load_space

START_UP = 8
STUCK = 64  # trials in a row that cost nothing, after which a search has come to its end
SHARES = (1 / 32, 1 / 16, 1 / 6, 1 / 2)  # of the random search's iterations


@dataclass(frozen=True)
class Curves:
    """What a search of the space `bench` would see: honest PSNR of each genome at each of `steps`, (G, I, S)."""

    space: Space
    rows: dict[str, int]  # genome key -> row
    honest: np.ndarray
    steps: tuple[int, ...]
    zero_cost: dict[str, np.ndarray] = field(default_factory=dict)  # score -> (G,), means over pictures

    @property
    def scores(self) -> np.ndarray:
        """The score of each genome: the mean over pictures of its honest PSNR."""
        return self.honest[:, :, -1].mean(1)  # type: ignore[no-any-return]

    @property
    def full(self) -> int:
        """Iterations of a trial that is fitted to the end on every picture."""
        return self.steps[-1] * int(self.honest.shape[1])


def curves(folder: Path, task: str) -> Curves:
    """The curves of the genomes of `bench` that have every picture, pictures in the order of the task.

    The first seed and the smaller size count. A failed fit scores 0 dB.
    """
    table = smallest(load(folder, task))
    table = table[(table["origin"] == design.WHOLE) & (table["repeat"] == 0)].astype({"key": str, "image": str})
    steps = tuple(step for step in STEPS if f"honest_{step}" in table)
    protocol = design.protocol_of(task)
    images = list(protocol.task.images.search[: protocol.effort.images])
    failed = table["status"] != OK

    def wide(column: str) -> pd.DataFrame:
        filled = table.assign(value=table[column].where(~failed, 0.0))
        return filled.pivot(index="key", columns="image", values="value").reindex(columns=images)

    honest = np.stack([wide(f"honest_{step}").to_numpy(dtype=float) for step in steps], axis=2)
    whole = np.isfinite(honest).all((1, 2))
    keys = wide("psnr").index[whole]
    zero_cost = {
        name: wide(SCORE + name).to_numpy(dtype=float)[whole].mean(1) for name in SCORES if SCORE + name in table
    }
    return Curves(load_space(design.WHOLE), {key: row for row, key in enumerate(keys)}, honest[whole], steps, zero_cost)


@dataclass(frozen=True)
class Trajectory:
    """A replayed search: after each trial, iterations spent so far and the best score of a whole trial so far."""

    iterations: np.ndarray
    best: np.ndarray

    def reaches(self, quality: float) -> float:
        """Iterations until the best score is at least `quality`; infinity where it never is."""
        reached = np.flatnonzero(self.best >= quality)
        return float(self.iterations[reached[0]]) if len(reached) else float("inf")

    def at(self, iterations: float) -> float:
        """The best score after so many iterations; minus infinity before the first whole trial."""
        done = np.flatnonzero(self.iterations <= iterations)
        return float(self.best[done[-1]]) if len(done) else float("-inf")


@dataclass(frozen=True)
class Plan:
    """How a replayed search works: a name in SAMPLERS, one in LADDERS, a name in SCORES to screen by, and the trials
    proposed before the sampler has learned anything."""

    sampler: str
    pruner: str
    screen: str = ""
    start_up: int = START_UP

    def __str__(self) -> str:
        return ", ".join(filter(None, [self.sampler, self.pruner, self.screen and f"screened by {self.screen}"]))


def plans(samplers: Sequence[str] = (), pruners: Sequence[str] = ()) -> list[Plan]:
    """Every sampler with every pruner, or those that are named; UsageError names the choices."""
    for kind, names, choices in (("sampler", samplers, SAMPLERS), ("pruner", pruners, LADDERS)):
        for name in names:
            if name not in choices:
                raise UsageError(unknown(kind, name, choices))
    return [Plan(sampler, pruner) for sampler in samplers or SAMPLERS for pruner in pruners or LADDERS]


def replay(
    curves: Curves, plan: Plan, *, seed: int, budget: float, goal: float = float("inf"), least: float = 0.0
) -> Trajectory:
    """Search the table with Optuna until `budget` iterations are spent, or `STUCK` trials in a row cost nothing.

    With a `goal`, only until a score is as good, but for at least `least` iterations. A genome that was seen
    before costs nothing: a search looks it up.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ladder = LADDERS[plan.pruner]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = SAMPLERS[plan.sampler](seed, plan.start_up)
        if isinstance(sampler, Cokriging):
            sampler.again = ladder.learned
        study = optuna.create_study(
            direction="maximize",
            sampler=sampler,
            pruner=ladder.pruner(plan.start_up),
        )
        stages = ladder.stages(curves.honest.shape[1], curves.steps[-1])
        told, whole, pruned, screened = dict[int, float](), set[int](), set[int](), list[float]()
        seen: dict[int, dict[Fidelity, float]] = {}
        spent, idle, best, of_best = 0, 0, float("-inf"), dict[int, float]()
        costs, bests = list[int](), list[float]()
        while spent < budget and (best < goal or spent < least) and idle < STUCK:
            trial = study.ask()
            key = curves.space.genome(curves.space.suggest(trial.suggest_categorical)).key()  # type: ignore[arg-type]
            if (row := curves.rows.get(key)) is None:
                raise UsageError(f"genome {key} of space {design.WHOLE!r} is not in the table: it is not complete yet")
            on = ladder.learned and bool(seen.get(row)) and row not in whole
            given_up = row not in told
            if on or row not in told.keys() | pruned:
                before = seen.get(row, {})
                fits = _Fits(curves, row, before)
                try:
                    if plan.screen and not on:
                        value = float(curves.zero_cost[plan.screen][row])
                        screened.append(value)
                        if not Screen(plan.screen).passes(value, screened[:-1]):
                            raise Pruned("screen")
                    order = order_of(study, trial, stages) if ladder.learned else None
                    told[row], done = ladder.climb(stages, fits, trial, of_best, before, order)
                    given_up = False
                    if done:
                        whole.add(row)
                        if told[row] > best:
                            best, of_best = told[row], dict(enumerate(curves.honest[row, :, -1].tolist()))
                except Pruned:
                    pruned.add(row)
                    given_up = True
                seen[row] = before | noted(trial)
                spent += fits.iterations
            else:
                trial.set_user_attr(SEEN, note(seen.get(row, {})))
            if given_up:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, told[row])
            idle = idle + 1 if costs[-1:] == [spent] else 0
            costs.append(spent)
            bests.append(best)
    return Trajectory(np.array(costs), np.array(bests))


class _Fits:
    """The fits of one genome, looked up, with the iterations that they would take; those that ended before are free."""

    def __init__(self, curves: Curves, row: int, seen: dict[Fidelity, float]) -> None:
        self._curves, self._row = curves, row
        self._free = [(instance, curves.steps[-1]) in seen for instance in range(curves.honest.shape[1])]
        self._done = [0] * len(self._free)

    @property
    def iterations(self) -> int:
        """Of all pictures."""
        return sum(done for done, free in zip(self._done, self._free, strict=True) if not free)

    def __call__(self, instance: int, iterations: int) -> float | None:
        step = bisect.bisect_left(self._curves.steps, iterations)  # the next one that was kept
        self._done[instance] = max(self._done[instance], self._curves.steps[step])
        if self._free[instance] and iterations < self._curves.steps[-1]:
            return None  # its run says what it was at the end
        return float(self._curves.honest[self._row, instance, step])


def compare(
    curves: Curves,
    plans: Sequence[Plan],
    *,
    repeats: int,
    fits: int = 64,
    processes: int = 1,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """How soon each plan's search reaches what random search without pruning reaches in the median with `fits` full
    fits of every picture, over `repeats` seeds, as a share of the iterations of those fits.

    Several `processes` share the searches; `watch` is told how many of how many have been replayed.

    Returns:
        A row for each plan: the median and quartiles of that share (infinity: not reached), how many searches
        reached it, the median of the best score (dB) at shares of those iterations, the number of seeds, and the
        quality to be reached (`goal`, dB).
    """
    scores = curves.scores
    fits = min(fits, len(scores))
    budget = float(fits * curves.full)
    rng = np.random.default_rng(0)
    goal = float(np.median([scores[rng.choice(len(scores), fits, replace=False)].max() for _ in range(10_000)]))
    jobs = [
        partial(replay, curves, plan, seed=seed, budget=budget, goal=goal, least=max(SHARES) * budget)
        for plan in plans
        for seed in range(repeats)
    ]
    everything = []
    for run in _done(jobs, processes):
        everything.append(run)
        watch(len(everything), len(jobs))
    rows = []
    for place, plan in enumerate(plans):
        runs = everything[place * repeats : (place + 1) * repeats]
        reached = np.array([run.reaches(goal) for run in runs]) / budget
        rows.append(
            {
                "search": str(plan),
                "median": float(np.quantile(reached, 0.5, method="higher")),
                "quartile 1": float(np.quantile(reached, 0.25, method="nearest")),
                "quartile 3": float(np.quantile(reached, 0.75, method="nearest")),
                "reached": float(np.isfinite(reached).mean()),
                **{
                    f"best at {share:.3g}": float(np.median([run.at(share * budget) for run in runs]))
                    for share in SHARES
                },
            }
        )
    return pd.DataFrame(rows).assign(seeds=repeats, goal=goal)


def _done(jobs: Sequence[Callable[[], Trajectory]], processes: int) -> Iterator[Trajectory]:
    if processes == 1:
        yield from map(_call, jobs)
        return
    # not forked: torch's threads do not survive that
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(_call, jobs)


def _call(job: Callable[[], Trajectory]) -> Trajectory:
    return job()
