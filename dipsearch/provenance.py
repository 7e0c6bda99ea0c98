"""Found genomes as files: the genome, where it was found, how it was judged."""

import itertools
from typing import Any

import pandas as pd

from dipsearch.error import UsageError, unknown
from dipsearch.leaderboard import leaderboard
from dipsearch.run import RunStore, judged_by


def found_genome(store: RunStore, task: str, name: str) -> dict[str, Any]:
    """A genome file's data for a genome that has runs, by its name or key; UsageError where there is none, or several.

    Its numbers are those of its newest protocol, for people to read: `psnr_sd` is over seeds.
    """
    runs = [run for run in store.load(task)[0] if run["genome_key"] and run["purpose"] in ("search", "rerun")]
    if not runs:
        raise UsageError(f"no runs for task {task!r} under {store.root}; run: dipsearch search --task {task}")
    found = {judged_by(run): run for run in runs if name in (run["name"], run["genome_key"])}
    if not found:
        raise UsageError(unknown("genome", name, {str(run["name"]) for run in runs}))
    if len(keys := {str(run["genome_key"]) for run in found.values()}) > 1:
        raise UsageError(f"{name}: {len(keys)} genomes are called so; give the key of one: {', '.join(sorted(keys))}")
    subject = _best(store, task, set(found))
    run = found[subject]
    provenance: dict[str, Any] = {"task": task}
    for purpose in ("search", "rerun"):
        try:
            board = leaderboard(store, task, purpose=purpose, subject=subject)
        except UsageError:
            continue
        (row,) = board.table[board.table["subject"] == subject].to_dict("records")
        numbers = {column: _number(row[column]) for column in ("psnr", "psnr_sd", "held_out", "oracle_psnr")}
        provenance[purpose] = {
            "preset": board.preset,
            "metric": board.metric,
            "images": board.images,
            **{column: value for column, value in numbers.items() if column != "held_out" or value is not None},
            "seeds": int(row["seeds"]),
            "rank": None if pd.isna(row["rank"]) else int(row["rank"]),
            "setting": board.setting,
        }
    genome, changes = run["genome"], run["recipe_changes"]
    return {
        "about": f"found by dipsearch for task {task}",
        "source": f"dipsearch search --task {task}",
        "image_channels": 1 if run["metric"] == "gray" else 3,
        "parameters": max(int(each["parameters"]) for each in runs if judged_by(each) == subject),  # a failed run: 0
        "provenance": provenance,
        **({"recipe": changes} if changes else {}),
        "genome": genome,
    }


def _best(store: RunStore, task: str, subjects: set[str]) -> str:
    """Of one genome with several recipes, the one that ranks highest, where re-runs come before a search."""
    for purpose, subject in itertools.product(("rerun", "search"), sorted(subjects)):
        try:
            table = leaderboard(store, task, purpose=purpose, subject=subject).table
        except UsageError:
            continue
        return str(table.loc[table["subject"].isin(subjects), "subject"].iloc[0])
    raise UsageError(f"no runs for task {task!r} under {store.root}")


def _number(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else round(float(value), 3)
