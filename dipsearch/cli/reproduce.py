"""`dipsearch reproduce`."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from dipsearch.cli import options
from dipsearch.cli.rerun import fit_all


@click.command()
@click.argument("table", required=False)
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
    table: str | None,
    listed: bool,
    scale: str,
    pictures: tuple[str, ...],
    rows: tuple[str, ...],
    seeds: int | None,
    followed: dict[str, str],
    budget: float,
    part: tuple[int, int],
    precision: str | None,
    seed: int,
    device: str,
    form: str,
    output: Path | None,
    out: Path,
) -> int:
    """Run a published table again, and print published and own numbers side by side.

    TABLE is a name (--list), or a YAML file. Fits that exist are not repeated, so the same command goes on after an
    interruption; with --budget 0 it only shows what there is.
    """
    from dipsearch import catalog
    from dipsearch.atomic import write_atomically
    from dipsearch.cli.terminal import reporting
    from dipsearch.error import UsageError
    from dipsearch.report.reproduction import FORMATS
    from dipsearch.reproduce.outcome import outcome
    from dipsearch.reproduce.table import load_table, plan
    from dipsearch.run import RunStore
    from dipsearch.search.evaluation import Protocol
    from dipsearch.search.rerun import Rerun

    if listed or table is None:
        for name in catalog.names("tables"):
            click.echo(f"{name:<18}{load_table(name).about}")
        click.echo(
            "Lab 2, first requirement: dipsearch figure noise-impedance; all figures: dipsearch figure --list", err=True
        )
        if listed:
            return 0
        raise UsageError("which table? Give one of these names")
    planned = plan(
        load_table(table),
        scale,
        sides=followed,
        pictures=list(pictures),
        rows=list(rows),
        seeds=seeds,
        precision=precision,
    )
    protocol = Protocol(planned.task, planned.effort, scale, "reproduce", planned.task.recipe, device)
    work = Rerun(protocol, planned.candidates, RunStore(out / "runs"), seed, planned.effort.seeds, part)
    with reporting() as reporter:
        try:
            failures = fit_all(reporter, work, command, budget) if budget else []
        except KeyboardInterrupt:
            reporter.line(f"\ninterrupted; what is done is kept. Go on with:\n  {command}")
            return options.INTERRUPTED
    made = outcome(planned, work)
    text = FORMATS[form](made)
    if output is not None:
        again = _command(
            table, scale, picture=pictures, row=rows, follow=[f"{name}={side}" for name, side in followed.items()],
            seeds=[str(seeds)] if seeds else [], seed=[str(seed)] if seed else [],
            precision=[precision] if precision else [],
        )  # fmt: skip
        told = f"{text}- Made by `{again}`.\n" if form == "md" else text
        write_atomically(output, lambda temporary: temporary.write_text(told, encoding="utf-8"))
    click.echo(text, nl=False)
    return 1 if failures else 0


def _command(table: str, scale: str, **options: Sequence[str]) -> str:
    """The command that makes a table, without what differs from machine to machine."""
    words = ["dipsearch", "reproduce", table, *(["--scale", scale] if scale != "full" else [])]
    for name, values in options.items():
        words += [word for value in values for word in (f"--{name}", str(value))]
    return shlex.join(words)
