"""Published numbers: one data file, each number with its source and with how its iteration was chosen."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

STOPS = {
    "fixed": "after a fixed number of iterations",
    "oracle": "at the iteration that the clean picture picked",
    "none": "without iterations",
    "unknown": "at an iteration whose choice is not stated",
}


@dataclass(frozen=True)
class Published:
    """One number: PSNR in dB of a row of a table, for a picture or (empty) the mean over all of the table's."""

    table: str
    row: str
    picture: str
    psnr: float
    stop: str
    source: str


@cache
def published() -> tuple[Published, ...]:
    """All of them, in the order of the file."""
    text = (files("dipsearch") / "published.csv").read_text(encoding="utf-8")
    return tuple(
        Published(row["table"], row["row"], row["picture"], float(row["psnr"]), row["stop"], row["source"])
        for row in csv.DictReader(text.splitlines())
    )


def numbers(table: str, row: str) -> dict[str, Published]:
    """Those of a row, by picture; the mean under the empty name."""
    return {each.picture: each for each in published() if (each.table, each.row) == (table, row)}


def over(said: dict[str, Published], pictures: set[str], *, whole: bool) -> tuple[float, str] | None:
    """What was published of a row over some pictures, and how its iterations were chosen: the table's mean, where they
    are all of its pictures (`whole`), or the mean of the number of each. None where that is not known."""
    if whole and "" in said:
        return said[""].psnr, said[""].stop
    if pictures and pictures <= said.keys():
        return sum(said[each].psnr for each in sorted(pictures)) / len(pictures), said[min(pictures)].stop
    return None


def rows_of(table: str) -> list[str]:
    """The rows of a table that have a published number, in the order of the file."""
    return list(dict.fromkeys(each.row for each in published() if each.table == table))
