"""`fit`: the inner loop. Prints nothing, writes nothing."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dipsearch import catalog
from dipsearch.fitting.ensemble import Ensemble
from dipsearch.fitting.loop import Fit, Fitting
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome
from dipsearch.operator import Identity


def start(
    genome: Genome,
    y: Tensor,
    operator: Callable[[Tensor], Tensor],
    recipe: Recipe,
    **settings: Any,
) -> Fitting | Ensemble:
    """A fit, or as many as the recipe's ensemble has, not yet run. Further arguments are those of `Fitting`."""
    kind = Fitting if recipe.ensemble == 1 else Ensemble
    return kind(genome, y, operator, recipe, **settings)


def fit(
    genome: Genome,
    y: Tensor,
    operator: Callable[[Tensor], Tensor] | None = None,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    size: tuple[int, int] | None = None,
    truth: Tensor | None = None,
    protocol: str = "rgb",
    callback: Callable[[int, Tensor], None] | None = None,
    guide: Tensor | None = None,
    **settings: Any,
) -> Fit:
    """Fit a genome's network to one observation: x* = f(z), with f = argmin |A(f(z)) - y|^2.

    Args:
        genome: what to build; a fresh network, every time.
        y: the observation, (1, C, h, w), finite, about [0, 1].
        operator: A, any callable from (1, C, H, W) to y's shape; the identity by default.
        recipe: how to run; the paper's denoising recipe by default.
        seed: of weights, z and input noise. One seed, one machine: bit-identical on the CPU.
        device: auto, cpu, cuda or mps.
        size: (H, W) of the picture; by default y's, times the operator's `factor` if it has one.
        truth: the clean picture (1, C, H, W), only to report PSNR; it never changes the answer.
        protocol: the PSNR protocol, a name in `metric.PROTOCOLS`.
        callback: called every 10 iterations with the iteration and the answer so far.
        guide: (1, C, H, W), what a genome of the input `guide` has in place of noise: another picture of the scene.
        **settings: recipe fields to change, such as `iterations=1200`.

    Returns:
        The restored picture with its record.

    Raises:
        Diverged: the loss stopped being finite, or the fit kept collapsing.
        OutOfMemory: the device's memory does not hold it.
        UsageError: the observation, operator or settings do not fit together.

    Source: Ulyanov et al., *Deep Image Prior* (IJCV 2020), eq. 2.
    """
    fitting = start(
        genome,
        y,
        operator or Identity(),
        _changed(recipe or Recipe(), settings),
        seed=seed,
        device=device,
        size=size,
        truth=truth,
        protocol=protocol,
        callback=callback,
        guide=guide,
    )
    fitting.advance()
    return fitting.result()


def _changed(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    if not settings:
        return recipe
    return catalog.validate("recipe", Recipe.model_validate, recipe.model_dump() | settings)
