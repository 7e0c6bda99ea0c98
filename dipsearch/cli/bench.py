"""`dipsearch bench`: make DIPBench, and replay searches on it."""

import os
from pathlib import Path
from typing import Any

import click

from dipsearch.cli import options

FOLDER = Path("results/dipbench")
SAME = 0.15  # dB
folder = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=FOLDER,
    show_default=True,
    help="Of the tables.",
)


@click.group("bench")
def bench_group() -> None:
    """DIPBench: learning curves of hundreds of genomes as tables, and whole searches replayed on them."""


@bench_group.command("collect")
@options.task
@options.budget
@options.part
@options.executor
@folder
def collect(task_name: str, budget: float, part: tuple[int, int], where: options.Where, folder: Path) -> int:
    """Fit what is missing in a task's table, for as long as the budget allows, and pack the table.

    Goes on where it was interrupted. Parts may run at once, also on several machines: copy their files into
    one folder, and the next call packs them.
    """
    from dipsearch.bench.collect import collect as collect_rows
    from dipsearch.bench.table import pack
    from dipsearch.cli.terminal import reporting

    with where() as executor, reporting() as reporter:

        def watch(done: int, total: int, row: dict[str, Any]) -> None:
            reporter.update(done, total, f"fit {done}/{total}  {row['name']}  {row['status']}")

        missing = collect_rows(folder, task_name, part=part, budget=budget, watch=watch, executor=executor)
    table = pack(folder, task_name)
    click.echo(f"{len(table)} rows; {missing} of this part are missing")
    return 0


@bench_group.command("check")
@options.task
@click.option("--rows", default=10, show_default=True, type=click.IntRange(1), help="How many.")
@options.seed
@folder
def check(task_name: str, rows: int, seed: int, folder: Path) -> int:
    """Make rows of a task's table again, drawn at random, and compare.

    Exit code 1 where one differs by more than 0.15 dB: another machine rounds otherwise, and long fits spread.
    """
    from dipsearch.bench.check import check as check_rows
    from dipsearch.cli.terminal import reporting
    from dipsearch.report.text import aligned

    with reporting() as reporter:
        watch = lambda done: reporter.update(done, rows, f"fit {done}/{rows}")  # noqa: E731
        found = check_rows(folder, task_name, rows=rows, seed=seed, watch=watch)
    shown = found.assign(**{name: found[name].map("{:.4f}".format) for name in ("psnr", "again", "difference")})
    click.echo(aligned(shown, ("name", "image")))
    return 0 if (found["difference"].abs() <= SAME).all() else 1


@bench_group.command("replay")
@options.task
@click.option("--sampler", multiple=True, help="Replay these samplers only; may be repeated.  [default: all]")
@click.option("--pruner", multiple=True, help="With these pruners only; may be repeated.  [default: all]")
@click.option("--repeats", default=100, show_default=True, type=click.IntRange(1), help="Seeds of each search.")
@click.option("--fits", default=64, show_default=True, type=click.IntRange(1), help="Full fits of the random search.")
@folder
def replay(
    task_name: str, sampler: tuple[str, ...], pruner: tuple[str, ...], repeats: int, fits: int, folder: Path
) -> int:
    """Replay whole searches on a task's table: how soon they find what random search finds with many full fits."""
    from dipsearch.bench.replay import compare, curves, plans
    from dipsearch.cli.terminal import reporting
    from dipsearch.report.dipbench import replays

    chosen, found = plans(sampler, pruner), curves(folder, task_name)
    with reporting() as reporter:
        watch = lambda done, total: reporter.update(done, total, f"search {done}/{total}")  # noqa: E731
        table = compare(found, chosen, repeats=repeats, fits=fits, processes=os.cpu_count() or 1, watch=watch)
    click.echo(replays(table))
    return 0


@bench_group.command("report")
@folder
@click.option(
    "--repeats",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    help="Seeds of the default search; a tenth of them of the others.",
)
def report(folder: Path, repeats: int) -> int:
    """Write what the tables say into README.md beside them: replays and rank correlations of each task."""
    from dipsearch.cli.terminal import reporting
    from dipsearch.report.dipbench import write_report

    with reporting() as reporter:
        watch = lambda task, done, total: reporter.update(done, total, f"{task}: search {done}/{total}")  # noqa: E731
        path = write_report(folder, repeats=repeats, processes=os.cpu_count() or 1, watch=watch)
    click.echo(f"wrote {path}")
    return 0
