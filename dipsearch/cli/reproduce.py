"""`dipsearch reproduce`."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from dipsearch.cli import options
from dipsearch.cli.rerun import fit_all


@click.command()
@click.argument("tables", nargs=-1, metavar="TABLE...")
@click.option("--list", "listed", is_flag=True, help="List the tables.")
@click.option(
    "--scale",
    default="full",
    show_default=True,
    type=click.Choice(["full", "smoke"]),
    help="full: the published protocol; smoke: a few iterations, to see that it runs.",
)
@click.option("--picture", "pictures", multiple=True, metavar="NAME", help="Only this picture; may be repeated.")
@click.option("--row", "rows", multiple=True, metavar="NAME", help="Only this row; may be repeated.")
@click.option("--seeds", type=click.IntRange(1), help="Repeats of each picture.  [default: as the table says, 3]")
@options.follow
@options.budget
@options.part
@options.precision
@options.executor
@options.data_dir
@options.seed
@options.device
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(["table", "csv", "md"]))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the table to this file, too.",
)
@options.out
@click.pass_obj
def reproduce(
    command: str,
    tables: tuple[str, ...],
    listed: bool,
    scale: str,
    pictures: tuple[str, ...],
    rows: tuple[str, ...],
    seeds: int | None,
    followed: dict[str, str],
    budget: float,
    part: tuple[int, int],
    precision: str | None,
    where: options.Where,
    seed: int,
    device: str,
    form: str,
    output: Path | None,
    out: Path,
) -> int:
    """Run published tables again, and print published and own numbers side by side.

    Each TABLE is a name (--list), or a YAML file. Fits that exist are not repeated, so the same command goes on after
    an interruption; with --budget 0 it only shows what there is.
    """
    import time

    from dipsearch.catalog import described
    from dipsearch.error import UsageError

    if listed or not tables:
        for name, about in described("tables").items():
            click.echo(f"{name:<18}{about}")
        click.echo(
            "Lab 2, first requirement: dipsearch figure noise-impedance; all figures: dipsearch figure --list", err=True
        )
        if listed:
            return 0
        raise UsageError("which table? Give one of these names")

    from dipsearch.atomic import write_atomically
    from dipsearch.cli.terminal import going_on, reporting
    from dipsearch.report.reproduction import FORMATS
    from dipsearch.reproduce.outcome import outcome
    from dipsearch.reproduce.table import load_table, plan
    from dipsearch.run import RunStore
    from dipsearch.search.evaluation import Protocol
    from dipsearch.search.rerun import Rerun
    from dipsearch.task import load_task

    if output is not None and len(tables) > 1:
        raise UsageError("--output: a file for one table, but there are several")
    planned = [  # of all, so that a wrong name is told before a fit
        plan(
            load_table(table),
            scale,
            sides=followed,
            pictures=list(pictures),
            rows=list(rows),
            seeds=seeds,
            precision=precision,
        )
        for table in tables
    ]
    until, failures, text = time.monotonic() + budget, list[str](), ""
    with where() as executor:
        for each in planned:
            protocol = Protocol(each.task, each.effort, scale, "reproduce", each.task.recipe, device)
            store, base = RunStore(out / "runs"), load_task(each.table.task).name
            work = Rerun(protocol, each.candidates, store, seed, each.effort.seeds, part, executor, base)
            if budget:
                with reporting() as reporter, going_on(reporter, command):
                    failures += fit_all(reporter, work, command, max(0.0, until - time.monotonic()))
            store.look_again()  # other parts may have been at work
            text = FORMATS[form](outcome(each, work))
            click.echo(text, nl=False)
    if output is not None:
        again = _command(
            tables[0], scale, picture=pictures, row=rows, follow=[f"{name}={side}" for name, side in followed.items()],
            seeds=[str(seeds)] if seeds else [], seed=[str(seed)] if seed else [],
            precision=[precision] if precision else [],
        )  # fmt: skip
        told = f"{text}- Made by `{again}`.\n" if form == "md" else text
        write_atomically(output, lambda temporary: temporary.write_text(told, encoding="utf-8"))
    return 1 if failures else 0


def _command(table: str, scale: str, **options: Sequence[str]) -> str:
    """The command that makes a table, without what differs from machine to machine."""
    words = ["dipsearch", "reproduce", table, *(["--scale", scale] if scale != "full" else [])]
    for name, values in options.items():
        words += [word for value in values for word in (f"--{name}", str(value))]
    return shlex.join(words)
