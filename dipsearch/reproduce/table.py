"""Published tables as YAML under tables/: whose numbers, on which pictures, under which protocol, in which rows."""

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dipsearch import catalog
from dipsearch.error import UsageError, unknown
from dipsearch.genome import Part, load_genome, load_genome_file
from dipsearch.image import SMALLEST, expand
from dipsearch.search.rerun import Candidate
from dipsearch.task import RerunEffort, Task, load_task

Shown = Literal["answer", "raw"]
SCALES = ("full", "smoke")
SIDES = ("paper", "code")
SMOKE_IMAGES = ("skimage:astronaut",)  # in every installation
SMOKE_SIZE = 32
SMOKE = {"iterations": 3, "window": 2, "burn_in": 1, "thinning": 1}  # no number of it means anything


class Row(Part):
    """A row: a genome, with values of the recipe that differ in it.

    `shows: raw` is the last output itself in place of the averaged one, out of the same fits.
    """

    genome: str
    recipe: dict[str, Any] = Field(default_factory=dict)
    shows: Shown = "answer"


class Side(Part):
    """What one side says: changes of the recipe, of the operator, of rows' genomes (old name to new), and pixels
    reflected at the borders of a picture, by its name."""

    recipe: dict[str, Any] = Field(default_factory=dict)
    operator: dict[str, Any] = Field(default_factory=dict)
    genomes: dict[str, str] = Field(default_factory=dict)
    padding: dict[str, int] = Field(default_factory=dict)


class Difference(Part):
    """Where a paper and its released code say different things."""

    about: str
    paper: Side = Side()
    code: Side = Side()


class Table(Part):
    """A published table.

    `task` is the built-in task that it is an instance of; `recipe`, `operator`, `noise` and `metric` say what differs.
    """

    name: str
    about: str
    source: str
    task: str
    images: tuple[str, ...] = Field(min_length=1)
    seeds: int = Field(3, ge=1)
    size: int | None = Field(None, ge=SMALLEST, description="pixels a side, around the centre; none: whole pictures")
    shrink: int = Field(1, ge=1, le=16)
    multiple_of: int = Field(1, ge=1, le=512)
    metric: str | None = None
    noise: dict[str, Any] | None = None
    operator: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    baselines: tuple[str, ...] | None = None
    differences: dict[str, Difference] = Field(default_factory=dict)
    rows: dict[str, Row] = Field(min_length=1)
    found: bool = Field(True, description="whether the genomes that were found for the task have rows, too")
    bands: dict[int, float] = Field(default_factory=dict, description="marks: percent, and the dB that they take")

    @model_validator(mode="after")
    def _rows_stand_for_fits(self) -> Self:
        fits = {(row.genome, str(row.recipe)) for row in self.rows.values() if row.shows == "answer"}
        for name, row in self.rows.items():
            if row.shows == "raw" and (row.genome, str(row.recipe)) not in fits:
                raise ValueError(f"rows.{name}: no other row shows the answer of these fits")
        return self


@dataclass(frozen=True)
class Plan:
    """A table at one scale: what is to be run, and what each row shows of it."""

    table: Table
    scale: str
    sides: dict[str, str]
    task: Task
    effort: RerunEffort
    candidates: dict[str, Candidate]
    shows: dict[str, tuple[str, Shown]]  # row -> candidate, and what it shows of it


def load_table(name: str) -> Table:
    """A table by its built-in name or by the path of a YAML file; UsageError says what is wrong."""
    return catalog.load_named("tables", name, Table.model_validate)


def plan(
    table: Table,
    scale: str = "full",
    *,
    sides: dict[str, str] | None = None,
    pictures: list[str] | None = None,
    rows: list[str] | None = None,
    seeds: int | None = None,
    precision: str | None = None,
) -> Plan:
    """What a table takes.

    Args:
        table: the published one.
        scale: `full` is its protocol; `smoke` a few iterations on a picture that scikit-image carries.
        sides: for each difference of paper and code, which of them to follow; the paper where it is not said.
        pictures: only these of its pictures, with or without the name of their set.
        rows: only these rows.
        seeds: repeats of each picture.
        precision: in place of the recipe's.

    Raises:
        UsageError: a name is not known, or a value does not fit.
    """
    if scale not in SCALES:
        raise UsageError(unknown("scale", scale, SCALES))
    chosen = _sides(table, sides or {})
    followed = [getattr(table.differences[name], side) for name, side in chosen.items()]
    genomes = {old: new for each in followed for old, new in each.genomes.items()}
    wanted = _rows(table, genomes)
    for name in rows or ():
        if name not in wanted:
            raise UsageError(unknown(f"row of {table.name}", name, wanted))
    wanted = {name: row for name, row in wanted.items() if not rows or name in rows}
    small = SMOKE if scale == "smoke" else {}
    candidates, shows = _candidates(wanted, small)
    whole = {"shrink": table.shrink, "size": table.size, "multiple_of": table.multiple_of, "seeds": table.seeds}
    effort = RerunEffort(**({"size": SMOKE_SIZE, "seeds": 1} if small else whole)).changed(
        seeds=seeds, padding={name: pixels for each in followed for name, pixels in each.padding.items()}
    )
    every = list(SMOKE_IMAGES) if small else expand(list(table.images))
    images = _pictures(f"{table.name}{' at smoke scale' if small else ''}", every, pictures)
    task = _task(table, followed, images, effort, {"precision": precision} if precision else {}, smoke=bool(small))
    return Plan(table, scale, chosen, task, effort, candidates, shows)


