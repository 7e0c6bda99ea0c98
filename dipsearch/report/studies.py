"""Studies as a report shows them: how a search went, what mattered, and where its trials ended."""

from pathlib import Path

from markupsafe import Markup

from dipsearch.error import DipsearchError
from dipsearch.report.charts import history, inline
from dipsearch.report.figure import figure_of
from dipsearch.report.views import Cell, StudyView, Table
from dipsearch.run import hashed
from dipsearch.search.evidence import Ended, read_history
from dipsearch.search.explain import explain


def view_study(folder: Path) -> StudyView:
    """The study in a folder; what cannot be read of it is said in `missing`."""
    name, charts, missing = folder.name, list[Markup](), list[str]()
    anchor = f"study-{hashed(name)}"
    trials: list[Ended] = []
    try:
        trials = read_history(folder)
        drawn = history(trials, f"{anchor}-history")
        charts += [drawn] if drawn is not None else []
    except DipsearchError as error:
        missing.append(str(error))
    try:
        told = explain(folder)
        charts.append(inline(figure_of(told), f"{anchor}-genes", f"importance and effects of the genes of {name}"))
    except DipsearchError as error:
        missing.append(str(error))
    scored = [trial for trial in trials if trial.score is not None]
    facts = {"trials": str(len(trials)), "with a score": str(len(scored))}
    if estimated := sum(not trial.whole for trial in scored):
        facts["of these, estimated"] = str(estimated)
    if whole := [trial.score for trial in scored if trial.whole and trial.score is not None]:
        facts["best"] = f"{max(whole):.2f}"
    return StudyView(anchor, name, facts, charts, _rungs(trials), _reasons(trials), "; ".join(dict.fromkeys(missing)))


def _rungs(trials: list[Ended]) -> Table | None:
    """How many trials came to each rung, and how many ended there."""
    steps = sorted({rung for trial in trials for rung in trial.rungs})
    rows = []
    for step in steps:
        came = [trial for trial in trials if step in trial.rungs]
        ended = [trial for trial in came if trial.score is None and trial.rungs[-1] == step]
        share = len(ended) / len(came)
        rows.append(
            [
                Cell(f"rung {step}", step),
                Cell(str(len(came)), len(came)),
                Cell(str(len(ended)), len(ended)),
                Cell(f"{share:.0%}", share),
            ]
        )
    return Table(["rung", "trials that came to it", "pruned there", "share"], [True] * 4, rows) if rows else None


def _reasons(trials: list[Ended]) -> Table | None:
    """Why trials have no score: the word before the colon, and an example."""
    counts: dict[str, list[str]] = {}
    for trial in trials:
        if trial.score is None:
            counts.setdefault(trial.reason.split(":")[0], []).append(trial.reason)
    rows = [
        [Cell(kind), Cell(str(len(each)), len(each)), Cell(each[0])]
        for kind, each in sorted(counts.items(), key=lambda item: -len(item[1]))
    ]
    return Table(["why", "trials", "the first"], [False, True, False], rows) if rows else None
