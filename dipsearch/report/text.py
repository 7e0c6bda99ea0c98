"""Leaderboards as text: a terminal table, CSV, JSON, Markdown."""

import json
from collections.abc import Callable, Collection

import pandas as pd

from dipsearch.leaderboard import COLUMNS, Leaderboard

LEFT = ("genome", "network", "found on")  # columns of words
DIGITS = {"psnr": 2, "psnr_sd": 2, "held_out": 2, "oracle_psnr": 2, "ssim": 3, "gflop": 2, "seconds": 1}
IF_ANY = ("rollbacks", "non_finite", "failed", "front", "held_out", "psnr", "oracle_psnr", "ssim")  # else not shown


def caption(board: Leaderboard) -> str:
    """What the numbers are, in a line or two."""
    pictures, recipe = board.setting["pictures"], board.setting["recipe"]
    kind = {
        "rerun": "re-run",
        "reproduce": "published protocol" if not board.smoke else "smoke scale (no evidence of anything)",
        "search": "search score (proxy fits of every study, not evidence: re-run the best)",
    }[board.purpose]
    size = f"{pictures['size']} px" if pictures["size"] else "whole pictures"
    shrunk = f", shrunk by {pictures['shrink']}" if pictures["shrink"] > 1 else ""
    ensemble = f", mean of {recipe['ensemble']} fits" if recipe.get("ensemble", 1) > 1 else ""
    text = (
        f"{board.task}, {kind}: preset {board.preset}, {size}{shrunk}, {recipe['iterations']} iterations{ensemble}, "
        f"stop {recipe['stop']}, metric {board.metric}; judged on {', '.join(board.images)}. "
        f"{'Ranked by held-out PSNR. ' if board.judged == 'held_out' else ''}"
        "PSNR in dB, mean over pictures and seeds; sd over seeds. "
        "Oracle PSNR chose its iteration with the clean picture: never comparable with PSNR."
    )
    text += f" Made on {'; '.join(board.machines)}."
    if board.other_protocols:
        text += f" Runs of {board.other_protocols} other protocol(s) are not shown."
    if board.other_instances > 0:
        text += f" {board.other_instances} run(s) on other pictures or seeds are not shown."
    if board.broken:
        text += f" {len(board.broken)} file(s) could not be read as runs, the first: {board.broken[0]}."
    return text


def cells(board: Leaderboard) -> pd.DataFrame:
    """The table as words, with its columns in order; an empty cell where there is no number.

    Columns that say nothing in this table (no rollback, no failure) are left out.
    """
    table = board.table
    shown = [name for name in COLUMNS if name not in IF_ANY or _any(table[name])]
    return pd.DataFrame({COLUMNS[name]: [_word(name, value) for value in table[name]] for name in shown})


def _any(column: pd.Series) -> bool:
    return any(bool(value) and not pd.isna(value) for value in column)


def _word(column: str, value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    if column in DIGITS:
        return f"{value:.{DIGITS[column]}f}"
    return f"{value:.0f}" if isinstance(value, float) else f"{value:,}" if column == "parameters" else str(value)


def aligned(words: pd.DataFrame, left: Collection[str]) -> str:
    """A table of words as aligned columns, as wide as they need to be; the `left` ones start at the left."""
    rows = [list(words.columns), *words.astype(str).to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if name in left else cell.rjust(width)
            for cell, width, name in zip(row, widths, words.columns, strict=True)
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def piped(words: pd.DataFrame) -> str:
    """A table of words as a pipe table of Markdown."""
    rows = [list(words.columns), ["---"] * len(words.columns), *words.to_numpy().tolist()]
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def as_table(board: Leaderboard) -> str:
    """Aligned columns under a caption."""
    return caption(board) + "\n\n" + aligned(cells(board), LEFT)


def as_csv(board: Leaderboard) -> str:
    """Full precision, one line for each row."""
    return board.table[list(COLUMNS)].to_csv(index=False)


def as_json(board: Leaderboard) -> str:
    """Full precision, with the protocol and what the numbers are."""
    table = board.table[[*COLUMNS, "subject", "genome", "recipe_changes"]]
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    facts = {"task": board.task, "preset": board.preset, "purpose": board.purpose, "metric": board.metric}
    return json.dumps({**facts, "images": board.images, "setting": board.setting, "rows": rows}, indent=1) + "\n"


def as_markdown(board: Leaderboard) -> str:
    """A pipe table under its caption."""
    return caption(board) + "\n\n" + piped(cells(board))


FORMATS: dict[str, Callable[[Leaderboard], str]] = {
    "table": as_table,
    "csv": as_csv,
    "json": as_json,
    "md": as_markdown,
}
