"""The command that makes a run again: one whose protocol is the run's own, or none."""

import itertools
import shlex
from functools import cache
from pathlib import Path
from typing import Any

from dipsearch import catalog
from dipsearch.error import UsageError
from dipsearch.genome import load_genome_file
from dipsearch.reproduce.table import SCALES, SIDES, Plan, load_table, plan
from dipsearch.run import RESULTS, judged_by, out_option, picture_of
from dipsearch.search.evaluation import Protocol
from dipsearch.search.rerun import Candidate
from dipsearch.task import choose_effort, load_task


def command_of(run: dict[str, Any], out: Path = RESULTS) -> str:
    """The words of the command, for a shell; empty where none of the built-in tasks and tables makes this run.

    Args:
        run: its record.
        out: the folder that it is in, and that it is to be made in again.
    """
    where = out_option(out)
    seeds = ["--seeds", str(run["repeat"] + 1), "--seed", str(run["study_seed"])]
    told = (run["task"], run["preset"], run["protocol"], str(run["setting"]["recipe"].get("precision", "auto")))
    if run["purpose"] == "reproduce":
        made = of_table(*told)
        row = _row(made[0], run) if made else None
        if made is None or row is None:
            return ""
        picture = ["--picture", picture_of(str(run["image"])).removesuffix(".png")] if run["preset"] == "full" else []
        return shlex.join(["dipsearch", "reproduce", run["task"], *made[1], *picture, *row, *seeds, *where])
    options = _of_task(*told, str(run["image"])) if run["purpose"] == "rerun" and run["genome_key"] else None
    if options is None:
        return ""
    named = _built_in(run["name"]) == judged_by(run)
    file = run["name"] if named else "genome.yaml"
    found = ["dipsearch", "export", "genome", run["genome_key"], "--task", run["task"], "-o", file, *where]
    again = ["dipsearch", "rerun", "--task", run["task"], *options, "--genome", file, *seeds, *where]
    return shlex.join(again) if named else f"{shlex.join(found)} && {shlex.join(again)}"


def _row(planned: Plan, run: dict[str, Any]) -> list[str] | None:
    """The option that chooses a run's row, by what it judges: rows may have been called otherwise when it was made.
    None where the table has no such row."""
    if not run["genome_key"]:
        return []
    rows = [row for row, (name, _) in planned.shows.items() if planned.candidates[name].key == judged_by(run)]
    if not rows:
        return None
    return ["--row", run["name"] if run["name"] in rows else rows[0]]


@cache
def _built_in(name: str) -> str | None:
    """What is judged by the name of a built-in genome; None where there is none of that name."""
    if name not in catalog.names("genomes"):
        return None
    file = load_genome_file(name)
    return Candidate(file.genome, file.recipe).key


@cache
def of_table(name: str, scale: str, protocol: str, precision: str) -> tuple[Plan, list[str]] | None:
    """How a built-in table has a protocol, and the options of `reproduce` for that; None where it never has."""
    if scale not in SCALES:
        return None
    try:
        table = load_table(name)
    except UsageError:
        return None
    for chosen in itertools.product(SIDES, repeat=len(table.differences)):
        sides = dict(zip(table.differences, chosen, strict=True))
        for given in (None, precision):
            planned = plan(table, scale, sides=sides, precision=given)
            if Protocol(planned.task, planned.effort, scale, "reproduce", planned.task.recipe).key == protocol:
                others = [f"{difference}={side}" for difference, side in sides.items() if side != SIDES[0]]
                follow = [word for other in others for word in ("--follow", other)]
                own = ["--scale", scale] if scale != "full" else []
                return planned, [*own, *follow, *(["--precision", given] if given else [])]
    return None


@cache
def _of_task(name: str, preset: str, protocol: str, precision: str, image: str) -> list[str] | None:
    """Options of `rerun` with which a task has a protocol and a picture; None where it never has."""
    try:
        task = load_task(name)
        effort = choose_effort(task.rerun, preset)
    except UsageError:
        return None
    if image not in task.images.evaluation[: effort.images]:
        return None
    for given in (None, precision):
        recipe = task.recipe_for(effort.changed({"precision": given}))
        if Protocol(task, effort, preset, "rerun", recipe).key == protocol:
            return ["--preset", preset, *(["--precision", given] if given else [])]
    return None
