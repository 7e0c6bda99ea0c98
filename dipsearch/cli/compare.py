"""`dipsearch compare`."""

from pathlib import Path

import click

from dipsearch.cli import options
from dipsearch.cli.figure import watch_all


@click.command()
@click.argument("genomes", nargs=-1)
@click.option("--task", "task_name", metavar="NAME", help="A task: a name, or a YAML file.")
@click.option("--table", metavar="NAME", help="In place of a task, a published table: a name, or a YAML file.")
@click.option("--preset", help="Of a task: the preset of its re-runs.  [default: quick]")
@click.option("--picture", "pictures", multiple=True, metavar="NAME", help="In place of the task's; may be repeated.")
@options.shrink
@click.option("--size", type=click.IntRange(16, 4096), help="Pixels a side, around the centre.")
@options.follow
@options.iterations
@options.budget
@options.data_dir
@options.seed
@options.device
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that ends in .png, .svg or .pdf.  [default: OUT/figures/compare-NAME.png]",
)
@options.out
@click.pass_obj
def compare(
    command: str,
    genomes: tuple[str, ...],
    task_name: str | None,
    table: str | None,
    preset: str | None,
    pictures: tuple[str, ...],
    shrink: int | None,
    size: int | None,
    followed: dict[str, str],
    iterations: int | None,
    budget: float,
    seed: int,
    device: str,
    output: Path | None,
    out: Path,
) -> int:
    """Restore the pictures of a task or a table with several GENOMES, and draw them side by side.

    With a table, its own genomes where none are given. Fits are kept under OUT/figures, so that the same
    command goes on after an interruption.
    """
    import time
    from itertools import islice

    from dipsearch.cli.terminal import going_on, reporting
    from dipsearch.error import FitError, UsageError
    from dipsearch.report.figure import check_picture
    from dipsearch.report.panels import draw_cells
    from dipsearch.reproduce.comparison import row, traces
    from dipsearch.reproduce.table import load_table, plan
    from dipsearch.search.evaluation import Protocol
    from dipsearch.search.rerun import Candidate, named_genomes
    from dipsearch.task import choose_effort, load_task

    if table is not None and task_name is not None:
        raise UsageError("--task and --table: the pictures of one of them")
    chosen = named_genomes(list(genomes))
    if table is not None:
        if preset is not None:
            raise UsageError("--preset: of a task; a table has its own sizes and budgets")
        planned = plan(load_table(table), sides=followed)
        task, effort, candidates = planned.task, planned.effort, chosen or planned.candidates
    elif task_name is not None:
        if followed:
            raise UsageError("--follow: for a published table; a task has no other side")
        task = load_task(task_name)
        effort, candidates = choose_effort(task.rerun, preset or "quick"), chosen
    else:
        raise UsageError("which pictures? Give --task or --table")
    path = output or out / "figures" / f"compare-{task.name}.png"
    check_picture(path)
    if not candidates:
        raise UsageError("which genomes? Name some: dipsearch list genomes")
    effort = effort.changed(shrink=shrink, size=size)
    recipe = task.recipe_for(effort)
    if iterations is not None:
        recipe = recipe.model_copy(update={"iterations": iterations})
        candidates = {
            name: Candidate(each.genome, {gene: value for gene, value in each.changes.items() if gene != "iterations"})
            for name, each in candidates.items()
        }
    protocol = Protocol(task, effort, preset or "quick", "compare", recipe, device)
    images = list(pictures) or list(task.images.evaluation[: effort.images])
    until = time.monotonic() + budget
    made = [(each, traces(protocol, candidates, each)) for each in protocol.observe(images, seed=seed, repeats=1)]
    with reporting() as reporter, going_on(reporter, command):
        named = [(f"{trace.label} on {instance.image}", trace) for instance, fits in made for trace in fits]
        ended = watch_all(reporter, named, out / "figures" / "fits", until=until, device=device)
    watched = iter(ended)
    rows = [row(instance, fits, list(islice(watched, len(fits))), task.metric) for instance, fits in made]
    draw_cells(rows, path)
    click.echo(f"written: {path}")
    return 1 if any(isinstance(each, FitError) for each in ended) else 0
