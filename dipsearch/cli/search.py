"""`dipsearch search`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipsearch.cli import options
from dipsearch.error import DipsearchError, UsageError

if TYPE_CHECKING:
    from dipsearch.cli.terminal import Reporter
    from dipsearch.search.study import Search

SHOWN = 10  # rows of the leaderboard at the end
POSITIVE = click.FloatRange(0, min_open=True)


@click.command()
@options.task
@click.option(
    "--space", "space_name", default="dip", show_default=True, metavar="NAME", help="A space: a name, or a YAML file."
)
@click.option(
    "--preset", default="quick", show_default=True, help="Sizes and budgets, by name in the task: quick, …, thorough."
)
@click.option("--trials", type=click.IntRange(1), help="Total to be finished or pruned; the preset says how many.")
@click.option(
    "--timeout",
    "--budget",
    "timeout",
    type=options.Duration(),
    metavar="TIME",
    help="No trial starts after this time (90, 9m, 2h).  [default: as the preset says]",
)
@options.iterations
@options.precision
@click.option("--study", "study_name", metavar="NAME", help="Name of the study.  [default: TASK-SPACE-PRESET]")
@click.option("--resume", is_flag=True, help="Go on with a study that exists.")
@click.option("--objective", metavar="NAMES", help="psnr; or psnr,gflop and the like: a Pareto front.  [default: psnr]")
@click.option("--max-gflop", type=POSITIVE, help="Of an iteration; a dearer genome is not fitted.")
@click.option("--max-seconds", type=POSITIVE, help="Of a fit, predicted from a few steps.")
@click.option("--max-memory", type=POSITIVE, help="MiB of a fit, predicted.")
@click.option("--no-truth", is_flag=True, help="The pictures are damaged ones: judge by pixels held out of the fit.")
@click.option("--mask", type=click.Path(), help="With --no-truth, inpaint: white where pixels are missing.")
@click.option("--start-from", multiple=True, metavar="NAME", help="Try first: a genome, or a task's best.")
@click.option("--around", metavar="NAME", help="Search around a genome: a name, or a YAML file.")
@click.option("--sampler", default="auto", show_default=True, help="cokriging, tpe, random, nsga2, gp or qmc.")
@click.option("--pruner", default="auto", show_default=True, help="none, halving, steep, promising or wilcoxon.")
@click.option("--screen", metavar="SCORE", help="Fit only genomes in the better half by a zero-cost score.")
@options.executor
@options.data_dir
@options.images("search")
@options.seed
@options.device
@options.out
@click.pass_obj
def search(
    command: str,
    task_name: str,
    space_name: str,
    preset: str,
    trials: int | None,
    timeout: float | None,
    iterations: int | None,
    precision: str | None,
    study_name: str | None,
    resume: bool,
    objective: str | None,
    max_gflop: float | None,
    max_seconds: float | None,
    max_memory: float | None,
    no_truth: bool,
    mask: str | None,
    start_from: tuple[str, ...],
    around: str | None,
    sampler: str,
    pruner: str,
    screen: str | None,
    where: options.Where,
    images: tuple[str, ...],
    seed: int,
    device: str,
    out: Path,
) -> int:
    """Search a space for the genomes that restore a task's search images best.

    Ends with a leaderboard of the search and the commands that come next. Ctrl-C keeps what is done.
    """
    from dipsearch import catalog
    from dipsearch.cli.terminal import reporting
    from dipsearch.genome import load_genome
    from dipsearch.leaderboard import search_ranking
    from dipsearch.run import RunStore
    from dipsearch.search.goals import HOLD_OUT, parse_goals
    from dipsearch.search.screen import Screen
    from dipsearch.search.settings import Settings, start_genomes
    from dipsearch.search.study import Search
    from dipsearch.space import load_space
    from dipsearch.task import choose_effort, load_task

    if no_truth and not images:
        raise UsageError("--no-truth: name the damaged pictures with --images")
    if mask is not None and not no_truth:
        raise UsageError("--mask: it is of damaged pictures; give --no-truth, too, or write a task")
    task = load_task(task_name).with_images("search", images)
    task = task.without_truth(mask) if no_truth else task
    space, store = load_space(space_name), RunStore(out / "runs")
    goals = parse_goals(objective or ("psnr" if task.truth else "held-out"))
    limits = {"max_gflop": max_gflop, "max_seconds": max_seconds, "max_memory": max_memory}
    recipe = {"iterations": iterations, "precision": precision} | (HOLD_OUT if "held-out" in goals else {})
    effort = choose_effort(task.search, preset).changed(recipe, trials=trials, timeout=timeout, **limits)
    catalog.validate("recipe", task.recipe_for, effort)
    name = folder_name(study_name or f"{task.name}-{space.name}-{preset}")
    again = command if resume else f"{command} --resume"
    settings = Settings(
        task,
        space,
        preset,
        effort,
        seed,
        sampler,
        device,
        pruner,
        goals,
        Screen(screen) if screen else None,
        start=start_genomes(start_from, store),
        around=load_genome(around) if around else None,
    )
    with where() as executor, reporting() as reporter:
        work = Search(settings, out / "studies" / name, store, resume, reporter.trial, executor)
        with work.opened():
            try:
                announce(reporter, work, name)
                ended = work.run()
            except KeyboardInterrupt:
                reporter.line(f"\ninterrupted; {work.done} of {effort.trials} trials are kept. Go on with:\n  {again}")
                return options.INTERRUPTED
            if ended == "timeout":
                reporter.line(f"\nthe time is over: {work.done} of {effort.trials} trials. Go on with:\n  {again}")
                if not work.done:
                    return 0
            conclude(reporter, work)
            if work.best_value() is None:
                raise DipsearchError(f"no genome of space {space.name!r} could be fitted in {work.done} trials")
    scope = work.protocol.scope(work.instances)
    front = goals[1:]
    limit = None if front else SHOWN  # the front reaches down to the cheapest
    options.print_leaderboard(out, task.name, "search", scope=scope, limit=limit, front=front)
    best = search_ranking(work.store, task.name, scope)["name"].iloc[0]
    quoted = shlex.quote(task_name)
    click.echo("\nnext:")
    if task.truth:
        click.echo(options.following(f"rerun --task {quoted} --top 3 --seeds 3", out, device))
    shown = "" if task.truth else " --by search"  # without a truth there is no re-run
    click.echo(options.following(f"leaderboard --task {quoted}{shown}", out))
    click.echo(options.following(f"export genome {best} --task {quoted} -o best.yaml", out))
    return 0


def announce(reporter: "Reporter", work: "Search", name: str) -> None:
    """What is about to be done, and how long it should take."""
    from dipsearch.cli.terminal import duration

    effort = work.settings.effort
    pictures = ", ".join(sorted({instance.image for instance in work.instances}))
    for genome in work.settings.start:
        if work.settings.space.find(genome) is None:
            reporter.line(f"not in the space {work.settings.space.name}, and not tried first: {genome.summary()}")
    missing = max(0, effort.trials - work.done)
    reporter.line(f"study {name}: {missing} trials to come, {work.done} done, on {pictures}")
    if missing:
        reporter.warn_of_emulation(work.executor, work.protocol.recipe.precision, work.settings.device)
        reporter.line(f"predicted time: {duration(work.predict())}; no trial starts after {duration(effort.timeout)}")


def conclude(reporter: "Reporter", work: "Search") -> None:
    """What has to be known about the trials: which were given up and why, and whether pruning can be trusted."""
    if given_up := work.standing.given_up():
        reporter.line(f"\n{len(given_up)} of {work.done} trials were pruned:")
        for number, reason in given_up:
            reporter.line(f"  trial {number}: {reason}")
    judged = work.ladder is not None and not work.ladder.learned  # else a model weighs the rung itself
    if judged and (agreement := work.standing.rung_agreement()):
        reporter.line(
            f"\nrank correlation of the first rung with the score: {agreement[0]:.2f} over {agreement[1]} full trials"
            " (below 0.5, pruning that early is not to be trusted)"
        )
    reporter.line("")


def folder_name(name: str) -> str:
    """A study's name, which is a folder's too; UsageError where it cannot be one."""
    if not name or name.startswith(".") or not all(letter.isalnum() or letter in "-_." for letter in name):
        raise UsageError(f"study name {name!r}: use letters, digits, '-', '_' and '.', which may not come first")
    return name
