"""Found genomes as files: the genome, where it was found, how it was judged."""

from typing import Any

import pandas as pd

from dipsearch.error import UsageError, unknown
from dipsearch.leaderboard import leaderboard
from dipsearch.run import RunStore


def found_genome(store: RunStore, task: str, name: str) -> dict[str, Any]:
    """A genome file's data for a genome that has runs; UsageError where the name has none."""
    boards = {}
    for purpose in ("search", "rerun"):
        try:
            boards[purpose] = leaderboard(store, task, purpose=purpose)
        except UsageError:
            continue
    known: dict[str, Any] = {}
    provenance: dict[str, Any] = {"task": task}
    metric, parameters = "", None
    for purpose, board in boards.items():
        rows = board.table[board.table["genome"].notna()]
        known |= {str(row["name"]): (row["genome"], row["recipe_changes"]) for row in rows.to_dict("records")}
        for row in rows[rows["name"] == name].to_dict("records"):
            metric, parameters = board.metric, int(row["parameters"])
            provenance[purpose] = {
                "preset": board.preset,
                "metric": board.metric,
                "images": board.images,
                "psnr": round(row["psnr"], 3),
                "psnr_sd": None if pd.isna(row["psnr_sd"]) else round(row["psnr_sd"], 3),
                "oracle_psnr": round(row["oracle_psnr"], 3),
                "seeds": int(row["seeds"]),
                "rank": None if pd.isna(row["rank"]) else int(row["rank"]),
                "setting": board.setting,
            }
    if not known:
        raise UsageError(f"no runs for task {task!r} under {store.root}; run: dipsearch search --task {task}")
    if name not in known:
        raise UsageError(unknown("genome", name, known))
    genome, changes = known[name]
    return {
        "about": f"found by dipsearch for task {task}",
        "source": f"dipsearch search --task {task}",
        "image_channels": 1 if metric == "gray" else 3,
        "parameters": parameters,
        "provenance": provenance,
        **({"recipe": changes} if changes else {}),
        "genome": genome,
    }
