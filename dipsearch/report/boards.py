"""Leaderboards as a report shows them: honest numbers, oracle numbers apart, picture by picture, and charts."""

import math
from typing import Any

import pandas as pd

from dipsearch import catalog
from dipsearch.genome import load_genome_file
from dipsearch.image import expand
from dipsearch.leaderboard import COLUMNS, Leaderboard
from dipsearch.report.again import of_table
from dipsearch.report.charts import against
from dipsearch.report.text import caption, cells
from dipsearch.report.views import Board, Cell, Table
from dipsearch.reproduce.published import numbers, over, rows_of
from dipsearch.reproduce.table import load_table
from dipsearch.run import hashed, picture_of

PURPOSES = {"rerun": "Full fits", "reproduce": "Published protocol", "search": "Search scores"}
ORACLE = ("oracle_psnr",)


def view_board(board: Leaderboard) -> Board:
    """A leaderboard with everything that is shown of it."""
    name = f"board-{hashed([board.task, board.purpose])}"
    table = board.table
    words = {str(head): list(map(str, column)) for head, column in cells(board).items()}
    keys = {head: key for key, head in COLUMNS.items()}
    hidden = {COLUMNS[key] for key in ORACLE}
    heads = [head for head in words if head not in hidden]
    published = _published(board, oracle=False)
    kinds = [_kind(row) for row in table.to_dict("records")]
    rows = []
    for place, row in enumerate(table.to_dict("records")):
        link = f"#genome-{row['subject']}" if row["genome"] is not None else ""
        line = [
            Cell(words[head][place], plain(row[keys[head]]), link if keys[head] == "name" else "") for head in heads
        ]
        rows.append(line + ([_said(published, row["name"])] if published else []))
    numeric = [pd.api.types.is_numeric_dtype(table[keys[head]]) for head in heads] + ([True] if published else [])
    for said in published:
        if said not in set(table["name"]):
            blank = [Cell(said) if head == COLUMNS["name"] else Cell("") for head in heads]
            rows.append([*blank, _said(published, said)])
            kinds.append("published")
    honest = Table(heads + (["published"] if published else []), numeric, rows, kinds)
    charts = []
    for cost, label in (("seconds", "seconds a fit"), ("gflop", "GFLOP an iteration")):
        chart = against(board, cost, label, f"{name}-{cost}", "#genome-")
        charts += [chart] if chart is not None else []
    return Board(
        name,
        "Smoke scale" if board.smoke else PURPOSES[board.purpose],
        caption(board),
        honest,
        _oracle(board),
        _by_picture(board),
        charts,
        {"name": f"{board.task}-{board.purpose}", "columns": [*COLUMNS, "subject"], "rows": _raw(table)},
    )


def _kind(row: dict[Any, Any]) -> str:
    if row["genome"] is None:
        return "baseline"
    named = row["name"] in catalog.names("genomes")
    return "published" if named and not load_genome_file(row["name"]).provenance else "genome"  # else found by a search


def _raw(table: pd.DataFrame) -> list[list[Any]]:
    return [[plain(value) for value in row] for row in table[[*COLUMNS, "subject"]].itertuples(index=False)]


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    return None if math.isnan(number) else int(number) if number.is_integer() else number


def _published(board: Leaderboard, *, oracle: bool) -> dict[str, float]:
    """What was published of a table's rows over the pictures of a board, oracle numbers or the others; none where the
    board is not of a published table as it stands."""
    protocol, precision = board.runs["protocol"].iloc[0], board.setting["recipe"].get("precision", "auto")
    if board.purpose != "reproduce" or board.smoke:
        return {}
    if of_table(board.task, board.preset, protocol, precision) is None:
        return {}
    pictures = set(board.images)
    whole = pictures == set(map(picture_of, expand(list(load_table(board.task).images))))
    said = {row: over(numbers(board.task, row), pictures, whole=whole) for row in rows_of(board.task)}
    return {row: each[0] for row, each in said.items() if each is not None and (each[1] == "oracle") == oracle}


def _said(published: dict[str, float], name: str) -> Cell:
    return Cell(f"{published[name]:.2f}", published[name]) if name in published else Cell("")


def _oracle(board: Leaderboard) -> Table | None:
    table = board.table[board.table["oracle_psnr"].notna() & board.table["rank"].notna()]  # of the same pictures
    if table.empty:
        return None
    published, rows = _published(board, oracle=True), []
    for row in table.sort_values("oracle_psnr", ascending=False).to_dict("records"):
        gap = row["oracle_psnr"] - row["psnr"]
        line = [
            Cell(row["name"], row["name"], f"#genome-{row['subject']}"),
            Cell(f"{row['oracle_psnr']:.2f}", row["oracle_psnr"]),
            Cell(f"{gap:.2f}", gap),
        ]
        rows.append(line + ([_said(published, row["name"])] if published else []))
    heads = ["genome", "oracle PSNR", "above the honest one"] + (["published (oracle)"] if published else [])
    return Table(heads, [False] + [True] * (len(heads) - 1), rows)


def _by_picture(board: Leaderboard) -> Table | None:
    runs = board.runs[board.runs["psnr"].notna()]
    called = runs.groupby("picture")["digest"].nunique()  # other pictures, in other folders, may be called alike
    runs = runs.assign(
        picture=[
            name if called[name] == 1 else f"{name} ({digest[:6]})"
            for name, digest in zip(runs["picture"], runs["digest"], strict=True)
        ]
    )
    pictures = sorted(set(runs["picture"]))
    if len(pictures) < 2 or len(pictures) > 40:
        return None
    mean = runs.pivot_table(index="subject", columns="picture", values="psnr", aggfunc="mean")
    spread = runs.pivot_table(index="subject", columns="picture", values="psnr", aggfunc=lambda each: each.std(ddof=1))
    spread = spread.reindex(index=mean.index, columns=mean.columns)
    rows = []
    for row in board.table.head(200).to_dict("records"):
        if row["subject"] in mean.index:
            link = f"#genome-{row['subject']}" if row["genome"] is not None else ""
            line = [Cell(row["name"], row["name"], link)]
            for picture in pictures:
                value = mean.loc[row["subject"], picture]
                sd = spread.loc[row["subject"], picture]
                word = "" if math.isnan(value) else f"{value:.2f}" + ("" if math.isnan(sd) else f" ± {sd:.2f}")
                line.append(Cell(word, plain(value)))
            rows.append(line)
    return Table(["genome", *pictures], [False] + [True] * len(pictures), rows)
