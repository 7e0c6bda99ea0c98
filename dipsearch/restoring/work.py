"""The fits that restore one picture: tile by tile, kept in a folder, so that an interrupted one goes on."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dipsearch.atomic import write_atomically
from dipsearch.error import DipsearchError, UsageError
from dipsearch.fitting.device import memory_of, pick_device
from dipsearch.fitting.engine import start
from dipsearch.fitting.loop import Fit
from dipsearch.fitting.plan import USABLE, bytes_of, bytes_together
from dipsearch.fitting.recipe import AUTO
from dipsearch.kept import Kept, calling, read_kept
from dipsearch.metric import from_mse
from dipsearch.network.build import cost
from dipsearch.operator import Downsample, Mask
from dipsearch.restoring.choice import Choice
from dipsearch.restoring.tiles import (
    Tile,
    grid,
    join,
    lacks,
    largest_side,
    part,
    wholly_missing,
)
from dipsearch.run import hashed


@dataclass
class Work:
    """One picture to restore.

    Args:
        y: the observation, (1, C, h, w) in [0, 1].
        operator: A.
        choice: genome and recipe; a time limit is shared by the tiles.
        folder: of what is kept of the fits; the same arguments go on from there.
        seed: of everything random, the same for all tiles.
        device: auto, cpu, cuda or mps.
        side: of the largest tiles; None: that of the choice, or less as the memory allows. Where one of them would hold
            no pixel that is known, they are as large as the memory allows.

    A tile that lacks nothing is not fitted. UsageError where a tile holds no pixel that is known.
    """

    y: Tensor
    operator: nn.Module
    choice: Choice
    folder: Path
    seed: int = 0
    device: str = "auto"
    side: int | None = None

    def __post_init__(self) -> None:
        factor = self.operator.factor if isinstance(self.operator, Downsample) else 1
        self.height, self.width = (length * factor for length in self.y.shape[-2:])
        for side in [self.side] if self.side else self._sides():
            self.tiles: list[Tile] = grid(self.height, self.width, side, factor)
            empty = wholly_missing(self.operator, self.tiles)
            if empty is None:
                break
        if empty is not None:
            raise UsageError(
                f"the mask leaves no pixel known in a tile of {empty.width}x{empty.height} at "
                f"({empty.left}, {empty.top}); take larger tiles, or shrink the picture"
            )
        self.fitted = [number for number, tile in enumerate(self.tiles) if lacks(self.operator, tile)]
        limit = self.choice.recipe.time_limit
        share = {} if limit is None else {"time_limit": limit / len(self.fitted)}
        self.recipe = self.choice.recipe.model_copy(update=share)

    def _sides(self) -> Iterator[int]:
        """Sides of tiles to try: as the choice has it, then as large as the memory allows."""
        for most in (self.choice.tile, max(self.height, self.width)):
            yield largest_side(self.height, self.width, self._fits, most)

    def _fits(self, height: int, width: int) -> bool:
        """Whether a tile's fits are predicted to fit into the memory."""
        device, recipe, channels = pick_device(self.device), self.choice.recipe, self.y.shape[1]
        precision = "float32" if recipe.precision == AUTO else recipe.precision
        least = cost(self.choice.genome, height, width, channels, precision, recompute=True)
        beside = bytes_of(recipe, channels * height * width)
        return bytes_together(least, beside, recipe.ensemble, device) <= USABLE * memory_of(device)

    def run(self, tell: Callable[[int, int, Tensor], None] = lambda tile, iteration, x: None) -> list[Fit]:
        """Fit the tiles that are `fitted`, or look them up; `tell` is given the tile's number, the iteration and its
        answer so far.

        Raises:
            FitError: a tile cannot be fitted.
        """
        return [self._fit(number, tell) for number in self.fitted]

    def _fit(self, number: int, tell: Callable[[int, int, Tensor], None]) -> Fit:
        done = self._done(number)
        if found := _read(done):
            tell(number, found.iterations, found.x)
            return found
        y, operator = self._part(number)
        begin = lambda: start(  # noqa: E731
            self.choice.genome, y, operator, self.recipe, seed=self.seed, device=self.device
        )
        kept = Kept(done.with_suffix(".unfinished"), begin, {})
        if kept.fitting.iteration:  # what was there before counts, should this be interrupted at once
            tell(number, kept.fitting.iteration, kept.fitting.current)

        def look(iteration: int, x: Tensor) -> None:
            tell(number, iteration, x)
            kept.save()

        try:
            with calling(kept.fitting, look):
                kept.fitting.advance()
        except KeyboardInterrupt:
            with suppress(DipsearchError):  # a full disk
                if kept.fitting.whole:
                    kept.save(now=True)
            raise
        made = kept.fitting.result()
        plain = {name: value for name, value in vars(made).items() if name != "oracle"}
        with suppress(DipsearchError):  # a full disk: what was kept goes for nothing, the picture may yet be written
            write_atomically(done, lambda temporary: torch.save(plain, temporary))
            kept.drop()
        return made

    def _part(self, number: int) -> tuple[Tensor, nn.Module]:
        if len(self.tiles) == 1:
            return self.y, self.operator
        return part(self.operator, self.tiles[number], self.y)

    def _done(self, number: int) -> Path:
        made = [vars(self.tiles[number]), self.choice.genome.key(), self.recipe.model_dump(mode="json")]
        return self.folder / f"{hashed(made)}.pt"

    def answer(self, answers: dict[int, Tensor]) -> Tensor:
        """What the tiles' networks gave, by number, as one picture (1, C, H, W); where one is missing, the
        observation."""
        numbers = range(len(self.tiles))
        if missing := [number for number in numbers if number not in answers]:
            observed = self.observed  # once: it may have to be enlarged
            answers = answers | {number: self.tiles[number].of(observed) for number in missing}
        return join(self.tiles, [answers[number] for number in numbers], self.height, self.width)

    def picture(self, x: Tensor) -> Tensor:
        """The picture to deliver, of an answer: pixels that a mask knows stay as they were."""
        return self.operator.filled(self.y, x) if isinstance(self.operator, Mask) else x

    @property
    def observed(self) -> Tensor:
        """The observation in the picture's size."""
        if self.y.shape[-2:] == (self.height, self.width):
            return self.y
        size = (self.height, self.width)
        return F.interpolate(self.y, size, mode="bicubic", antialias=True).clamp(0, 1)

    def agreement(self, x: Tensor, number: int | None = None) -> float:
        """How well a picture explains the observation, or that of a tile, in dB: no PSNR, which needs the clean
        one. Tiles that are not fitted do not count."""
        y, operator = (self.y, self.operator) if number is None else self._part(number)
        errors = (operator(x) - y).square()
        if number is None and len(self.fitted) < len(self.tiles):
            parts = [self.tiles[number].of(errors) for number in self.fitted]
            return from_mse(float(torch.cat([each.flatten() for each in parts]).mean()))
        return from_mse(float(errors.mean()))


def _read(path: Path) -> Fit | None:
    """The fit in a file; None where there is none, or it is torn or of another version."""
    kept = read_kept(path)
    try:
        return None if kept is None else Fit(**kept, oracle=None)
    except TypeError:
        return None
