"""Options that several commands share, and the leaderboard that several print."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dipsearch.leaderboard import Scope

INTERRUPTED = 130  # exit code after Ctrl-C
RESULTS = Path("results")

out = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=RESULTS,
    show_default=True,
    help="Folder of studies and runs.",
)
task = click.option("--task", "task_name", required=True, metavar="NAME", help="A task: a name, or a YAML file.")
seed = click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**31 - 1),
    help="Everything random is drawn from it.",
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    help="Where fits run.",
)
iterations = click.option("--iterations", type=click.IntRange(1), help="Of a full fit, in place of the preset's.")
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="What networks compute in; auto: the faster on this machine.  [default: auto]",
)


def _use_folder(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    from dipsearch.dataset import VARIABLE

    if value is not None:
        os.environ[VARIABLE] = str(value)  # other processes of this command read it, too


data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    expose_value=False,
    callback=_use_folder,
    help="Folder of data sets.  [default: $DIPSEARCH_DATA, or a folder of your cache]",
)


def images(which: str) -> Callable[[Any], Any]:
    """`--images`: other pictures than the task's."""
    text = f"Pictures or folders in place of the task's {which} images; may be repeated."
    return click.option("--images", multiple=True, metavar="PATH", help=text)


def program() -> str:
    """How this program was called, for the commands that it prints."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m dipsearch"
    if called.suffix == ".py":
        return f"python {shlex.quote(sys.argv[0])}"
    found = shutil.which(called.name)
    return called.name if found and called.exists() and Path(found).samefile(called) else shlex.quote(sys.argv[0])


def following(words: str, folder: Path, device: str = "auto") -> str:
    """A command to come next, with what it has to repeat of the one that prints it."""
    where = "" if folder == RESULTS else f" --out {shlex.quote(str(folder))}"
    return f"  {program()} {words}{where}" + ("" if device == "auto" else f" --device {device}")


def print_leaderboard(
    folder: Path,
    task: str,
    purpose: str,
    form: str = "table",
    *,
    preset: str | None = None,
    scope: "Scope | None" = None,
    limit: int | None = None,
    front: str | None = None,
) -> None:
    """Print a leaderboard to standard output; with `limit`, its first rows; with the Pareto front of a cost marked."""
    from dataclasses import replace

    from dipsearch.leaderboard import leaderboard, with_front
    from dipsearch.report.text import FORMATS
    from dipsearch.run import RunStore

    board = leaderboard(RunStore(folder / "runs"), task, purpose=purpose, preset=preset, scope=scope)
    if front is not None:
        board = replace(board, table=with_front(board.table, front))
    if limit is not None:
        board = replace(board, table=board.table.head(limit))
    click.echo(FORMATS[form](board), nl=False)
