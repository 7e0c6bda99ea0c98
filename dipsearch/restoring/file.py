"""One file to restore: read, fitted, written, and a record beside it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dipsearch.dataset import sha256
from dipsearch.error import DipsearchError, UsageError
from dipsearch.fitting.device import memory_of
from dipsearch.fitting.plan import USABLE
from dipsearch.image import to_grey, write_png
from dipsearch.metric import psnr, ssim
from dipsearch.operator import Mask, MaskOptions
from dipsearch.photo import FLOATS, SMALLEST, Photo, check_photo, load_photo, save_photo
from dipsearch.restoring.batch import Job
from dipsearch.restoring.choice import Choice, choices, choose, effort_of
from dipsearch.restoring.masks import ALPHA, known_pixels, shrunk_mask
from dipsearch.restoring.noise import estimate_sigma
from dipsearch.restoring.work import Work
from dipsearch.run import environment
from dipsearch.task import Task

if TYPE_CHECKING:
    from dipsearch.search.study import Event

AUTO = "auto"
BYTES = 33  # for each value of a result, beside the fits: answers, the joined picture, and its samples; measured
LOSSY = "JPEG"  # the one format that changes pixels


@dataclass(frozen=True)
class Settings:
    """How files are restored.

    Args:
        task: what is to be undone.
        preset: of the task.
        genome: a name or a file, in place of the preset's; `auto` searches on each picture first, for half of the time
            limit, if there is one.
        recipe: values to change.
        sigma: the level of the noise on the scale of 0…255 (of floats: in 255ths of their range), or `auto`, which
            estimates it for each picture.
        mask: a file, white where pixels are missing; or `alpha`.
        invert_mask: black is missing, or what is opaque.
        max_side: larger pictures are shrunk to it.
        tile: pixels a side of the largest tiles; None: as the preset says, and the memory allows.
        seed: of everything random.
        device: auto, cpu, cuda or mps.
        reference: the clean picture, only to say how near the result is.
    """

    task: Task
    preset: str
    genome: str | None
    recipe: dict[str, Any]
    sigma: float | str | None = None
    mask: str | None = None
    invert_mask: bool = False
    max_side: int | None = None
    tile: int | None = None
    seed: int = 0
    device: str = AUTO
    reference: str | None = None

    @property
    def factor(self) -> int:
        """How many times longer than the picture's the sides of its result are."""
        return int(getattr(self.task.operator.options, "factor", 1))

    def choice(self, size: tuple[int, int], sigma: float | None = None) -> Choice:
        """The genome and recipe for a picture (height, width) and a noise level; UsageError where a value does not
        fit."""
        tile = self.tile or effort_of(self.task, self.preset).tile
        part = (min(size[0], tile), min(size[1], tile))
        return choose(self.task, self.preset, self._named, size=part, **self.recipe, sigma=sigma)

    def possible(self) -> list[Choice]:
        """What may be chosen for a picture that is not read yet: a noise level that is to be estimated is set to 1.

        UsageError where a name or value does not fit.
        """
        sigma = 1.0 if self.sigma == AUTO else self.sigma
        return choices(self.task, self.preset, self._named, **self.recipe, sigma=sigma)

    @property
    def _named(self) -> str | None:
        return None if self.genome == AUTO else self.genome

    def identity(self, source: Path) -> dict[str, Any]:
        """What decides the result, as plain data."""
        possible = [
            {"genome": choice.genome.key(), "recipe": choice.recipe.model_dump(mode="json")}
            for choice in self.possible()
        ]
        return {
            "task": self.task.name,
            "operator": self.task.operator.model_dump(),
            "auto": self.genome == AUTO,
            "choices": possible,
            "sigma": self.sigma,
            "mask": self.mask if self.mask in (None, ALPHA) else sha256(Path(str(self.mask))),
            "invert_mask": self.invert_mask,
            "max_side": self.max_side,
            "tile": self.tile,
            "seed": self.seed,
            "input_sha256": sha256(source),
        }


