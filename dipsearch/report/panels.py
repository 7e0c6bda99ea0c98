"""Figures of watched fits: curves of losses, and pictures in rows."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure as Canvas

from dipsearch.image import to_uint8
from dipsearch.report.charts import plain
from dipsearch.report.figure import save
from dipsearch.report.text import aligned
from dipsearch.reproduce.figures import Cell
from dipsearch.reproduce.trace import Trace, Watched

COLOURS = ("#31688e", "#d1603d", "#6b6b6b", "#35b779", "#7b3294")
SIDE, TITLE = 2.2, 0.5  # inches: of a picture, and what stands above it


def draw_curves(traces: list[Trace], watched: list[Watched], path: Path) -> None:
    """Every loss at every iteration, on a logarithmic scale."""
    canvas = Canvas(figsize=(6.4, 4), layout="constrained", dpi=150)
    axes = canvas.subplots()
    for trace, seen, colour in zip(traces, watched, COLOURS, strict=False):
        axes.plot(range(1, len(seen.losses) + 1), seen.losses, label=trace.label, color=colour, linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss (mean square error)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save(canvas, path)


def told(traces: list[Trace], watched: list[Watched]) -> str:
    """The losses as numbers: at a tenth of the budget, at its half and at its end, a row for each fit."""
    rows = []
    for trace, seen in zip(traces, watched, strict=True):
        last = len(seen.losses)
        at = [max(1, last // 10), max(1, last // 2), last]
        rows.append({"fitted to": trace.label} | {f"loss at {each}": f"{seen.losses[each - 1]:.5f}" for each in at})
    return aligned(pd.DataFrame(rows), ("fitted to",))


def draw_cells(rows: list[list[Cell]], path: Path) -> None:
    """Rows of pictures, each with its label above."""
    columns = max(map(len, rows))
    heights = [SIDE * max(cell.x.shape[-2] / cell.x.shape[-1] for cell in row) + TITLE for row in rows]
    canvas = Canvas(figsize=(SIDE * columns, sum(heights)), layout="constrained", dpi=150)
    grid = canvas.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, row in zip(grid, rows, strict=True):
        for axes, cell in zip(line, row, strict=False):
            axes.imshow(to_uint8(cell.x), vmin=0, vmax=255, cmap="gray", interpolation="nearest")
            axes.set_title(plain(cell.label), fontsize=8)
    save(canvas, path)
