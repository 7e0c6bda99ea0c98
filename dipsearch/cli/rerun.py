"""`dipsearch rerun`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipsearch.cli import options

if TYPE_CHECKING:
    from dipsearch.cli.terminal import Reporter
    from dipsearch.search.rerun import Rerun


@click.command()
@options.task
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many of the best genomes found.")
@click.option(
    "--genome",
    "genomes",
    multiple=True,
    metavar="NAME",
    help="These instead of the best: names or YAML files; may be repeated.",
)
@click.option("--seeds", type=click.IntRange(1), help="Repeats of each picture.  [default: as the preset says, 3]")
@click.option(
    "--preset", help="By name in the task: quick, …, paper (the full protocol).  [default: quick; with cuda, paper]"
)
@options.iterations
@options.budget
@options.part
@click.option(
    "--ensemble", type=click.IntRange(1, 64), help="Fits of each picture, whose answers are averaged.  [default: 1]"
)
@click.option("--stop", metavar="RULE", help="fixed, es-wmv, es-emv, held-out, or discrepancy (which needs --sigma).")
@click.option("--sigma", type=click.FloatRange(0, 255, min_open=True), help="Noise level told to the rule, of 255.")
@options.precision
@options.executor
@options.data_dir
@options.images("evaluation")
@options.seed
@options.device
@options.out
@click.pass_obj
def rerun(
    command: str,
    task_name: str,
    top: int,
    genomes: tuple[str, ...],
    seeds: int | None,
    preset: str | None,
    iterations: int | None,
    budget: float,
    part: tuple[int, int],
    ensemble: int | None,
    stop: str | None,
    sigma: float | None,
    precision: str | None,
    where: options.Where,
    images: tuple[str, ...],
    seed: int,
    device: str,
    out: Path,
) -> int:
    """Fit the best genomes at full budget on the evaluation images: the evidence.

    The task's published network and the classical baselines run beside them. Runs that exist are not
    repeated, so the same command resumes.
    """
    from dipsearch import catalog
    from dipsearch.cli.terminal import reporting
    from dipsearch.fitting.device import pick_device
    from dipsearch.run import RunStore
    from dipsearch.search.evaluation import Protocol
    from dipsearch.search.rerun import Rerun, rerun_genomes
    from dipsearch.task import choose_effort, load_task

    task = load_task(task_name).with_images("evaluation", images)
    preset = preset or ("paper" if pick_device(device).type == "cuda" else "quick")
    settings = {"iterations": iterations, "ensemble": ensemble, "stop": stop, "sigma": sigma, "precision": precision}
    effort = choose_effort(task.rerun, preset).changed(settings, seeds=seeds)
    recipe = catalog.validate("recipe", task.recipe_for, effort)
    store = RunStore(out / "runs")
    protocol = Protocol(task, effort, preset, "rerun", recipe, device)
    with where() as executor, reporting() as reporter:
        chosen = rerun_genomes(task, store, top, list(genomes))
        work = Rerun(protocol, chosen, store, seed, effort.seeds, part, executor)
        try:
            failures = fit_all(reporter, work, command, budget)
        except KeyboardInterrupt:
            reporter.line(f"\ninterrupted; what is done is kept. Go on with:\n  {command}")
            return options.INTERRUPTED
    if not any(work.stored(name, instance) for name in chosen for instance in work.instances):
        return 1 if failures else 0  # the time was over before anything was done
    options.print_leaderboard(out, task.name, "rerun", preset=preset, scope=protocol.scope(work.instances))
    click.echo("\nnext:")
    click.echo(options.following(f"leaderboard --task {shlex.quote(task_name)} --format md", out))
    for failure in failures:
        click.echo(f"failed: {failure}", err=True)
    return 1 if failures else 0


def fit_all(reporter: "Reporter", work: "Rerun", command: str, budget: float) -> list[str]:
    """Run what is missing for `budget` seconds, say how it goes and how to go on, and give back what failed."""
    import time

    from dipsearch.cli.terminal import duration
    from dipsearch.error import Paused
    from dipsearch.search.evaluation import failed

    total, done, failures = len(work.missing), 0, list[str]()
    for picture in work.searched_on:
        reporter.line(f"warning: {picture} was searched on, too: what it shows is no evidence")
    stored = work.fits - total
    reporter.line(f"{len(work.genomes)} genomes: {total} fits to do, {stored} are stored")
    if total:
        reporter.warn_of_emulation(work.executor, work.protocol.recipe.precision, work.protocol.device)
    if total and budget == float("inf"):  # a slice of time has better uses
        reporter.line(f"predicted time: {duration(work.predict())}")

    def watch(name: str, instance: Any, iteration: int, psnr: float) -> None:
        reporter.fit(done + 1, total, name, instance, iteration / work.iterations(name), psnr)

    try:
        for run in work.run(watch, time.monotonic() + budget):
            subject = f"{run['name']} on {picture_of(run)}, seed {run['repeat']}"
            if run["genome_key"] is None:
                reporter.line(f"baseline {subject}  {_told(run)}")
                continue
            done += 1
            fitted = not failed(run)
            outcome = _told(run) if fitted else f"{run['status']}: {run['reason']}"
            reporter.line(f"fit {done}/{total}  {subject}  {outcome}  {duration(run['seconds'])}")
            if not fitted:
                failures.append(f"{subject}: {outcome}")
    except Paused as paused:
        reporter.line(f"the time is over ({paused}); go on with:\n  {command}")
    return failures


def _told(run: dict[str, Any]) -> str:
    """How good a run is, in a few words; without a truth, by values that were held out, if any were."""
    if run["psnr"] is not None:
        return f"{run['psnr']:.2f} dB"
    return "done" if run["held_out"] is None else f"held-out {run['held_out']:.2f} dB"


def picture_of(run: dict[str, Any]) -> str:
    """A picture's name without what says that scikit-image carries it."""
    return str(run["image"]).removeprefix("skimage:")
