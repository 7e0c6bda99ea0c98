"""A fit under way, and what it gives. Prints nothing, writes nothing."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dipsearch.error import Diverged, FitError, OutOfMemory, UsageError, unknown
from dipsearch.fitting import heap
from dipsearch.fitting.device import memory_of, pick_device
from dipsearch.fitting.interrupt import interrupts_wait
from dipsearch.fitting.plan import USABLE, Plan, bytes_of, plan
from dipsearch.fitting.recipe import Recipe
from dipsearch.fitting.step import LOSSES, Snapshot, Step
from dipsearch.fitting.stopping import Minimum
from dipsearch.genome import Genome
from dipsearch.metric import PROTOCOLS, from_mse, psnr
from dipsearch.network.build import build
from dipsearch.network.inputs import network_input
from dipsearch.operator import Mask, noiseless, restored_size
from dipsearch.seed import seed_of

CHECK_EVERY = LOSSES  # iterations between looks at losses, clock and truth
OUT_OF_MEMORY = ("out of memory", "alloc_failed", "allocate memory", "not enough memory")  # in what torch says
STATE_FORMAT = 3  # of `Fitting.state`
HOST_STATE = ("iteration", "checked", "rollbacks", "non_finite", "seconds", "stop_reason", "curve")
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
    output at iteration `chosen`. `held_out` is the mean square error there on held-out pixels, where the rule has any.
    `psnr` and `oracle` are None without a truth; the oracle looks at the
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
    non_finite: int
    device: str
    precision: str
    held_out: float | None = None
    uncertainty: Tensor | None = None

    @property
    def final_psnr(self) -> float | None:
        """Of the averaged output at the last iteration, whatever the stopping rule says."""
        return None if self.psnr is None else self.curve["psnr"][-1]

    @property
    def raw_psnr(self) -> float | None:
        """Of the last output itself, not averaged."""
        return None if self.psnr is None else self.curve["raw"][-1]


def empty_curve() -> dict[str, list[float]]:
    """What is kept every 10 iterations and at the end: `psnr` of the averaged output, `raw` of the output itself, and
    where the stopping rule watches a `statistic`, that, infinite while it means nothing."""
    return {"iteration": [], "loss": [], "psnr": [], "raw": []}


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
    guide: Tensor | None = None

    iteration: int = field(default=0, init=False)
    checked: int = field(default=0, init=False)  # the iteration of the last check
    rollbacks: int = field(default=0, init=False)
    non_finite: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    stop_reason: str = field(default="", init=False)
    oracle: Oracle | None = field(default=None, init=False)
    curve: dict[str, list[float]] = field(default_factory=empty_curve, init=False)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UsageError(unknown("metric", self.protocol, PROTOCOLS))
        if not isinstance(self.y, Tensor):
            raise UsageError(
                f"an observation is a tensor (1, C, H, W), not {type(self.y).__name__}; restore takes arrays"
            )
        if self.y.ndim != 4 or self.y.shape[0] != 1:
            raise UsageError(f"an observation is (1, C, H, W), got {tuple(self.y.shape)}")
        if isinstance(self.operator, Mask):
            self.y = self.operator.observed(self.y)
        if not torch.isfinite(self.y).all():
            raise UsageError("the observation holds values that are not finite numbers")
        self._shape = self.size or restored_size(self.y, self.operator)
        self._device = pick_device(self.device)
        whole = (1, self.y.shape[1], *self._shape)
        if self.truth is not None and self.truth.shape != whole:
            raise UsageError(f"the truth is {tuple(self.truth.shape)}, but the picture is {whole}")
        if self.guide is not None and self.guide.shape[-2:] != self._shape:
            raise UsageError(f"the guide has sides {tuple(self.guide.shape[-2:])}, but the picture {self._shape}")
        with typed_failures(self.genome), learning():
            operator = self.operator
            if isinstance(operator, nn.Module) and self._device.type != "cpu":
                operator = copy.deepcopy(operator).to(self._device)  # the caller's own stays where it is
            self._on_device = (self.y.detach().to(self._device, torch.float32, copy=True), noiseless(operator))
            self._begin(self.recipe.precision)
        self._truth = None if self.truth is None else self.truth.to(self._device)
        self.whole = True  # not in the middle of a step, where an interruption leaves no state to go on from
        self._pending: Snapshot | None = None  # a snapshot not yet known to be good
        self._good: tuple[float, Snapshot] | None = None  # its dB, and the snapshot

    def _begin(self, precision: str) -> None:
        """Plan the fit as suits this machine, and make its first step."""
        channels, members = self.y.shape[1], self.recipe.ensemble
        kept = bytes_of(self.recipe, channels * self._shape[0] * self._shape[1])
        self.plan = plan(self.genome, self._shape, channels, precision, self._device, self._make_step, kept, members)
        if self._device.type == "cpu":
            heap.prepare(self.plan.keep)
        self._step = self._make_step(self.plan)

    def _make_step(self, plan: Plan) -> Step:
        """A fresh network and its first step, as a plan has it."""
        net = build(self.genome, self.y.shape[1], seed=seed_of(self.seed, "weights"))
        generator = torch.Generator().manual_seed(seed_of(self.seed, "z"))
        z = network_input(self.genome, *net.size_rule.padded(*self._shape), generator, self.guide)
        y, operator = self._on_device
        return Step(
            net.to(self._device).train(),
            z.to(self._device),
            y,
            operator,
            size=self._shape,
            recipe=self.recipe,
            precision=plan.precision,
            recompute=plan.recompute,
            seeds=tuple(seed_of(self.seed, what) for what in ("input noise", "weight noise", "held out")),  # type: ignore[arg-type]
        )

    @property
    def done(self) -> bool:
        """Whether the stopping rule, the budget or the time limit has ended it."""
        return bool(self.stop_reason)

    @property
    def current(self) -> Tensor:
        """The answer so far, (1, C, H, W), on the CPU: a copy, which further steps leave alone."""
        return self._step.answer.to("cpu", torch.float32, copy=True).contiguous()

    @property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """The averaged output and the output itself, at this iteration, on the device."""
        return self._step.mean.value, self._step.output

    @property
    def losses(self) -> list[float]:
        """Of the iterations since the last check, when a check calls back."""
        return self._recent().tolist()

    @property
    def statistic(self) -> float | None:
        """The least value so far of what the stopping rule watches, such as the held-out pixels' mean square error;
        None where it watches nothing, or nothing counted yet."""
        best = float(self._step.stopper.best) if isinstance(self._step.stopper, Minimum) else math.inf
        return best if math.isfinite(best) else None

    def advance(self, until: int | None = None) -> None:
        """Run to iteration `until`, or to the end. Diverged or OutOfMemory ends the fit for good."""
        advance_together([self], until)

    def enqueue(self, until: int | None = None) -> bool:
        """Ask for iterations up to `until`, but not past the next check; whether there is anything to settle."""
        if not self.done and self._due:
            return True  # an interruption came before the check
        boundary = self.iteration - self.iteration % CHECK_EVERY + CHECK_EVERY
        target = min(self.recipe.iterations, boundary, boundary if until is None else until)
        if self.done or self.iteration >= target:
            return False
        with self._timed():
            while self.iteration < target:
                with interrupts_wait(), learning():
                    self.whole = False
                    self._step()
                    self.iteration += 1
                    self.whole = True
                if self._late():
                    break
        return True

    @property
    def _due(self) -> bool:
        """Whether a check is to be made at this iteration, and was not."""
        at_one = self.iteration % CHECK_EVERY == 0 or self.iteration == self.recipe.iterations
        return at_one and self.iteration > self.checked

    def _late(self) -> bool:
        """Whether the time limit is over. Steps of large pictures take long: ten of them would be far past it."""
        limit = self.recipe.time_limit
        return limit is not None and time.perf_counter() - self._started >= limit

    def settle(self) -> None:
        """Wait for what was asked for and, where a check is due, do it."""
        with interrupts_wait(), self._timed():
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            if self._due or self._late():
                self._check()
            elif self._good is None and (unsound := _unsound(self._recent())):  # nothing to go back to
                self.non_finite += unsound
                raise self._diverged("the loss is not a finite number")

    def result(self) -> Fit:
        """The record of a fit that has run."""
        x = self.current
        return Fit(
            x=x,
            chosen=int(self._step.stopper.chosen),
            iterations=self.iteration,
            stop_reason=self.stop_reason or "paused",
            psnr=None if self.truth is None else psnr(x, self.truth, self.protocol),
            oracle=self.oracle,
            curve=copy.deepcopy(self.curve),
            seconds=self.seconds,
            rollbacks=self.rollbacks,
            non_finite=self.non_finite,
            device=self._device.type,
            precision=self.plan.precision,
            held_out=self.statistic if self.recipe.stop == "held-out" else None,
            uncertainty=None if self._step.mean.uncertainty is None else self._step.mean.uncertainty.cpu(),
        )

    def state(self) -> dict[str, Any]:
        """Everything that a fit of the same arguments needs to go on from here, bit for bit on the CPU.

        Tensors and plain data, which `torch.load` reads with `weights_only`.
        """
        return {
            "format": STATE_FORMAT,
            "host": {name: copy.deepcopy(getattr(self, name)) for name in HOST_STATE},
            "oracle": None if self.oracle is None else (self.oracle.psnr, self.oracle.iteration),
            "device": self._device.type,
            "plan": astuple(self.plan),
            "step": self._step.state(),
            "pending": self._pending,
            "good": self._good,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of a fit that was made with the same arguments, in its precision.

        UsageError where the state is of another format, or was made on another kind of device.
        """
        refuse_other_format(state)
        if state["device"] != self._device.type:
            raise UsageError(f"the state of a fit on {state['device']} cannot go on on {self._device.type}")
        made = Plan(*state["plan"])
        with typed_failures(self.genome), learning():
            if made.memory > USABLE * memory_of(self._device):  # made where there is more
                self._begin(made.precision)
            elif made != self.plan:
                self.plan, self._step = made, self._make_step(made)
        self._step.resume(state["step"])
        self._pending, self._good = state["pending"], state["good"]
        self.oracle = Oracle(*state["oracle"]) if state["oracle"] else None
        checked = {"checked": state["host"]["iteration"]}  # older states have none, and were made after a check
        for name, value in (checked | state["host"]).items():
            setattr(self, name, copy.deepcopy(value))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        self._started = time.perf_counter() - self.seconds
        try:
            with typed_failures(self.genome):
                yield
        except FitError:
            self.stop_reason = "failed"
            raise
        finally:
            self.seconds = time.perf_counter() - self._started

    def _check(self) -> None:
        """What needs the host: the losses, the rollback, the truth, the clock."""
        self.seconds, self.checked = time.perf_counter() - self._started, self.iteration
        recent = self._recent()
        self._roll_back_or_keep(recent)
        point = {"iteration": self.iteration, "loss": float(recent[-1])}
        if isinstance(self._step.stopper, Minimum):
            point["statistic"] = float(self._step.stopper.now)
        self.oracle = judge(self.curve, self.oracle, point, self.outputs, self._truth, self.protocol)
        if bool(self._step.stopper.stop):
            self.stop_reason = self.recipe.stop
        elif self.iteration >= self.recipe.iterations:
            self.stop_reason = "budget"
        elif self.recipe.time_limit is not None and self.seconds >= self.recipe.time_limit:
            self.stop_reason = "time-limit"
        if self.callback is not None:
            self.callback(self.iteration, self.current)

    def _recent(self) -> Tensor:
        """The losses since the last check."""
        return self._step.losses[: (self.iteration - 1) % CHECK_EVERY + 1].cpu()

    def _roll_back_or_keep(self, losses: Tensor) -> None:
        """Restore the last good snapshot where the fit to y (dB) fell too far below it, else take a new one.

        A step's loss is that of the weights before it. So a snapshot is good only once the loss after
        it, the first of the next few, is no collapse either. A loss that is not a finite number is a collapse.
        """
        unsound = _unsound(losses)
        self.non_finite += unsound
        after, now = _decibels(losses[0]), _decibels(losses[-1])
        if self._pending is not None and (self._good is None or after >= self._good[0] - self.recipe.fall):
            self._good = (after, self._pending) if after > float("-inf") else self._good
        self._pending = None
        lowest = float("-inf") if self._good is None else self._good[0] - self.recipe.fall
        if not unsound and now >= lowest:
            self._pending = self._step.snapshot()
            return
        if self._good is None:
            raise self._diverged("the loss is not a finite number")
        if self.rollbacks >= MOST_ROLLBACKS:
            raise self._diverged(f"rolled back {self.rollbacks} times")
        self.rollbacks += 1
        self._step.restore(self._good[1])

    def _diverged(self, what: str) -> Diverged:
        counted = {"rollbacks": self.rollbacks, "non_finite": self.non_finite}
        return Diverged(f"{what} by iteration {self.iteration} ({self.genome.summary()})", **counted)


