"""What a report shows, as data: tables of words, boards, genomes, runs, studies. The template only lays it out."""

from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """A word of a table, the value that it is sorted by, and where it leads."""

    word: str
    value: Any = None
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table of words; `numeric` says for each column whether it holds numbers."""

    heads: list[str]
    numeric: list[bool]
    rows: list[list[Cell]]
    kinds: list[str] = field(default_factory=list)  # of rows: genome, published, baseline


@dataclass(frozen=True)
class Board:
    """One protocol's ranking as it is shown: honest numbers, oracle numbers apart, pictures one by one."""

    id: str
    title: str
    caption: str
    honest: Table
    oracle: Table | None
    by_picture: Table | None
    charts: list[Markup]
    data: dict[str, Any]


@dataclass(frozen=True)
class TaskView:
    """A task with its boards."""

    id: str
    name: str
    boards: list[Board]


@dataclass(frozen=True)
class GenomeView:
    """A genome: what it is, what it takes, its runs and its relatives."""

    id: str
    name: str
    summary: str
    facts: dict[str, str]
    text: str
    drawing: Markup | None
    relatives: Table | None
    runs: Table
    shown: list[tuple[str, str, str]]  # picture id, words, link


@dataclass(frozen=True)
class RunView:
    """A run: pictures, curves, numbers, and where it comes from."""

    id: str
    title: str
    genome: str
    pictures: dict[str, str]
    frames: tuple[str, list[str]] | None
    charts: list[Markup]
    honest: dict[str, str]
    oracle: dict[str, str]
    facts: dict[str, str]
    setting: str
    command: str
    missing: str


@dataclass(frozen=True)
class StudyView:
    """A study: how its search went."""

    id: str
    name: str
    facts: dict[str, str]
    charts: list[Markup]
    rungs: Table | None
    reasons: Table | None
    missing: str


@dataclass(frozen=True)
class Gathered:
    """All that a report shows; `pictures` by id, as addresses of data."""

    tasks: list[TaskView]
    genomes: list[GenomeView]
    runs: list[RunView]
    studies: list[StudyView]
    pictures: dict[str, str]
    notes: list[str]
