"""`fit`: the inner loop. Prints nothing, writes nothing."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dipsearch import catalog
from dipsearch.error import Diverged, FitError, OutOfMemory, UsageError, unknown
from dipsearch.fit.averaging import RunningMean
from dipsearch.fit.device import pick_device
from dipsearch.fit.recipe import Recipe
from dipsearch.fit.step import Step
from dipsearch.fit.stopping import STOPPERS
from dipsearch.genome import Genome
from dipsearch.metric import PROTOCOLS, from_mse, psnr
from dipsearch.network.build import build
from dipsearch.network.inputs import network_input
from dipsearch.operator import Identity
from dipsearch.seed import seed_of

CHECK_EVERY = 10  # iterations between looks at loss, clock and truth
OUT_OF_MEMORY = ("out of memory", "alloc_failed", "allocate memory", "not enough memory")  # in what torch says
MOST_ROLLBACKS = 20  # a fit that keeps falling back has no use


@dataclass(frozen=True)
class Oracle:
    """The best picture that the clean one could have picked: never a result, always labelled."""

    psnr: float
    iteration: int


@dataclass(frozen=True)
class Fit:
    """What a fit gave.

    `x` is the answer under the stopping rule, (1, C, H, W) in (0, 1), float32 on the CPU: the averaged
    output at iteration `chosen`. `psnr` and `oracle` are None without a truth; the oracle looks at the
    averaged output every 10 iterations.
    """

    x: Tensor
    chosen: int
    iterations: int
    stop_reason: str
    psnr: float | None
    oracle: Oracle | None
    curve: dict[str, list[float]]
    seconds: float
    rollbacks: int
    device: str


@dataclass
class Fitting:
    """A fit under way, which can be advanced in parts: `fit` is one that runs to its end.

    Arguments are those of `fit`. `current` is the answer so far under the stopping rule.
    """

    genome: Genome
    y: Tensor
    operator: Callable[[Tensor], Tensor]
    recipe: Recipe
    seed: int = 0
    device: str = "auto"
    size: tuple[int, int] | None = None
    truth: Tensor | None = None
    protocol: str = "rgb"
    callback: Callable[[int, Tensor], None] | None = None

    iteration: int = field(default=0, init=False)
    rollbacks: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    stop_reason: str = field(default="", init=False)
    chosen: int = field(default=0, init=False)
    oracle: Oracle | None = field(default=None, init=False)
    curve: dict[str, list[float]] = field(default_factory=lambda: {"iteration": [], "loss": [], "psnr": []}, init=False)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UsageError(unknown("metric", self.protocol, PROTOCOLS))
        if self.y.ndim != 4 or self.y.shape[0] != 1:
            raise UsageError(f"an observation is (1, C, H, W), got {tuple(self.y.shape)}")
        if not torch.isfinite(self.y).all():
            raise UsageError("the observation holds values that are not finite numbers")
        scale = int(getattr(self.operator, "factor", 1))
        height, width = self.size or (self.y.shape[-2] * scale, self.y.shape[-1] * scale)
        device = pick_device(self.device)
        if self.truth is not None and self.truth.shape != (1, self.y.shape[1], height, width):
            raise UsageError(
                f"the truth is {tuple(self.truth.shape)}, but the picture is {(1, self.y.shape[1], height, width)}"
            )
        with _typed_failures(self.genome):
            net = build(self.genome, self.y.shape[1], seed=seed_of(self.seed, "weights"))
            generator = torch.Generator().manual_seed(seed_of(self.seed, "z"))
            z = network_input(self.genome, *net.size_rule.padded(height, width), generator)
            operator = self.operator
            if isinstance(operator, nn.Module) and device.type != "cpu":
                operator = copy.deepcopy(operator).to(device)  # the caller's own stays where it is
            self._step = Step(
                net.to(device).train(),
                z.to(device),
                self.y.to(device),
                operator,
                size=(height, width),
                learning_rate=self.recipe.learning_rate,
                input_noise=self.recipe.input_noise,
                seed=seed_of(self.seed, "input noise"),
            )
        self._truth = None if self.truth is None else self.truth.to(device)
        self._mean = RunningMean(self.recipe.averaging)
        self._stopper = STOPPERS[self.recipe.stop](self.recipe)
        self._losses = torch.zeros(CHECK_EVERY, device=device)
        self._pending: tuple[dict[str, Any], Tensor] | None = None  # a snapshot not yet known to be good
        self._good: tuple[float, dict[str, Any], Tensor] | None = None  # its dB, weights and moments, mean

    @property
    def done(self) -> bool:
        """Whether the stopping rule, the budget or the time limit has ended it."""
        return bool(self.stop_reason)

    @property
    def current(self) -> Tensor:
        """The answer so far, (1, C, H, W), on the CPU."""
        return self._answer.float().cpu().contiguous()

    def advance(self, until: int | None = None) -> None:
        """Run to iteration `until`, or to the end. Diverged or OutOfMemory ends the fit for good."""
        last = self.recipe.iterations
        target = last if until is None else min(until, last)
        started, before = time.perf_counter(), self.seconds
        with _typed_failures(self.genome):
            while self.iteration < target and not self.done:
                self._iterate()
                if self.iteration % CHECK_EVERY == 0 or self.iteration == last:  # wherever it is paused
                    self.seconds = before + time.perf_counter() - started
                    self._check()
            if self.iteration:
                self._refuse_non_finite()
        self.seconds = before + time.perf_counter() - started

    def result(self) -> Fit:
        """The record of a fit that has run."""
        score = None if self.truth is None else psnr(self.current, self.truth, self.protocol)
        return Fit(
            x=self.current,
            chosen=self.chosen,
            iterations=self.iteration,
            stop_reason=self.stop_reason or "paused",
            psnr=score,
            oracle=self.oracle,
            curve=self.curve,
            seconds=self.seconds,
            rollbacks=self.rollbacks,
            device=self._step.z.device.type,
        )

    def _iterate(self) -> None:
        out, loss = self._step()
        self._losses[self.iteration % CHECK_EVERY] = loss
        self.iteration += 1
        mean = self._mean.update(out)
        if self._stopper.update(self.iteration, out):
            self.chosen = self.iteration
            self._answer = mean.clone() if self._stopper.looks_back else mean

    def _check(self) -> None:
        """What needs the host: the loss, the rollback, the truth, the clock."""
        recent = self._refuse_non_finite()
        loss = float(recent[-1])
        self._roll_back_or_keep(recent)
        score = float("nan") if self._truth is None else psnr(self._mean.value, self._truth, self.protocol)  # type: ignore[arg-type]
        if self._truth is not None and (self.oracle is None or score > self.oracle.psnr):
            self.oracle = Oracle(score, self.iteration)
        for name, value in (("iteration", self.iteration), ("loss", loss), ("psnr", score)):
            self.curve[name].append(value)
        if self._stopper.stop:
            self.stop_reason = self.recipe.stop
        elif self.iteration >= self.recipe.iterations:
            self.stop_reason = "budget"
        elif self.recipe.time_limit is not None and self.seconds >= self.recipe.time_limit:
            self.stop_reason = "time-limit"
        if self.callback is not None:
            self.callback(self.iteration, self._answer)

    def _refuse_non_finite(self) -> Tensor:
        """The losses since the last check; Diverged where one is not a finite number."""
        recent = self._losses[: (self.iteration - 1) % CHECK_EVERY + 1]
        if not bool(torch.isfinite(recent).all()):
            raise Diverged(f"the loss is not a finite number at iteration {self.iteration} ({self.genome.summary()})")
        return recent

    def _roll_back_or_keep(self, losses: Tensor) -> None:
        """Restore the last good snapshot where the fit to y (dB) fell too far below it, else take a new one.

        A step's loss is that of the weights before it. So a snapshot is good only once the loss after
        it, the first of the next few, is no collapse either.
        """
        after, now = from_mse(float(losses[0])), from_mse(float(losses[-1]))
        if self._pending is not None and (self._good is None or after >= self._good[0] - self.recipe.rollback):
            self._good = (after, *self._pending)
        self._pending = None
        if self._good is None or now >= self._good[0] - self.recipe.rollback:
            self._pending = (self._step.snapshot(), self._mean.value.clone())  # type: ignore[union-attr]
            return
        self.rollbacks += 1
        if self.rollbacks > MOST_ROLLBACKS:
            raise Diverged(
                f"rolled back {MOST_ROLLBACKS} times by iteration {self.iteration} ({self.genome.summary()})"
            )
        _, state, mean = self._good
        self._step.restore(state)
        self._mean.value.copy_(mean)  # type: ignore[union-attr]


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
        **settings: recipe fields to change, such as `iterations=1200`.

    Returns:
        The restored picture with its record.

    Raises:
        Diverged: the loss stopped being finite, or the fit kept collapsing.
        OutOfMemory: the device's memory does not hold it.
        UsageError: the observation, operator or settings do not fit together.

    Source: Ulyanov et al., *Deep Image Prior* (IJCV 2020), eq. 2.
    """
    fitting = Fitting(
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
    )
    fitting.advance()
    return fitting.result()


def _changed(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    if not settings:
        return recipe
    return catalog.validate("recipe", Recipe.model_validate, recipe.model_dump() | settings)


@contextmanager
def _typed_failures(genome: Genome) -> Iterator[None]:
    """Turn what torch raises for want of memory into OutOfMemory."""
    try:
        yield
    except FitError:
        raise
    except (MemoryError, RuntimeError) as error:
        said = str(error).lower()
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in said for sign in OUT_OF_MEMORY):
            raise OutOfMemory(f"not enough memory for {genome.summary()}") from None
        raise
