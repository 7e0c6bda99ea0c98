"""What is noted with a trial, beside what Optuna keeps, and what that says of it."""

from collections.abc import Iterable

from optuna.trial import FrozenTrial, TrialState

SUMMARY, HOST = "summary", "host"  # what it fits, and where it did so last
WHOLE = "whole"  # whether its score is of whole fits of every instance, or else an estimate
RETRY = "retry_of"  # the number of the trial that it is again
DONE = (TrialState.COMPLETE, TrialState.PRUNED)  # the states in which a search learns from it


def fitted_whole(trial: FrozenTrial) -> bool:
    """Whether it has a score that is no estimate. One that Optuna itself was told, without a note, has."""
    return trial.state == TrialState.COMPLETE and bool(trial.user_attrs.get(WHOLE, True))


def made_again(trials: Iterable[FrozenTrial]) -> set[int]:
    """The numbers of those that another one of them is again."""
    return {trial.user_attrs[RETRY] for trial in trials if RETRY in trial.user_attrs}