def judge(
    curve: dict[str, list[float]],
    oracle: Oracle | None,
    point: dict[str, float],
    outputs: tuple[Tensor, Tensor],
    truth: Tensor | None,
    protocol: str,
) -> Oracle | None:
    """Add a point and its PSNR to a curve, and give the better of the oracle so far and this averaged output."""
    average, raw = (float("nan") if truth is None else psnr(x, truth, protocol) for x in outputs)
    for name, value in (point | {"psnr": average, "raw": raw}).items():
        curve.setdefault(name, []).append(value)
    better = truth is not None and (oracle is None or average > oracle.psnr)
    return Oracle(average, int(point["iteration"])) if better else oracle


def advance_together(fittings: Sequence[Fitting], until: int | None = None) -> None:
    """Run fits to iteration `until`, or to their ends, in turn: on CUDA they share the device, each on its stream."""
    going = list(fittings)
    while going := [fitting for fitting in going if fitting.enqueue(until)]:
        failures = []
        for fitting in going:
            try:
                fitting.settle()
            except FitError as error:
                failures.append(error)
        if failures:
            raise failures[0]


@contextmanager
def learning() -> Iterator[None]:
    """With gradients, whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def refuse_other_format(state: dict[str, Any]) -> None:
    """UsageError where the state of a fit is not of this version's format."""
    if state.get("format") != STATE_FORMAT:
        raise UsageError(f"the state of a fit has format {state.get('format')}, not {STATE_FORMAT}")


def _unsound(losses: Tensor) -> int:
    """How many are not finite numbers."""
    return int((~torch.isfinite(losses)).sum())


def _decibels(loss: Tensor) -> float:
    """The fit to y of a loss; minus infinity for one that is not a finite number."""
    return from_mse(float(loss)) if bool(torch.isfinite(loss)) else float("-inf")


@contextmanager
def typed_failures(genome: Genome) -> Iterator[None]:
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
