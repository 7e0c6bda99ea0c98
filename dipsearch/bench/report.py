"""What DIPBench says, as text: replays and rank correlations of each task, written beside the tables."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from dipsearch.bench import design
from dipsearch.bench.answers import correlations
from dipsearch.bench.replay import Curves, compare, curves, plans
from dipsearch.bench.table import load
from dipsearch.run import environment, write_atomically


def write_report(folder: Path, *, repeats: int) -> Path:
    """Write README.md beside the tables; its path."""
    path = folder / "README.md"
    text = "\n".join(_lines(folder, repeats)) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def replays(table: pd.DataFrame) -> str:
    """Replayed searches as a Markdown table, with the quality that they are to reach."""
    goal, repeats = table["goal"].iloc[0], table["repeats"].iloc[0]
    shown = table.drop(columns=["goal", "repeats"]).copy()
    for column in ("median", "quartile 1", "quartile 3"):
        shown[column] = [f"1/{1 / share:.1f}" if share < float("inf") else "never" for share in shown[column]]
    shown["reached"] = [f"{share:.0%}" for share in shown["reached"]]
    for column in [name for name in map(str, shown) if name.startswith("best")]:
        shown[column] = [f"{value:.2f}" if value > 0 else "" for value in shown[column]]
    return f"Goal: {goal:.2f} dB. Seeds: {repeats}.\n\n{markdown(shown)}"


def markdown(table: pd.DataFrame) -> str:
    """A table of words as Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _lines(folder: Path, repeats: int) -> Iterator[str]:
    machine = environment()
    yield "# DIPBench"
    yield ""
    yield f"Made by `dipsearch bench report --repeats {repeats}` from the tables beside it, which"
    yield "`dipsearch bench collect --task NAME` makes. Replays and correlations ran on optuna"
    yield f"{machine['optuna']}; scores are honest PSNR (the averaged output where held-out pixels are predicted best)."
    for path in sorted(folder.glob("*.parquet")):
        yield from _task(folder, path.stem, repeats)


def _task(folder: Path, task: str, repeats: int) -> Iterator[str]:
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
    yield replays(compare(found, plans(), repeats=repeats))
    for origin, words in (
        (design.WHOLE, f"all of `{design.WHOLE}`"),
        (design.SAMPLED, f"samples of `{design.SAMPLED}`"),
    ):
        if (table["origin"] == origin).any():
            yield ""
            yield f"### What ranks genomes: Kendall's tau with the honest PSNR, {words} `{origin}`"
            yield ""
            yield markdown(_rounded(correlations(table, origin=origin)))


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
