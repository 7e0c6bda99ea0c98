"""Reproduced tables as text: own and published numbers side by side."""

from collections.abc import Callable, Iterator

import pandas as pd

from dipsearch.baseline import EXTRAS
from dipsearch.report.text import aligned, piped
from dipsearch.reproduce.outcome import JUDGED, Outcome
from dipsearch.reproduce.published import STOPS, published

HEADS = {
    "row": "row",
    "stopped": "stop rule",
    "fixed": "budget",
    "oracle": "oracle",
    "ssim": "SSIM",
    "seconds": "seconds",
    "gflop": "GFLOP/it",
    "fits": "fits",
    "published": "published",
    "difference": "difference",
}
FORMS = {
    "stopped": "{:.2f}", "fixed": "{:.2f}", "oracle": "{:.2f}", "ssim": "{:.3f}", "seconds": "{:.1f}",
    "gflop": "{:.2f}", "difference": "{:+.2f}",
}  # fmt: skip


def cells(made: Outcome) -> pd.DataFrame:
    """The table as words."""
    words = pd.DataFrame({"row": made.rows["row"]})
    for name, form in FORMS.items():
        words[name] = ["" if pd.isna(value) else form.format(value) for value in made.rows[name]]
    for name in JUDGED:
        words[name] += ["" if pd.isna(sd) else f" ± {sd:.2f}" for sd in made.rows[f"{name}_sd"]]
    words["fits"] = [
        (f"{fits}/{of}" + (f", {failed} failed" if failed else "")) if of else ""
        for fits, of, failed in zip(made.rows["fits"], made.rows["of"], made.rows["failed"], strict=True)
    ]
    words["published"] = [
        _published(*row) for row in made.rows[["published", "stop", "of_all"]].itertuples(index=False)
    ]
    return words[list(HEADS)].rename(columns=HEADS)


def _published(value: float | None, stop: str, of_all: bool) -> str:
    kinds = (["oracle"] if stop == "oracle" else []) + (["all pictures"] if of_all else [])
    return "" if pd.isna(value) else f"{value:.2f}" + (f" ({', '.join(kinds)})" if kinds else "")


def lines(made: Outcome) -> Iterator[str]:
    """What has to be said about the numbers, sentence by sentence."""
    plan, recipe = made.plan, made.plan.task.recipe
    table = plan.table
    yield f"{table.about}. {table.source}."
    pictures = ", ".join(name.split(":")[-1] for name in plan.task.images.evaluation)
    rule = f"stop rule {recipe.stop}" + (" over the whole budget" if recipe.patience >= recipe.iterations else "")
    yield (
        f"{pictures}; {plan.effort.seeds} seed(s); {recipe.iterations} iterations unless a row has its own, {rule}, "
        f"metric {plan.task.metric}, precision {recipe.precision}."
    )
    for name, side in plan.sides.items():
        yield f"{name} as in the {side} ({table.differences[name].about})."
    yield (
        "PSNR in dB, means over pictures and seeds ± sd over seeds: under the stop rule, at the end of the budget "
        "(empty where a rule ends fits before it), and at the oracle's iteration, which the clean picture picked among "
        "every tenth of those that were made: never comparable with the others. A published number is compared with "
        "the own one of its kind, over the same pictures, where its kind is known."
    )
    stops = {str(row["stop"]) for row in made.rows.to_dict("records") if row["stop"]}
    for stop in sorted(stops):
        rows = [str(row["row"]) for row in made.rows.to_dict("records") if row["stop"] == stop]
        yield f"Published {STOPS[stop]}: {'; '.join(rows)}."
    if stops and (sources := dict.fromkeys(each.source for each in published() if each.table == table.name)):
        yield f"Published in: {'; '.join(sources)}."
    lacking = {str(row["row"]) for row in made.rows.to_dict("records") if row["fits"] < row["of"]}
    for name in plan.task.baselines:
        if name in lacking and name in EXTRAS:
            yield f"{name} lacks runs: it takes a package of its own (pip install 'dipsearch[{name}]')."
    for machine in made.machines:
        yield f"Made on {machine}."
    if went_back := [f"{row['row']} {row['rollbacks']}" for row in made.rows.to_dict("records") if row["rollbacks"]]:
        yield f"Collapses, after which fits went back to the last good weights: {', '.join(went_back)}."
    if plan.scale != "full":
        yield f"Scale {plan.scale}: a test that it runs; no number means anything."
    yield from _marks(made)


def _marks(made: Outcome) -> Iterator[str]:
    bands = sorted(made.plan.table.bands.items(), reverse=True)
    for row in made.rows.to_dict("records") if bands else ():
        if not pd.isna(row["fixed"]):
            mark = next((percent for percent, least in bands if row["fixed"] > least), bands[-1][0])
            yield f"Mark of {row['row']}: {mark} %."


def as_table(made: Outcome) -> str:
    """Aligned columns under what has to be said."""
    return " ".join(lines(made)) + "\n\n" + aligned(cells(made), (HEADS["row"],))


def as_markdown(made: Outcome) -> str:
    """A pipe table between a heading and what has to be said."""
    return f"# {made.plan.table.name}\n\n{piped(cells(made))}\n" + "".join(f"- {line}\n" for line in lines(made))


def as_csv(made: Outcome) -> str:
    """Full precision, one line for each row."""
    return made.rows.to_csv(index=False)


FORMATS: dict[str, Callable[[Outcome], str]] = {"table": as_table, "md": as_markdown, "csv": as_csv}
