"""What a study says about its genes, as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

from dipsearch.atomic import write_atomically
from dipsearch.error import UsageError
from dipsearch.report.explanation import label, percent

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dipsearch.search.explain import Explanation

PICTURES = (".png", ".svg", ".pdf")
ROW = 0.21  # inches a choice
GAP = 0.5  # rows between genes
BLUE, PALE, GREY, BAND = "#31688e", "#a9c3d3", "#6b6b6b", "#f3f4f6"
RARE = 0.05  # above, a bar is pale


def check_picture(path: Path) -> None:
    """UsageError where a file's name does not say which of the formats it is to have."""
    if path.suffix.lower() not in PICTURES:
        raise UsageError(f"{path}: a picture ends in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}")


def draw(told: "Explanation", path: Path) -> None:
    """Draw the importances at the left and the effects with their intervals at the right, gene by gene.

    A filled dot has an interval, a hollow one too few scores for one. A bar is pale where chance gives as much in more
    than one shuffle of 20. No display is needed: the figure belongs to no window, and its format is that of the file.
    """
    check_picture(path)
    save(figure_of(told), path)


def figure_of(told: "Explanation") -> "Figure":
    """What `draw` draws, as a figure of matplotlib."""
    from matplotlib.figure import Figure

    rows, middles, bands = _places(told.effects)
    bottom, evidence = max(rows) + 1, told.evidence
    figure = Figure(figsize=(9.5, 1.5 + ROW * bottom), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1.5])
    for axes in (left, right):
        for start, end in bands[::2]:
            axes.axhspan(start, end, color=BAND, zorder=0, linewidth=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#d9d9d9", linewidth=0.6)
        axes.set_axisbelow(True)
    left.set_ylim(bottom - 0.3, -0.7)
    _bars(left, told, middles)
    _dots(right, told, rows)
    figure.suptitle(
        f"{evidence.study}: what goes with a good {evidence.objective}\n"
        f"{told.complete} networks with a score, {told.pruned} pruned before they had one",
        fontsize=10,
    )
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in the format that its file's name says."""
    from matplotlib import rc_context

    check_picture(path)
    form = path.suffix.lower().removeprefix(".")
    with rc_context({"svg.fonttype": "none", "pdf.fonttype": 42}):  # words stay words
        write_atomically(path, lambda temporary: figure.savefig(temporary, format=form))


def _places(effects: "pd.DataFrame") -> tuple[list[float], list[float], list[tuple[float, float]]]:
    """From the top: the row of each choice, the middle of each gene, and where each gene begins and ends."""
    rows: list[float] = []
    middles, bands, top = [], [], 0.0
    for _, choices in effects.groupby("gene", sort=False):
        count = len(choices)
        rows += [top + number for number in range(count)]
        middles.append(top + (count - 1) / 2)
        bands.append((top - (1 + GAP) / 2, top + count - (1 - GAP) / 2))
        top += count + GAP
    return rows, middles, bands


def _bars(axes: "Axes", told: "Explanation", middles: list[float]) -> None:
    genes = told.genes
    colours = [BLUE if chance <= RARE else PALE for chance in genes["chance"]]
    axes.barh(middles, genes["importance"], height=0.8, color=colours, zorder=2)
    for middle, importance, chance in zip(middles, genes["importance"], genes["chance"], strict=True):
        axes.text(importance, middle, f" {percent(chance)}", va="center", color=GREY, fontsize=7.5)
    axes.set_yticks(middles, [label(told, gene) for gene in genes["gene"]], fontsize=8)
    axes.set_xlim(0, 1.2 * max(genes["importance"].max(), 0.01))  # room for the words at the bars
    axes.set_xlabel("importance, share of 1 (at the bar: how often by chance)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)


def _dots(axes: "Axes", told: "Explanation", rows: list[float]) -> None:
    effects = told.effects
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.hlines(rows, effects["low"], effects["high"], color=BLUE, linewidth=1.6, zorder=2)
    colours = [BLUE if sure else "white" for sure in effects["low"].notna()]
    axes.scatter(effects["effect"], rows, s=22, c=colours, edgecolors=BLUE, linewidths=1.1, zorder=3)
    axes.set_xlabel(
        f"mean score with it less the gene's mean, {told.unit} (line: 95 %; hollow: n too small)", fontsize=8
    )
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(labelleft=False)  # the y axis is shared: choices stand as text at its left, numbers at its right
    for row, it in zip(rows, effects.to_dict("records"), strict=True):
        tried = it["complete"] + it["pruned"]
        numbers = f"n = {it['complete']}, {percent(it['pruned_share'])} pruned" if tried else "never tried"
        for place, words, align, colour in (
            (-0.02, str(it["choice"]), "right", "black"),
            (1.02, numbers, "left", GREY),
        ):
            across = axes.get_yaxis_transform()
            axes.text(place, row, words, ha=align, va="center", color=colour, fontsize=7.5, transform=across)
