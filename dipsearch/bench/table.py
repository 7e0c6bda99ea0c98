"""DIPBench as a table: one Parquet file for each task."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from dipsearch.atomic import write_atomically
from dipsearch.catalog import stem
from dipsearch.error import DipsearchError, UsageError

STEPS = (10, 20, 30, 40, 60, 80, 120, 160, 240, 320)  # iterations at which a curve is kept
PARTS = "parts"
SCORE = "score_"  # what the columns of zero-cost scores begin with
KEYS = ["key", "digest", "seed"]  # what makes a row the same as another
FACTS = ["name", "origin", "genome", "image", "repeat", "size", "parameters", "gflop", "status"]
WORDS = ("name", "origin", "genome", "image", "key", "digest", "status")  # few different values each: categories
PRECISE = ("seed", "gflop")


def path_of(folder: Path, task: str) -> Path:
    """Where the table of a task is."""
    return folder / f"{stem('tasks', task)}.parquet"


def part_path(folder: Path, task: str, index: int, count: int) -> Path:
    """Where part `index` of `count` of a task's rows is kept until it is packed."""
    return folder / PARTS / f"{stem('tasks', task)}-{index}-of-{count}.jsonl"


def load(folder: Path, task: str) -> pd.DataFrame:
    """The table of a task, a row for each fit.

    Columns: `key`, `name`, `origin` (the space, or `named`), `genome` (JSON), `image`, `digest`, `repeat`, `seed`,
    `size` (pixels: the longer side);
    `psnr` (honest: where the held-out error was least), `final_psnr` (at the budget's end), `oracle_psnr` and
    `oracle_iteration` (not honest), `held_out` (least mean square error on held-out pixels), `chosen`;
    `average_N`, `honest_N`, `held_out_N` at iteration N: PSNR of the averaged output, of the answer under the
    rule, and the least held-out error so far; `score_NAME`: zero-cost scores; `parameters`, `gflop`, `seconds`
    (processor time of the fit on one thread), `status`, `rollbacks`. All PSNR in dB.

    Raises:
        UsageError: there is no such table.
    """
    path = path_of(folder, task)
    if not path.exists():
        raise UsageError(f"{path}: no such table; make it with: dipsearch bench collect --task {task}")
    return _read(path)


def smallest(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each picture at the least size that it has."""
    return table[table["size"] == table.groupby("image", observed=True)["size"].transform("min")]


def pack(folder: Path, task: str) -> pd.DataFrame:
    """The table of a task with all rows of its part files; written where they add any."""
    path = path_of(folder, task)
    table = _read(path) if path.exists() else pd.DataFrame()
    made = pd.DataFrame(part_rows(folder, task))
    if made.empty:
        return table
    together = pd.concat([each for each in (table, made) if not each.empty], ignore_index=True)
    together = together.drop_duplicates(KEYS).sort_values(["origin", "key", "repeat", "image"], ignore_index=True)
    for column in together:
        if column in WORDS:
            together[column] = together[column].astype("category")
        elif together[column].dtype == "float64" and column not in PRECISE:
            together[column] = together[column].astype("float32")
    write_atomically(path, lambda temporary: together.to_parquet(temporary, compression="zstd", index=False))
    return together


def part_rows(folder: Path, task: str) -> list[dict[str, Any]]:
    """The rows of a task's part files; a line that was torn by an interruption is left out."""
    rows = []
    for path in sorted((folder / PARTS).glob(f"{stem('tasks', task)}-*-of-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows


def have(folder: Path, task: str) -> set[tuple[str, str, int]]:
    """The rows that exist, by `KEYS`."""
    path = path_of(folder, task)
    packed = _read(path, KEYS).itertuples(index=False, name=None) if path.exists() else ()
    return {*packed, *(tuple(row[key] for key in KEYS) for row in part_rows(folder, task))}


def _read(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=columns)
    except ImportError:
        raise DipsearchError("DIPBench needs pyarrow: pip install 'dipsearch[bench]'") from None
    except (OSError, ValueError) as error:  # pyarrow's are of these
        raise DipsearchError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
