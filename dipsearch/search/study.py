"""The Optuna study: sampler, pruner, trials. One process owns it and is its only writer."""

import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from dipsearch import catalog
from dipsearch.error import UsageError, unknown
from dipsearch.genome import Genome, load_genome
from dipsearch.run import RunStore, subject_of
from dipsearch.search.cokriging import SEEN, Cokriging, note, order_of
from dipsearch.search.evaluation import HERE, Protocol, seconds_per_iteration
from dipsearch.search.executor import Executor, Turn, together
from dipsearch.search.goals import GOALS
from dipsearch.search.ladder import LADDERS, Gated, Ladder, Pruned, Reporter
from dipsearch.search.ledger import WANTED, Ledger, address
from dipsearch.search.limits import Limits
from dipsearch.search.objective import Objective
from dipsearch.search.opening import agree, chosen_by, held, requeue
from dipsearch.search.samplers import SAMPLERS, SEQUENCES, Around
from dipsearch.search.settings import Settings
from dipsearch.search.standing import Standing
from dipsearch.search.trial import HOST, RETRY, SUMMARY, WHOLE
from dipsearch.seed import seed_of
from dipsearch.task import Observation

ENOUGH_FOR_A_TEST = 5  # instances: below, the smallest possible p of a paired test is above 0.05
BY_INSTANCE = "wilcoxon"
PRUNERS = ("auto", BY_INSTANCE, *LADDERS)
SURVIVING = 0.45  # share of a full fit that a trial costs once pruning works (0.31 by arithmetic, and re-fits)
# Of these, replays on DIPBench came to random search's quality with the fewest iterations.
DEFAULT_SAMPLER, DEFAULT_LADDER = "cokriging", "promising"
MEASURED = ("identity", "mask")  # operators of the tasks on whose DIPBench tables these were chosen
# Elsewhere: in a quick search for super-resolution, those gave nearly every trial up, and found nothing.
OTHER_SAMPLER, OTHER_LADDER = "tpe", "halving"
PROBES = 4  # genomes timed for the prediction


@dataclass(frozen=True)
class Event:
    """What happened in a search, for whoever shows it: a trial's start, progress or end."""

    kind: str  # "start", "progress", "end"
    number: int  # trials done before this one
    total: int
    share: float = 0.0  # of the current trial
    summary: str = ""
    outcome: str = ""  # "complete", "estimated" (given up after whole fits of some pictures), "pruned"
    value: float | None = None
    reason: str = ""
    seconds: float = 0.0
    best: float | None = None


