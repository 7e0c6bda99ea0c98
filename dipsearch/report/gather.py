"""Everything that a report shows, gathered from the runs and studies in a folder."""

from pathlib import Path
from typing import Any

from dipsearch.error import UsageError
from dipsearch.leaderboard import Leaderboard, leaderboard
from dipsearch.report.album import Album
from dipsearch.report.boards import PURPOSES, view_board
from dipsearch.report.pages import Pages
from dipsearch.report.studies import view_study
from dipsearch.report.views import Gathered, TaskView
from dipsearch.run import RunStore, hashed


class _Remembering(RunStore):
    """A store that reads each task once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._loaded: dict[str, tuple[list[dict[str, Any]], list[Path]]] = {}

    def load(self, task: str) -> tuple[list[dict[str, Any]], list[Path]]:
        if task not in self._loaded:
            self._loaded[task] = super().load(task)
        return self._loaded[task]


def gather(out: Path, tasks: list[str], budget: int) -> Gathered:
    """Everything that a report of a folder shows.

    Args:
        out: with runs/ and studies/.
        tasks: only these; all where there are none.
        budget: bytes of pictures.

    Raises:
        UsageError: there is nothing to show.
    """
    store, album = _Remembering(out / "runs"), Album(budget)
    found = sorted(path.name for path in store.root.glob("*") if path.is_dir())
    for task in tasks:
        if task not in found:
            raise UsageError(f"no runs of task {task!r} under {store.root}; there are: {', '.join(found) or 'none'}")
    boards = {task: _boards(store, task) for task in tasks or found}
    boards = {task: made for task, made in boards.items() if made}
    studies = [view_study(path.parent) for path in sorted((out / "studies").glob("*/study.db"))]
    if not boards and not studies:
        raise UsageError(f"no runs and no studies under {out}; make some with: dipsearch search, rerun or reproduce")
    pages = Pages(store, album, boards)
    for board in (board for made in boards.values() for board in made):
        pages.add_runs(board)  # before genomes, whose pages show and name them
    for made in boards.values():
        pages.add_genomes(made)
    views = [
        TaskView(f"task-{hashed(task)}", task, [view_board(board) for board in made]) for task, made in boards.items()
    ]
    genomes, runs = list(pages.genomes.values()), list(pages.runs.values())
    return Gathered(views, genomes, runs, studies, album.pictures, pages.notes())


def _boards(store: RunStore, task: str) -> list[Leaderboard]:
    made = []
    for purpose in PURPOSES:
        try:
            made.append(leaderboard(store, task, purpose=purpose))
        except UsageError:
            continue
    return made
