"""Options that several commands share, and the leaderboard that several print."""

import functools
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from dipsearch.error import UsageError
from dipsearch.run import RESULTS, out_option

if TYPE_CHECKING:
    from dipsearch.leaderboard import Scope

Where = Callable[[], AbstractContextManager[Any]]  # opens an Executor
INTERRUPTED = 130  # exit code after Ctrl-C

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
shrink = click.option(
    "--shrink", type=click.IntRange(1, 16), help="Squares of so many pixels a side become one, their mean."
)
iterations = click.option("--iterations", type=click.IntRange(1), help="Of a full fit, in place of the preset's.")
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="What networks compute in; auto: the faster on this machine.  [default: auto]",
)


class Duration(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """Seconds, or a number with a unit: 90, 90s, 9m, 2h; `positive`: more than none."""

    name = "duration"
    units: ClassVar = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def __init__(self, *, positive: bool = False) -> None:
        self.positive = positive

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """To seconds."""
        if isinstance(value, int | float):
            return float(value)
        text, unit = (value[:-1], self.units[value[-1]]) if value and value[-1] in self.units else (value, 1)
        try:
            seconds = float(text) * unit
        except ValueError:
            seconds = -1.0
        if self.positive and seconds == 0:
            self.fail("no time at all; leave it out instead", parameter, context)
        if not 0 <= seconds < float("inf"):
            self.fail(f"{value!r}: write seconds, or a number with s, m, h or d, such as 9m", parameter, context)
        return seconds


class Part(click.ParamType):  # type: ignore[type-arg]
    """`K/N`: part K of N, counted from 0."""

    name = "part"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[int, int]:
        """To two numbers."""
        if isinstance(value, tuple):
            return value
        index, _, count = value.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            self.fail(f"{value!r}: write K/N with K from 0 to N-1", parameter, context)
        return int(index), int(count)


budget = click.option(
    "--budget",
    type=Duration(),
    default=float("inf"),
    metavar="TIME",
    help="Stop after this time (90, 9m, 2h); the same command goes on.  [default: none]",
)
part = click.option(
    "--part",
    type=Part(),
    default="0/1",
    show_default=True,
    metavar="K/N",
    help="Only part K of N, from 0, of the fits; parts may run at once.",
)


class Share(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """Of GPUs, as Ray gives them: whole ones, or a share of one."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = click.FLOAT.convert(value, param, ctx)
        if not (number == 0 or 1e-4 <= number <= 1 or (number > 1 and number.is_integer())):
            self.fail(f"{value}: a whole number of GPUs, or a share of one from 0.0001 to 1", param, ctx)
        return float(number)


def executor(command: Callable[..., int]) -> Callable[..., int]:
    """`--workers`, `--ray` and what each fit takes of them; the command is given `where`, which opens it."""

    @click.option("--workers", type=click.IntRange(1), metavar="N", help="Fits at once, in processes.  [default: 1]")
    @click.option(
        "--ray",
        metavar="ADDRESS",
        help="Fit on a Ray cluster: its address; auto: that of this machine; local: a new one.",
    )
    @click.option(
        "--cpus-per-fit", "cpus", type=click.IntRange(1), help="Threads of each fit, with these two.  [default: 1]"
    )
    @click.option("--gpus-per-fit", "gpus", type=Share(), default=0, help="With --ray; 0.25: four fits on one GPU.")
    @functools.wraps(command)
    def wrapped(*given: Any, workers: int | None, ray: str | None, cpus: int | None, gpus: float, **named: Any) -> int:
        if cpus is not None and workers is None and ray is None:
            raise UsageError("--cpus-per-fit: with --workers or --ray")
        if gpus and ray is None:
            raise UsageError("--gpus-per-fit: with --ray")

        def where() -> AbstractContextManager[Any]:
            from dipsearch.search.executor import opened  # brings torch, which takes seconds

            return opened(workers, ray, cpus or 1, gpus)

        return command(*given, where=where, **named)

    return wrapped


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


def _sides(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for text, (_, equals, _) in zip(values, pairs, strict=True):
        if not equals:
            raise click.BadParameter(f"{text!r}: write NAME=paper or NAME=code")
    return {name: side for name, _, side in pairs}


follow = click.option(
    "--follow",
    "followed",
    multiple=True,
    callback=_sides,
    metavar="NAME=SIDE",
    help="Of a table, where paper and code differ: paper or code; may be repeated.  [default: paper]",
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
    where = "".join(f" {shlex.quote(word)}" for word in out_option(folder))
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
    front: Sequence[str] = (),
) -> None:
    """Print a leaderboard to standard output; with `limit`, its first rows; with the Pareto front of costs marked."""
    from dataclasses import replace

    from dipsearch.leaderboard import leaderboard, with_front
    from dipsearch.report.text import FORMATS
    from dipsearch.run import RunStore

    board = leaderboard(RunStore(folder / "runs"), task, purpose=purpose, preset=preset, scope=scope)
    if front:
        board = replace(board, table=with_front(board.table, front))
    if limit is not None:
        board = replace(board, table=board.table.head(limit))
    click.echo(FORMATS[form](board), nl=False)
