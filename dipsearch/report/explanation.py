"""What a study says about its genes, as text: a terminal table, CSV, JSON, Markdown."""

import json
import math
from collections.abc import Callable, Hashable
from typing import Any

import pandas as pd

from dipsearch.report.text import aligned, piped
from dipsearch.search.explain import BEST, ENOUGH, Explanation

ADVISED = 5  # networks among the best, from which on Optuna calls PED-ANOVA stable
LEFT = ("gene", "choice")  # columns of words


def caption(told: Explanation) -> str:
    """What the numbers are, and what they are not, in a few lines."""
    evidence, few = told.evidence, "" if told.best >= ADVISED else f" Of fewer than {ADVISED}, it is a hint at most."
    counts = {
        "scores that are estimates, as their networks were stopped before the last picture": evidence.imputed,
        "trials that repeat a network, and are not counted again": evidence.repeats,
        "trials that run, wait or failed, and are not counted": evidence.unfinished,
    }
    lines = [
        f"{evidence.study}: what goes with a good {evidence.objective}; networks with a score: {told.complete}, "
        f"pruned: {told.pruned}.",
        f"Importance: share of PED-ANOVA's, of what tells the best {percent(BEST)} from all networks with a score; by "
        f"chance: how often shuffled scores give the gene as much. The best are {told.best} here.{few}",
        f"Effect, in {told.unit}: mean score with the choice, less the mean of all networks that the gene matters to; "
        f"95 % by bootstrap, from {ENOUGH} scores on. A network that does not use a gene does not count for it.",
        "A pruned network never reached a score: effects are those of the survivors, so read the share that was pruned "
        "beside them. A sampler tries good choices together: what goes with a score need not cause it.",
        *(f"Besides: {words}: {count}." for words, count in counts.items() if count),
    ]
    return "\n".join(lines)


def cells(told: Explanation) -> pd.DataFrame:
    """The effects as words, a gene's name and importance in the first row of its choices only."""
    genes, rows = told.genes.set_index("gene"), list[tuple[str, list[str]]]()
    for row in told.effects.to_dict("records"):
        gene, first = row["gene"], not rows or rows[-1][0] != row["gene"]
        named = [label(told, gene), f"{genes['importance'][gene]:.2f}", percent(genes["chance"][gene])]
        tried = row["complete"] + row["pruned"]
        pruned = f"{row['pruned']} ({percent(row['pruned_share'])})" if tried else ""
        effect = "" if math.isnan(row["effect"]) else decibel(row["effect"])
        words = [str(row["choice"]), effect, interval(row), str(row["complete"]), pruned]
        rows.append((gene, (named if first else [""] * len(named)) + words))
    columns = ["gene", "importance", "by chance", "choice", "effect", "95 %", "scores", "pruned"]
    return pd.DataFrame([words for _, words in rows], columns=columns)


def label(told: Explanation, gene: str) -> str:
    """A gene for a person: one whose levels are pooled says so."""
    known = told.evidence.space.genes.get(gene)
    return f"{gene} (all levels)" if known is not None and known.levels else gene


def interval(row: dict[Hashable, Any]) -> str:
    """The interval of a row of effects, or why there is none."""
    if not math.isnan(row["low"]):
        return f"{decibel(row['low'])} to {decibel(row['high'])}"
    if not row["complete"]:
        return "no score" if row["pruned"] else "never tried"
    return "nothing beside it" if math.isnan(row["effect"]) else "too few"


def decibel(value: float) -> str:
    """A difference with its sign, which nothing has none of."""
    return f"{value:+.2f}" if abs(value) >= 0.005 else "0.00"


def percent(share: float) -> str:
    """A share of 1 as whole percent."""
    return "< 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def as_table(told: Explanation) -> str:
    """Aligned columns under a caption."""
    return caption(told) + "\n\n" + aligned(cells(told), LEFT)


def as_markdown(told: Explanation) -> str:
    """A pipe table under its caption."""
    return caption(told) + "\n\n" + piped(cells(told))


def as_csv(told: Explanation) -> str:
    """Full precision, one line for each choice."""
    return told.effects.merge(told.genes[["gene", "importance", "chance"]], on="gene").to_csv(index=False)


def as_json(told: Explanation) -> str:
    """Full precision, with what the numbers are of."""
    evidence = told.evidence
    facts = {"study": evidence.study, "space": evidence.space.name, "objective": evidence.objective, "unit": told.unit}
    counts = {"complete": told.complete, "pruned": told.pruned, "best": told.best}
    others = {"imputed": evidence.imputed, "repeats": evidence.repeats, "unfinished": evidence.unfinished}
    tables = {
        name: json.loads(table.to_json(orient="records", double_precision=15))
        for name, table in (("genes", told.genes), ("effects", told.effects))
    }
    return json.dumps(facts | counts | others | tables, indent=1) + "\n"


FORMATS: dict[str, Callable[[Explanation], str]] = {
    "table": as_table,
    "csv": as_csv,
    "json": as_json,
    "md": as_markdown,
}
