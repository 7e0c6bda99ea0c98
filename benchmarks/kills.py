"""Searches that are killed (SIGKILL) at random moments, again and again, each time resumed: what is lost, what doubled.

    python -m benchmarks.kills                     # 100 kills, of searches in one process and with two workers

Each study is also searched once undisturbed, with the same seed: its trials, with their values, have to be the same.
Everything else goes to a temporary folder.
"""

import argparse
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from benchmarks.report import FOLDER, append, load, write
from dipsearch.run import RunStore
from dipsearch.search.evidence import read_study

TASK, TRIALS = "denoise", 60
SEARCH = (
    f"search --task {TASK} --space small --study killed --trials {TRIALS} --iterations 20 --sampler random "
    "--pruner none --precision float32 --timeout 10h"
)
LATEST = 10.0  # seconds after its start at which a search is killed


def start(folder: Path, seed: int, workers: int, *, resume: bool) -> subprocess.Popen[str]:
    """A search under a folder."""
    more = ["--seed", str(seed), "--workers", str(workers), "--out", str(folder), *(["--resume"] if resume else [])]
    command = [sys.executable, "-m", "dipsearch", *shlex.split(SEARCH), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(folder: Path) -> Counter[tuple[Any, ...]]:
    """The trials of a study that have ended, each with what it chose and its score."""
    study = read_study(folder / "studies" / "killed")
    return Counter(map(_told, (trial for trial in study.trials if trial.state != TrialState.FAIL)))


def _told(trial: FrozenTrial) -> tuple[Any, ...]:
    return trial.state.name, trial.user_attrs.get("genome_key"), *(trial.values or ())


def killed(folder: Path, seed: int, workers: int, most: int, moments: random.Random) -> dict[str, Any]:
    """A search to its end, killed `most` times at most; how often it was, and what came of it."""
    kills = unreadable = 0
    while True:
        process = start(folder, seed, workers, resume=(folder / "studies" / "killed" / "study.db").exists())
        limit = moments.uniform(0, LATEST) if kills < most else None
        try:
            _, error = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            time.sleep(1.0)  # its workers end, too
            continue
        if process.returncode:
            print(error, file=sys.stderr)
            unreadable += 1
        break
    runs, broken = RunStore(folder / "runs").load(TASK)
    return {
        "kills": kills,
        "trials": ended(folder),
        "fits": {(run["genome_key"], run["digest"], run["seed"]) for run in runs},
        "unreadable": unreadable + len(broken),
    }


def compared(seed: int, workers: int, most: int) -> dict[str, Any]:
    """One study, killed and undisturbed."""
    with tempfile.TemporaryDirectory() as folder:
        moments = random.Random(seed)  # noqa: S311
        calm = killed(Path(folder) / "calm", seed, workers, 0, moments)
        torn = killed(Path(folder) / "torn", seed, workers, most, moments)
    return {
        "workers": workers,
        "seed": seed,
        "kills": torn["kills"],
        "trials": sum(torn["trials"].values()),
        "fits": len(torn["fits"]),
        "lost": (calm["trials"] - torn["trials"]).total() + len(calm["fits"] - torn["fits"]),
        "doubled": (torn["trials"] - calm["trials"]).total() + len(torn["fits"] - calm["fits"]),
        "unreadable": torn["unreadable"],
    }


def main() -> None:
    """Kill until it was enough, and write the table of all studies so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args()
    path = chosen.out / "kills.jsonl"
    while (left := chosen.kills - sum(row["kills"] for row in load(path))) > 0:
        done = len(load(path))
        append(path, compared(done, chosen.workers[done % len(chosen.workers)], left))
    rows = load(path)
    table = pd.DataFrame([{name: value for name, value in row.items() if name != "machine"} for row in rows])
    table = pd.concat([table.astype(str), table.sum().astype(str).to_frame().T])
    table.iloc[-1, :2] = "all"
    notes = [
        f"`dipsearch {SEARCH}`: killed (SIGKILL) up to {LATEST:.0f} seconds after each start and resumed, against the",
        "same undisturbed. Lost: trials or fits that the undisturbed one has and the killed one has not. Doubled: the",
        "other way round. Unreadable: runs, or a study that is not resumed.",
    ]
    write(path.with_suffix(".md"), "Searches killed and resumed", "python -m benchmarks.kills", notes, table, rows)


if __name__ == "__main__":
    main()
