"""The command line: parse, call the library, render. Only what a command needs is imported, when it runs."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipsearch.error import DipsearchError, UsageError

if TYPE_CHECKING:
    from dipsearch.run import RunStore
    from dipsearch.task import Effort, Task

INTERRUPTED = 130
SEVERAL = {"multiple": True, "metavar": "PATH"}
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("results"), show_default=True,
    help="Folder of studies, runs and tables.",
)  # fmt: skip
task_option = click.option("--task", "task_name", required=True, metavar="NAME", help="A task: a name, or a YAML file.")
seed_option = click.option("--seed", default=0, show_default=True, help="Everything random is drawn from it.")
device_option = click.option(
    "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Where fits run."
)  # fmt: skip


def images_option(which: str) -> Callable[[Any], Any]:
    """`--images`: other pictures than the task's."""
    text = f"Pictures or folders in place of the task's {which} images; may be repeated."
    return click.option("--images", multiple=True, metavar="PATH", help=text)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dipsearch")
def cli() -> None:
    """Find the network architecture that makes the best deep image prior for a restoration task.

    \b
    dipsearch search --task inpaint                     find genomes
    dipsearch rerun --task inpaint --top 3 --seeds 3    judge the best on other pictures
    dipsearch leaderboard --task inpaint                rank them beside the baselines
    """


@cli.command()
@task_option
@click.option("--space", "space_name", default="dip", show_default=True, metavar="NAME", help="A space: a name, or a YAML file.")
@click.option("--preset", default="quick", show_default=True, help="Sizes and budgets, by name in the task: quick, standard, thorough.")
@click.option("--trials", type=click.IntRange(1), help="Total of trials to be finished or pruned; the preset says how many.")
@click.option("--timeout", type=click.FloatRange(1), help="Seconds after which no trial starts; the preset says how many.")
@click.option("--iterations", type=click.IntRange(1), help="Iterations of a full fit, in place of the preset's.")
@click.option("--study", "study_name", metavar="NAME", help="Name of the study.  [default: TASK-SPACE-PRESET]")
@click.option("--resume", is_flag=True, help="Go on with a study that exists.")
@click.option("--sampler", default="tpe", show_default=True, help="Optuna's sampler: tpe, random.")
@images_option("search")
@seed_option
@device_option
@out_option
def search(
    task_name: str,
    space_name: str,
    preset: str,
    trials: int | None,
    timeout: float | None,
    iterations: int | None,
    study_name: str | None,
    resume: bool,
    sampler: str,
    images: tuple[str, ...],
    seed: int,
    device: str,
    out: Path,
) -> int:
    """Search a space for genomes that restore a task's search images best.

    Ends with a leaderboard of the search and the commands that come next. Ctrl-C keeps what is done.
    """
    from dipsearch.run import RunStore
    from dipsearch.search.study import Search, Settings
    from dipsearch.space import load_space
    from dipsearch.task import choose_effort
    from dipsearch.terminal import duration, reporting

    task = with_images(open_task(task_name), "search", images)
    space = load_space(space_name)
    effort = choose_effort(task.search, preset)
    effort = effort.model_copy(update={"trials": trials or effort.trials, "timeout": timeout or effort.timeout})
    effort = with_iterations(effort, iterations)
    name = file_name(study_name or f"{task.name}-{space.name}-{preset}")
    store = RunStore(out / "runs")
    again = f"dipsearch search --task {task_name} --space {space_name} --preset {preset} --study {name} --resume" + tail(out, images, "--images")
    again += "".join(f" {flag} {value}" for flag, value in (("--trials", trials), ("--iterations", iterations), ("--seed", seed or None)) if value)
    settings = Settings(task, space, preset, effort, seed, sampler, device)
    with reporting() as reporter:
        work = Search(settings, out / "studies" / name, store, resume, reporter.trial)
        with work.opened():
            pictures = ", ".join(sorted({instance.image for instance in work.instances}))
            reporter.line(f"study {name}: {effort.trials - work.done} trials to come, on {pictures}")
            if work.done < effort.trials:
                reporter.line(f"predicted time: {duration(work.predict())} (at most {duration(effort.timeout)}, then the running trial ends)")
            try:
                ended = work.run()
            except KeyboardInterrupt:
                reporter.line(f"\ninterrupted; {work.done} of {effort.trials} trials are kept. Go on with:\n  {again}")
                return INTERRUPTED
            given_up, agreement = work.given_up(), work.rung_agreement()
            done = work.done
    if ended == "timeout":
        click.echo(f"the time is over: {done} of {effort.trials} trials are done. Go on with:\n  {again}", err=True)
    if given_up:
        click.echo(f"\npruned, {len(given_up)} of {done}:", err=True)
        for number, reason in given_up:
            click.echo(f"  trial {number}: {reason}", err=True)
    if agreement:
        click.echo(
            f"\nrank correlation of the first rung with the score: {agreement[0]:.2f} over {agreement[1]} full trials"
            " (below 0.5, pruning that early is not to be trusted)",
            err=True,
        )
    show_leaderboard(store, task.name, "search", None, "table", limit=10)
    rest = tail(out)
    click.echo("\nnext:")
    click.echo(f"  dipsearch rerun --task {task_name} --top 3 --seeds 3{rest}")
    click.echo(f"  dipsearch leaderboard --task {task_name}{rest}")
    click.echo(f"  dipsearch export genome {best_name(store, task.name)} --task {task_name} -o best.yaml{rest}")
    return 0


