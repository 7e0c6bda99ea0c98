"""`dipsearch figure`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipsearch.cli import options

if TYPE_CHECKING:
    from dipsearch.cli.terminal import Reporter
    from dipsearch.error import FitError
    from dipsearch.reproduce.trace import Trace, Watched

PROGRESS = "progress"


@click.command()
@click.argument("name", required=False)
@click.option("--list", "listed", is_flag=True, help="List the figures.")
@click.option("--picture", help="In place of the figure's own, which scikit-image carries: a name, or a file.")
@click.option("--guide", help="flash: the picture with flash, of the same scene and size as --picture.")
@click.option(
    "--run",
    type=click.Path(path_type=Path, dir_okay=False),
    help="progress: the record of a run, OUT/runs/TASK/PICTURE-KEY.json.",
)
@options.shrink
@click.option("--size", type=click.IntRange(32, 4096), help="Pixels a side, around the centre.  [default: 256]")
@click.option(
    "--share",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="So much of the published iterations.",
)
@options.budget
@options.data_dir
@options.device
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that ends in .png, .svg or .pdf.  [default: OUT/figures/NAME.png]",
)
@options.out
@click.pass_obj
def figure(
    command: str,
    name: str | None,
    listed: bool,
    picture: str | None,
    guide: str | None,
    run: Path | None,
    shrink: int | None,
    size: int | None,
    share: float,
    budget: float,
    device: str,
    output: Path | None,
    out: Path,
) -> int:
    """Make a figure of the deep image prior's paper again, or one of a run's progress.

    Its own picture is shrunk by 2, so that 256 pixels show all of it; another one is not, unless --shrink says so.
    Its fits are kept under OUT/figures, so the same command goes on after an interruption. One that fails is left out.
    """
    import time

    from dipsearch.cli.terminal import going_on, reporting
    from dipsearch.error import FitError, UsageError, unknown
    from dipsearch.report.figure import check_picture
    from dipsearch.report.panels import draw_cells, draw_curves, told
    from dipsearch.reproduce.figures import FIGURES, progress, scene

    if listed or name is None:
        for each, described in FIGURES.items():
            click.echo(f"{each:<18}{described.about}")
        click.echo(f"{PROGRESS:<18}the averaged output of a stored run over its iterations (--run)")
        if listed:
            return 0
        raise UsageError("which figure? Give one of these names")
    path = output or out / "figures" / f"{name}.png"
    check_picture(path)
    if name == PROGRESS:
        if run is None:
            raise UsageError("progress of which run? --run OUT/runs/TASK/PICTURE-KEY.json")
        given = {"picture": picture, "guide": guide, "shrink": shrink, "size": size}
        given |= {"share": share < 1 or None, "budget": budget < float("inf") or None}
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"--{option}: not for the figure {PROGRESS}, which shows what a run has kept")
        draw_cells(progress(run), path)
        click.echo(f"written: {path}")
        return 0
    if name not in FIGURES:
        raise UsageError(unknown("figure", name, [*FIGURES, PROGRESS]))
    chosen = FIGURES[name]
    if run is not None:
        raise UsageError(f"--run is for the figure {PROGRESS}")
    if guide is not None and name != "flash":
        raise UsageError("--guide is for the figure flash")
    seen = scene(chosen, picture, shrink, size, guide)
    traces, until = chosen.traces(seen, share), time.monotonic() + budget
    with reporting() as reporter, going_on(reporter, command):
        named = [(trace.label, trace) for trace in traces]
        ended = watch_all(reporter, named, out / "figures" / "fits", until=until, device=device)
    failures = [each for each in ended if isinstance(each, FitError)]
    made = [(trace, each) for trace, each in zip(traces, ended, strict=True) if not isinstance(each, FitError)]
    if not made:
        raise failures[0]
    traces, watched = [trace for trace, _ in made], [each for _, each in made]
    if chosen.cells is None:
        draw_curves(traces, watched, path)
        click.echo(told(traces, watched), nl=False)
    else:
        draw_cells(chosen.cells(seen, traces, watched), path)
    click.echo(f"written: {path}")
    return 1 if failures else 0


def watch_all(
    reporter: "Reporter", traces: list[tuple[str, "Trace"]], folder: Path, **settings: Any
) -> list["Watched | FitError"]:
    """Run traces, each under a name for people, as `watch` does, and say how it goes. In place of one that fails there
    is its error."""
    from dipsearch.error import FitError
    from dipsearch.reproduce.trace import watch

    total, done = sum(trace.recipe.iterations for _, trace in traces), 0
    ended: list[Watched | FitError] = []
    for name, trace in traces:
        tell = lambda at, before=done, name=name: reporter.update(before + at, total, f"{name}: iteration {at}")  # noqa: E731
        try:
            ended.append(watch(trace, folder, tell=tell, **settings))
        except FitError as error:
            ended.append(error)
            reporter.line(f"failed: {name}: {error}")
        done += trace.recipe.iterations
    return ended