@dataclass
class Restoration:
    """A file under work: what is known of it once it was read.

    `watch` is told every Event of a search, where there is one; with `compare`, the picture before and after beside one
    another is written, too. UsageError where the picture, its mask or the format of its copy do not fit.
    """

    job: Job
    settings: Settings
    watch: "Callable[[Event], None]" = lambda event: None
    compare: bool = False

    def __post_init__(self) -> None:
        settings = self.settings
        self.identity = settings.identity(self.job.source)
        masked, known = isinstance(settings.task.operator.options, MaskOptions), None
        whole = load_photo(self.job.source, finite=not masked)
        if masked:
            known = known_pixels(settings.mask, whole, invert=settings.invert_mask)
            if whole.dtype in FLOATS:  # what stands in a hole, such as -9999 or NaN, is no value
                whole = load_photo(self.job.source, known)
        self.photo = _shrunk(whole, settings.max_side)
        if known is None:
            operator = _drawn(settings, self.photo.x)
        else:
            operator = Mask(shrunk_mask(known, self.photo.x.shape[-2:]))
        shown = operator.known if isinstance(operator, Mask) else None
        if settings.mask == ALPHA and whole.alpha is not None:  # used up: nothing is transparent any more
            self.photo = replace(self.photo, alpha=np.full_like(whole.alpha, whole.opaque))
        height, width = (side * settings.factor for side in self.photo.x.shape[-2:])
        self.size, size = (height, width), [height, width]
        self.notes = list(self.photo.notes)
        if check_photo(self.job.target, self.photo, size) == LOSSY and shown is not None:
            self.notes.append("JPEG changes the pixels that are known, too: --ext png keeps them")
        _check_memory(self.photo.x.shape[1], height, width)
        self.clean = _clean(settings.reference, self.photo, size)
        self.y = operator(self.photo.x) if isinstance(operator, Mask) else self.photo.x
        self.sigma = settings.sigma
        if settings.sigma == AUTO:
            self.sigma = min(max(255 * estimate_sigma(self.y, shown), 0.1), 255.0)
        elif settings.sigma is not None:  # of the mean of n pixels: a root of n less
            self.sigma = float(settings.sigma) * math.sqrt(self.photo.x.numel() / whole.x.numel())
        self.started = time.monotonic()
        folder = self.job.prepare(self.identity, compare=self.compare)
        self.choice = self._choice(folder, shown)
        self.work = Work(self.y, operator, self.choice, folder, settings.seed, settings.device, settings.tile)
        self.answers: dict[int, Tensor] = {}
        self.complete = False
        self.iteration, self.fit_db, self.rate = 0, float("nan"), 0.0

    def _choice(self, folder: Path, known: Tensor | None) -> Choice:
        """The genome and recipe, for this picture's noise; found by a search on it, where that is wanted."""
        sigma = None if self.sigma is None else float(self.sigma)
        settings, usual = self.settings, self.settings.choice(self.size, sigma)
        if settings.genome != AUTO:
            return usual
        from dipsearch.restoring.auto import TILE, genome_for  # takes a second: it imports the search

        limit = usual.recipe.time_limit
        file = genome_for(
            settings.task,
            self.y,
            known,
            usual,
            folder / "search",
            about=Path(self.job.name).name,
            seed=settings.seed,
            device=settings.device,
            timeout=None if limit is None else limit / 2,
            watch=self.watch,
        )
        rest = replace(settings, recipe=settings.recipe | ({} if limit is None else {"time_limit": limit / 2}))
        if file is None:
            self.notes.append("no genome was found on it; the usual one was taken")
            return replace(rest.choice(self.size, sigma), name=f"{usual.name}, none was found on it")
        chosen = replace(rest, genome=str(file)).choice(self.size, sigma)
        return replace(chosen, name=f"found on it: {chosen.genome.key()[:8]}", tile=TILE)

    def run(self, tell: Callable[["Restoration", float], None]) -> dict[str, Any]:
        """Restore it, and give back the record. `tell` is given the share that is done, every 10 iterations."""
        count, iterations = len(self.work.tiles), self.choice.recipe.iterations
        limit = self.work.recipe.time_limit or math.inf
        first: dict[int, tuple[int, float]] = {}  # iteration that a tile was first seen at, and when that was

        def look(tile: int, iteration: int, x: Tensor) -> None:
            begun, since = first.setdefault(tile, (iteration, time.monotonic()))
            passed = time.monotonic() - since
            self.rate = (iteration - begun) / max(passed, 1e-9)
            self.answers[tile], self.iteration = x, iteration
            self.fit_db = self.work.agreement(x, tile)
            tell(self, (tile + min(max(iteration / iterations, passed / limit), 1.0)) / count)

        fits = self.work.run(look)
        self.answers = {number: each.x for number, each in zip(self.work.fitted, fits, strict=True)}
        told = {
            "iterations": [each.iterations for each in fits],
            "chosen": [each.chosen for each in fits],
            "stop_reason": sorted({each.stop_reason for each in fits}),
            "precision": sorted({each.precision for each in fits}),
            "device": fits[0].device,
            "fit_seconds": round(sum(each.seconds for each in fits), 3),
        }
        if self.compare:  # before the record, which says that all is done
            try:
                self.strip()
            except DipsearchError as error:  # a full disk: the result itself may yet be written
                self.notes.append(str(error))
        record = self.write(told | {"complete": True})
        self.complete = True
        self.job.tidy()
        return record

    def write(self, told: dict[str, Any]) -> dict[str, Any]:
        """Write the picture as it is now, and its record."""
        answer = self.work.answer(self.answers)
        x = self.work.picture(answer)
        save_photo(x, self.job.target, self.photo)
        height, width = x.shape[-2:]
        told = {
            **told,
            "genome": self.choice.name,
            "network": self.choice.genome.data(),
            "summary": self.choice.genome.summary(),
            "recipe": self.choice.recipe.model_dump(mode="json"),
            "size": [width, height],
            "tiles": len(self.work.tiles),
            "fit_db": round(self.work.agreement(answer), 3),
            "sigma": self.sigma,
            "seconds": round(time.monotonic() - self.started, 3),
            **self._judged(x),
            "notes": self.notes,
            "versions": environment(),
        }
        return self.job.write_record(self.identity, told)

    @property
    def state(self) -> str:
        """How far it is, in a few words. "fit" is how well the answer explains what was given, and no PSNR."""
        tile = max(self.answers, default=0)
        where = f"tile {tile + 1}/{len(self.work.tiles)}  " if len(self.work.tiles) > 1 else ""
        rate = f"  {self.rate:.2g} it/s" if self.rate else ""
        return f"{where}iteration {self.iteration}/{self.choice.recipe.iterations}{rate}  fit {self.fit_db:.2f} dB"

    def preview(self) -> None:
        """Write the picture so far, with 8 bits."""
        write_png(self.picture, self.job.preview)

    def strip(self) -> None:
        """Write the picture before and after beside one another, with 8 bits."""
        write_png(torch.cat([self.work.observed, self.picture], dim=3), self.job.strip)

    @property
    def picture(self) -> Tensor:
        """The restored picture so far, (1, C, H, W)."""
        return self.work.picture(self.work.answer(self.answers))

    def _judged(self, x: Tensor) -> dict[str, float]:
        """PSNR and SSIM, where the clean picture is known."""
        if self.clean is None:
            return {}
        metric = "gray" if x.shape[1] == 1 else "rgb"
        return {"psnr": round(psnr(x, self.clean, metric), 3), "ssim": round(ssim(x, self.clean, metric), 4)}


