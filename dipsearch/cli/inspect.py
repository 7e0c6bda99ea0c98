"""Commands that only look: `leaderboard`, `explain`, `list`, `show`, `export`."""

from pathlib import Path

import click

from dipsearch.cli import options


@click.command()
@options.task
@click.option(
    "--by",
    "purpose",
    default="rerun",
    show_default=True,
    type=click.Choice(["rerun", "search"]),
    help="Full fits on the evaluation images, or proxy fits of the search.",
)
@click.option("--preset", help="Only runs of this preset.")
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(["table", "csv", "json", "md"]))
@click.option(
    "--front",
    type=click.Choice(["gflop", "parameters", "seconds"]),
    help="Mark the Pareto front with this cost.",
)
@options.out
def leaderboard(task_name: str, purpose: str, preset: str | None, form: str, front: str | None, out: Path) -> None:
    """Rank genomes, the published network and the baselines, with honest and oracle numbers side by side."""
    options.print_leaderboard(out, task_stem(task_name), purpose, form, preset=preset, front=[front] if front else [])


@click.command()
@click.argument("study")
@click.option("--by-level", is_flag=True, help="List each level of a per-level gene; otherwise they are pooled.")
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(["table", "csv", "json", "md"]))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw it, too: a file that ends in .png, .svg or .pdf.",
)
@options.seed
@options.out
def explain(study: str, by_level: bool, form: str, output: Path | None, seed: int, out: Path) -> None:
    """Say which genes of a study matter: their importance, and what each choice goes with.

    STUDY is a study's name, or a folder with a study.db. A search may be at work on it.
    """
    from dipsearch.report.explanation import FORMATS
    from dipsearch.report.figure import check_picture, draw
    from dipsearch.search.evidence import find_study
    from dipsearch.search.explain import explain as explain_study

    if output is not None:
        check_picture(output)
    told = explain_study(find_study(out / "studies", study), by_level=by_level, seed=seed)
    if output is not None:
        draw(told, output)
    click.echo(FORMATS[form](told), nl=False)
    if output is not None:
        click.echo(f"written: {output}", err=True)


@click.group(name="export")
def export_group() -> None:
    """Write out what was found."""


@export_group.command(name="genome")
@click.argument("name")
@options.task
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A YAML file.  [default: standard output]",
)
@options.out
def export_genome(name: str, task_name: str, output: Path | None, out: Path) -> None:
    """Write a genome as YAML, with where it was found and how it was judged.

    NAME is what the leaderboard calls it. The file serves wherever a genome is asked for.
    """
    from dipsearch.atomic import write_atomically
    from dipsearch.catalog import dump_yaml
    from dipsearch.provenance import found_genome
    from dipsearch.run import RunStore

    text = dump_yaml(found_genome(RunStore(out / "runs"), task_stem(task_name), name))
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomically(output, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        click.echo(f"written: {output}", err=True)


@click.command(name="list")
@click.argument("kind", type=click.Choice(["spaces", "tasks", "genomes", "operators", "datasets", "tables"]))
def list_command(kind: str) -> None:
    """List what can be named: spaces (with their size and source), tasks, genomes, operators, data sets or
    published tables."""
    if kind == "operators":
        from dipsearch.operator import OPERATORS

        rows = {name: (operator.__doc__ or "").splitlines()[0] for name, operator in OPERATORS.items()}
    elif kind == "spaces":
        from dipsearch.catalog import names
        from dipsearch.space import load_space

        spaces = {name: load_space(name) for name in names("search_spaces")}
        rows = {name: f"{space.size():>9.1e}  {space.about}; {space.source}" for name, space in spaces.items()}
    else:
        from dipsearch.catalog import described

        rows = described(kind)
    width = max(map(len, rows), default=0)
    for name, about in rows.items():
        click.echo(f"{name:<{width}}  {about}")


@click.group()
def show() -> None:
    """Show one thing in full."""


@show.command(name="genome")
@click.argument("name")
@click.option("--size", default=256, show_default=True, type=click.IntRange(16), help="Pixels a side for the cost.")
def show_genome(name: str, size: int) -> None:
    """Print a genome's tree, parameters, GFLOP per iteration and memory. NAME is a name or a YAML file."""
    from dipsearch.genome import load_genome_file
    from dipsearch.network.build import cost
    from dipsearch.report.tree import genome_tree

    file = load_genome_file(name)
    price = cost(file.genome, size, size, file.image_channels)
    click.echo(genome_tree(name, file))
    click.echo(f"parameters           {price.parameters:,} with {file.image_channels} image channel(s)")
    click.echo(f"GFLOP per iteration  {price.gflop:.2f} at {size}x{size} (convolutions, forward and backward)")
    click.echo(f"memory of a step     {price.memory / 2**20:.0f} MiB, float32")
    click.echo(f"key                  {file.genome.key()}")


@show.command(name="space")
@click.argument("name")
def show_space(name: str) -> None:
    """Print a space's purpose, source, size, and what it leaves free. NAME is a name or a YAML file."""
    from dipsearch.report.tree import space_tree
    from dipsearch.space import load_space

    click.echo(space_tree(load_space(name)))


def task_stem(name: str) -> str:
    """The name of a task, without reading it."""
    from dipsearch import catalog

    return catalog.stem("tasks", name)
