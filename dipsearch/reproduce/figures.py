"""Figures of Ulyanov et al., *Deep Image Prior* (IJCV 2020), as fits to be watched. `FIGURES` names them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dipsearch.error import UsageError, unknown
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome, Hourglass, load_genome, parse_genome
from dipsearch.image import read
from dipsearch.metric import psnr
from dipsearch.network.size import centre_crop
from dipsearch.operator import Mask, NoiseOptions, gaussian, jpeg
from dipsearch.reproduce.trace import Trace, Watched
from dipsearch.seed import seed_of

ENHANCED = (250, 500, 2500, 7000)
RATES = (0.1, 0.01, 0.001, 0.0001)


@dataclass(frozen=True)
class Cell:
    """A picture of a figure, (1, C, H, W), and what stands above it."""

    label: str
    x: Tensor


@dataclass(frozen=True)
class Figure:
    """A figure: fits of one picture, and how they are shown.

    Args:
        about: in a sentence.
        traces: the fits of a clean picture, with a budget as a share of the published iterations.
        cells: rows of pictures, of the clean picture, its traces and what came of them; None: curves of the loss.
        picture: by default one that scikit-image carries.
        size: pixels a side, around the centre.
    """

    about: str
    traces: Callable[[Tensor, float], list[Trace]]
    cells: Callable[[Tensor, list[Trace], list[Watched]], list[list[Cell]]] | None = None
    picture: str = "skimage:astronaut"
    size: int = 256


def clean(figure: Figure, picture: str | None = None, size: int | None = None) -> Tensor:
    """The picture of a figure, cut around its centre to a multiple of 32, (1, 3, H, W)."""
    x = read(picture or figure.picture)
    height, width = (min(side, size or figure.size) // 32 * 32 for side in x.shape[-2:])
    if not height or not width:
        raise UsageError(f"{picture}: too small for a figure: at least 32 pixels a side are needed")
    return centre_crop(x, height, width).contiguous()


def figure_named(name: str) -> Figure:
    """UsageError names the choices."""
    if name not in FIGURES:
        raise UsageError(unknown("figure", name, FIGURES))
    return FIGURES[name]


def _budget(iterations: int, share: float) -> int:
    """So much of a number of iterations, a multiple of 10."""
    return max(10, round(iterations * share / 10) * 10)


def _recipe(iterations: int, share: float, **settings: Any) -> Recipe:
    return Recipe.model_validate({"iterations": _budget(iterations, share), "averaging": 0, **settings})


# Noise impedance: natural pictures are fitted faster than noise


def _targets(x: Tensor, share: float) -> list[Trace]:
    generator = torch.Generator().manual_seed(seed_of(0, "noise impedance"))
    pixels = x.flatten(2)
    targets = {
        "picture": x,
        "picture + noise": gaussian(x, generator, NoiseOptions(sigma=25)),
        "pixels shuffled": pixels[..., torch.randperm(pixels.shape[-1], generator=generator)].view_as(x),
        "white noise": torch.rand(x.shape, generator=generator),
    }
    recipe = _recipe(2400, share, input_noise=1 / 30)
    return [Trace(label, load_genome("dip-jpeg"), y, recipe) for label, y in targets.items()]


# Samples from the prior: what untrained networks give


def _untrained(x: Tensor, share: float) -> list[Trace]:
    genomes = {f"hourglass-{depth}": Hourglass(depth=depth, channels_skip=0) for depth in (1, 3, 5)} | {
        f"skip-5, {name}": Hourglass(depth=5, upsample=name) for name in ("bilinear", "nearest")
    }
    recipe = Recipe(iterations=1, averaging=0, input_noise=0)  # the first output is the untrained network's
    return [
        Trace(label, genome, torch.zeros_like(x), recipe, at=(1,), seed=seed)
        for label, genome in genomes.items()
        for seed in range(3)
    ]


def _samples(x: Tensor, traces: list[Trace], watched: list[Watched]) -> list[list[Cell]]:
    shown = [Cell(trace.label, seen.frames[1]) for trace, seen in zip(traces, watched, strict=True)]
    return [shown[row::3] for row in range(3)]


# Inpainting of a region


def _region(x: Tensor) -> Mask:
    """A disc of a fifth of the picture's shorter side around its centre is missing."""
    height, width = x.shape[-2:]
    rows, columns = torch.arange(height)[:, None] - height / 2, torch.arange(width) - width / 2
    return Mask((torch.hypot(rows, columns) > min(height, width) / 5).float()[None, None])


