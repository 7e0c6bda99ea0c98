"""Tasks: images + operator + noise + recipe + metric protocol, as YAML under tasks/."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from dipsearch import catalog
from dipsearch.baseline import BASELINES
from dipsearch.error import TooLittle, UsageError, unknown
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Part
from dipsearch.image import SMALLEST, Cut, digest, expand, normal, read
from dipsearch.metric import PROTOCOLS
from dipsearch.operator import NOISES, OPERATORS, Mask, MaskOptions, NoiseOptions, Options
from dipsearch.seed import seed_of


def _known(kind: str, registry: dict[str, Any]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in registry:
            raise ValueError(unknown(kind, name, registry))
        return name

    return AfterValidator(check)


class OperatorChoice(Part):
    """An operator's name, and beside it the options of that operator."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: Annotated[str, _known("operator", OPERATORS)]

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        try:
            _ = self.options
        except ValidationError as error:
            raise ValueError(catalog.describe(error)) from None
        return self

    def identity(self) -> dict[str, Any]:
        """What tells this operator from others: its name with all options, defaults and files' contents included."""
        return {"name": self.name} | self.options.identity()

    @property
    def options(self) -> Options:
        """The options, validated."""
        return OPERATORS[self.name].model_validate(self.model_extra)  # type: ignore[no-any-return]


class NoiseChoice(NoiseOptions):
    """Noise on the observation, by name, with its options."""

    name: Annotated[str, _known("noise", NOISES)] = "none"


class Images(Part):
    """Names (`skimage:NAME`) or paths. Genomes are found on `search` and judged on `evaluation`."""

    search: tuple[str, ...] = Field(min_length=1)
    evaluation: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if both := {normal(name) for name in self.search} & {normal(name) for name in self.evaluation}:
            raise ValueError(f"search and evaluation images must differ, both hold {', '.join(sorted(both))}")
        return self


class Effort(Part):
    """A preset: how much of the task is done. Pictures are shrunk by area, then cut around the centre."""

    images: int | None = Field(None, ge=1, description="the first so many; none: all")
    shrink: int = Field(1, ge=1, le=16)
    size: int | None = Field(None, ge=SMALLEST, description="pixels a side; none: whole pictures")
    multiple_of: int = Field(1, ge=1, le=512, description="cut so that both sides are multiples of it")
    padding: dict[str, Annotated[int, Field(ge=1, le=16)]] = Field(
        default_factory=dict, description="pixels reflected at the borders of a picture, by its name"
    )
    recipe: dict[str, Any] = Field(default_factory=dict, description="fields of the task's recipe to change")
    operator: dict[str, Any] = Field(default_factory=dict, description="options of the task's operator to change")

    def changed(self, recipe: dict[str, Any] | None = None, **fields: Any) -> Self:
        """The preset with other values, its recipe too, where they are not None."""
        given = {name: value for name, value in fields.items() if value is not None}
        settings = {name: value for name, value in (recipe or {}).items() if value is not None}
        return self.model_copy(update=given | {"recipe": self.recipe | settings})


class SearchEffort(Effort):
    """A preset of `search`: proxy fits."""

    trials: int = Field(ge=1)
    timeout: float = Field(gt=0, description="seconds, after which no trial starts")
    repeats: int = Field(1, ge=1, description="seeds for each picture")
    start_up: int = Field(8, ge=1, description="random trials; most pruners give none of them up")
    # a genome that would take more is pruned unfitted
    max_gflop: float | None = Field(None, gt=0, description="of an iteration")
    max_seconds: float | None = Field(None, gt=0, description="of a fit, predicted from a few steps")
    max_memory: float | None = Field(None, gt=0, description="MiB of a fit")


class RerunEffort(Effort):
    """A preset of `rerun`: fits at full budget."""

    seeds: int = Field(3, ge=1)