@cli.command()
@task_option
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many of the best genomes found.")
@click.option("--genome", "genomes", multiple=True, metavar="NAME", help="These genomes instead: names or YAML files; may be repeated.")
@click.option("--seeds", type=click.IntRange(1), help="Repeats of each picture.  [default: 3]")
@click.option("--preset", help="quick, standard or paper, the full protocol.  [default: quick; on a GPU, paper]")
@click.option("--iterations", type=click.IntRange(1), help="In place of the preset's.")
@images_option("evaluation")
@seed_option
@device_option
@out_option
def rerun(
    task_name: str,
    top: int,
    genomes: tuple[str, ...],
    seeds: int | None,
    preset: str | None,
    iterations: int | None,
    images: tuple[str, ...],
    seed: int,
    device: str,
    out: Path,
) -> int:
    """Fit the best genomes at full budget on the evaluation images: the evidence.

    The task's published network and the classical baselines run beside them. Runs that exist are not
    repeated, so the same command resumes.
    """
    from dipsearch.fit.engine import pick_device
    from dipsearch.run import OK, RunStore
    from dipsearch.search.evaluation import Protocol
    from dipsearch.search.rerun import Rerun, rerun_genomes
    from dipsearch.task import choose_effort
    from dipsearch.terminal import duration, reporting

    task = with_images(open_task(task_name), "evaluation", images)
    preset = preset or ("paper" if pick_device(device).type == "cuda" else "quick")
    effort = with_iterations(choose_effort(task.rerun, preset), iterations)
    store = RunStore(out / "runs")
    protocol = Protocol(task, effort, preset, "rerun", task.recipe_for(effort), device)
    work = Rerun(protocol, rerun_genomes(task, store, top, list(genomes)), store, seed, seeds or effort.seeds)
    failures: list[str] = []
    with reporting() as reporter:
        total = len(work.missing)
        stored = len(work.genomes) * len(work.instances) - total
        reporter.line(f"{len(work.genomes)} genomes, {total} fits to do, {stored} are stored")
        if total:
            reporter.line(f"predicted time: {duration(work.predict())}")
        done = 0

        def watch(name: str, instance: Any, iteration: int, psnr: float) -> None:
            reporter.fit(done + 1, total, name, instance, iteration / protocol.recipe.iterations, psnr)

        try:
            for run in work.run(watch):
                if run["genome_key"] is None:
                    continue
                done += 1
                outcome = f"{run['psnr']:.2f} dB" if run["status"] == OK else f"{run['status']}: {run['reason']}"
                picture = run["image"].split(":")[-1]
                reporter.line(f"fit {done}/{total}  {run['name']} on {picture}, seed {run['repeat']}  {outcome}  {duration(run['seconds'])}")
                if run["status"] != OK:
                    failures.append(f"{run['name']} on {picture}: {run['status']}")
        except KeyboardInterrupt:
            reporter.line(f"\ninterrupted; {done} of {total} fits are stored. The same command goes on.")
            return INTERRUPTED
    show_leaderboard(store, task.name, "rerun", preset, "table")
    click.echo(f"\nnext:\n  dipsearch leaderboard --task {task_name} --format md{tail(out)}")
    if failures:
        click.echo(f"{len(failures)} fit(s) failed: {'; '.join(failures)}", err=True)
    return 1 if failures else 0


@cli.command()
@task_option
@click.option("--by", "purpose", default="rerun", show_default=True, type=click.Choice(["rerun", "search"]), help="Which runs rank.")
@click.option("--preset", help="Only runs of this preset.")
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(["table", "csv", "json", "md"]))
@out_option
def leaderboard(task_name: str, purpose: str, preset: str | None, form: str, out: Path) -> None:
    """Rank genomes, the published network and the baselines, with honest and oracle numbers side by side."""
    from dipsearch.run import RunStore

    show_leaderboard(RunStore(out / "runs"), task_stem(task_name), purpose, preset, form)


@cli.group(name="export")
def export_group() -> None:
    """Write out what was found."""


