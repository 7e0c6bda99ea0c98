"""Where fits run makes no difference to what they give; a worker that is lost costs time and nothing else."""

import os
import threading
import time

import calls
import pytest
import torch
from studies import PLAIN, runs_in, searched, write_space, write_task

from dipsearch.cli import main
from dipsearch.error import DipsearchError, Diverged, Paused, WorkerKilled
from dipsearch.search.cluster import _done_there, _versions
from dipsearch.search.executor import ATTEMPTS, Here, Stopped, Turn, opened, packed, together, unpacked
from dipsearch.search.leg import Reached, go
from dipsearch.search.workers import Workers


@pytest.fixture(scope="module")
def two():
    workers = Workers(2)
    yield workers
    workers.stop()


@pytest.fixture(params=["here", "two"])
def executor(request, two):
    return Here() if request.param == "here" else two


# Calls


def test_a_call_gives_what_its_function_does(executor):
    assert executor.call(calls.square, 7) == 49
    assert torch.equal(executor.call(torch.add, torch.ones(3), torch.arange(3)), torch.tensor([1.0, 2, 3]))
    with pytest.raises(Diverged, match="as it should") as error:
        executor.call(calls.diverges)
    assert error.value.rollbacks == 3 and executor.call(calls.square, 2) == 4
    with pytest.raises(OSError, match="not there"):
        executor.call(calls.refuses)


def test_callbacks_are_for_calls_in_this_process(executor):
    told = {"folder": None} if executor.near else {"folder": "nowhere"}  # which would fail
    assert executor.call(calls.square, 3, **told) == 9


@pytest.mark.slow
@pytest.mark.parametrize("times", [0, ATTEMPTS - 1])
@pytest.mark.parametrize("killed", [calls.kills, calls.tears])
def test_a_call_whose_worker_is_killed_is_made_again(two, tmp_path, killed, times):
    assert two.call(killed, tmp_path, times) != os.getpid()
    assert len(list(tmp_path.iterdir())) == times + 1


@pytest.mark.slow
@pytest.mark.parametrize("killed", [calls.kills, calls.tears])
def test_a_call_that_kills_its_workers_fails(two, tmp_path, killed):
    with pytest.raises(WorkerKilled, match=f"killed {ATTEMPTS} workers"):
        two.call(killed, tmp_path, 10)
    assert len(list(tmp_path.iterdir())) == ATTEMPTS
    assert two.call(calls.square, 5) == 25


def test_what_is_packed_comes_back_by_value():
    x = torch.arange(4.0)
    found = unpacked(packed({"x": x, "error": Diverged("so", non_finite=2)}))
    assert torch.equal(found["x"], x) and found["x"].data_ptr() != x.data_ptr()
    assert (str(found["error"]), found["error"].non_finite) == ("so", 2)


@pytest.mark.slow
def test_work_that_is_stopped_ends_at_once(tmp_path):
    workers, failures = Workers(1), []

    def work():
        with pytest.raises(Stopped):
            workers.call(calls.holds, tmp_path, 0, 600)
        failures.append("stopped")

    thread = threading.Thread(target=work)
    thread.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.05)
    workers.stop()
    thread.join(20)
    assert failures == ["stopped"]


# Several at once


def jobs(*each):
    waiting = list(each)
    return lambda under_way: waiting.pop(0) if waiting else None


def test_as_many_are_under_way_as_there_is_room_for(two, tmp_path):
    most = []

    def take(under_way):
        most.append(under_way)
        return waiting(under_way)

    waiting = jobs(*(lambda n=n: two.call(calls.holds, tmp_path, n, 0.3) for n in range(5)))
    assert sorted(together(take, two)) == list(range(5))
    assert max(most[:-1]) == 1


@pytest.mark.slow
def test_a_large_call_is_not_kept_waiting_by_small_ones(tmp_path):
    workers, order = Workers(3, memory=100.0), []
    list(together(jobs(*(lambda: workers.call(calls.square, 1) for _ in range(3))), workers))

    def work(name, memory):
        workers.call(calls.beside, tmp_path, name, 0.3, memory=memory)
        order.append(name)

    waiting = jobs(*(lambda n=n: work(n, 90 if n == 2 else 30) for n in range(9)))
    list(together(waiting, workers))
    workers.stop()
    assert order.index(2) <= 3 and sorted(order) == list(range(9))


@pytest.mark.slow
@pytest.mark.parametrize(("each", "together_are"), [(60, 1), (40, 2), (500, 1)])
def test_calls_wait_for_the_memory_that_they_are_predicted_to_take(tmp_path, each, together_are):
    workers = Workers(2, memory=100.0)
    list(together(jobs(*(lambda: workers.call(calls.square, 1) for _ in range(2))), workers))  # both are there
    work = (lambda n=n: workers.call(calls.beside, tmp_path, n, 0.4, memory=each) for n in range(4))
    assert max(together(jobs(*work), workers)) == together_are
    workers.stop()


def test_a_node_with_other_versions_is_refused():
    with pytest.raises(DipsearchError, match=r"has dipsearch \S+, and the driver 0.0.0: install the same"):
        _done_there({"dipsearch": "0.0.0", "torch": torch.__version__}, b"")
    assert unpacked(_done_there(_versions(), packed((calls.square, [3])))) == 9


