"""The dashboard: a copy of a study with its pictures, and optuna-dashboard on it."""

import builtins
import json
import shutil
import sys

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from studies import searched, write_space, write_task

from dipsearch.cli import main
from dipsearch.error import DipsearchError, UsageError
from dipsearch.report.dashboard import prepare
from dipsearch.run import RunStore


@pytest.fixture
def study(room):
    """The folder of a small study."""
    write_task(room, effort={"trials": 3})
    write_space(room)
    searched(room, pruner="none")
    return room / "out" / "studies" / "study"


def shown(url):
    """The trials of a copy, each with the names of its artifacts."""
    storage = optuna.storages.RDBStorage(url)
    trials = optuna.load_study(study_name=None, storage=storage).get_trials()
    return {
        trial.number: sorted(meta.filename for meta in get_all_artifact_meta(trial, storage=storage))
        for trial in trials
    }


def test_a_copy_has_the_pictures_of_every_trial(study, room):
    before = (study / "study.db").read_bytes()
    store = RunStore(room / "out" / "runs")
    url, artifacts, added = prepare(study, store)
    names = shown(url)
    assert len(names) == 3 and added == sum(map(len, names.values())) and all(len(each) == 2 for each in names.values())
    runs = {path.with_suffix(".png").name for path in (store.root / "task").glob("*.json")}
    assert {name for each in names.values() for name in each} <= runs
    assert (study / "study.db").read_bytes() == before
    again, _, _ = prepare(study, store)  # made anew, not added to
    assert shown(again) == names
    assert len(list((study / "dashboard" / "artifacts").iterdir())) == added and artifacts is not None


def test_pictures_of_other_searches_are_left_out(study, room):
    store = RunStore(room / "out" / "runs")
    before = prepare(study, store)[2]
    write_task(room, effort={"trials": 3}, recipe={"iterations": 40})
    searched(room, pruner="none", study="longer")
    assert prepare(study, store)[2] == before > 0


def test_a_copy_goes_anywhere_or_the_reason_is_told(study, room):
    moved = study.rename(study.parent / "who? why#1 50%")
    url, _, _ = prepare(moved, RunStore(room / "out" / "runs"))
    assert len(shown(url)) == 3 and {path.name for path in (moved / "dashboard").iterdir()} == {"study.db", "artifacts"}
    shutil.rmtree(moved / "dashboard")
    (moved / "dashboard").write_text("in the way")
    with pytest.raises(DipsearchError, match="dashboard: Not a directory"):
        prepare(moved, RunStore(room / "out" / "runs"))


@pytest.mark.slow
def test_optuna_dashboard_shows_the_copy(study, room):
    dashboard = pytest.importorskip("optuna_dashboard")
    url, artifacts, _ = prepare(study, RunStore(room / "out" / "runs"))
    app = dashboard.wsgi(url, artifact_store=artifacts)

    def get(path):
        told = {}
        environment = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "here", "SERVER_PORT": "80",
            "wsgi.url_scheme": "http", "wsgi.errors": sys.stderr,
        }  # fmt: skip
        body = b"".join(app(environment, lambda status, headers, error=None: told.update(status=status)))
        assert told["status"].startswith("200"), (path, told)
        return body

    (listed,) = json.loads(get("/api/studies"))["study_summaries"]
    trials = json.loads(get(f"/api/studies/{listed['study_id']}"))["trials"]
    assert len(trials) == 3 and all(len(trial["artifacts"]) == 2 for trial in trials)
    one = trials[0]
    picture = get(f"/artifacts/{listed['study_id']}/{one['trial_id']}/{one['artifacts'][0]['artifact_id']}")
    assert picture.startswith(b"\x89PNG")


def test_what_is_no_study_is_an_error(study, room, capsys, monkeypatch):
    out = ["--out", str(room / "out")]
    (study / "study.db").write_bytes(b"no database")
    with pytest.raises(UsageError, match="cannot be read"):
        prepare(study, RunStore(room / "out" / "runs"))
    (study / "config.yaml").write_text("space: x\n")
    with pytest.raises(UsageError, match="does not say of which task"):
        prepare(study, RunStore(room / "out" / "runs"))
    real = builtins.__import__

    def without(name, *given, **named):
        if name == "optuna_dashboard":
            raise ImportError(name)
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["dashboard", "study", *out]) == 1
    assert "pip install 'dipsearch[dashboard]'" in capsys.readouterr().err