def _check_memory(channels: int, height: int, width: int) -> None:
    """UsageError where a result of this size could not be put together and written, however small its tiles are."""
    needed, there = BYTES * channels * height * width, USABLE * memory_of(torch.device("cpu"))
    if needed > there:
        raise UsageError(
            f"a result of {width}x{height} takes about {needed / 2**30:.0f} GiB of memory, and "
            f"{there / 2**30:.0f} can be used; shrink the picture with --max-side"
        )


def _clean(reference: str | None, photo: Photo, size: list[int]) -> Tensor | None:
    """The reference, if there is one, with the channels and on the scale of `photo`, (1, C, *size)."""
    if reference is None:
        return None
    clean = load_photo(Path(reference))
    if list(clean.x.shape[-2:]) != size:
        sizes = " and ".join(f"{width}x{height}" for *_, height, width in (clean.x.shape, size))
        raise UsageError(f"{reference}: the reference and the result differ in size: {sizes}")
    x = clean.x
    if photo.dtype in FLOATS or clean.dtype in FLOATS:  # no range of their own: the values are compared
        if (photo.dtype in FLOATS) != (clean.dtype in FLOATS):
            raise UsageError(
                f"{reference}: {clean.dtype}, but the picture is {photo.dtype}: which values are the same?"
            )
        x = (x * (clean.high - clean.low) + clean.low - photo.low) / (photo.high - photo.low)
    return to_grey(x) if photo.x.shape[1] == 1 else x.expand(-1, 3, -1, -1)


def _drawn(settings: Settings, y: Tensor) -> nn.Module:
    """What damaged a picture, by its task."""
    if settings.mask is not None:
        raise UsageError(f"--mask: the task {settings.task.name} takes none")
    shape = *y.shape[:2], *(side * settings.factor for side in y.shape[-2:])
    like = torch.zeros(()).expand(shape)  # one number: only its shape is read, and it may be very large
    return settings.task.operator.options.draw(like, torch.Generator().manual_seed(settings.seed))  # type: ignore[attr-defined,no-any-return]


def _shrunk(photo: Photo, max_side: int | None) -> Photo:
    """A picture of at most `max_side` pixels a side."""
    height, width = photo.x.shape[-2:]
    if max_side is None or max(height, width) <= max_side:
        return photo
    size = (height * max_side // max(height, width), width * max_side // max(height, width))
    if min(size) < SMALLEST:
        raise UsageError(
            f"--max-side {max_side} leaves {size[1]}x{size[0]}; at least {SMALLEST} pixels a side are needed"
        )
    return replace(photo, x=F.interpolate(photo.x, size, mode="area"))
