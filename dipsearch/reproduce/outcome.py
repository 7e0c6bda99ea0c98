"""What a table's runs say, row by row, beside what was published."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dipsearch import catalog
from dipsearch.image import expand
from dipsearch.leaderboard import MADE_ON, machine_of
from dipsearch.reproduce.published import Published, numbers, over, rows_of
from dipsearch.reproduce.table import Plan, load_table
from dipsearch.run import OK, picture_of
from dipsearch.search.rerun import Rerun

# how a published iteration was chosen -> own column of that kind
JUDGED = ("stopped", "fixed", "oracle")  # columns of PSNR
COMPARED = {"fixed": "fixed", "oracle": "oracle", "none": "fixed"}


@dataclass(frozen=True)
class Outcome:
    """A table with its own numbers; PSNR in dB, means over seeds, then over pictures.

    Columns of `rows`: `row`; `stopped`, `fixed`, `oracle`: PSNR of the answer under the stopping rule, of the
    (averaged) output at the end of the budget (none where one stopped before), of the best iteration that the clean
    picture could pick; with `_sd`, the deviation of each over the seeds that have every picture of the row, of the mean
    over pictures; `ssim`, `seconds`, `gflop`; `rollbacks` of all fits; `fits` and `of` how many; `published`, how its
    iteration was chosen (`stop`), whether it is of all pictures of the table where these are fewer (`of_all`), and,
    where that is known, the `difference` of the own number of that kind over the same pictures. `machines`: what
    computed the fits, in words.
    """

    plan: Plan
    rows: pd.DataFrame
    machines: list[str]


def outcome(plan: Plan, work: Rerun) -> Outcome:
    """Look up every run of a table."""
    made: list[dict[str, Any]] = []
    for row, (name, shown) in plan.shows.items():
        runs = [work.stored(name, instance) for instance in work.instances]
        made.append(_row(plan, row, [run for run in runs if run], len(runs), raw=shown == "raw"))
    for baseline in plan.task.baselines:
        runs = [work.protocol.find(work.store, baseline, instance) for instance in work.instances]
        made.append(_row(plan, baseline, [run for run in runs if run], len(runs)))
    known = {entry["row"] for entry in made}
    if _as_published(plan):
        made += [_row(plan, row, [], 0) for row in rows_of(plan.table.name) if row not in known]
    every = [run for entry in made for run in entry.pop("runs")]
    fits = [run for run in every if run["genome_key"] is not None] or every  # or only baselines
    machines = dict.fromkeys(machine_of(*(run[name] for name in MADE_ON)) for run in fits)
    return Outcome(plan, pd.DataFrame(made), list(machines))


def _row(plan: Plan, row: str, runs: list[dict[str, Any]], of: int, *, raw: bool = False) -> dict[str, Any]:
    good = [run for run in runs if run["status"] == OK]
    ends = [_final(run, raw=raw) for run in good]
    frame = pd.DataFrame(
        {
            "picture": [picture_of(str(run["image"])) for run in good],
            "digest": [run["digest"] for run in good],  # two pictures may be called alike
            "seed": [run["repeat"] for run in good],
            "stopped": [None if raw else run["psnr"] for run in good],
            "fixed": [None] * len(good) if None in ends else ends,  # a mean over some would be of other pictures
            "oracle": [None if raw else run["oracle_psnr"] for run in good],
            "ssim": [None if raw else run["ssim"] for run in good],
            "seconds": [run["seconds"] for run in good],
            "gflop": [run["gflop"] for run in good],
        }
    )
    numeric = frame.drop(columns=["picture", "digest", "seed"]).astype(float)
    frame = frame.assign(**numeric)
    own = {str(name): float(value) for name, value in frame.groupby("digest")[list(numeric)].mean().mean().items()}
    told: dict[str, Any] = {
        "row": row,
        **own,
        **{f"{name}_sd": _spread(frame, name) for name in JUDGED},
        "rollbacks": sum(run["rollbacks"] for run in good),
        "fits": len(good),
        "of": of,
        "runs": good,
    }
    told |= {"failed": len(runs) - len(good), "published": None, "stop": "", "of_all": False, "difference": None}
    if _as_published(plan) and (said := numbers(plan.table.name, row)):
        pictures = set(frame["picture"]) or {picture_of(name) for name in plan.task.images.evaluation}
        told |= _beside(said, frame, pictures, whole=len(good) == of and _all_pictures(plan))
    return told


def _spread(frame: pd.DataFrame, values: str) -> float:
    """The deviation over the seeds that have every picture, of the mean over pictures; not a number where one has."""
    by_seed = frame.pivot_table(index="seed", columns="digest", values=values).dropna().mean(axis=1)
    return float(by_seed.std(ddof=1))


def _beside(said: dict[str, Published], frame: pd.DataFrame, pictures: set[str], *, whole: bool) -> dict[str, Any]:
    """The published number, and the difference where there is one of the same pictures."""
    same = over(said, pictures, whole=whole)
    if same is None:
        return {"published": said[""].psnr, "stop": said[""].stop, "of_all": True} if "" in said else {}
    value, stop = same
    told: dict[str, Any] = {"published": value, "stop": stop}
    if len(frame) and stop in COMPARED:
        told["difference"] = float(frame.groupby("digest")[COMPARED[stop]].mean().mean() - value)
    return told


def _final(run: dict[str, Any], *, raw: bool) -> float | None:
    """At the end of the budget, None where a fit stopped before it; a baseline has no iterations."""
    if run["genome_key"] is None:
        return float(run["psnr"])
    ended = run["stop_reason"] == "budget"
    value: float | None = run["raw_psnr" if raw else "final_psnr"] if ended else None
    return value


def _as_published(plan: Plan) -> bool:
    """Whether the table is a built-in one as it stands, and no copy with other settings."""
    built_in = plan.table.name in catalog.names("tables") and plan.table == load_table(plan.table.name)
    return built_in and plan.scale == "full"


def _all_pictures(plan: Plan) -> bool:
    return len(plan.task.images.evaluation) == len(expand(list(plan.table.images)))
