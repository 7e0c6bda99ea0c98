"""A study in memory whose database holds what has to outlive the process."""

import signal

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.orm import Session

from dipsearch.search.ledger import Ledger


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.mark.parametrize("commit", [1, 2])
def test_an_interrupt_within_a_commit_leaves_what_is_known(url, commit):
    """The process and the database agree on a trial, whichever of its commits Ctrl-C falls into."""
    storage, commits = Ledger(url), []
    study = made(storage)

    def interrupt(session):
        commits.append(session)
        if len(commits) == commit:
            signal.raise_signal(signal.SIGINT)

    event.listen(Session, "after_commit", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            trial = study.ask()
            storage.keep(trial._trial_id)
            trial.set_user_attr("late", 1)
            storage.keep(trial._trial_id)
    finally:
        event.remove(Session, "after_commit", interrupt)
    study.tell(0, state=TrialState.FAIL)
    storage.close()
    (stored,) = there(url)[1]
    assert (stored.number, stored.state) == (0, TrialState.FAIL) and ("late" in stored.user_attrs) == (commit == 2)


def made(storage):
    return optuna.create_study(study_name="s", storage=storage, directions=["maximize"])


def there(url):
    """What another process reads."""
    storage = optuna.storages.RDBStorage(url)
    study = optuna.load_study(study_name="s", storage=storage)
    trials = study.get_trials()
    storage.remove_session()
    storage.engine.dispose()
    return study, trials


def plain(trials):
    return [
        (t.number, t.state, t.values, t.params, t.user_attrs, t.system_attrs, t.intermediate_values) for t in trials
    ]


def begin(study):
    trial = study.ask()
    trial.suggest_categorical("slot", ["a", "b", "c"])
    trial.set_user_attr("early", [1, 2])
    study._storage.keep(trial._trial_id)
    return trial


def test_the_database_holds_every_trial_that_has_ended_as_memory_does(url):
    study = made(Ledger(url))
    study.enqueue_trial({"slot": "c"}, user_attrs={"retry_of": 7})
    first = begin(study)
    first.report(1.5, 2)
    first.report(2.5, 4)
    first.set_user_attr("early", [3])
    first.set_user_attr("late", "x")
    study.tell(first, 2.5)
    second = begin(study)
    second.set_constraint("cost", 0.5)
    study.tell(second, state=TrialState.PRUNED)
    third = study.ask()  # given up before it began
    study.tell(third, state=TrialState.PRUNED)
    assert plain(there(url)[1]) == plain(study.get_trials())
    assert study.get_trials()[0].params == {"slot": "c"}
    study._storage.close()


def test_a_trial_that_has_begun_outlives_the_process_and_one_that_waits_does_not(url):
    study = made(Ledger(url))
    study.set_user_attr("wanted", 5)
    study.tell(begin(study), 1.0)
    study.enqueue_trial({"slot": "b"})
    study.enqueue_trial({"slot": "a"})
    begin(study)
    study._storage.close()
    again = made(Ledger(url))
    assert again.user_attrs == {"wanted": 5}
    assert [trial.state.name for trial in again.get_trials()] == ["COMPLETE", "RUNNING"]
    assert again.get_trials()[1].params == {"slot": "b"} and again.best_value == 1.0
    again.tell(1, state=TrialState.FAIL)
    again.tell(begin(again), 3.0)
    assert plain(there(url)[1]) == plain(again.get_trials())
    assert [trial.state.name for trial in again.get_trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    again._storage.close()


def test_a_study_that_optuna_itself_has_made_is_taken_up(url):
    storage = optuna.storages.RDBStorage(url)
    study = made(storage)
    study.optimize(lambda trial: float(trial.suggest_categorical("slot", ["a", "b", "c"]) == "a"), n_trials=3)
    study.enqueue_trial({"slot": "c"})
    storage.remove_session()
    storage.engine.dispose()
    again = made(Ledger(url))
    assert plain(again.get_trials()) == plain(there(url)[1]) and len(again.trials) == 4
    again.tell(begin(again), 2.0)
    assert plain(again.get_trials()) == plain(there(url)[1]) and len(again.trials) == 4
    assert again.best_params == {"slot": "c"}
    again._storage.close()
