"""Runs -> tables. Honest numbers rank; oracle numbers stand beside them under their own name."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dipsearch.error import UsageError
from dipsearch.run import OK, RunStore, out_option, picture_of, subject_of

COLUMNS = {
    "rank": "rank",
    "name": "genome",
    "summary": "network",
    "psnr": "PSNR",
    "psnr_sd": "sd",
    "held_out": "held-out PSNR",
    "oracle_psnr": "oracle PSNR",
    "ssim": "SSIM",
    "parameters": "parameters",
    "gflop": "GFLOP/it",
    "seconds": "seconds",
    "front": "front",
    "images": "images",
    "seeds": "seeds",
    "rollbacks": "rollbacks",
    "non_finite": "non-finite",
    "failed": "failed",
    "found_on": "found on",
}


@dataclass(frozen=True)
class Leaderboard:
    """One protocol's ranking, and what has to be said about it."""

    task: str
    table: pd.DataFrame
    preset: str
    metric: str
    setting: dict[str, Any]
    purpose: str
    images: list[str]
    machines: list[str]
    other_protocols: int
    other_instances: int
    broken: list[Path]
    runs: pd.DataFrame  # the rows are made of these
    judged: str = "psnr"  # the column that ranks

    @property
    def smoke(self) -> bool:
        """Whether these are the few iterations of a published table that only show that it runs."""
        return self.purpose == "reproduce" and self.preset != "full"


@dataclass(frozen=True)
class Scope:
    """Which runs a table is made of: one protocol, and the (picture digest, instance seed) pairs to be judged on."""

    protocol: str
    instances: frozenset[tuple[str, int]]


def leaderboard(
    store: RunStore,
    task: str,
    *,
    purpose: str = "rerun",
    preset: str | None = None,
    scope: Scope | None = None,
    subject: str | None = None,
) -> Leaderboard:
    """Rank the genomes and baselines of a task.

    Runs are comparable within one protocol (operator, noise, metric, picture size, recipe) and on the same
    instances; without a `scope`, those around the most recent fit. Rank is by PSNR, the mean over pictures of the mean
    over seeds (held-out PSNR, without a truth and where a search was judged by it), and goes to rows that have every
    instance; `psnr_sd` is the deviation over seeds, those with every picture of the row, of the mean over pictures.
    Failed fits are counted, and in no mean.

    Args:
        store: where the runs are.
        task: its name.
        purpose: `rerun` ranks full fits on the evaluation images, `search` proxy fits on the search images.
        preset: only runs of this preset.
        scope: exactly these runs, of whatever preset.
        subject: those around the most recent fit of this one.

    Raises:
        UsageError: there are no such runs.
    """
    runs, broken = store.load(task)
    frame = _frame(runs)
    chosen = frame[frame["purpose"] == purpose]
    if preset is not None and scope is None:
        chosen = chosen[chosen["preset"] == preset]
    if subject is not None:
        chosen = chosen[chosen["subject"] == subject]
    if not chosen.empty:
        scope = scope or _latest(chosen, frame, purpose)
        comparable = frame[frame["protocol"] == scope.protocol]
        inside = [
            instance in scope.instances for instance in zip(comparable["digest"], comparable["seed"], strict=True)
        ]
        rows = comparable[inside]
    if chosen.empty or rows.empty:
        wanted = f"{purpose} runs" + (f" with preset {preset!r}" if preset else "")
        options = [] if preset is None else ["--preset", preset]
        hint = shlex.join(["dipsearch", purpose, "--task", task, *options, *out_option(store.root.parent)])
        raise UsageError(f"no {wanted} for task {task!r} under {store.root}; run: {hint}")
    searched = frame.loc[frame["purpose"] == "search", ["subject", "picture"]].drop_duplicates().sort_values("picture")
    found_on = searched.groupby("subject")["picture"].agg(", ".join).to_dict()
    fitted = rows[rows["genome_key"].notna()].sort_values("created")
    told_so = purpose == "search" and not fitted.empty and fitted["objective"].iloc[-1] == "held-out"
    judged = "held_out" if told_so or not rows["psnr"].notna().any() else "psnr"
    table = _table(rows, judged)
    table["found_on"] = [found_on.get(subject, "") for subject in table["subject"]]
    first = rows.iloc[0]
    fits = rows[rows["genome_key"].notna() & rows["psnr"].notna()]
    fits = rows if fits.empty else fits  # only baselines
    return Leaderboard(
        task=task,
        table=table,
        preset=preset or str(first["preset"]),
        metric=str(first["metric"]),
        setting=dict(first["setting"]),
        purpose=purpose,
        images=sorted(set(rows["picture"])),
        machines=sorted({machine_of(*made) for made in zip(*(fits[name] for name in MADE_ON), strict=True)}),
        other_protocols=int(chosen["protocol"].nunique()) - 1,
        other_instances=int((chosen["protocol"] == scope.protocol).sum()) - len(rows),  # type: ignore[union-attr]
        broken=broken,
        runs=rows,
        judged=judged,
    )


def search_ranking(store: RunStore, task: str, scope: Scope | None = None) -> pd.DataFrame:
    """Genomes by their search score, best first, with `name` and `genome`; empty where nothing was searched."""
    try:
        table = leaderboard(store, task, purpose="search", scope=scope).table
    except UsageError:
        return pd.DataFrame()
    return table[table["rank"].notna() & table["genome"].notna()]