def _task(
    table: Table, followed: list[Side], images: list[str], effort: RerunEffort, own: dict[str, Any], *, smoke: bool
) -> Task:
    """The built-in task with what the table, and the sides that it follows, change."""
    base = load_task(table.task)
    recipe = base.recipe.model_dump(exclude_unset=True) | table.recipe
    operator = base.operator.model_dump() | table.operator
    for each in followed:
        recipe, operator = recipe | each.recipe, operator | each.operator
    if "file" in operator:
        operator.pop("missing", None)
        operator = {"name": operator["name"], "missing": 0.5} if smoke else operator
    if smoke:
        recipe |= {name: SMOKE[name] for name in ("iterations", "window")}
    recipe |= own
    if "stop" not in recipe:  # to the end of the budget, so that one fit tells both numbers
        recipe |= {"stop": "es-wmv", "patience": recipe["iterations"]}
    changes: dict[str, Any] = {
        "name": table.name,
        "about": table.about,
        "source": table.source,
        "operator": operator,
        "recipe": recipe,
        "images": base.images.model_dump() | {"evaluation": images},
        "rerun": {"reproduce": effort.model_dump()},
    }
    for name in ("metric", "noise", "baselines"):
        if (value := getattr(table, name)) is not None:
            changes[name] = value
    return catalog.validate(table.name, Task.model_validate, base.model_dump(mode="json") | changes)


def _sides(table: Table, given: dict[str, str]) -> dict[str, str]:
    for name, side in given.items():
        if name not in table.differences:
            raise UsageError(unknown(f"difference of {table.name}", name, table.differences))
        if side not in SIDES:
            raise UsageError(unknown("side", side, SIDES))
    return {name: given.get(name, SIDES[0]) for name in table.differences}


def _pictures(of: str, every: list[str], wanted: list[str] | None) -> list[str]:
    if not wanted:
        return every
    short = {name.split(":")[-1]: name for name in every} | {name: name for name in every}
    for name in wanted:
        if name not in short:
            raise UsageError(unknown(f"picture of {of}", name, {name.split(":")[-1] for name in every}))
    return [name for name in every if name in {short[each] for each in wanted}]


def _rows(table: Table, genomes: dict[str, str]) -> dict[str, Row]:
    rows = {
        name: row.model_copy(update={"genome": genomes.get(row.genome, row.genome)}) for name, row in table.rows.items()
    }
    if table.found:
        for name in catalog.names("genomes"):
            file = load_genome_file(name)
            if file.provenance.get("task") == table.task:
                rows[name] = Row(genome=name, recipe=file.recipe)
    return rows


def _candidates(
    rows: dict[str, Row], small: dict[str, Any]
) -> tuple[dict[str, Candidate], dict[str, tuple[str, Shown]]]:
    """The fits, each under the name of a row that shows its answer, and what each row shows."""
    candidates: dict[str, Candidate] = {}
    by_key: dict[str, str] = {}
    shows: dict[str, tuple[str, Shown]] = {}
    for name, row in sorted(rows.items(), key=lambda item: item[1].shows == "raw"):
        changes = row.recipe | {key: value for key, value in small.items() if key in row.recipe}
        if "iterations" in changes and "stop" not in changes:  # as in the table: to the end of the budget
            changes |= {"patience": changes["iterations"]}
        candidate = Candidate(load_genome(row.genome), changes)
        candidates.setdefault(by_key.setdefault(candidate.key, name), candidate)
        shows[name] = (by_key[candidate.key], row.shows)
    return candidates, {name: shows[name] for name in rows}