def _inpainting(x: Tensor, label: str, genome: Genome, recipe: Recipe) -> Trace:
    mask = _region(x)
    return Trace(label, genome, mask(x), recipe, mask, at=(recipe.iterations,), truth=x)


def _architectures(x: Tensor, share: float) -> list[Trace]:
    names = {"depth 6": "library-6", "depth 4": "library-4", "depth 2": "library-2"}
    rates = dict.fromkeys(names, 0.01) | {"ResNet": 0.001, "U-Net": 0.001}
    names |= {"ResNet": "library-resnet", "U-Net": "library-unet"}
    return [
        _inpainting(
            x,
            label,
            load_genome(f"dip-{name}"),
            _recipe(3000, share, learning_rate=rates[label], input_noise=0),
        )
        for label, name in names.items()
    ]


def _inputs(x: Tensor, share: float) -> list[Trace]:
    mesh = load_genome("dip-vase")
    noise = parse_genome(mesh.data() | {"input": {"kind": "noise", "channels": 32}})
    recipe = _recipe(5000, share, input_noise=0.03)
    return [_inpainting(x, label, genome, recipe) for label, genome in (("coordinates", mesh), ("noise", noise))]


def _rates(x: Tensor, share: float) -> list[Trace]:
    genome = load_genome("dip-vase")
    return [
        _inpainting(x, f"learning rate {rate:g}", genome, _recipe(5000, share, learning_rate=rate, input_noise=0.03))
        for rate in RATES
    ]


def _restored(x: Tensor, traces: list[Trace], watched: list[Watched]) -> list[list[Cell]]:
    cells = [Cell("original", x), Cell("observation", traces[0].y)]
    for trace, seen in zip(traces, watched, strict=True):
        answer = seen.frames[trace.recipe.iterations]
        cells.append(Cell(f"{trace.label}\n{psnr(answer, x):.2f} dB", answer))
    return [cells]


# One fit over its iterations


def _compressed(x: Tensor, share: float) -> list[Trace]:
    y = jpeg(x, torch.Generator(), NoiseOptions(quality=10))
    recipe = _recipe(2400, share, input_noise=1 / 30, averaging=0.99)
    at = tuple(sorted({_budget(each, share) for each in (100, 400, 1200, 2400)}))
    return [Trace("restored", load_genome("dip-jpeg"), y, recipe, at=at, truth=x)]


def _over_iterations(x: Tensor, traces: list[Trace], watched: list[Watched]) -> list[list[Cell]]:
    cells = [Cell("original", x), Cell(f"JPEG\n{psnr(traces[0].y, x):.2f} dB", traces[0].y)]
    frames = sorted(watched[0].frames.items())
    return [cells + [Cell(f"{at} iterations\n{psnr(frame, x):.2f} dB", frame) for at, frame in frames]]


def _smoothed(x: Tensor, share: float) -> list[Trace]:
    at = tuple(sorted({_budget(each, share) for each in ENHANCED}))
    return [Trace("coarse", load_genome("dip-denoise"), x, _recipe(7000, share, input_noise=0), at=at)]


def _enhanced(x: Tensor, traces: list[Trace], watched: list[Watched]) -> list[list[Cell]]:
    frames = sorted(watched[0].frames.items())
    coarse = [Cell("original", x)] + [Cell(f"coarse, {at} iterations", frame) for at, frame in frames]
    return [coarse, [Cell("original", x)] + [Cell("enhanced", (2 * x - frame).clamp(0, 1)) for _, frame in frames]]


FIGURES: dict[str, Figure] = {
    "noise-impedance": Figure("how fast a picture, noise, and the one with the other are fitted", _targets),
    "samples": Figure("outputs of untrained networks, three seeds", _untrained, _samples),
    "architectures": Figure("a region filled by networks of several depths and families", _architectures, _restored),
    "inputs": Figure("a region filled from coordinates and from noise", _inputs, _restored),
    "learning-rates": Figure("a region filled at several learning rates", _rates, _restored),
    "jpeg": Figure("artefacts of JPEG (quality 10) over iterations", _compressed, _over_iterations),
    "enhancement": Figure("detail enhanced, 2 x - f at several iterations", _smoothed, _enhanced),
}
