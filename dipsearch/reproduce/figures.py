"""Figures of Ulyanov et al., *Deep Image Prior* (IJCV 2020), as fits to be watched. `FIGURES` names them."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dipsearch.error import UsageError
from dipsearch.fitting.recipe import Recipe
from dipsearch.frames import read_strip
from dipsearch.genome import Genome, GuideInput, Hourglass, load_genome, parse_genome
from dipsearch.image import Cut, read
from dipsearch.metric import psnr
from dipsearch.operator import Mask, NoiseOptions, gaussian, jpeg
from dipsearch.reproduce.trace import Trace, Watched
from dipsearch.run import read_curve, read_run
from dipsearch.seed import seed_of

ENHANCED = (250, 500, 2500, 7000)
GUARD, NEVER = 5.0, 100.0  # dB
RATES = (0.1, 0.01, 0.001, 0.0001)


@dataclass(frozen=True)
class Cell:
    """A picture of a figure, (1, C, H, W), and what stands above it."""

    label: str
    x: Tensor


@dataclass(frozen=True)
class Scene:
    """What a figure is made from: a picture, (1, 3, H, W), and perhaps another one of the same scene and size."""

    x: Tensor
    guide: Tensor | None = None


@dataclass(frozen=True)
class Figure:
    """A figure: fits of one picture, and how they are shown.

    Args:
        about: in a sentence.
        traces: the fits of a scene, with a budget as a share of the published iterations.
        cells: rows of pictures, of the scene, its traces and what came of them; None: curves of the loss.
        picture: by default one that scikit-image carries.
        shrink: of that one, squares of so many pixels a side become one: with `size`, all of it.
        size: pixels a side, around the centre.
    """

    about: str
    traces: Callable[[Scene, float], list[Trace]]
    cells: Callable[[Scene, list[Trace], list[Watched]], list[list[Cell]]] | None = None
    picture: str = "skimage:astronaut"
    shrink: int = 2
    size: int = 256


def scene(
    figure: Figure,
    picture: str | None = None,
    shrink: int | None = None,
    size: int | None = None,
    guide: str | None = None,
) -> Scene:
    """The picture of a figure and its guide, if there is one, shrunk and cut around their centres to a multiple of 32.

    UsageError where too little of a picture is left, or the two are not of one size.
    """
    x = read(picture or figure.picture)
    shrink = shrink or (1 if picture else figure.shrink)
    whole = x.shape[-2], x.shape[-1]
    height, width = (min(side // shrink, size or figure.size) // 32 * 32 for side in whole)
    if not height or not width:
        shrunk = f" shrunk by {shrink}," if shrink > 1 else ""
        raise UsageError(
            f"{picture or figure.picture}:{shrunk} too small for a figure: at least 32 pixels a side are needed"
        )
    cut = Cut(whole, (height, width), shrink)
    if guide is None:
        return Scene(cut(x))
    other = read(guide)
    if other.shape != x.shape:
        sizes = " and ".join(f"{each.shape[3]}x{each.shape[2]}" for each in (x, other))
        raise UsageError(f"a picture and its guide show the same scene in the same size, not {sizes}")
    return Scene(cut(x), cut(other))


def _budget(iterations: int, share: float) -> int:
    """So much of a number of iterations, a multiple of 10."""
    return max(10, round(iterations * share / 10) * 10)


def _recipe(iterations: int, share: float, **settings: Any) -> Recipe:
    """The released code goes back where the loss rises in denoising, by `GUARD`, and never elsewhere."""
    return Recipe.model_validate(
        {"iterations": _budget(iterations, share), "averaging": 0, "rollback": NEVER, **settings}
    )


# Noise impedance: natural pictures are fitted faster than noise


def _targets(scene: Scene, share: float) -> list[Trace]:
    x, generator = scene.x, torch.Generator().manual_seed(seed_of(0, "noise impedance"))
    pixels = x.flatten(2)
    targets = {
        "picture": x,
        "picture + noise": gaussian(x, generator, NoiseOptions(sigma=25)),
        "pixels shuffled": pixels[..., torch.randperm(pixels.shape[-1], generator=generator)].view_as(x),
        "white noise": torch.rand(x.shape, generator=generator),
    }
    recipe = _recipe(2400, share, input_noise=1 / 30, rollback=GUARD)
    return [Trace(label, load_genome("dip-jpeg"), y, recipe) for label, y in targets.items()]


# Samples from the prior: what untrained networks give to one z, their weights drawn again and again


def _untrained(scene: Scene, share: float) -> list[Trace]:
    given = GuideInput(channels=32)
    genomes = {f"hourglass-{depth}": Hourglass(depth=depth, channels_skip=0, input=given) for depth in (1, 3, 5)} | {
        f"skip-5, {name}": Hourglass(depth=5, upsample=name, input=given) for name in ("bilinear", "nearest")
    }
    recipe = Recipe(iterations=1, averaging=0, input_noise=0)  # the first output is the untrained network's
    z = torch.rand((1, 32, *scene.x.shape[-2:]), generator=torch.Generator().manual_seed(seed_of(0, "samples"))) * 0.1
    return [
        Trace(label, genome, torch.zeros_like(scene.x), recipe, at=(1,), guide=z, seed=seed)
        for label, genome in genomes.items()
        for seed in range(3)
    ]


def _samples(scene: Scene, traces: list[Trace], watched: list[Watched]) -> list[list[Cell]]:
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


def _architectures(scene: Scene, share: float) -> list[Trace]:
    names = {"depth 6": "library-6", "depth 4": "library-4", "depth 2": "library-2"}
    rates = dict.fromkeys(names, 0.01) | {"ResNet": 0.001, "U-Net": 0.001}
    names |= {"ResNet": "library-resnet", "U-Net": "library-unet"}
    return [
        _inpainting(
            scene.x,
            label,
            load_genome(f"dip-{name}"),
            _recipe(3000, share, learning_rate=rates[label], input_noise=0),
        )
        for label, name in names.items()
    ]


def _inputs(scene: Scene, share: float) -> list[Trace]:
    mesh = load_genome("dip-vase")
    noise = parse_genome(mesh.data() | {"input": {"kind": "noise", "channels": 32}})
    recipe = _recipe(5000, share, input_noise=0.03)
    return [_inpainting(scene.x, label, genome, recipe) for label, genome in (("coordinates", mesh), ("noise", noise))]


def _rates(scene: Scene, share: float) -> list[Trace]:
    genome = load_genome("dip-vase")
    return [
        _inpainting(
            scene.x, f"learning rate {rate:g}", genome, _recipe(5000, share, learning_rate=rate, input_noise=0.03)
        )
        for rate in RATES
    ]


def _restored(scene: Scene, traces: list[Trace], watched: list[Watched]) -> list[list[Cell]]:
    cells = [Cell("original", scene.x), Cell("observation", traces[0].y)]
    for trace, seen in zip(traces, watched, strict=True):
        answer = seen.frames[trace.recipe.iterations]
        cells.append(Cell(f"{trace.label}\n{psnr(answer, scene.x):.2f} dB", answer))
    return [cells]


# One fit over its iterations


def _compressed(scene: Scene, share: float) -> list[Trace]:
    y = jpeg(scene.x, torch.Generator(), NoiseOptions(quality=10))
    recipe = _recipe(2400, share, input_noise=1 / 30, averaging=0.99, rollback=GUARD)
    at = tuple(sorted({_budget(each, share) for each in (100, 400, 1200, 2400)}))
    return [Trace("restored", load_genome("dip-jpeg"), y, recipe, at=at, truth=scene.x)]


def _over_iterations(scene: Scene, traces: list[Trace], watched: list[Watched]) -> list[list[Cell]]:
    x, frames = scene.x, sorted(watched[0].frames.items())
    cells = [Cell("original", x), Cell(f"JPEG\n{psnr(traces[0].y, x):.2f} dB", traces[0].y)]
    return [cells + [Cell(f"{at} iterations\n{psnr(frame, x):.2f} dB", frame) for at, frame in frames]]


def _smoothed(scene: Scene, share: float) -> list[Trace]:
    at = tuple(sorted({_budget(each, share) for each in ENHANCED}))
    return [Trace("coarse", load_genome("dip-denoise"), scene.x, _recipe(7000, share, input_noise=0), at=at)]


def _enhanced(scene: Scene, traces: list[Trace], watched: list[Watched]) -> list[list[Cell]]:
    x, frames = scene.x, sorted(watched[0].frames.items())
    coarse = [Cell("original", x)] + [Cell(f"coarse, {at} iterations", frame) for at, frame in frames]
    return [coarse, [Cell("original", x)] + [Cell("enhanced", (2 * x - frame).clamp(0, 1)) for _, frame in frames]]


# Flash and no-flash: a dark and noisy picture restored from one with flash, the input of the network

DIM = (0.6, 0.45, 0.25)  # a dim and warm light, red to blue


def _lights(scene: Scene) -> tuple[Tensor, Tensor, str]:
    """The picture without flash, that with flash, and what to say of them; simulated where there is but one."""
    if scene.guide is not None:
        return scene.x, scene.guide, ""
    generator = torch.Generator().manual_seed(seed_of(0, "no flash"))
    dark = scene.x * torch.tensor(DIM)[:, None, None]
    height, width = scene.x.shape[-2:]
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    falloff = 1 / (1 + 0.5 * (rows.square() + columns.square()))  # brightest in the middle
    return gaussian(dark, generator, NoiseOptions(sigma=25)), scene.x * falloff, ", simulated"


def _flash(scene: Scene, share: float) -> list[Trace]:
    dark, bright, _ = _lights(scene)
    changes = {"input": {"kind": "guide"}, "upsample": ["nearest", "nearest", "bilinear", "bilinear", "bilinear"]}
    genome = parse_genome(load_genome("dip-flash").data() | changes)
    recipe = _recipe(600, share, learning_rate=0.1, input_noise=0)
    return [Trace("restored", genome, dark, recipe, at=(recipe.iterations,), guide=bright)]


def _lit(scene: Scene, traces: list[Trace], watched: list[Watched]) -> list[list[Cell]]:
    dark, bright, how = _lights(scene)
    answer = watched[0].frames[traces[0].recipe.iterations]
    return [[Cell(f"flash{how}", bright), Cell(f"no flash{how}", dark), Cell("restored", answer)]]


# A run that is stored, over its iterations


def progress(path: Path) -> list[list[Cell]]:
    """The progress frames of a run by the path of its record, with the PSNR of each where that is known.

    UsageError where the file is no run, or the run has no frames.
    """
    run = read_run(path)
    if run is None:
        raise UsageError(f"{path}: not the record of a run (OUT/runs/TASK/PICTURE-KEY.json)")
    curve = read_curve(path)
    known = dict(zip(curve["iteration"], curve["psnr"], strict=True))
    return [
        [
            Cell(f"{at} iterations" + (f"\n{known[at]:.2f} dB" if isfinite(known.get(at, nan)) else ""), seen)
            for at, seen in read_strip(path, run).items()
        ]
    ]


FIGURES: dict[str, Figure] = {
    "noise-impedance": Figure("how fast a picture, noise, and the one with the other are fitted", _targets),
    "samples": Figure("outputs of untrained networks, three seeds", _untrained, _samples),
    "architectures": Figure("a region filled by networks of several depths and families", _architectures, _restored),
    "inputs": Figure("a region filled from coordinates and from noise", _inputs, _restored),
    "learning-rates": Figure("a region filled at several learning rates", _rates, _restored),
    "jpeg": Figure("artefacts of JPEG (quality 10) over iterations", _compressed, _over_iterations),
    "flash": Figure("a dark picture restored from one with flash (--guide; else simulated)", _flash, _lit),
    "enhancement": Figure("detail enhanced, 2 x - f at several iterations", _smoothed, _enhanced),
}