class Suited(Part):
    """A genome that suits pictures of a size, by its name, and what their fits take of the recipe for themselves."""

    genome: str
    recipe: dict[str, Any] = Field(default_factory=dict, description="fields of the preset's recipe to change")

    @model_validator(mode="before")
    @classmethod
    def _a_name_alone(cls, data: Any) -> Any:
        return {"genome": data} if isinstance(data, str) else data


class RestoreEffort(Part):
    """A preset of `restore`: what is fitted to a person's own picture, and how.

    A network that suits a small picture cannot hold a large one, and one that can fits the noise of a small one: each
    genome is taken from a size on. What is larger than `tile` is restored in parts.
    """

    genome: dict[Annotated[int, Field(ge=0)], Suited] = Field(
        min_length=1, description="by the pixels a side (the root of the area) from which on it is taken"
    )
    tile: int = Field(512, ge=64, description="pixels a side of the largest picture that is fitted as one")
    recipe: dict[str, Any] = Field(default_factory=dict, description="fields of the task's recipe to change")

    @model_validator(mode="after")
    def _every_size_has_a_genome(self) -> Self:
        if 0 not in self.genome:
            raise ValueError("genome: the smallest pictures need one, too, from 0 pixels on")
        return self


class Task(Part):
    """What is to be restored and how that is judged."""

    name: str
    about: str
    source: str = ""
    operator: OperatorChoice
    noise: NoiseChoice = NoiseChoice()
    metric: Annotated[str, _known("metric", PROTOCOLS)]
    genome: str = Field(description="the published network, always judged beside the found ones")
    baselines: tuple[Annotated[str, _known("baseline", BASELINES)], ...] = ()
    images: Images
    truth: bool = Field(True, description="false: pictures are observations themselves, of which no clean one is known")
    recipe: Recipe = Recipe()
    search: dict[str, SearchEffort] = Field(min_length=1)
    rerun: dict[str, RerunEffort] = Field(min_length=1)
    restore: dict[str, RestoreEffort] = Field(default_factory=dict, description="of a person's own pictures")

    @model_validator(mode="after")
    def _check_recipes(self) -> Self:
        for verb, presets in (("search", self.search), ("rerun", self.rerun)):
            for preset, effort in presets.items():
                try:
                    self.recipe_for(effort)
                    self.operator_for(effort)
                except ValidationError as error:
                    what = "recipe" if error.title == Recipe.__name__ else "operator"
                    raise ValueError(f"{verb}.{preset}.{what}.{catalog.describe(error)}") from None
        return self

    def recipe_for(self, effort: Effort) -> Recipe:
        """The task's recipe with a preset's changes."""
        return Recipe.model_validate(self.recipe.model_dump() | effort.recipe)

    def operator_for(self, effort: Effort) -> OperatorChoice:
        """The task's operator with a preset's changes."""
        return OperatorChoice.model_validate(self.operator.model_dump() | effort.operator)

    def with_images(self, which: str, paths: Sequence[str]) -> Self:
        """The task with other `search` or `evaluation` images, all of them used; itself where there are none.

        A folder stands for the pictures in it.
        """
        if not paths:
            return self
        verb = {"search": "search", "evaluation": "rerun"}[which]
        efforts = {name: effort.model_copy(update={"images": None}) for name, effort in getattr(self, verb).items()}
        images = catalog.validate(
            "--images", Images.model_validate, self.images.model_dump() | {which: expand(list(paths))}
        )
        return self.model_copy(update={"images": images, verb: efforts})

    def with_operator(self, **changes: Any) -> Self:
        """The task with other options of its operator; UsageError where it has no such option."""
        operator = catalog.validate("operator", OperatorChoice.model_validate, self.operator.model_dump() | changes)
        return self.model_copy(update={"operator": operator})

    def without_truth(self, mask: str | None = None) -> Self:
        """The task for pictures that are observations themselves; search presets keep their pixels, and what
        damaged them, as they are.

        UsageError where the operator needs a `mask`, or takes none.
        """
        operator = self.operator
        if isinstance(operator.options, MaskOptions):
            mask = mask or operator.options.file
            if mask is None:
                raise UsageError("without a truth, a mask has to say which pixels are missing: --mask FILE")
            operator = OperatorChoice.model_validate({"name": operator.name, "file": mask})
        elif mask is not None:
            raise UsageError(f"--mask: the operator {operator.name!r} takes none")
        as_it_is = {"shrink": 1, "operator": {}}
        search = {name: effort.model_copy(update=as_it_is) for name, effort in self.search.items()}
        return self.model_copy(update={"truth": False, "operator": operator, "search": search})

    @property
    def image_channels(self) -> int:
        """1 where the metric reads pictures as grey, else 3."""
        return 1 if PROTOCOLS[self.metric].grey else 3


