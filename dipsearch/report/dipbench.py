"""What DIPBench says, as Markdown: replays and rank correlations of each task, written beside the tables."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd

from dipsearch.atomic import write_atomically
from dipsearch.bench import design
from dipsearch.bench.answers import correlations
from dipsearch.bench.replay import Curves, Plan, compare, curves, plans
from dipsearch.bench.table import load
from dipsearch.error import UsageError
from dipsearch.report.text import piped
from dipsearch.run import environment
from dipsearch.search.study import DEFAULT_LADDER, DEFAULT_SAMPLER

FEWER = 10  # one seed in so many for all but the default search
Watch = Callable[[str, int, int], None]  # a task, and how many of how many of its searches have been replayed


def write_report(
    folder: Path,
    *,
    repeats: int,
    processes: int = 1,
    watch: Watch = lambda task, done, total: None,
) -> Path:
    """Write README.md beside the tables; its path. UsageError where there is no table."""
    if not any(folder.glob("*.parquet")):
        raise UsageError(f"{folder}: no table there; make one with: dipsearch bench collect")
    path = folder / "README.md"
    text = "\n".join(_lines(folder, repeats, processes, watch)) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def replays(table: pd.DataFrame) -> str:
    """Replayed searches as a Markdown table, with the quality that they are to reach."""
    shown = table.drop(columns="goal").copy()
    for column in ("median", "quartile 1", "quartile 3"):
        shown[column] = [f"1/{1 / share:.1f}" if share < float("inf") else "never" for share in shown[column]]
    shown["reached"] = [f"{share:.0%}" for share in shown["reached"]]
    for column in [name for name in map(str, shown) if name.startswith("best")]:
        shown[column] = [f"{value:.2f}" if value > 0 else "" for value in shown[column]]
    return f"Goal: {table['goal'].iloc[0]:.2f} dB.\n\n{piped(shown)}"


def _lines(folder: Path, repeats: int, processes: int, watch: Watch) -> Iterator[str]:
    machine = environment()
    yield "# DIPBench"
    yield ""
    yield f"Made by `dipsearch bench report --repeats {repeats}` from the tables beside it, which"
    yield "`dipsearch bench collect --task NAME` makes. Replays and correlations ran on optuna"
    yield f"{machine['optuna']}; scores are honest PSNR (the averaged output where held-out pixels are predicted best)."
    for path in sorted(folder.glob("*.parquet")):
        yield from _task(folder, path.stem, repeats, processes, watch)


def _task(folder: Path, task: str, repeats: int, processes: int, watch: Watch) -> Iterator[str]:
    table, found = load(folder, task), curves(folder, task)
    effort, recipe = design.protocol_of(task).effort, design.protocol_of(task).recipe
    yield ""
    yield f"## {task}"
    yield ""
    yield (
        f"{len(table)} fits of {table['key'].nunique()} genomes ({len(found.rows)} of space `{design.WHOLE}` with "
        f"every picture): {effort.size} px, {recipe.iterations} iterations, {recipe.held_out:.0%} of the pixels held "
        f"out; pictures {', '.join(sorted(str(image).removeprefix('skimage:') for image in table['image'].unique()))}. "
        f"{table['seconds'].sum() / 3600:.1f} processor hours."
    )
    yield ""
    yield "### Searches, replayed"
    yield ""
    yield _meaning(found)
    yield ""
    default = Plan(DEFAULT_SAMPLER, DEFAULT_LADDER)
    others = [plan for plan in plans() if plan != default]
    tables = [
        compare(found, some, repeats=seeds, processes=processes, watch=partial(watch, task))
        for some, seeds in (([default], repeats), (others, max(1, repeats // FEWER)))
    ]
    yield replays(pd.concat(tables).sort_values("median", kind="stable"))
    for origin, words in (
        (design.WHOLE, f"all of `{design.WHOLE}`"),
        (design.SAMPLED, f"samples of `{design.SAMPLED}`"),
    ):
        if (table["origin"] == origin).any():
            yield ""
            yield f"### What ranks genomes: Kendall's tau with the honest PSNR, {words}"
            yield ""
            yield piped(_rounded(correlations(table, origin=origin)))


def _meaning(curves: Curves) -> str:
    return (
        "Share of the iterations of a random search without pruning (64 genomes, every picture fitted to the end) after"
        " which a search has fitted a genome to the end that is as good as the best of those 64 in the median."
        f" A whole trial takes {curves.full} iterations."
    )


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(
        **{name: table[name].map("{:+.2f}".format) for name in ("mean", "least", "greatest", "of means")}
    )
