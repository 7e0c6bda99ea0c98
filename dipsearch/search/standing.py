"""What the trials of a study say that have ended: each is read once, as it ends."""

from collections import defaultdict

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from dipsearch.search.cokriging import Fidelity, noted
from dipsearch.search.ladder import Pruned
from dipsearch.search.screen import NOTED
from dipsearch.search.trial import DONE, fitted_whole

FEWEST = 5  # trials that a rank correlation is told of


class Standing:
    """Of a study that this process alone writes; it is told of each trial that ends from now on.

    `done` are the trials that were finished or pruned, in the order in which they ended; `best` is the one with the
    greatest first value among those that were fitted on every instance, the earlier of two that are equal; `screened`
    are the zero-cost scores of those that were screened.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.done: list[FrozenTrial] = []
        self.best: FrozenTrial | None = None
        self.screened: list[float] = []
        self._of = defaultdict[str, list[FrozenTrial]](list)
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        trials.sort(key=lambda trial: (trial.datetime_complete is None, trial.datetime_complete))
        for trial in trials:
            self.ended(trial)

    def ended(self, trial: FrozenTrial) -> None:
        """Take note of a trial."""
        self._of[trial.user_attrs.get("subject", "")].append(trial)
        if trial.state not in DONE:
            return
        self.done.append(trial)
        if NOTED in trial.user_attrs:
            self.screened.append(trial.user_attrs[NOTED])
        if fitted_whole(trial) and (self.best is None or _rank(trial) > _rank(self.best)):
            self.best = trial

    def seen(self, subject: str) -> dict[Fidelity, float]:
        """What trials of a subject saw, at each fidelity; failed ones, too."""
        return {fidelity: value for trial in self._of.get(subject, ()) for fidelity, value in noted(trial).items()}

    def told(self, subject: str) -> tuple[list[float], bool] | None:
        """What a trial of a subject was told without a whole fit, to be told again.

        None for subjects that were fitted to the end: the store answers. Pruned where it was pruned before.
        """
        for trial in sorted(self._of.get(subject, ()), key=lambda trial: trial.number):
            if trial.state == TrialState.PRUNED:
                raise Pruned(f"pruned before: {trial.user_attrs.get('reason', 'no reason was kept')}")
            if trial.state == TrialState.COMPLETE and not fitted_whole(trial):
                return trial.values, False
        return None

    def given_up(self) -> list[tuple[int, str]]:
        """Every pruned trial's place in the order in which trials ended, from 1, and the reason."""
        return [
            (place, str(trial.user_attrs.get("reason", "pruned")))
            for place, trial in enumerate(self.done, 1)
            if trial.state == TrialState.PRUNED
        ]

    def rung_agreement(self) -> tuple[float, int] | None:
        """Spearman's rank correlation of the first rung with the score, over trials fitted to the end, and
        their number: whether pruning at that rung can be trusted. None for fewer than five."""
        trials = [trial for trial in self.done if fitted_whole(trial) and trial.intermediate_values]
        if len(trials) < FEWEST:
            return None
        first = pd.Series([trial.intermediate_values[min(trial.intermediate_values)] for trial in trials])
        return float(first.rank().corr(pd.Series([trial.values[0] for trial in trials]).rank())), len(trials)


def _rank(trial: FrozenTrial) -> tuple[float, int]:
    return trial.values[0], -trial.number
