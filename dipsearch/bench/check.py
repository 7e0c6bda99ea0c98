"""Whether a table is what the command makes: rows drawn at random, made again."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from dipsearch.bench.collect import measure
from dipsearch.bench.design import fits, protocol_of
from dipsearch.bench.table import KEYS, load, path_of
from dipsearch.error import UsageError
from dipsearch.run import OK


def check(
    folder: Path, task: str, *, rows: int, seed: int = 0, watch: Callable[[int], None] = lambda done: None
) -> pd.DataFrame:
    """Fits of so many rows of a task's table, drawn with a seed, made again.

    Rows whose fits failed, and those that the design no longer holds, are not drawn. `watch` is told the rows done.

    Returns:
        A row for each: `name`, `image`, the honest PSNR of the table and of the new fit (`psnr`, `again`), and
        their `difference`, all in dB; NaN where the new fit failed.
    """
    table = load(folder, task)
    protocol = protocol_of(task)
    made = {
        (entry.genome.key(), instance.digest, instance.seed): (entry, instance) for entry, instance in fits(protocol)
    }
    held = [key in made for key in table[KEYS].itertuples(index=False, name=None)]
    drawn = table[held]
    drawn = drawn[drawn["status"] == OK]
    drawn = drawn.sample(min(rows, len(drawn)), random_state=seed)
    if drawn.empty:
        raise UsageError(f"{path_of(folder, task)}: no row that this version would make")
    found, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)  # as they were made
    try:
        for _, row in drawn.iterrows():
            entry, instance = made[row["key"], row["digest"], row["seed"]]
            again = measure(protocol, entry, instance).get("psnr", float("nan"))
            found.append({"name": row["name"], "image": row["image"], "psnr": float(row["psnr"]), "again": again})
            watch(len(found))
    finally:
        torch.set_num_threads(threads)
    table = pd.DataFrame(found, columns=["name", "image", "psnr", "again"])
    return table.assign(difference=table["again"] - table["psnr"])
