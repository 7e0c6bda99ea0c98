"""What a study's ended trials say: kept as they end, and the same when a study is taken up."""

import optuna
import pytest
from optuna.trial import TrialState

from dipsearch.search.cokriging import SEEN
from dipsearch.search.ladder import Pruned
from dipsearch.search.screen import NOTED
from dipsearch.search.standing import Standing

SUBJECTS = {"a": 21.0, "b": 24.0, "c": 24.0, "d": 30.0}


@pytest.fixture
def told():
    """A study with a trial of each kind, its trials ended in another order than begun, and the standing that saw it."""
    study = optuna.create_study(direction="maximize")
    standing = Standing(study)
    trials = {name: study.ask() for name in [*SUBJECTS, "e", "f"]}
    for name, trial in trials.items():
        trial.set_user_attr("subject", name)
        trial.set_user_attr(SEEN, [(0, 10, float(trial.number))])
    trials["e"].set_user_attr("reason", "cost")
    trials["e"].set_user_attr(NOTED, 0.5)
    for name in "cbad":  # d: an estimate, which is no score to beat
        trials[name].report(SUBJECTS[name] - 1, 1)
        trials[name].set_user_attr("whole", name != "d")
        standing.ended(study.tell(trials[name], SUBJECTS[name]))
    standing.ended(study.tell(trials["e"], state=TrialState.PRUNED))
    standing.ended(study.tell(trials["f"], state=TrialState.FAIL))
    return study, standing


@pytest.mark.parametrize("taken_up", [False, True], ids=["as they end", "taken up"])
def test_what_is_known_of_trials_that_have_ended(told, taken_up):
    study, standing = told
    standing = Standing(study) if taken_up else standing
    assert [trial.user_attrs["subject"] for trial in standing.done] == ["c", "b", "a", "d", "e"]  # f failed
    assert standing.best.user_attrs["subject"] == "b"  # as good as c, and earlier
    assert standing.screened == [0.5]
    assert standing.given_up() == [(5, "cost")]
    assert standing.seen("f") == {(0, 10): 5.0} and standing.seen("nobody") == {}


def test_a_subject_is_told_what_it_was_told(told):
    _, standing = told
    assert standing.told("d") == ([30.0], False)
    assert standing.told("a") is None  # whole: the store has its runs
    assert standing.told("f") is None and standing.told("nobody") is None
    with pytest.raises(Pruned, match="pruned before: cost"):
        standing.told("e")


def test_the_first_rung_agrees_with_the_scores_or_not():
    study = optuna.create_study(direction="maximize")
    standing = Standing(study)
    for place, (first, score) in enumerate([(1, 5), (2, 4), (3, 3), (4, 2), (5, 1)]):
        assert standing.rung_agreement() is None
        trial = study.ask()
        trial.set_user_attr("whole", True)
        trial.report(first, 1)
        trial.report(place, 2)
        standing.ended(study.tell(trial, score))
    assert standing.rung_agreement() == (pytest.approx(-1.0), 5)
