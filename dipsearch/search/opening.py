"""A study's folder: its lock, what the study was made with, and trials that a process left behind."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from dipsearch import catalog
from dipsearch.atomic import write_atomically
from dipsearch.error import DipsearchError, UsageError
from dipsearch.run import environment
from dipsearch.search.screen import NOTED
from dipsearch.search.trial import RETRY, made_again


@contextmanager
def held(folder: Path, *, resume: bool) -> Iterator[bool]:
    """Hold the lock of a study's folder; gives whether there is a study already.

    Raises:
        UsageError: there is one and it is not to be resumed, or the other way round.
        DipsearchError: another process holds it, or its files cannot be read or written.
    """
    database = folder / "study.db"
    existed = database.exists()
    if existed and not resume:
        raise UsageError(f"{folder}: this study exists; go on with --resume, or choose another --study name")
    if resume and not existed:
        raise UsageError(f"{folder}: no study to resume there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / "study.lock", timeout=1):
            yield existed
    except filelock.Timeout:
        raise DipsearchError(f"{folder}: another process is working on this study") from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
        raise DipsearchError(f"{database}: {cause}") from None
    except OSError as error:
        raise DipsearchError(f"{folder}: {error.strerror or error}") from None


def agree(folder: Path, config: dict[str, Any], *, existed: bool) -> None:
    """Write what a search depends on, or compare it with what the study was made with; UsageError where they differ."""
    path = folder / "config.yaml"
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
    write_atomically(folder / "environment.json", lambda temporary: temporary.write_text(facts + "\n"))


def requeue(study: optuna.Study) -> None:
    """Have trials that a dead process left running, or that an interruption ended, run again with the same
    parameters; each once."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    again = made_again(trials)
    for trial in trials:
        if trial.state == TrialState.FAIL and trial.number not in again and (chosen := chosen_by(trial)):
            screened = {NOTED: trial.user_attrs[NOTED]} if NOTED in trial.user_attrs else {}
            study.enqueue_trial(chosen, user_attrs={RETRY: trial.number} | screened)


def chosen_by(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's choices: one that waits, or was killed before the first, knows what it was given."""
    return trial.params or trial.system_attrs.get("fixed_params") or {}


def _plain(data: Any) -> Any:
    """Data as JSON would give it back: lists for tuples, words for keys."""
    return json.loads(json.dumps(data))
