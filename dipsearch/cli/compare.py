"""`dipsearch compare`."""

from pathlib import Path

import click

from dipsearch.cli import options


@click.command()
@click.argument("genomes", nargs=-1)
@click.option(
    "--task", "task_name", required=True, metavar="NAME", help="A task, or a published table: a name, or a YAML file."
)
@click.option("--preset", default="quick", show_default=True, help="Of a task: the preset of its re-runs.")
@click.option("--picture", "pictures", multiple=True, metavar="NAME", help="In place of the task's; may be repeated.")
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
    task_name: str,
    preset: str,
    pictures: tuple[str, ...],
    iterations: int | None,
    budget: float,
    seed: int,
    device: str,
    output: Path | None,
    out: Path,
) -> int:
    """Restore pictures with several GENOMES, and draw them side by side.

    Of a published table, its own genomes where none are given. Fits are kept under OUT/figures, so that the same
    command goes on after an interruption.
    """
    import time

    from dipsearch import catalog
    from dipsearch.cli.terminal import going_on, reporting
    from dipsearch.error import UsageError
    from dipsearch.report.figure import check_picture
    from dipsearch.report.panels import draw_cells
    from dipsearch.reproduce.comparison import row, traces
    from dipsearch.reproduce.table import load_table, plan
    from dipsearch.reproduce.trace import watch
    from dipsearch.search.evaluation import Protocol
    from dipsearch.search.rerun import Candidate, named_genomes
    from dipsearch.task import choose_effort, load_task

    stem = catalog.stem("tasks", task_name)
    path = output or out / "figures" / f"compare-{stem}.png"
    check_picture(path)
    chosen = named_genomes(list(genomes))
    if stem in catalog.names("tables"):
        planned = plan(load_table(task_name))
        task, effort, candidates = planned.task, planned.effort, chosen or planned.candidates
    else:
        task = load_task(task_name)
        effort, candidates = choose_effort(task.rerun, preset), chosen
    if not candidates:
        raise UsageError("which genomes? Name some: dipsearch list genomes")
    recipe = task.recipe_for(effort)
    if iterations is not None:
        recipe = recipe.model_copy(update={"iterations": iterations})
        candidates = {
            name: Candidate(each.genome, {gene: value for gene, value in each.changes.items() if gene != "iterations"})
            for name, each in candidates.items()
        }
    protocol = Protocol(task, effort, preset, "compare", recipe, device)
    images = list(pictures) or list(task.images.evaluation[: effort.images])
    until, rows = time.monotonic() + budget, []
    with reporting() as reporter, going_on(reporter, command):
        for instance in protocol.observe(images, seed=seed, repeats=1):
            made, watched = traces(protocol, candidates, instance), []
            for trace in made:
                tell = lambda at, trace=trace, instance=instance: reporter.update(  # noqa: E731
                    at, trace.recipe.iterations, f"{trace.label} on {instance.image}: iteration {at}"
                )
                watched.append(watch(trace, out / "figures" / "fits", until=until, device=device, tell=tell))
            rows.append(row(instance, made, watched, task.metric))
    draw_cells(rows, path)
    click.echo(f"written: {path}")
    return 0
