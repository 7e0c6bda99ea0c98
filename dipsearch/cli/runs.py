"""`dipsearch runs`."""

from pathlib import Path

import click

from dipsearch.cli import options

parcel = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group(name="runs")
def runs_group() -> None:
    """Take runs from one machine to another."""


@runs_group.command("pack")
@parcel
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only of this task or table; may be repeated.")
@click.option("--unfinished", is_flag=True, help="Interrupted fits, too, which go on elsewhere then; they are large.")
@options.out
def pack(file: Path, tasks: tuple[str, ...], unfinished: bool, out: Path) -> None:
    """Write records and curves into one FILE.tar.xz, without pictures."""
    from dipsearch.parcel import pack as pack_runs
    from dipsearch.run import RunStore

    packed = pack_runs(RunStore(out / "runs"), file, list(tasks), unfinished=unfinished)
    begun = f" and {packed.unfinished} unfinished fits" if packed.unfinished else ""
    click.echo(f"{packed.runs} runs{begun}, {file.stat().st_size / 1024:.0f} KiB: {file}")


@runs_group.command("merge")
@parcel
@options.out
def merge(file: Path, out: Path) -> int:
    """Add the runs of a FILE that this folder does not hold."""
    from dipsearch.parcel import merge as merge_runs
    from dipsearch.run import RunStore

    merged = merge_runs(RunStore(out / "runs"), file)
    begun = f"; {merged.unfinished} unfinished fits, which go on" if merged.unfinished else ""
    click.echo(f"{merged.new} new, {merged.known} were there{begun}")
    if merged.unreadable:
        click.echo(f"{merged.unreadable} entries are no runs of this version", err=True)
    return 1 if merged.unreadable else 0