def load_task(name: catalog.Name) -> Task:
    """Load a task by the name of a built-in one or by the path of a YAML file; UsageError says what is wrong."""
    return catalog.load_named("tasks", name, Task.model_validate)


def choose_effort(presets: dict[str, Any], preset: str) -> Any:
    """A preset by name; UsageError names the choices."""
    if preset not in presets:
        raise UsageError(unknown("preset", preset, presets))
    return presets[preset]


@dataclass(frozen=True)
class Observation:
    """One damaged picture, and what made it: an instance of a task.

    `digest` identifies the clean pixels; `seed` is made of study seed, picture and repeat, and everything
    drawn for this instance (mask, noise, z, weights) is drawn from it. Without a clean picture, `truth` is None and
    `digest` is of the observation.
    """

    image: str
    digest: str
    repeat: int
    study_seed: int
    seed: int
    truth: Tensor | None
    y: Tensor
    operator: nn.Module

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the picture to restore."""
        _, channels, height, width = self.y.shape
        factor = int(getattr(self.operator, "factor", 1))
        return channels, height * factor, width * factor


def read_truth(task: Task, effort: Effort, image: str) -> Tensor:
    """The clean picture at a preset's size, (1, C, H, W); TooLittle where less than can be judged is left."""
    return _read_cut(task, effort, image)[0]


def _read_cut(task: Task, effort: Effort, image: str) -> tuple[Tensor, Cut]:
    x = read(image, grey=task.image_channels == 1)
    whole, padding = (x.shape[-2], x.shape[-1]), effort.padding.get(normal(image), 0)
    sides = [(side + 2 * padding) // effort.shrink for side in whole]
    multiple = math.lcm(effort.multiple_of, task.operator_for(effort).options.multiple_of)
    limit = effort.size or max(sides)
    height, width = (min(side, limit) // multiple * multiple for side in sides)
    smallest = max(SMALLEST, PROTOCOLS[task.metric].smallest)
    if min(height, width) < smallest:
        raise TooLittle(
            f"{image}: too small: shrunk by {effort.shrink} and cut to multiples of {multiple}, "
            f"{width}x{height} pixels are left; "
            f"at least {smallest} pixels a side are needed"
        )
    cut = Cut(whole, (height, width), effort.shrink, padding)
    return cut(x), cut


def observe(task: Task, effort: Effort, image: str, *, seed: int, repeat: int) -> Observation:
    """Damage one picture of a task, or take it as it is where the task has no truth; equal arguments give equal
    bits."""
    truth, cut = _read_cut(task, effort, image)
    name = digest(truth)
    instance = seed_of(seed, name, repeat)
    generator = torch.Generator().manual_seed(seed_of(instance, "corruption"))
    options = task.operator_for(effort).options
    operator = options.draw(truth, generator, cut)  # type: ignore[attr-defined]
    if not task.truth:
        y = operator(truth) if isinstance(operator, Mask) else truth
        return Observation(image, name, repeat, seed, instance, None, y, operator)
    y = NOISES[task.noise.name](options.observe(operator, truth), generator, task.noise)
    if isinstance(operator, Mask):
        y = operator(y)  # no noise where nothing was seen
    return Observation(image, name, repeat, seed, instance, truth, y, operator)
