"""What a study holds about the networks of its space. It is only read, so that a search may be at work on it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from dipsearch import catalog
from dipsearch.error import UsageError, unknown
from dipsearch.search.goals import GOALS
from dipsearch.search.ledger import address
from dipsearch.search.trial import fitted_whole
from dipsearch.space import Space
from dipsearch.template import Choice


@dataclass(frozen=True)
class Judged:
    """One network of a study: its score, None where it was pruned, and what was chosen where that matters to it."""

    score: float | None
    chosen: dict[str, Choice]


@dataclass(frozen=True)
class Ended:
    """A trial of a study that has ended: its score, or None with the reason; whether that is of a `whole` fit, or an
    estimate; what it had `reached` at its last rung, and the rungs that it was judged at."""

    number: int
    score: float | None
    whole: bool
    reached: float | None
    reason: str
    rungs: tuple[int, ...]


@dataclass(frozen=True)
class Evidence:
    """The networks of a study. Each is there once, however often it came: its score is stored, and no second fit."""

    study: str
    space: Space
    objective: str  # a name in GOALS
    networks: list[Judged]
    imputed: int  # scores of networks that were stopped before the last picture
    repeats: int  # trials of networks that are there by another trial
    unfinished: int  # trials that run, wait or failed

    @property
    def scored(self) -> list[Judged]:
        """The networks with a score."""
        return [network for network in self.networks if network.score is not None]


def find_study(root: Path, name: str) -> Path:
    """The folder of a study: of this name under `root`, or itself a folder with a study.db; UsageError names those
    that there are."""
    for folder in (root / name, Path(name)):
        if (folder / "study.db").is_file():
            return folder
    found = sorted(path.parent.name for path in root.glob("*/study.db"))
    if not found:
        raise UsageError(f"no study {name!r}, and none under {root}; make one with: dipsearch search")
    raise UsageError(f"{unknown('study', name, found)}, or give a folder with a study.db")


def read_evidence(folder: Path) -> Evidence:
    """The networks of the study in a folder (study.db, config.yaml); UsageError says what cannot be read."""
    space, objective = _made_with(folder / "config.yaml")
    trials = read_study(folder).trials
    done = [trial for trial in trials if trial.state == TrialState.PRUNED or _scored(trial)]
    for trial in done:
        for slot, choices in space.slots.items():
            if trial.params.get(slot) not in choices:
                raise UsageError(f"{folder}: trial {trial.number} does not fit the space in config.yaml: {slot}")
    # Of a network the last trial: it may have been judged on more pictures than those before, never on fewer. A
    # network that cannot be has no key, and each of its trials counts.
    done.sort(key=lambda trial: _scored(trial) and fitted_whole(trial))  # which nothing that came later takes away
    kept = {trial.user_attrs.get("subject", trial.number): trial for trial in done}.values()
    return Evidence(
        study=folder.resolve().name,
        space=space,
        objective=objective,
        networks=[_judged(trial, space) for trial in kept],
        imputed=sum(_scored(trial) and not fitted_whole(trial) for trial in kept),
        repeats=len(done) - len(kept),
        unfinished=len(trials) - len(done),
    )


def read_history(folder: Path) -> list[Ended]:
    """The trials of the study in a folder that have ended, in their order; UsageError says what cannot be read."""
    ended = []
    for trial in read_study(folder).trials:
        if trial.state.is_finished():
            rungs = trial.intermediate_values
            ended.append(
                Ended(
                    trial.number,
                    trial.values[0] if _scored(trial) else None,
                    _scored(trial) and fitted_whole(trial),
                    rungs[max(rungs)] if rungs else None,
                    "" if _scored(trial) else str(trial.user_attrs.get("reason", trial.state.name.lower())),
                    tuple(sorted(rungs)),
                )
            )
    return ended


def _made_with(path: Path) -> tuple[Space, str]:
    """The space and the quality that a study was made with."""
    config = catalog.read_yaml(path)
    if not isinstance(config, dict) or "space" not in config:
        raise UsageError(f"{path}: it does not say with which space the study was made")
    goals = config.get("goals") or ["psnr"]  # studies from before there was a choice
    if not isinstance(goals, list) or goals[0] not in GOALS:
        raise UsageError(f"{path}: {unknown('objective', goals, GOALS)}")
    return catalog.validate(f"{path}: space", Space.model_validate, config["space"]), goals[0]


@dataclass(frozen=True)
class Stored:
    """The one study in a database: its name, directions and trials, and what was noted with it."""

    name: str
    directions: list[StudyDirection]
    trials: list[FrozenTrial]
    noted: dict[str, Any]


def read_study(folder: Path) -> Stored:
    """The study in a folder's study.db, which is opened for reading only; UsageError says what cannot be read."""
    path = folder / "study.db"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(address(path, read_only=True), skip_table_creation=True)
        try:
            study = optuna.load_study(study_name=None, storage=storage)
            return Stored(study.study_name, study.directions, study.get_trials(deepcopy=False), study.user_attrs)
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
        raise UsageError(f"{path}: cannot be read: {cause}") from None
    except (ValueError, RuntimeError) as error:  # not one study; or made by an Optuna too old or too new
        raise UsageError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def _scored(trial: FrozenTrial) -> bool:
    """Whether a trial has a score that can be compared."""
    return trial.state == TrialState.COMPLETE and math.isfinite(trial.values[0])


def _judged(trial: FrozenTrial, space: Space) -> Judged:
    score = trial.values[0] if _scored(trial) else None
    return Judged(score, {slot: trial.params[slot] for slot in space.active(trial.params)})