def _latest(chosen: pd.DataFrame, frame: pd.DataFrame, purpose: str) -> Scope:
    """The scope around the most recent fit (or baseline, where nothing was fitted) of those `chosen` from a frame.

    Its genome's instances, or more: where other genomes have those and others too, the set that most genomes
    have exactly, and of equals the larger. So a genome that was run on less is shown without a rank, and one
    that was also run on other pictures does not leave the rest without one. In a search, most genomes may have been
    given up after some pictures: there, the largest set that two genomes have. What a genome has counts, whatever it
    was made for: a fit that a search has made is no other one in a re-run of the same protocol.
    """
    fits = chosen[chosen["genome_key"].notna()]
    fits = chosen if fits.empty else fits
    latest = fits.sort_values("created").iloc[-1]
    fits = fits[fits["protocol"] == latest["protocol"]]
    asked = set(zip(fits["digest"], fits["seed"], strict=True))
    alike = frame[(frame["protocol"] == latest["protocol"]) & frame["subject"].isin(fits["subject"])]
    covered: dict[str, set[tuple[str, int]]] = {}
    for subject, digest, seed in zip(alike["subject"], alike["digest"], alike["seed"], strict=True):
        if (digest, seed) in asked:
            covered.setdefault(subject, set()).add((str(digest), int(seed)))
    least = covered[latest["subject"]]
    sets = Counter(frozenset(instances) for instances in covered.values() if instances >= least)

    def standing(instances: frozenset[tuple[str, int]]) -> tuple[int, int]:
        many = sets[instances]
        return (min(many, 2), len(instances)) if purpose == "search" else (many, len(instances))

    return Scope(str(latest["protocol"]), max(sets, key=standing))


MEANS = ("psnr", "held_out", "oracle_psnr", "ssim", "gflop", "seconds")
NUMBERS = (*MEANS, "parameters", "rollbacks", "non_finite")
MADE_ON = ("machine", "device", "precision")


def with_front(table: pd.DataFrame, costs: Sequence[str]) -> pd.DataFrame:
    """The table with a mark in `front` at the Pareto front: ranked genomes than which none is better in one of rank and
    costs, and as good in all.

    Args:
        table: of a leaderboard.
        costs: of `gflop`, `parameters` and `seconds`.
    """
    ranked = table[table["rank"].notna() & table["genome"].notna()]
    values = ranked[["rank", *costs]].astype(float).to_numpy()
    beaten = [bool(((values <= each).all(1) & (values < each).any(1)).any()) for each in values]
    front = {index for index, worse in zip(ranked.index, beaten, strict=True) if not worse}
    return table.assign(front=["*" if index in front else "" for index in table.index])


def machine_of(machine: dict[str, Any] | None, device: str, precision: str | None) -> str:
    """What computed a run, in a few words."""
    processor, cores, torch = ((machine or {}).get(fact, "unknown") for fact in ("processor", "cores", "torch"))
    computed = f" in {precision}" if precision else ""  # a baseline has none
    return f"{processor}, {cores} cores, {device}{computed}, torch {torch}"


def _frame(runs: list[dict[str, Any]]) -> pd.DataFrame:
    columns = [
        "purpose", "preset", "protocol", "setting", "metric", "image", "digest", "repeat", "study_seed", "seed", "name",
        "summary", "genome_key", "genome", "status", "psnr", "held_out", "oracle_psnr", "ssim",
        "parameters", "gflop", "seconds", "rollbacks", "non_finite", "created", "machine", "device",
        "precision", "objective",
    ]  # fmt: skip
    frame = pd.DataFrame({column: [run.get(column) for run in runs] for column in columns})
    frame["recipe_changes"] = pd.Series([run.get("recipe_changes") or {} for run in runs], dtype=object)
    keys = frame["genome_key"].fillna(frame["name"])
    frame["subject"] = [subject_of(key, changes) for key, changes in zip(keys, frame["recipe_changes"], strict=True)]
    frame["picture"] = [picture_of(str(image)) for image in frame["image"]]
    for column in NUMBERS:
        frame[column] = pd.to_numeric(frame[column])
    return frame


def _table(rows: pd.DataFrame, judged: str) -> pd.DataFrame:
    """One row for each genome and baseline, ranked by a column."""
    instances = len(rows[["digest", "seed"]].drop_duplicates())
    rows = rows.assign(seed=rows["study_seed"].astype(str) + "/" + rows["repeat"].astype(str))  # over pictures
    table = rows.groupby("subject", sort=False).agg(
        name=("name", "last"),
        summary=("summary", "first"),
        genome=("genome", "first"),
        recipe_changes=("recipe_changes", "first"),
        parameters=("parameters", "max"),
        rollbacks=("rollbacks", "sum"),
        non_finite=("non_finite", "sum"),
        fits=(judged, "count"),
        failed=("status", lambda status: (status != OK).sum()),
    )
    good = rows[rows["status"] == OK]
    table[list(MEANS)] = good.groupby(["subject", "digest"])[list(MEANS)].mean().groupby("subject").mean()
    counts = good.groupby("subject")[["digest", "seed"]].nunique().rename(columns={"digest": "images", "seed": "seeds"})
    table[["images", "seeds"]] = counts.reindex(table.index, fill_value=0)
    by_seed = good.groupby(["subject", "seed"]).agg(mean=(judged, "mean"), images=("digest", "nunique")).reset_index()
    whole = by_seed[by_seed["images"] == by_seed["subject"].map(table["images"])]
    table["psnr_sd"] = whole.groupby("subject")["mean"].std(ddof=1)
    table["rank"] = table[judged].where(table["fits"] == instances).rank(ascending=False, method="min")
    table = table.sort_values(["rank", judged], ascending=[True, False], na_position="last").reset_index()
    return table.assign(front="")
