"""Several fits of one observation from different seeds, whose answers are averaged."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dipsearch.fitting.interrupt import interrupts_wait
from dipsearch.fitting.loop import (
    CHECK_EVERY,
    STATE_FORMAT,
    Fit,
    Fitting,
    Oracle,
    advance_together,
    empty_curve,
    judge,
    refuse_other_format,
)
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome
from dipsearch.metric import psnr
from dipsearch.seed import seed_of


class Ensemble:
    """A `Fitting` made of `recipe.ensemble` of them; the first has the seed itself.

    They advance in turn, and share a time limit. `current` is the mean of their answers; curve and oracle look at the
    mean of their averaged outputs.
    `uncertainty` of the result is the standard deviation over them, value by value.

    Source: Ulyanov et al., *Deep Image Prior* (IJCV 2020), Table 1: the mean of two runs adds 0.6 dB.
    """

    def __init__(
        self,
        genome: Genome,
        y: Tensor,
        operator: Callable[[Tensor], Tensor],
        recipe: Recipe,
        *,
        seed: int = 0,
        truth: Tensor | None = None,
        protocol: str = "rgb",
        callback: Callable[[int, Tensor], None] | None = None,
        **settings: Any,
    ) -> None:
        limit = recipe.time_limit
        each_recipe = recipe.model_copy(update={"time_limit": None if limit is None else limit / recipe.ensemble})
        seeds = [seed, *(seed_of(seed, "member", index) for index in range(1, recipe.ensemble))]
        self.members = [
            Fitting(genome, y, operator, each_recipe, seed=each, protocol=protocol, **settings) for each in seeds
        ]
        self.recipe, self.truth, self.protocol, self.callback = recipe, truth, protocol, callback
        self.oracle: Oracle | None = None
        self.curve = empty_curve()
        self.checked = 0  # the iteration of the last check

    @property
    def iteration(self) -> int:
        """Of the member that is furthest."""
        return max(member.iteration for member in self.members)

    @property
    def seconds(self) -> float:
        """Of all members."""
        return sum(member.seconds for member in self.members)

    @property
    def done(self) -> bool:
        """Whether every member has ended."""
        return all(member.done for member in self.members)

    @property
    def current(self) -> Tensor:
        """The mean of the answers so far, (1, C, H, W), on the CPU."""
        return torch.stack([member.current for member in self.members]).mean(0)

    @property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """The means of the averaged outputs and of the outputs themselves, at this iteration."""
        averages, raws = zip(*(member.outputs for member in self.members), strict=True)
        return torch.stack(averages).mean(0), torch.stack(raws).mean(0)

    @property
    def losses(self) -> list[float]:
        """As of a `Fitting`; the mean over members."""
        return [sum(each) / len(each) for each in zip(*(member.losses for member in self.members), strict=True)]

    @property
    def statistic(self) -> float | None:
        """The mean over members of theirs."""
        values = [member.statistic for member in self.members]
        return None if None in values else sum(values) / len(values)  # type: ignore[arg-type]

    def advance(self, until: int | None = None) -> None:
        """Run every member to iteration `until`, or to its end; one that fails ends the ensemble."""
        last = self.recipe.iterations if until is None else min(until, self.recipe.iterations)
        while not self.done or self.checked < self.iteration:  # the latter: an interruption came before the check
            target = min(last, self.checked - self.checked % CHECK_EVERY + CHECK_EVERY)
            if target <= self.checked:
                break
            advance_together(self.members, target)
            if target % CHECK_EVERY and target < self.recipe.iterations:
                break
            with interrupts_wait():
                self.checked = target
                self._check()

    def result(self) -> Fit:
        """The record of an ensemble that has run: means over members, sums of what went wrong."""
        results = [member.result() for member in self.members]
        answers = torch.stack([result.x for result in results])
        x = answers.mean(0)
        return Fit(
            x=x,
            chosen=max(result.chosen for result in results),
            iterations=self.iteration,
            stop_reason=", ".join(sorted({result.stop_reason for result in results})),
            psnr=None if self.truth is None else psnr(x, self.truth, self.protocol),
            oracle=self.oracle,
            curve={name: list(values) for name, values in self.curve.items()},
            seconds=self.seconds,
            rollbacks=sum(result.rollbacks for result in results),
            non_finite=sum(result.non_finite for result in results),
            device=results[0].device,
            precision=results[0].precision,
            held_out=self.statistic if self.recipe.stop == "held-out" else None,
            uncertainty=answers.std(0),
        )

    @property
    def whole(self) -> bool:
        """As of a `Fitting`."""
        return all(member.whole for member in self.members)

    def state(self) -> dict[str, Any]:
        """As `Fitting.state`."""
        return {
            "format": STATE_FORMAT,
            "checked": self.checked,
            "members": [member.state() for member in self.members],
            "oracle": None if self.oracle is None else (self.oracle.psnr, self.oracle.iteration),
            "curve": {name: list(values) for name, values in self.curve.items()},
        }

    def resume(self, state: dict[str, Any]) -> None:
        """As `Fitting.resume`."""
        refuse_other_format(state)
        for member, each in zip(self.members, state["members"], strict=True):
            member.resume(each)
        self.checked = state.get("checked", self.iteration)  # older states have none, and were made after a check
        self.oracle = Oracle(*state["oracle"]) if state["oracle"] else None
        self.curve = {name: list(values) for name, values in state["curve"].items()}

    def _check(self) -> None:
        point: dict[str, float] = {"iteration": self.iteration} | {
            name: sum(member.curve[name][-1] for member in self.members) / len(self.members)
            for name in ("loss", "statistic")
            if name in self.members[0].curve
        }
        self.oracle = judge(self.curve, self.oracle, point, self.outputs, self.truth, self.protocol)
        if self.callback is not None:
            self.callback(self.iteration, self.current)
