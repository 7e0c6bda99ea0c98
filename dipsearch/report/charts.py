"""Charts of a report: matplotlib's, as SVG that stands inline in a page, and light curves of a run."""

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from dipsearch.leaderboard import COLUMNS, Leaderboard, with_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dipsearch.search.evidence import Ended

INK = "#010203"  # becomes the colour of the text around it
BLUE, RED = "#3b7ea8", "#d1603d"
MOST = 500  # points of a chart
DEEPEST = 6.0  # dB below the best, where a chart ends
POINTS = 150  # of a curve
OFFSETS = (4, -10, 13, -19)  # of a point's name, in printer's points: the first that is free
LABEL = (0.18, 0.035)  # width and height of a name, as shares of a chart
LABEL_POINTS = 230.0  # height of a chart, in printer's points


def inline(figure: "Figure", name: str, told: str) -> Markup:
    """A figure as an `<svg>` element: its ids begin with `name`, it is read out as `told`, its ink is the page's."""
    from matplotlib import rc_context

    sink = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = sink.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<path (?![^>]*\bd=")[^>]*/>', "", svg)  # of what is nowhere, such as an interval of NaN
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(<use [^>]*xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace("stroke: #000000", "stroke: currentColor")
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg class="chart" role="img" \1 {told}>', svg, count=1)
    return Markup(svg.replace("{told}", str(Markup('aria-label="{}"').format(told))))  # noqa: S704 # matplotlib escapes


def axes_of(width: float = 6.4, height: float = 3.4) -> tuple["Figure", "Axes"]:
    """An empty chart whose ink is the page's; sizes in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    settings: dict[Any, Any] = {**dict.fromkeys(inked, INK), "font.size": 9}
    with rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#8888", linewidth=0.4)
    axes.set_axisbelow(True)
    return figure, axes


def against(board: Leaderboard, cost: str, label: str, name: str, link: str) -> Markup | None:
    """The score that ranks, honest or held-out PSNR, against a cost, with the Pareto front; each point leads to its
    genome. None below two genomes.

    The chart ends 6 dB below the best; baselines in its range are lines.

    Args:
        board: a leaderboard, best first.
        cost: a column of it.
        label: of the axis.
        name: for ids.
        link: what stands before a subject in an address.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    table, score = with_front(board.table, [cost]), board.judged
    shown = table[table["rank"].notna() & table["genome"].notna() & (table[cost] > 0)].head(MOST)
    if len(shown) < 2:
        return None
    figure, axes = axes_of()
    front = shown[shown["front"] == "*"].sort_values(cost)
    axes.plot(front[cost], front[score], color=RED, linewidth=1, zorder=1)
    colours = [RED if mark else BLUE for mark in shown["front"]]
    urls = [f"{link}{subject}" for subject in shown["subject"]]
    axes.scatter(shown[cost], shown[score], s=26, c=colours, zorder=2, urls=urls)
    labelled = pd.concat([front, shown.head(3)]).drop_duplicates("subject") if len(shown) > 12 else shown
    lowest = max(shown[score].min(), shown[score].max() - DEEPEST)
    span = max(shown[score].max() - lowest, 0.2)
    for row in table[table["rank"].notna() & table["genome"].isna()].to_dict("records"):
        if lowest - span < row[score] < shown[score].max() + span:
            axes.axhline(row[score], color="#8888", linewidth=0.8, linestyle="--")
            place = (0.01, row[score])
            axes.annotate(plain(str(row["name"])), place, xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
    axes.set_ylim(lowest - 0.15 * span, axes.get_ylim()[1] + 0.1 * span)
    axes.set_xscale("log")
    _label_points(axes, labelled.head(20), cost, score)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    what = COLUMNS[score]
    axes.set_ylabel(f"{what}, dB")
    return inline(figure, name, f"{what} against {label}: {len(shown)} genomes, {len(front)} on the Pareto front")


def history(trials: "Sequence[Ended]", name: str) -> Markup | None:
    """Scores of a study's trials in their order, with the best so far of whole fits; hollow: estimates; crosses:
    pruned, at what they had reached."""
    scored = [(trial.number, trial.score) for trial in trials if trial.score is not None and trial.whole]
    estimated = [(trial.number, trial.score) for trial in trials if trial.score is not None and not trial.whole]
    if not scored:
        return None
    pruned = [(trial.number, trial.reached) for trial in trials if trial.score is None and trial.reached is not None]
    figure, axes = axes_of()
    if pruned:
        axes.scatter(*_both(pruned), s=14, marker="x", color="#8888", linewidth=0.8, label="pruned")
    if estimated:
        axes.scatter(*_both(estimated), s=20, facecolors="none", edgecolors=BLUE, linewidth=0.8, label="estimate")
    axes.scatter(*_both(scored), s=20, color=BLUE, label="score")
    numbers, values = _both(scored)
    axes.step(numbers, pd.Series(values).cummax(), where="post", color=RED, linewidth=1, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("score")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    told = f"{len(scored)} scores, {len(estimated)} estimates and {len(pruned)} pruned trials"
    return inline(figure, name, f"{told}; the best score is {max(values):.2f}")


def curve(
    series: dict[str, tuple[list[float], list[float]]],
    marks: dict[str, tuple[float, float | None]],
    told: str,
    *,
    log: bool,
) -> Markup | None:
    """Light lines over iterations as an `<svg>`, by hand: a report has hundreds, and matplotlib takes 0.2 s for one.

    Args:
        series: x and y of each line by its class, `a`, `b` or `c`.
        marks: vertical lines by their words: x, and y of a dot there or None.
        told: what is read out.
        log: whether y is on a logarithmic scale.
    """
    cleaned = {name: _thin(*both, log=log) for name, both in series.items()}
    cleaned = {name: points for name, points in cleaned.items() if len(points) > 1}
    if not cleaned:
        return None
    xs = [x for points in cleaned.values() for x, _ in points]
    ys = [y for points in cleaned.values() for _, y in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    width, height, margin = 420, 200, 56

    def place(x: float, y: float) -> str:
        across = margin + (x - left) / ((right - left) or 1) * (width - margin - 8)
        up = height - 24 - (y - low) / ((high - low) or 1) * (height - 40)
        return f"{across:.1f} {up:.1f}"

    parts = [
        Markup('<path class="line {}" d="M{}"/>').format(name, "L".join(place(*point) for point in points))
        for name, points in cleaned.items()
    ]
    for row, (words, (x, y)) in enumerate(marks.items()):
        top = place(min(max(x, left), right), high).split()[0]
        parts.append(Markup('<path class="mark" d="M{0} 12V{1}"/>').format(top, height - 24))
        anchor = "end" if float(top) > width / 2 else "start"
        parts.append(Markup('<text class="{}" x="{}" y="{}">{}</text>').format(anchor, top, 10 + 11 * row, words))
        if y is not None and low <= y <= high:
            across, up = place(x, y).split()
            parts.append(Markup('<circle class="mark" cx="{}" cy="{}" r="3"/>').format(across, up))
    for y in (low, high):
        across, up = place(left, y).split()
        words = f"{10**y:.1e}" if log else f"{y:.1f}"
        parts.append(
            Markup('<text class="end" x="{}" y="{}">{}</text>').format(float(across) - 4, float(up) + 4, words)
        )
    for x, anchor in ((left, "start"), (right, "end")):
        across = place(x, low).split()[0]
        parts.append(Markup('<text class="{}" x="{}" y="{}">{:g}</text>').format(anchor, across, height - 8, x))
    return Markup('<svg class="curve" role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        told, width, height, Markup("").join(parts)
    )


def _thin(xs: list[float], ys: list[float], *, log: bool) -> list[tuple[float, float]]:
    points = [
        (x, math.log10(y) if log else y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y) and (y > 0 or not log)
    ]
    step = max(1, len(points) // POINTS)
    return points[::step] + (points[-1:] if (len(points) - 1) % step else [])


def _both(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _label_points(axes: "Axes", rows: pd.DataFrame, cost: str, score: str) -> None:
    """Names beside points, above or below, where no name stands yet."""
    taken: list[tuple[float, float]] = []
    for row in rows.sort_values(score, ascending=False).to_dict("records"):
        across, up = axes.transLimits.transform(axes.transScale.transform((row[cost], row[score])))
        heights = {offset: up + offset / LABEL_POINTS for offset in OFFSETS}
        near = [y for x, y in taken if abs(across - x) < LABEL[0]]
        free = (offset for offset in OFFSETS if all(abs(heights[offset] - y) > LABEL[1] for y in near))
        down = next(free, OFFSETS[0])
        taken.append((across, heights[down]))
        axes.annotate(
            plain(str(row["name"])), (row[cost], row[score]), xytext=(5, down), textcoords="offset points", fontsize=7
        )


def plain(words: str) -> str:
    """A name in which matplotlib sees no formula."""
    return words.replace("$", r"\$")