@pytest.mark.slow
def test_one_that_fails_stops_the_others(tmp_path):
    workers = Workers(2)
    work = jobs(lambda: workers.call(calls.holds, tmp_path, 0, 600), lambda: workers.call(calls.diverges))
    started = time.monotonic()
    with pytest.raises(Diverged):
        list(together(work, workers))
    assert time.monotonic() - started < 60


def test_one_whose_time_is_over_waits_for_the_others(two, tmp_path):
    def over():
        raise Paused("over")

    found = []
    work = jobs(over, lambda: two.call(calls.holds, tmp_path, 1, 0.5), lambda: pytest.fail("not to begin"))
    with pytest.raises(Paused, match="over"):
        for each in together(work, two):
            found.append(each)
    assert found == [1] and two.call(calls.square, 3) == 9


def test_the_driver_does_one_thing_at_a_time(two, tmp_path):
    turn, inside, seen = Turn(two), [], []

    def work(number):
        with turn.taken():
            for _ in range(3):
                inside.append(number)
                seen.append(len(inside))
                time.sleep(0.01)
                inside.remove(number)
                turn.call(calls.square, number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 12


# Searches


def outcome(trials):
    return sorted((str(sorted(trial.params.items())), trial.value) for trial in trials)


def test_a_search_gives_the_same_wherever_its_fits_run(room, two):
    write_task(room, recipe={"precision": "float32", "iterations": 20})
    _, alone = searched(room, trials=6, **PLAIN)
    work, shared = searched(room, trials=6, out="shared", executor=two, **PLAIN)
    assert outcome(shared) == outcome(alone)
    assert [trial.params for trial in shared] == [trial.params for trial in alone]
    values = lambda out: {(run["genome_key"], run["digest"]): run["psnr"] for run in runs_in(room, out)}  # noqa: E731
    assert values("shared") == values("out") and work.best_value() == max(trial.value for trial in alone)


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["halving", "promising", "wilcoxon"])
def test_a_fit_that_pauses_at_rungs_and_between_gives_the_same_wherever_it_goes_on(room, monkeypatch, pruner):
    write_task(room, recipe={"precision": "float32", "iterations": 40}, effort={"start_up": 2})
    ways = {"sampler": "random", "pruner": pruner, "trials": 5}
    _, alone = searched(room, **ways)
    one_at_a_time = Workers(1)
    monkeypatch.setattr("dipsearch.search.objective.SAVE_EVERY", 0.0)  # at every look at the clock
    _, far = searched(room, out="far", executor=one_at_a_time, **ways)
    one_at_a_time.stop()
    assert [(trial.state, trial.values) for trial in far] == [(trial.state, trial.values) for trial in alone]


class Counted:
    """Another executor, with the number of fits that it has made."""

    near = False

    def __init__(self, inner):
        self.inner, self.made, self.room = inner, 0, inner.room

    def call(self, function, *given, **how):
        self.made += function is go
        return self.inner.call(function, *given, **how)


@pytest.mark.slow
def test_the_same_network_is_not_fitted_twice_at_once(room, two):
    write_task(room, recipe={"precision": "float32"})
    write_space(room, genes={"kernel": [3]}, template={"depth": 1, "channels_down": 4, "kernel_down": "$kernel"})
    numbers, fits = [], Counted(two)
    watch = lambda event: event.kind == "end" and numbers.append(event.number)  # noqa: E731
    _, trials = searched(room, trials=4, executor=fits, watch=watch, **PLAIN)
    assert len({trial.value for trial in trials}) == 1 and len(trials) == 4
    assert fits.made == 2  # one of each picture
    assert numbers == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_network_that_kills_its_workers_is_pruned_with_the_reason(room, monkeypatch):
    from dipsearch.search.evaluation import Protocol

    workers = Workers(1)

    def reach(self, executor, instance, leg, **near):
        return Reached(error=WorkerKilled("killed 3 workers"))

    monkeypatch.setattr(Protocol, "reach", reach)
    work, trials = searched(room, trials=2, executor=workers, **PLAIN)
    workers.stop()
    assert [trial.state.name for trial in trials] == ["PRUNED"] * 2
    assert {reason for _, reason in work.pruned} == {"killed: killed 3 workers"}
    assert runs_in(room) == []  # another machine may bear it


def test_one_worker_is_a_process_with_its_own_threads():
    with opened(workers=1, cpus=1) as executor:
        assert isinstance(executor, Workers) and executor.room() == 1
    with opened() as executor:
        assert isinstance(executor, Here)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--cpus-per-fit", "2"], "with --workers or --ray"),
        (["--gpus-per-fit", "1", "--workers", "2"], "--gpus-per-fit: with --ray"),
        (["--ray", "127.0.0.1:1", "--workers", "2"], "a cluster that is there has as many"),
        (["--mask", "holes.png"], "--mask: it is of damaged pictures"),
    ],
)
def test_what_has_no_effect_alone_is_refused(tmp_path, capsys, given, message):
    assert main(["search", "--task", "inpaint", "--trials", "1", "--out", str(tmp_path), *given]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
