"""What is said of a search at work, and of what is wrong under a folder of results."""

import json
import shutil
from datetime import datetime, timedelta

import pytest
from studies import PLAIN, search_in, searched

from dipsearch.cli import main
from dipsearch.search.status import _at_work, ailments, status


def test_a_search_that_has_ended(room):
    work, trials = searched(room, trials=3, **PLAIN)
    now = status(work.folder)
    assert (now.name, now.wanted, now.done, now.whole, now.pruned, now.failed) == ("study", 3, 3, 3, 0, 0)
    assert now.running == [] and not now.at_work and now.per_hour > 0 and now.left == 0
    assert now.best == max(((trial.number, trial.value) for trial in trials), key=lambda best: best[1])


def test_a_search_at_work_is_looked_at_from_beside(room, capsys):
    seen = []

    def watch(event):
        if event.kind == "start" and event.number == 1:
            assert main(["status", str(room / "out" / "studies" / "study")]) == 0
            seen.append(status(room / "out" / "studies" / "study"))

    searched(room, trials=3, watch=watch, **PLAIN)
    (now,) = seen
    ((number, what, seconds, host),) = now.running
    assert now.at_work and now.done == 1 and number == 1 and "hourglass" in what and 0 <= seconds < 60 and host == ""
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "study study: 1 of 3 trials are done (1 whole)" and "a search is at work" in lines
    assert lines[-1].startswith(f"  trial 2  {what}  ")


def test_what_a_dead_search_leaves_is_found(room, capsys):
    def die(event):
        if event.kind == "start" and event.number == 1:
            shutil.copytree(room / "out", room / "dead")  # as a kill leaves it

    searched(room, trials=2, watch=die, **PLAIN)
    assert ailments(room / "out") == []
    (stale,) = ailments(room / "dead")
    assert "no search is at work, but trials 2 run; go on with --resume" in stale
    assert main(["status", str(room / "dead" / "studies" / "study")]) == 0
    assert "(stale: runs again with --resume)" in capsys.readouterr().out
    work = search_in(room, out="dead", trials=2, resume=True, **PLAIN)
    with work.opened():
        work.run()
    assert ailments(room / "dead") == [] and status(work.folder).failed == 0


def test_a_pause_is_no_work():
    """Two at once for ten seconds, a day's pause, and one more."""
    start = datetime(2026, 1, 1)
    spans = [(0, 10), (5, 15), (86_400, 86_405)]
    times = [(start + timedelta(seconds=begun), start + timedelta(seconds=ended)) for begun, ended in spans]
    assert _at_work(times) == 20


@pytest.mark.parametrize("harm", ["torn", "half-written", "of another version"])
def test_what_is_wrong_with_runs_is_told(room, capsys, harm):
    searched(room, trials=2, **PLAIN)
    path = next((room / "out" / "runs" / "task").glob("*.json"))
    if harm == "torn":
        path.write_bytes(path.read_bytes()[:100])
    elif harm == "half-written":
        path.with_name(".abc.part").touch()
    else:
        run = json.loads(path.read_text())
        path.write_text(json.dumps(run | {"machine": run["machine"] | {"torch": "1.0"}}))
    assert main(["doctor", "--out", str(room / "out")]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert {"torn": "not a whole run", "half-written": "half-written", "of another version": "torch: 1.0, "}[
        harm
    ] in line


def test_a_folder_that_is_not_there_is_an_error(tmp_path, capsys):
    assert main(["doctor", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing is wrong\n"
    assert main(["doctor", "--out", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'nowhere'}: no such folder\n"
    assert main(["status", "nobody", "--out", str(tmp_path)]) == 2


def test_a_study_that_cannot_be_read_hides_nothing_else(room, capsys):
    searched(room, trials=2, **PLAIN)
    path = next((room / "out" / "runs" / "task").glob("*.json"))
    path.write_bytes(b"")
    broken = room / "out" / "studies" / "a-broken-one"
    broken.mkdir()
    (broken / "study.db").write_bytes(b"no database")
    first, second = ailments(room / "out")
    assert first.startswith(f"{broken / 'study.db'}: cannot be read") and second.startswith(str(path))


def test_in_a_folder_that_cannot_be_written_it_is_not_known_whether_a_search_is_at_work(room, capsys, monkeypatch):
    searched(room, trials=2, **PLAIN)

    def refuse(lock):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", lambda lock, *given, **named: refuse(lock))
    assert status(room / "out" / "studies" / "study").at_work is None
    assert main(["status", "study", "--out", str(room / "out")]) == 0
    assert "whether a search is at work is not known" in capsys.readouterr().out
    assert ailments(room / "out") == []


@pytest.mark.parametrize(
    ("given", "taken"), [("1.5", False), ("0.00001", False), ("-1", False), ("2", True), ("0.25", True)]
)
def test_gpus_are_asked_for_as_ray_gives_them(given, taken, capsys):
    main(["search", "--task", "denoise", "--gpus-per-fit", given, "--preset", "none"])
    assert ("a whole number of GPUs" in capsys.readouterr().err) != taken
