"""One genome on one instance of a task, as a run: looked up in the store, or fitted and stored."""

import copy
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from dipsearch.baseline import BASELINES
from dipsearch.error import DipsearchError, FitError, OutOfMemory, Paused, UsageError, WorkerKilled
from dipsearch.fitting.capture import WARM_UP
from dipsearch.fitting.device import pick_device
from dipsearch.fitting.loop import Fit
from dipsearch.fitting.plan import bytes_of, bytes_together
from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome
from dipsearch.kept import SAVE_EVERY, read_kept, write_kept
from dipsearch.leaderboard import Scope
from dipsearch.metric import from_mse, psnr, ssim
from dipsearch.network.build import Cost, cost
from dipsearch.run import OK, Run, RunStore, environment, hashed, run_key, subject_of
from dipsearch.search.executor import Caller, Here
from dipsearch.search.leg import Leg, Reached, Tell, go, timed
from dipsearch.task import Effort, Observation, Task, observe

HERE = Here()


@dataclass(frozen=True)
class Protocol:
    """Everything about a run but the genome and the instance: what makes runs comparable.

    `recipe` is the one that fits run with, `changes` those of its values that belong to the genome that is
    judged (`changed`): they are no part of the `key`, nor is the `objective` of a search.
    """

    task: Task
    effort: Effort
    preset: str
    purpose: str
    recipe: Recipe
    device: str = "auto"
    objective: str = "psnr"
    changes: dict[str, Any] = field(default_factory=dict, init=False)
    setting: dict[str, Any] = field(init=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        setting: dict[str, Any] = {
            "operator": self.task.operator_for(self.effort).identity(),
            "noise": self.task.noise.model_dump(mode="json", exclude_none=True),
            "metric": self.task.metric,
            "pictures": self.effort.model_dump(mode="json", include={"shrink", "size", "multiple_of"}),
            "recipe": self.recipe.model_dump(mode="json"),
        }
        if self.effort.padding:
            setting["pictures"]["padding"] = self.effort.padding
        if not self.task.truth:
            setting["truth"] = False
        object.__setattr__(self, "setting", setting)
        object.__setattr__(self, "key", hashed(setting))

    def changed(self, changes: dict[str, Any]) -> "Protocol":
        """The same protocol for genomes that bring values of the recipe; ValidationError where these cannot be."""
        if not changes:
            return self
        recipe = Recipe.model_validate(self.recipe.model_dump() | changes)
        other = copy.copy(self)  # with the key and the setting of this one
        object.__setattr__(other, "recipe", recipe)
        object.__setattr__(other, "changes", self.changes | {name: getattr(recipe, name) for name in changes})
        return other

    def observe(self, images: list[str], *, seed: int, repeats: int) -> list[Observation]:
        """Every picture with every repeat, pictures first."""
        return [
            observe(self.task, self.effort, image, seed=seed, repeat=repeat)
            for repeat in range(repeats)
            for image in images
        ]

    def scope(self, instances: list[Observation]) -> Scope:
        """What a leaderboard of these instances is made of."""
        return Scope(self.key, frozenset((instance.digest, instance.seed) for instance in instances))

    def find(self, store: RunStore, key: str, instance: Observation) -> dict[str, Any] | None:
        """The stored run of a genome key or baseline name on an instance."""
        return store.find(self.task.name, self._run_key(key, instance))

    def _run_key(self, key: str, instance: Observation) -> str:
        return run_key(self.key, subject_of(key, self.changes), instance.digest, instance.seed)

    def leg(self, genome: Genome, **part: Any) -> Leg:
        """A fit of this protocol, or a `part` of it."""
        return Leg(genome, self.recipe, self.task.metric, self.device, **part)

    def reach(self, executor: Caller, instance: Observation, leg: Leg, **near: Any) -> Reached:
        """Where a leg ends; one that kills its workers has failed."""
        try:
            memory = self.memory(leg.genome, instance, executor)
            return executor.call(go, instance, leg, memory=memory, **near)
        except WorkerKilled as error:
            return Reached(error=error)

    def memory(self, genome: Genome, instance: Observation, executor: Caller) -> int:
        """Bytes that a fit is predicted to take, with all that its recipe has it keep."""
        price, kept = price_of(genome, instance, executor), bytes_of(self.recipe, math.prod(instance.shape))
        return bytes_together(price, kept, self.recipe.ensemble, torch.device("cpu"))

    def summary(self, genome: Genome) -> str:
        """A genome and the recipe's values that belong to it, in a few words."""
        return ", ".join([genome.summary(), *(f"{name} {value}" for name, value in sorted(self.changes.items()))])

    def run(self, name: str, genome: Genome | None, instance: Observation, **outcome: Any) -> Run:
        """The record of an outcome."""
        return Run(
            task=self.task.name,
            purpose=self.purpose,
            preset=self.preset,
            protocol=self.key,
            setting=self.setting,
            metric=self.task.metric,
            image=instance.image,
            digest=instance.digest,
            repeat=instance.repeat,
            study_seed=instance.study_seed,
            seed=instance.seed,
            name=name,
            genome_key=genome.key() if genome else None,
            genome=genome.data() if genome else None,
            summary=self.summary(genome) if genome else "(baseline)",
            recipe_changes=self.changes or None,
            objective=self.objective,
            **{"machine": environment()} | outcome,
        )

    def record(
        self,
        store: RunStore,
        name: str,
        genome: Genome,
        instance: Observation,
        fit: Fit,
        reached: Reached,
    ) -> dict[str, Any]:
        """Store a fit that a leg has ended, with its progress frames if it has any."""
        price, seen = price_of(genome, instance), reached.seen
        run = self.run(
            name,
            genome,
            instance,
            psnr=fit.psnr,
            final_psnr=fit.final_psnr,
            raw_psnr=fit.raw_psnr,
            ssim=None if instance.truth is None else ssim(fit.x, instance.truth, self.task.metric),
            held_out=None if fit.held_out is None else from_mse(fit.held_out),
            oracle_psnr=fit.oracle.psnr if fit.oracle else None,
            oracle_iteration=fit.oracle.iteration if fit.oracle else None,
            iterations=fit.iterations,
            chosen=fit.chosen,
            stop_reason=fit.stop_reason,
            rollbacks=fit.rollbacks,
            non_finite=fit.non_finite,
            seconds=round(fit.seconds, 3),
            parameters=price.parameters,
            gflop=round(price.gflop, 6),
            device=fit.device,
            precision=fit.precision,
            uncertainty=None if fit.uncertainty is None else float(fit.uncertainty.mean()),
            machine=reached.machine or environment(),
        )
        store.save(run, fit, seen=[seen[at] for at in sorted(seen)] if seen else None)
        store.keep_pictures(run, {"observation": instance.y, "truth": instance.truth})
        return asdict(run)

    def record_failure(
        self, store: RunStore, name: str, genome: Genome, instance: Observation, error: FitError
    ) -> dict[str, Any]:
        """Store that a fit fails, so that nobody repeats it; not where memory was wanting or it was killed: that is the
        machine's."""
        counted = {"rollbacks": error.rollbacks, "non_finite": error.non_finite}
        run = self.run(name, genome, instance, status=error.reason, reason=str(error), **counted)
        if not isinstance(error, OutOfMemory | WorkerKilled):
            store.save(run)
        return asdict(run)

    def baseline(
        self, store: RunStore, name: str, instance: Observation, twin: Observation | None = None
    ) -> dict[str, Any]:
        """A classical restoration, as a run; the same as that of a `twin` of the same damage, if that is stored."""
        if found := self.find(store, name, instance):
            return found
        if twin is not None and (same := self.find(store, name, twin)):
            run = self.run(name, None, instance, **{each: same[each] for each in ("psnr", "ssim", "seconds")})
            store.save(run)
            return asdict(run)
        started = time.perf_counter()
        if instance.truth is None:
            raise UsageError(f"{instance.image}: no clean picture is known to judge a baseline by")
        x = BASELINES[name](instance.y, instance.operator, self.task.noise.sigma)
        seconds = time.perf_counter() - started
        metric = self.task.metric
        scores = {"psnr": psnr(x, instance.truth, metric), "ssim": ssim(x, instance.truth, metric)}
        run = self.run(name, None, instance, seconds=round(seconds, 4), **scores)
        store.save(run, x=x)
        return asdict(run)

    def evaluate(
        self,
        store: RunStore,
        name: str,
        genome: Genome,
        instance: Observation,
        tell: Tell | None = None,
        until: float = float("inf"),
        executor: Caller = HERE,
    ) -> dict[str, Any]:
        """Answer from the store, with what another task or table has fitted, too, or fit and store; a failed fit is a
        run with another status than ok.

        A fit that takes long keeps its state beside the runs, and goes on from there when it was interrupted.

        `tell` is given the iteration and the PSNR of the averaged output, every 10 iterations, or once a minute where
        the executor is not this process. Paused where the clock (`time.monotonic`) is past `until`.
        """
        if found := self.find(store, genome.key(), instance):
            return found
        if self.purpose != "search" and (same := store.take_over(self.run(name, genome, instance))):
            return same
        path = store.unfinished(self.task.name, self._run_key(genome.key(), instance))
        kept, longest = read_kept(path), float("inf") if executor.near else SAVE_EVERY

        def save(kept: dict[str, Any]) -> None:
            with suppress(DipsearchError, RuntimeError):  # a full disk ends the fit only when it writes its result
                write_kept(path, kept)

        while True:
            seconds = min(longest, until - time.monotonic())
            leg = self.leg(genome, seconds=seconds, framed=self.purpose != "search", kept=kept)
            reached = self.reach(executor, instance, leg, tell=tell, save=save)
            if reached.error is not None:
                if not isinstance(reached.error, OutOfMemory | WorkerKilled):
                    path.unlink(missing_ok=True)
                return self.record_failure(store, name, genome, instance, reached.error)
            if reached.fit is not None:
                run = self.record(store, name, genome, instance, reached.fit, reached)
                path.unlink(missing_ok=True)
                return run
            kept = reached.kept or {}
            if tell is not None:
                tell(reached.iteration, reached.average)
            if time.monotonic() > until:
                write_kept(path, kept)
                raise Paused(f"{name} on {instance.image}: kept at iteration {reached.iteration}")
            save(kept)


_PRICES = dict[tuple[Genome, int, int, int], Cost]()


def price_of(genome: Genome, instance: Observation, executor: Caller = HERE) -> Cost:
    """What a step takes at the size of an instance's picture: computed where fits run, and once.

    It takes as long as some steps of a small fit, which a driver with many workers has no time for.
    """
    channels, height, width = instance.shape
    asked = genome.canonical(), height, width, channels
    if asked not in _PRICES:
        _PRICES[asked] = executor.call(cost, *asked)
    return _PRICES[asked]


def failed(run: dict[str, Any]) -> bool:
    """Whether a run ended without a picture."""
    return bool(run["status"] != OK)


def seconds_per_iteration(
    protocol: Protocol, genome: Genome, instance: Observation, steps: int = 3, executor: Caller = HERE
) -> float:
    """Measured where fits run: the median of a few steps after one to warm up; 0 where they fail."""
    warm_up = WARM_UP + 1 if pick_device(protocol.device).type == "cuda" else 1
    try:
        memory = protocol.memory(genome, instance, executor)
        return executor.call(timed, instance, protocol.leg(genome), steps, warm_up, memory=memory)
    except WorkerKilled:
        return 0.0
