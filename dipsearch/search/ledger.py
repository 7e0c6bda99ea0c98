"""The storage of a study: all of it in memory, and in a database what has to outlive the process."""

import copy
from collections.abc import Sequence
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

WANTED = "trials"  # the note of a study that keeps how many were asked for
SUMMARY = "summary"  # that of a trial that keeps what it fits


class Ledger(InMemoryStorage):
    """Reads from memory; writes a trial to the database when its fits begin (`begun`), and when it has ended.

    Optuna's own storage asks the database for each of a trial's slots and notes, and for all trials again and again:
    a hundred milliseconds a trial, and more the more trials there are. Trials that wait are in memory only.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._database = RDBStorage(url)
        self._study = -1  # there
        self._rows: dict[int, int] = {}  # trial -> its row there
        self._written: dict[int, FrozenTrial] = {}  # notes as they were written

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Create the study, or take it up with all its trials."""
        there = self._database
        try:
            self._study = there.create_new_study(directions, study_name)
        except DuplicatedStudyError:
            self._study = there.get_study_id_from_name(str(study_name))
        here = super().create_new_study(there.get_study_directions(self._study), study_name)
        for key, value in there.get_study_user_attrs(self._study).items():
            super().set_study_user_attr(here, key, value)
        for key, value in there.get_study_system_attrs(self._study).items():
            super().set_study_system_attr(here, key, value)
        for trial in there.get_all_trials(self._study):
            self._rows[super().create_new_trial(here, trial)] = trial._trial_id
        return here

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Note something with the study, here and there."""
        super().set_study_user_attr(study_id, key, value)
        self._database.set_study_user_attr(self._study, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """As a sampler does."""
        super().set_study_system_attr(study_id, key, value)
        self._database.set_study_system_attr(self._study, key, value)

    def begun(self, trial_id: int) -> None:
        """Write a trial, so that it is known should the process die."""
        trial, there = self.get_trial(trial_id), self._database
        if (row := self._rows.get(trial_id)) is None:
            self._rows[trial_id] = there.create_new_trial(self._study, trial)
        else:  # it has waited there, in a study of before
            there.set_trial_state_values(row, TrialState.RUNNING)
            for name, slot in trial.distributions.items():
                there.set_trial_param(row, name, slot.to_internal_repr(trial.params[name]), slot)
            for key, value in trial.user_attrs.items():
                there.set_trial_user_attr(row, key, value)
        self._written[trial_id] = written = copy.copy(trial)
        for name in ("user_attrs", "system_attrs", "intermediate_values"):  # which change in place
            setattr(written, name, dict(getattr(trial, name)))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Change a trial's state; one that ends is written."""
        changed = super().set_trial_state_values(trial_id, state, values)
        if changed and state.is_finished():
            self._end(trial_id)
        return changed

    def _end(self, trial_id: int) -> None:
        trial, there = self.get_trial(trial_id), self._database
        if trial_id not in self._rows:
            self._rows[trial_id] = there.create_new_trial(self._study, trial)
            return
        row, before = self._rows[trial_id], self._written.pop(trial_id, None)
        for key, value in trial.user_attrs.items():
            if before is not None and before.user_attrs.get(key) != value:
                there.set_trial_user_attr(row, key, value)
        for key, value in trial.system_attrs.items():
            if before is not None and before.system_attrs.get(key) != value:
                there.set_trial_system_attr(row, key, value)
        for step, value in trial.intermediate_values.items():
            if before is not None and step not in before.intermediate_values:
                there.set_trial_intermediate_value(row, step, value)
        there.set_trial_state_values(row, trial.state, trial.values)

    def close(self) -> None:
        """Close the database; what is in memory stays."""
        self._database.remove_session()
        self._database.engine.dispose()
