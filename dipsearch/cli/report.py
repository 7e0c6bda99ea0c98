"""`dipsearch report`."""

from pathlib import Path

import click

from dipsearch.cli import options


@click.command()
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task or table; may be repeated.")
@click.option("--title", default="dipsearch report", show_default=True)
@click.option(
    "--pictures",
    default=6.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Megabytes of pictures at most, the best genomes' first.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="[default: OUT/report.html]")
@options.out
@click.pass_obj
def report(command: str, tasks: tuple[str, ...], title: str, pictures: float, output: Path | None, out: Path) -> None:
    """Make one HTML page of runs and studies: it loads nothing, and opens anywhere."""
    import math

    from dipsearch.atomic import write_atomically
    from dipsearch.error import UsageError
    from dipsearch.report.html import page

    if not math.isfinite(pictures):
        raise UsageError(f"--pictures {pictures}: no number of megabytes")
    path = output or out / "report.html"
    text = page(out, list(tasks), command, title=title, pictures=round(pictures * 1e6))
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    click.echo(f"written: {path} ({len(text.encode()) / 1e6:.1f} MB)")
