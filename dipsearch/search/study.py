"""The Optuna study: sampler, pruner, storage, resume. One process owns it and is its only writer."""

import json
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from dipsearch import catalog
from dipsearch.atomic import write_atomically
from dipsearch.error import DipsearchError, UsageError, unknown
from dipsearch.genome import Genome, load_genome
from dipsearch.run import RunStore, environment, subject_of
from dipsearch.search.cokriging import DONE, SEEN, Cokriging, Fidelity, note, noted, order_of
from dipsearch.search.evaluation import HERE, Protocol, price_of, seconds_per_iteration
from dipsearch.search.executor import Executor, Turn, together
from dipsearch.search.goals import GOALS
from dipsearch.search.ladder import LADDERS, Gated, Ladder, Pruned, Reporter
from dipsearch.search.ledger import SUMMARY, WANTED, Ledger
from dipsearch.search.limits import Limits
from dipsearch.search.objective import Objective
from dipsearch.search.samplers import SAMPLERS, SEQUENCES, Around
from dipsearch.search.screen import NOTED
from dipsearch.search.settings import Settings
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
        published = (*settings.space.start, settings.task.genome)
        self._published = {load_genome(name).key(): catalog.stem("genomes", name) for name in published}
        images = list(settings.task.images.search[: effort.images])
        self.protocol = Protocol(
            settings.task, effort, settings.preset, "search", settings.task.recipe_for(effort), settings.device
        )
        self.instances = self.protocol.observe(images, seed=settings.seed, repeats=effort.repeats)
        self.ladder = self._ladder()

    def _ladder(self) -> Ladder | None:
        """How trials climb; None: they are tested instance by instance."""
        pruner, several = self.settings.pruner, len(self.settings.goals) > 1
        if pruner == "auto":
            pruner = "none" if several else self._usual
        if several and pruner != "none":
            raise UsageError(f"pruner {pruner!r}: a search with several objectives cannot prune; leave --pruner out")
        return None if pruner == BY_INSTANCE else LADDERS[pruner]

    @contextmanager
    def opened(self) -> Iterator["Search"]:
        """Hold the study's lock, and open or create the study."""
        existed = (self.folder / "study.db").exists()
        if existed and not self.resume:
            raise UsageError(f"{self.folder}: this study exists; go on with --resume, or choose another --study name")
        if self.resume and not existed:
            raise UsageError(f"{self.folder}: no study to resume there")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / "study.lock", timeout=0)
            with lock:
                self._check_config(existed)
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
        except filelock.Timeout:
            raise DipsearchError(f"{self.folder}: another process is working on this study") from None
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            cause = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
            raise DipsearchError(f"{self.folder / 'study.db'}: {cause}") from None
        except OSError as error:
            raise DipsearchError(f"{self.folder}: {error.strerror or error}") from None

    def predict(self) -> float:
        """Seconds that the trials still to come should take, from a few steps of some genomes timed here."""
        space, seed = self.settings.space, self.settings.seed
        probes = [space.sample(seed + probe) for probe in range(PROBES)]
        effort = self.settings.effort
        limit = effort.max_gflop or float("inf")
        fitted = [genome for genome in probes if price_of(genome, self.instances[0]).gflop <= limit]
        where, picture = self.executor, self.instances[0]
        step = sum(seconds_per_iteration(self.protocol, each, picture, executor=where) for each in fitted) / PROBES
        full = step * self.protocol.recipe.iterations * len(self.instances) / max(1, where.room())
        missing = max(0, effort.trials - self.done)
        unpruned = min(missing, max(0, effort.start_up - self.done))
        return min(effort.timeout, full * (unpruned + (missing - unpruned) * SURVIVING))

    @property
    def done(self) -> int:
        """Trials finished or pruned."""
        return len(self._study.get_trials(deepcopy=False, states=DONE))

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
        effort = self.settings.effort
        total, number, started = effort.trials, self.done, time.monotonic()
        trial = self._ask()
        chosen = self.settings.space.suggest(trial.suggest_categorical)  # type: ignore[arg-type]
        summary, reason, whole, key = "", "", False, ""
        values: list[float] | None = None
        try:
            genome, protocol = self._genome(chosen)
            summary, key = protocol.summary(genome), subject_of(genome.key(), protocol.changes)
            trial.set_user_attr("subject", key)
            trial.set_user_attr("genome_key", genome.key())
            trial.set_user_attr(SUMMARY, summary)
            self._ledger.begun(trial._trial_id)
            self._turn.until(lambda: key not in self._fitted)  # then the store has the answer
            self._fitted.add(key)
            self.watch(Event("start", number, total, summary=summary, best=self.best_value()))
            learned = self.ladder is not None and self.ladder.learned
            known = self._seen(key)
            trial.set_user_attr(SEEN, note(known))
            known = known if learned else {}
            before = None if known else self._before(key, trial.number)
            objective = Objective(
                protocol,
                self.instances,
                self.store,
                self.settings.seed,
                Limits(effort.max_gflop, effort.max_seconds, effort.max_memory),
                self.settings.goals,
                self.ladder,
                best=self._best_values,
                name=self._published.get(key, key[:8]),
                watch=lambda share: self.watch(Event("progress", number, total, share=share, summary=summary)),
                screen=self._screen,
                known=known,
                order=self._order(self.ladder, trial) if self.ladder and learned else None,
                executor=self._turn,
            )
            values, whole = before or objective(genome, trial)
        except Pruned as pruned:
            reason = str(pruned)
        except BaseException:
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        finally:
            self._fitted.discard(key)
        if values is None:
            trial.set_user_attr("reason", reason)
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr("whole", whole)
            self._study.tell(trial, values)
        self.watch(
            Event(
                "end",
                number + 1,
                total,
                1.0,
                summary,
                "pruned" if values is None else "complete" if whole else "estimated",
                values[0] if values else None,
                reason,
                time.monotonic() - started,
                self.best_value(),
            )
        )

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

    def _before(self, key: str, number: int) -> tuple[list[float], bool] | None:
        """What a trial with the same subject was told without a whole fit, told again; a pruned one is pruned again.

        For subjects that were fitted to the end, None: the store answers.
        """
        for trial in self._study.get_trials(deepcopy=False, states=DONE):
            if trial.number == number or trial.user_attrs.get("subject") != key:
                continue
            if trial.state == TrialState.PRUNED:
                raise Pruned(f"pruned before: {trial.user_attrs.get('reason', 'no reason was kept')}")
            if not trial.user_attrs.get("whole"):
                return trial.values, False
        return None

    def _seen(self, key: str) -> dict[Fidelity, float]:
        """What trials of a subject saw, at each fidelity."""
        trials = self._study.get_trials(deepcopy=False)
        own = (trial for trial in trials if trial.user_attrs.get("subject") == key)
        return {fidelity: value for trial in own for fidelity, value in noted(trial).items()}

    def _order(self, ladder: Ladder, trial: optuna.Trial) -> list[int]:
        """The instances, the most telling first."""
        return order_of(self._study, trial, ladder.stages(len(self.instances), self.protocol.recipe.iterations))

    def _open(self) -> optuna.Study:
        effort, settings = self.settings.effort, self.settings
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._ledger = Ledger(f"sqlite:///{self.folder / 'study.db'}")
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
        self._centre = None if settings.around is None else self._slots_of(settings.around)
        study.set_user_attr(WANTED, effort.trials)
        self._requeue(study)
        first = [load_genome(name) for name in settings.space.start] if settings.around is None else []
        for genome in filter(None, [settings.around, *settings.start, *first]):
            if chosen := settings.space.find(genome):
                study.enqueue_trial(chosen, skip_if_exists=True)
        return study

    def _ask(self) -> optuna.Trial:
        """The next trial, of a sampler of its own: a sampler's random state is not in the study, so each trial has
        another, which depends on the trials begun before it, but not on how often the search was interrupted."""
        settings = self.settings
        before = sum("retry_of" not in trial.user_attrs for trial in self._study.get_trials(deepcopy=False))
        seed = settings.seed if self._sampler in SEQUENCES else seed_of(settings.seed, "trial", before) % 2**32
        if self._centre is not None:
            self._study.sampler = Around(self._centre, seed)
        else:
            self._study.sampler = sampler = SAMPLERS[self._sampler](seed, settings.effort.start_up)
            if isinstance(sampler, Cokriging):
                sampler.again = self.ladder is not None and self.ladder.learned
                sampler.same = self._identity
        return self._study.ask()

    def _slots_of(self, genome: Genome) -> dict[str, Any]:
        """A genome's slots; UsageError where the space does not hold it."""
        if (slots := self.settings.space.find(genome)) is None:
            raise UsageError(f"space {self.settings.space.name!r} does not hold {genome.summary()}")
        return slots

    def _requeue(self, study: optuna.Study) -> None:
        """Trials that a dead process left running, or that an interruption ended, run again with the same
        parameters; each once."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
        trials = study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get("retry_of") for trial in trials}
        for trial in trials:
            # killed before the first parameter, an enqueued trial still knows what it was given
            chosen = trial.params or trial.system_attrs.get("fixed_params")
            if trial.state == TrialState.FAIL and trial.number not in again and chosen:
                study.enqueue_trial(chosen, user_attrs={"retry_of": trial.number})

    def _check_config(self, existed: bool) -> None:
        """Write what the search depends on, or compare it with what the study was made with."""
        config, path = self.settings.config(self.instances, self.protocol.key), self.folder / "config.yaml"
        if existed and path.exists():
            before = catalog.read_yaml(path)
            differing = [
                key for key in config if not isinstance(before, dict) or _plain(before.get(key)) != _plain(config[key])
            ]
            if differing:
                raise UsageError(
                    f"{path}: the study was made with another {', another '.join(differing)}; "
                    "resume it with the same, or choose another --study name"
                )
            return
        write_atomically(path, lambda temporary: temporary.write_text(catalog.dump_yaml(config), encoding="utf-8"))
        facts = json.dumps(environment(), indent=1)
        write_atomically(self.folder / "environment.json", lambda temporary: temporary.write_text(facts + "\n"))

    def _screen(self, genome: Genome, trial: Reporter) -> None:
        """Hold a genome's zero-cost score against those of the trials that have ended."""
        if self.settings.screen is None:
            return
        trials = self._study.get_trials(deepcopy=False, states=DONE)
        before = [ended.user_attrs[NOTED] for ended in trials if NOTED in ended.user_attrs]
        self.settings.screen.check(genome, self.instances, before, trial)

    def _whole_trials(self) -> list[FrozenTrial]:
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial for trial in complete if trial.user_attrs.get("whole")]

    def _best(self) -> FrozenTrial | None:
        return max(self._whole_trials(), key=lambda trial: trial.values[0], default=None)

    def best_value(self) -> float | None:
        """The best score so far, in dB, among trials fitted on every instance."""
        best = self._best()
        return best.values[0] if best else None

    def _best_values(self) -> dict[int, float]:
        """The quality of the best trial so far, by instance."""
        if (best := self._best()) is None:
            return {}
        quality, key = GOALS[self.settings.goals[0]].of, best.user_attrs["genome_key"]
        protocol = self.protocol.changed(self.settings.space.changes(best.params))
        runs = [protocol.find(self.store, key, instance) for instance in self.instances]
        return {index: quality(run) for index, run in enumerate(runs) if run is not None}

    def given_up(self) -> list[tuple[int, str]]:
        """Every pruned trial's place in the order in which trials ended, from 1, and the reason."""
        done = self._study.get_trials(deepcopy=False, states=DONE)
        done.sort(key=lambda trial: (trial.datetime_complete is None, trial.datetime_complete))
        return [
            (place, str(trial.user_attrs.get("reason", "pruned")))
            for place, trial in enumerate(done, 1)
            if trial.state == TrialState.PRUNED
        ]

    def rung_agreement(self) -> tuple[float, int] | None:
        """Spearman's rank correlation of the first rung with the score, over trials fitted to the end, and
        their number: whether pruning at that rung can be trusted.

        None below five trials, and where a model judges, which weighs that itself.
        """
        trials = [trial for trial in self._whole_trials() if trial.intermediate_values]
        if len(trials) < 5 or self.ladder is None or self.ladder.learned:
            return None
        first = pd.Series([trial.intermediate_values[min(trial.intermediate_values)] for trial in trials])
        return float(first.rank().corr(pd.Series([trial.values[0] for trial in trials]).rank())), len(trials)


def _plain(data: Any) -> Any:
    """Data as JSON would give it back: lists for tuples, words for keys."""
    return json.loads(json.dumps(data))