@export_group.command(name="genome")
@click.argument("name")
@click.option("--task", "task_name", required=True, metavar="NAME", help="The task that it was found for.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A YAML file.  [default: standard output]")
@out_option
def export_genome(name: str, task_name: str, output: Path | None, out: Path) -> None:
    """Write a genome as YAML, with where it was found and how it was judged.

    NAME is what the leaderboard calls it. The file serves wherever a genome is asked for.
    """
    from dipsearch.catalog import dump_yaml
    from dipsearch.provenance import found_genome
    from dipsearch.run import RunStore, write_atomically

    text = dump_yaml(found_genome(RunStore(out / "runs"), task_stem(task_name), name))
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomically(output, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        click.echo(f"{output}", err=True)


@cli.command(name="list")
@click.argument("kind", type=click.Choice(["spaces", "tasks", "genomes", "operators"]))
def list_command(kind: str) -> None:
    """List what can be named: spaces, tasks, genomes or operators."""
    if kind == "operators":
        from dipsearch.operator import OPERATORS

        rows = {name: f"{(options.__doc__ or '').splitlines()[0]}" for name, options in OPERATORS.items()}
    else:
        from dipsearch import catalog

        folder = {"spaces": "search_spaces"}.get(kind, kind)
        rows = {name: str(catalog.read_yaml(file).get("about", "")) for name, file in catalog.names(folder).items()}
    width = max(map(len, rows), default=0)
    for name, about in rows.items():
        click.echo(f"{name:<{width}}  {about}")


@cli.group()
def show() -> None:
    """Show one thing in full."""


@show.command(name="genome")
@click.argument("name")
@click.option("--size", default=256, show_default=True, type=click.IntRange(16), help="Pixels a side that the cost is for.")
def show_genome(name: str, size: int) -> None:
    """Print a genome's tree, parameters, GFLOP per iteration and memory. NAME is a name or a YAML file."""
    from dipsearch.genome import load_genome_file
    from dipsearch.network.build import cost
    from dipsearch.report.tree import genome_tree

    file = load_genome_file(name)
    price = cost(file.genome, size, size, file.image_channels)
    click.echo(genome_tree(name, file))
    click.echo(f"parameters          {price.parameters:,} with {file.image_channels} image channel(s)")
    click.echo(f"GFLOP per iteration {price.gflop:.2f} at {size}x{size} (convolutions, forward and backward)")
    click.echo(f"memory of a step    {price.memory / 2**20:.0f} MiB, float32")
    click.echo(f"key                 {file.genome.key()}")


def open_task(name: str) -> "Task":
    """A task by name or path."""
    from dipsearch.task import load_task

    return load_task(name)


def task_stem(name: str) -> str:
    """The name of a task, without reading it: its own, or its file's."""
    from dipsearch import catalog

    return catalog.locate("tasks", name).name.split(".")[0]


def with_images(task: "Task", which: str, paths: tuple[str, ...]) -> "Task":
    """The task with other search or evaluation images."""
    if not paths:
        return task
    from dipsearch.image import expand

    images = task.images.model_copy(update={which: tuple(expand(list(paths)))})
    efforts = {name: effort.model_copy(update={"images": None}) for name, effort in getattr(task, SHARES[which]).items()}
    return task.model_copy(update={"images": images, SHARES[which]: efforts})


SHARES = {"search": "search", "evaluation": "rerun"}  # images -> the verb whose presets say how many are used


def with_iterations(effort: "Effort", iterations: int | None) -> Any:
    """A preset with another number of iterations."""
    return effort if iterations is None else effort.model_copy(update={"recipe": effort.recipe | {"iterations": iterations}})


def tail(out: Path, paths: tuple[str, ...] = (), flag: str = "") -> str:
    """What a printed command has to repeat of the one that printed it."""
    where = "" if out == Path("results") else f" --out {out}"
    return where + "".join(f" {flag} {path}" for path in paths)


def file_name(name: str) -> str:
    """A study's name, which is a folder's too; UsageError where it cannot be one."""
    if not name or name.startswith(".") or not all(letter.isalnum() or letter in "-_." for letter in name):
        raise UsageError(f"study name {name!r}: use letters, digits, '-', '_' and '.', not first")
    return name


def show_leaderboard(store: "RunStore", task: str, purpose: str, preset: str | None, form: str, limit: int | None = None) -> None:
    """Print a leaderboard to standard output."""
    from dataclasses import replace

    from dipsearch.leaderboard import leaderboard as rank
    from dipsearch.report.text import FORMATS

    board = rank(store, task, purpose=purpose, preset=preset)
    if limit is not None:
        board = replace(board, table=board.table.head(limit))
    click.echo(FORMATS[form](board), nl=False)


def best_name(store: "RunStore", task: str) -> str:
    """The name of the best genome of the search."""
    from dipsearch.leaderboard import search_ranking

    return str(search_ranking(store, task).iloc[0]["name"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        code = cli.main(args=None if arguments is None else list(arguments), prog_name="dipsearch", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except UsageError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except DipsearchError as error:
        click.echo(f"error: {error}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
