"""`dipsearch status` and `dipsearch doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipsearch.cli import options
from dipsearch.error import UsageError

if TYPE_CHECKING:
    from dipsearch.search.status import Status


@click.command()
@click.argument("study")
@options.out
def status(study: str, out: Path) -> None:
    """Say what a search does, from another terminal: what runs, what is done, the best so far, and how long it takes.

    STUDY is a study's name, or a folder with a study.db.
    """
    from dipsearch.search.evidence import find_study
    from dipsearch.search.status import status as look

    click.echo("\n".join(_lines(look(find_study(out / "studies", study)))))


def _lines(now: "Status") -> list[str]:
    from dipsearch.cli.terminal import duration

    of = "" if now.wanted is None else f" of {now.wanted}"
    kinds = {"whole": now.whole, "estimated": now.estimated, "pruned": now.pruned}
    parts = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    lines = [f"study {now.name}: {now.done}{of} trials are done{f' ({parts})' if parts else ''}"]
    if now.failed:
        lines.append(f"{now.failed} were interrupted; they run again")
    if now.best is not None:
        lines.append(f"best {now.best[1]:.2f} dB, trial {now.best[0] + 1}")
    if now.per_hour is not None:
        left = f", {duration(now.left)} left" if now.at_work and now.left else ""
        lines.append(f"{now.per_hour:.0f} trials an hour{left}")
    said = {
        True: "a search is at work",
        False: "no search is at work",
        None: "whether a search is at work is not known",
    }
    lines.append(said[now.at_work])
    stale = "" if now.at_work is not False else "  (stale: runs again with --resume)"
    for number, what, seconds, host in now.running:
        lines.append(f"  trial {number + 1}  {what}  {duration(seconds)}{f' on {host}' if host else ''}{stale}")
    return lines


@click.command()
@options.out
def doctor(out: Path) -> int:
    """Look for what is wrong under a folder of results: stale trials, torn files, runs of several versions.

    Exit code 1 where something is.
    """
    from dipsearch.search.status import ailments

    if not out.is_dir():
        raise UsageError(f"{out}: no such folder")
    found = ailments(out)
    click.echo("\n".join(found) if found else "nothing is wrong")
    return 1 if found else 0