@dataclass
class Search:
    """A study with what it works on. Use it as a context: it holds the study's lock.

    Args:
        settings: the task, space, preset and seeds.
        folder: of the study (study.db, config.yaml, environment.json).
        store: of runs.
        resume: go on with a study that exists; otherwise its existence is an error.
        watch: told every Event.
        executor: where fits run.
    """

    settings: Settings
    folder: Path
    store: RunStore
    resume: bool = False
    watch: Callable[[Event], None] = lambda event: None
    executor: Executor = HERE
    instances: list[Observation] = field(init=False)
    protocol: Protocol = field(init=False)

    def __post_init__(self) -> None:
        settings, effort = self.settings, self.settings.effort
        measured = settings.task.operator.name in MEASURED
        sampler, self._usual = (DEFAULT_SAMPLER, DEFAULT_LADDER) if measured else (OTHER_SAMPLER, OTHER_LADDER)
        usual = OTHER_SAMPLER if len(settings.goals) > 1 else sampler
        self._sampler = usual if settings.sampler == "auto" else settings.sampler
        if self._sampler not in SAMPLERS:
            raise UsageError(unknown("sampler", settings.sampler, ("auto", *SAMPLERS)))
        if self._sampler == "cokriging" and len(settings.goals) > 1:
            raise UsageError("sampler cokriging: it knows one objective; choose tpe or nsga2")
        if settings.pruner not in PRUNERS:
            raise UsageError(unknown("pruner", settings.pruner, PRUNERS))
        if "psnr" in settings.goals and not settings.task.truth:
            raise UsageError("objective psnr: no clean picture is known; choose held-out")
        if "held-out" in settings.goals and (judging := {"stop", "held_out"} & set(settings.space.recipe)):
            raise UsageError(
                f"space {settings.space.name!r}: recipe.{min(judging)} is what the held-out objective is of"
            )
        if settings.around is not None and settings.sampler != "auto":
            raise UsageError(f"sampler {settings.sampler!r}: a search around a genome has its own; leave --sampler out")
        published = (*settings.space.start, settings.task.genome)
        self._published = {load_genome(name).key(): catalog.stem("genomes", name) for name in published}
        images = list(settings.task.images.search[: effort.images])
        recipe = settings.task.recipe_for(effort)
        self.protocol = Protocol(
            settings.task, effort, settings.preset, "search", recipe, settings.device, settings.goals[0]
        )
        self.instances = self.protocol.observe(images, seed=settings.seed, repeats=effort.repeats)
        self.ladder = self._ladder()
        self._centre = None if settings.around is None else self._slots_of(settings.around)

    def _ladder(self) -> Ladder | None:
        """How trials climb; None: they are tested instance by instance."""
        pruner, several = self.settings.pruner, len(self.settings.goals) > 1
        if pruner == "auto":
            pruner = "none" if several else self._usual
        if several and pruner != "none":
            raise UsageError(f"pruner {pruner!r}: a search with several objectives cannot prune; leave --pruner out")
        return None if pruner == BY_INSTANCE else LADDERS[pruner]

    @property
    def _learned(self) -> bool:
        """Whether a model of all that was seen judges trials."""
        return self.ladder is not None and self.ladder.learned

    @contextmanager
    def opened(self) -> Iterator["Search"]:
        """Hold the study's lock, and open or create the study."""
        with held(self.folder, resume=self.resume) as existed:
            agree(self.folder, self.settings.config(self.instances, self.protocol.key), existed=existed)
            try:
                self._study = self._open()
            except SQLAlchemyError:
                if not existed:  # half a database is no study
                    (self.folder / "study.db").unlink(missing_ok=True)
                raise
            try:
                yield self
            finally:
                self._ledger.close()

    def predict(self) -> float:
        """Seconds that the trials still to come should take, from a few steps of some genomes timed here."""
        space, seed = self.settings.space, self.settings.seed
        probes = [space.sample(seed + probe) for probe in range(PROBES)]
        effort = self.settings.effort
        limits = Limits(effort.max_gflop, None, effort.max_memory)
        fitted = [genome for genome in probes if not limits.exceeded(genome, self.instances)]
        where, picture = self.executor, self.instances[0]
        step = sum(seconds_per_iteration(self.protocol, each, picture, executor=where) for each in fitted) / PROBES
        full = step * self.protocol.recipe.iterations * len(self.instances) / max(1, where.room())
        missing = max(0, effort.trials - self.done)
        unpruned = min(missing, max(0, effort.start_up - self.done))
        return min(effort.timeout, full * (unpruned + (missing - unpruned) * SURVIVING))

    @property
    def done(self) -> int:
        """Trials finished or pruned."""
        return len(self.standing.done)

    def run(self) -> str:
        """Run trials until `trials` are finished or pruned ("done") or the time is over ("timeout")."""
        started, effort = time.monotonic(), self.settings.effort
        self._turn, self._fitted = Turn(self.executor), set[str]()

        def another(under_way: int) -> Callable[[], None] | None:
            with self._turn.taken():
                left = effort.trials - self.done - under_way
            return self._one if left > 0 and time.monotonic() - started <= effort.timeout else None

        for _ in together(another, self.executor):
            pass
        return "done" if self.done >= effort.trials else "timeout"

    def _one(self) -> None:
        with self._turn.taken():
            self._trial()

    def _trial(self) -> None:
        total, number, started = self.settings.effort.trials, self.done, time.monotonic()
        trial, chosen = self._propose()
        values, whole, reason = None, False, ""
        try:
            values, whole = self._values(trial, chosen, number)
        except Pruned as pruned:
            reason = str(pruned)
        except BaseException:
            self.standing.ended(self._study.tell(trial, state=TrialState.FAIL))
            raise
        if values is None:
            trial.set_user_attr("reason", reason)
            ended = self._study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr(WHOLE, whole)
            ended = self._study.tell(trial, values)
        self.standing.ended(ended)
        self.watch(
            Event(
                "end",
                self.done,
                total,
                1.0,
                ended.user_attrs.get(SUMMARY, ""),
                "pruned" if values is None else "complete" if whole else "estimated",
                values[0] if values else None,
                reason,
                time.monotonic() - started,
                self.best_value(),
            )
        )

    def _values(self, trial: optuna.Trial, chosen: dict[str, Any], number: int) -> tuple[list[float], bool]:
        """Those of a trial, and whether every instance was fitted to the end; `number` trials were done before it."""
        settings, total = self.settings, self.settings.effort.trials
        genome, protocol = self._genome(chosen)
        summary, key = protocol.summary(genome), subject_of(genome.key(), protocol.changes)
        for name, value in (("subject", key), ("genome_key", genome.key()), (SUMMARY, summary)):
            trial.set_user_attr(name, value)
        self._ledger.keep(trial._trial_id)

        def progress(share: float, host: str) -> None:
            self.watch(Event("progress", number, total, share=share, summary=summary))
            if host:
                trial.set_user_attr(HOST, host)
            self._ledger.keep(trial._trial_id)

        with self._alone(key):
            self.watch(Event("start", number, total, summary=summary, best=self.best_value()))
            known = self.standing.seen(key)
            if known:
                trial.set_user_attr(SEEN, note(known))
            if not (known and self._learned) and (before := self.standing.told(key)):
                return before
            effort = settings.effort
            objective = Objective(
                protocol,
                self.instances,
                self.store,
                settings.seed,
                Limits(effort.max_gflop, effort.max_seconds, effort.max_memory),
                settings.goals,
                self.ladder,
                best=self._best_values,
                name=self._published.get(key, key[:8]),
                watch=progress,
                screen=self._screen,
                passed=bool(known),
                known=known if self._learned or RETRY in trial.user_attrs else {},
                order=self._order(self.ladder, trial) if self.ladder and self._learned else None,
                executor=self._turn,
            )
            return objective(genome, trial)

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Wait until no other trial fits the same: then the store has the answer."""
        self._turn.until(lambda: key not in self._fitted)
        self._fitted.add(key)
        try:
            yield
        finally:
            self._fitted.discard(key)

    def _genome(self, chosen: dict[str, Any]) -> tuple[Genome, Protocol]:
        """What was chosen: a genome, and the protocol with the chosen values of the recipe."""
        space, what = self.settings.space, "network"
        try:
            genome = space.genome(chosen)
            what = "recipe"
            return genome, self.protocol.changed(space.changes(chosen))
        except ValidationError as error:
            raise Pruned(f"no such {what}: {catalog.describe(error)}") from None

    def _identity(self, chosen: dict[str, Any]) -> Hashable:
        """What is the same for choices that give the same genome and recipe."""
        try:
            return self.settings.space.genome(chosen).key(), *self.settings.space.changes(chosen).items()
        except ValidationError:
            return tuple(chosen.items())

    def _order(self, ladder: Ladder, trial: optuna.Trial) -> list[int]:
        """The instances, the most telling first."""
        return order_of(self._study, trial, ladder.stages(len(self.instances), self.protocol.recipe.iterations))

    def _open(self) -> optuna.Study:
        effort, settings = self.settings.effort, self.settings
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._ledger = Ledger(address(self.folder / "study.db"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # WilcoxonPruner
            by_instance = optuna.pruners.WilcoxonPruner(p_threshold=0.05, n_startup_steps=ENOUGH_FOR_A_TEST)
            pruner = self.ladder.pruner(effort.start_up) if self.ladder else Gated(by_instance, effort.start_up)
            study = optuna.create_study(
                study_name=self.folder.name,
                storage=self._ledger,
                directions=[GOALS[goal].direction for goal in settings.goals],
                pruner=pruner,
            )
        study.set_user_attr(WANTED, effort.trials)
        requeue(study)
        first = [load_genome(name) for name in settings.space.start] if settings.around is None else []
        tried = {self._identity(chosen) for chosen in map(chosen_by, study.get_trials(deepcopy=False)) if chosen}
        for genome in filter(None, [settings.around, *settings.start, *first]):
            if (chosen := settings.space.find(genome)) and self._identity(chosen) not in tried:
                tried.add(self._identity(chosen))
                study.enqueue_trial(chosen)
        self._retries = sum(RETRY in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        self.standing, self._of_best = Standing(study), (-1, dict[int, float]())
        return study

    def _propose(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """The next trial and its choices, of a sampler of its own: a sampler's random state is not in the study, so
        each trial has another, which depends on the trials begun before it, but not on how often the search was
        interrupted."""
        settings = self.settings
        before = len(self._study.get_trials(deepcopy=False)) - self._retries
        seed = settings.seed if self._sampler in SEQUENCES else seed_of(settings.seed, "trial", before) % 2**32
        if self._centre is not None:
            self._study.sampler = Around(self._centre, seed)
        else:
            self._study.sampler = sampler = SAMPLERS[self._sampler](seed, settings.effort.start_up)
            if isinstance(sampler, Cokriging):
                sampler.again = self._learned
                sampler.same = self._identity
        trial = self._study.ask()
        return trial, settings.space.suggest(trial.suggest_categorical)  # type: ignore[arg-type]

    def _slots_of(self, genome: Genome) -> dict[str, Any]:
        """A genome's slots; UsageError where the space does not hold it."""
        if (slots := self.settings.space.find(genome)) is None:
            raise UsageError(f"space {self.settings.space.name!r} does not hold {genome.summary()}")
        return slots

    def _screen(self, genome: Genome, trial: Reporter) -> None:
        """Hold a genome's zero-cost score against those of the trials that have ended."""
        if self.settings.screen is None:
            return
        self.settings.screen.check(genome, self.instances, self.standing.screened, trial, self._turn)

    def best_value(self) -> float | None:
        """The best score so far, in dB, among trials fitted on every instance."""
        return self.standing.best.values[0] if self.standing.best else None

    def _best_values(self) -> dict[int, float]:
        """The quality of the best trial so far, by instance."""
        if (best := self.standing.best) is None:
            return {}
        if self._of_best[0] != best.number:
            quality, key = GOALS[self.settings.goals[0]].of, best.user_attrs["genome_key"]
            protocol = self.protocol.changed(self.settings.space.changes(best.params))
            runs = [protocol.find(self.store, key, instance) for instance in self.instances]
            self._of_best = best.number, {place: quality(run) for place, run in enumerate(runs) if run is not None}
        return self._of_best[1]
