"""The command that makes a run again: one whose protocol is the run's own, or none."""

import itertools
import shlex
from functools import cache
from typing import Any

from dipsearch import catalog
from dipsearch.error import UsageError
from dipsearch.reproduce.table import SCALES, SIDES, load_table, plan
from dipsearch.run import picture_of
from dipsearch.search.evaluation import Protocol
from dipsearch.task import choose_effort, load_task


def command_of(run: dict[str, Any]) -> str:
    """The words of the command, for a shell; empty where none of the built-in tasks and tables makes this run."""
    seeds = ["--seeds", str(run["repeat"] + 1), "--seed", str(run["study_seed"])]
    told = (run["task"], run["preset"], run["protocol"], str(run["setting"]["recipe"].get("precision", "auto")))
    if run["purpose"] == "reproduce":
        options = _of_table(*told)
        row = ["--row", run["name"]] if run["genome_key"] else []
        picture = ["--picture", picture_of(str(run["image"])).removesuffix(".png")] if run["preset"] == "full" else []
        words = ["dipsearch", "reproduce", run["task"], *(options or ()), *picture, *row, *seeds]
        return "" if options is None else shlex.join(words)
    options = _of_task(*told, str(run["image"])) if run["purpose"] == "rerun" and run["genome_key"] else None
    if options is None:
        return ""
    named = run["name"] in catalog.names("genomes")
    file = run["name"] if named else "genome.yaml"
    found = ["dipsearch", "export", "genome", run["name"], "--task", run["task"], "-o", file]
    again = ["dipsearch", "rerun", "--task", run["task"], *options, "--genome", file, *seeds]
    return shlex.join(again) if named else f"{shlex.join(found)} && {shlex.join(again)}"


@cache
def _of_table(name: str, scale: str, protocol: str, precision: str) -> list[str] | None:
    """Options of `reproduce` with which a table has a protocol; None where it never has."""
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
                return [*own, *follow, *(["--precision", given] if given else [])]
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
