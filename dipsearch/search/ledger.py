"""The storage of a study: all of it in memory, and in a database what has to outlive the process."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.distributions import distribution_to_json
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import delete
from sqlalchemy.orm import Session

from dipsearch.fitting.interrupt import interrupts_wait

WANTED = "trials"  # the note of a study that keeps how many were asked for

RUNG = "completed_rung_"  # what Optuna's pruner of successive halving notes with a trial

Rows = dict[Any, dict[str, Any]]  # the key of a row within its trial -> its other columns


def address(database: Path, *, read_only: bool = False) -> str:
    """The URL of a database in a file, whatever letters its path has."""
    name = quote(quote(str(database.resolve())))  # once for SQLite's URI, and once for the URL around it
    return f"sqlite:///file:{name}?{'mode=ro&' if read_only else ''}uri=true"


def _params(trial: FrozenTrial) -> Rows:
    return {
        name: {
            "param_value": slot.to_internal_repr(trial.params[name]),
            "distribution_json": distribution_to_json(slot),
        }
        for name, slot in trial.distributions.items()
    }


def _notes(notes: dict[str, Any]) -> Rows:
    return {key: {"value_json": json.dumps(value)} for key, value in notes.items()}


def _values(trial: FrozenTrial) -> Rows:
    stored = map(models.TrialValueModel.value_to_stored_repr, trial.values or ())
    return {place: {"value": value, "value_type": kind} for place, (value, kind) in enumerate(stored)}


def _intermediate(trial: FrozenTrial) -> Rows:
    stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    rows = {step: stored(value) for step, value in trial.intermediate_values.items()}
    return {
        step: {"intermediate_value": value, "intermediate_value_type": kind} for step, (value, kind) in rows.items()
    }


# a table of Optuna's schema -> the name of its key within a trial, and a trial's rows of it
TABLES: dict[Any, tuple[str, Callable[[FrozenTrial], Rows]]] = {
    models.TrialParamModel: ("param_name", _params),
    models.TrialUserAttributeModel: ("key", lambda trial: _notes(trial.user_attrs)),
    models.TrialSystemAttributeModel: ("key", lambda trial: _notes(trial.system_attrs)),
    models.TrialValueModel: ("objective", _values),
    models.TrialIntermediateValueModel: ("step", _intermediate),
}


class Ledger(InMemoryStorage):
    """Reads from memory; writes a trial to the database when its fits begin and go on (`keep`), and when it
    has ended.

    Optuna's own storage asks the database for each of a trial's slots and notes, and for all trials again and again:
    a hundred milliseconds a trial, and more the more trials there are. Here a trial is one transaction each time, of
    the rows that have changed, in the tables of Optuna, which reads them. Trials that wait are in memory only.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._database = RDBStorage(url)
        self._study = -1  # there
        self._rows: dict[int, int] = {}  # trial -> its row there
        self._written: dict[int, dict[Any, Rows]] = {}  # of trials that have not ended

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Create the study, or take it up with all its trials."""
        there = self._database
        known = there.get_all_studies()  # one at most; its folder may have another name by now
        self._study = known[0]._study_id if known else there.create_new_study(directions, study_name)
        here = super().create_new_study(there.get_study_directions(self._study), study_name)
        for key, value in there.get_study_user_attrs(self._study).items():
            super().set_study_user_attr(here, key, value)
        for key, value in there.get_study_system_attrs(self._study).items():
            super().set_study_system_attr(here, key, value)
        for trial in there.get_all_trials(self._study):
            _step_down(trial)
            taken_up = super().create_new_trial(here, trial)
            self._rows[taken_up] = trial._trial_id
            if not trial.state.is_finished():
                self._written[taken_up] = _rows_of(trial)
        return here

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Note something with the study, here and there."""
        super().set_study_user_attr(study_id, key, value)
        self._database.set_study_user_attr(self._study, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """As a sampler does."""
        super().set_study_system_attr(study_id, key, value)
        self._database.set_study_system_attr(self._study, key, value)

    def keep(self, trial_id: int) -> None:
        """Write a trial that runs as it is, so that it is known should the process die."""
        now = _rows_of(self.get_trial(trial_id))
        if self._written.get(trial_id) != now:
            self._write(trial_id, now)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Change a trial's state; one that ends is written."""
        changed = super().set_trial_state_values(trial_id, state, values)
        if changed and state.is_finished():
            trial = self.get_trial(trial_id)
            _step_down(trial)
            self._write(trial_id, _rows_of(trial))
            self._written.pop(trial_id)
        return changed

    def _write(self, trial_id: int, now: dict[Any, Rows]) -> None:
        """What has changed of a trial, whose rows are these `now`, since it was written last."""
        with interrupts_wait():  # else what is known here of the database would not be what is there
            self._write_whole(trial_id, now)

    def _write_whole(self, trial_id: int, now: dict[Any, Rows]) -> None:
        trial, before = self.get_trial(trial_id), self._written.get(trial_id, {})
        with Session(self._database.engine) as session, session.begin():
            if trial_id in self._rows:
                row: Any = session.get_one(models.TrialModel, self._rows[trial_id])
            else:
                row = models.TrialModel(study_id=self._study, number=len(self._rows))
                session.add(row)
            row.state, row.datetime_start, row.datetime_complete = (
                trial.state,
                trial.datetime_start,
                trial.datetime_complete,
            )
            session.flush()
            where = row.trial_id
            for table, (key, _) in TABLES.items():
                was = before.get(table, {})
                changed = {name: columns for name, columns in now[table].items() if was.get(name) != columns}
                if again := changed.keys() & was.keys():
                    session.execute(delete(table).where(table.trial_id == where, getattr(table, key).in_(again)))
                session.add_all(table(trial_id=where, **{key: name}, **columns) for name, columns in changed.items())
        self._rows[trial_id], self._written[trial_id] = where, now

    def close(self) -> None:
        """Close the database; what is in memory stays."""
        self._database.remove_session()
        self._database.engine.dispose()


def _step_down(trial: FrozenTrial) -> None:
    """Take a failed trial from the rungs that it had reached: it runs again, and would count twice there."""
    if trial.state == TrialState.FAIL:
        for key in [key for key in trial.system_attrs if key.startswith(RUNG)]:
            del trial.system_attrs[key]


def _rows_of(trial: FrozenTrial) -> dict[Any, Rows]:
    return {table: rows(trial) for table, (_, rows) in TABLES.items()}
