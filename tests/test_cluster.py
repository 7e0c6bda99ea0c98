"""A Ray cluster loses workers and nodes; a search on it loses nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import calls
import pytest
import torch
from studies import PLAIN, runs_in, search_in, searched, write_task

from dipsearch.error import DipsearchError, Diverged, UsageError, WorkerKilled
from dipsearch.search.executor import ATTEMPTS, Stopped

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings
TESTS = Path(__file__).parent
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture
def nodes(monkeypatch):
    """A head without CPUs, and two nodes with one each."""
    from ray.cluster_utils import Cluster as Nodes

    monkeypatch.setattr("dipsearch.search.cluster.NOTICED", 2.0)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))  # workers import what tests call
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_timeout_ms", "1000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.nodes_of_fits = [cluster.add_node(**NODE), cluster.add_node(**NODE)]
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def executor(nodes):
    from dipsearch.search.cluster import Cluster

    cluster = Cluster(nodes.address)
    yield cluster
    cluster.stop()


def in_threads(*work):
    """Begin each, and give what ends them all and gives their results."""
    results = [None] * len(work)

    def run(place):
        results[place] = work[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()

    def ended(timeout=120):
        for thread in threads:
            thread.join(timeout)
            assert not thread.is_alive()
        return results

    return ended


def wait_until(holds, timeout=60):
    until = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def begun(folder):
    return len(list(folder.iterdir()))


def test_calls_failures_and_killed_workers_are_as_in_processes(executor, tmp_path):
    assert executor.room() == 2 and executor.call(calls.square, 7) == 49
    with pytest.raises(Diverged, match="as it should") as error:
        executor.call(calls.diverges)
    assert error.value.rollbacks == 3
    assert executor.call(calls.kills, tmp_path, 1) != os.getpid() and begun(tmp_path) == 2
    with pytest.raises(WorkerKilled, match=f"killed {ATTEMPTS} workers"):
        executor.call(calls.kills, tmp_path, 10)
    assert begun(tmp_path) == 2 + ATTEMPTS and executor.call(calls.square, 5) == 25


def test_a_node_that_is_killed_costs_time_and_nothing_else(executor, nodes, tmp_path):
    ended = in_threads(*(lambda n=n: executor.call(calls.holds, tmp_path, n, 4) for n in (1, 2)))
    wait_until(lambda: begun(tmp_path) == 2)
    nodes.remove_node(nodes.nodes_of_fits[1], allow_graceful=False)
    assert ended() == [1, 2] and begun(tmp_path) == 3  # one of them began again
    assert executor.room() == 1


def test_a_node_that_hangs_counts_as_lost(executor, nodes, tmp_path):
    raylet = nodes.nodes_of_fits[1].all_processes["raylet"][0].process.pid
    ended = in_threads(*(lambda n=n: executor.call(calls.holds, tmp_path, n, 8) for n in (1, 2)))
    wait_until(lambda: begun(tmp_path) == 2)
    os.kill(raylet, signal.SIGSTOP)
    try:
        assert ended() == [1, 2] and begun(tmp_path) >= 2
    finally:
        os.kill(raylet, signal.SIGCONT)


def test_a_node_that_joins_late_gets_work(executor, nodes, tmp_path):
    nodes.add_node(**NODE)
    wait_until(lambda: executor.room() == 3)
    ended = in_threads(*(lambda n=n: executor.call(calls.holds, tmp_path, n, 6) for n in (1, 2, 3)))
    wait_until(lambda: begun(tmp_path) == 3, 30)  # all at once, before the first has ended
    assert ended() == [1, 2, 3]


def test_work_that_is_stopped_ends(executor, tmp_path):
    def work():
        with pytest.raises(Stopped):
            executor.call(calls.holds, tmp_path, 0, 600)
        return "stopped"

    ended = in_threads(work)
    wait_until(lambda: begun(tmp_path) == 1)
    executor.stop()
    assert ended(30) == ["stopped"]


def test_results_larger_than_the_object_store_come_through(executor):
    size = 30 * 2**20  # bytes, of which a node's store holds two
    ended = in_threads(*(lambda n=n: executor.call(torch.full, (size // 4,), float(n)) for n in range(6)))
    assert [float(each[0]) for each in ended()] == [0.0, 1, 2, 3, 4, 5]


def outcome(trials):
    return [(str(sorted(trial.params.items())), trial.value) for trial in trials]


def test_a_search_under_which_a_node_is_killed_gives_what_an_undisturbed_one_does(room, executor, nodes):
    write_task(room, recipe={"precision": "float32", "iterations": 120})
    _, alone = searched(room, trials=4, out="alone", **PLAIN)
    killed = []

    def watch(event):
        if event.kind == "end" and event.number == 1 and not killed:
            nodes.remove_node(nodes.nodes_of_fits[0], allow_graceful=False)
            killed.append(event)

    _, trials = searched(room, trials=4, executor=executor, watch=watch, **PLAIN)
    assert killed and outcome(trials) == outcome(alone)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    keys = [(run["genome_key"], run["digest"]) for run in runs_in(room)]
    assert len(keys) == len(set(keys)) == 8


def test_a_driver_that_is_killed_goes_on(room, nodes):
    """With the cluster still there: every trial ends, and gives what an undisturbed search does."""
    write_task(room, recipe={"precision": "float32", "iterations": 120})
    _, alone = searched(room, trials=4, out="alone", **PLAIN)
    words = [
        *(sys.executable, "-m", "dipsearch", "search", "--task", "task.yaml", "--space", "space.yaml", "--study", "s"),
        *("--trials", "4", "--sampler", "random", "--pruner", "none", "--out", "out", "--device", "cpu"),
        *("--ray", nodes.address),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen(words, cwd=room, env=environment)
    wait_until(lambda: len(list((room / "out").glob("runs/task/*.json"))) >= 2, 120)
    driver.kill()
    driver.wait()
    subprocess.run([*words, "--resume"], cwd=room, env=environment, check=True, timeout=300)
    work = search_in(room, study="s", resume=True, **PLAIN)
    with work.opened():
        trials = [trial for trial in work._study.get_trials() if trial.state.name != "FAIL"]
    assert sorted(outcome(trials)) == sorted(outcome(alone))
    keys = [(run["genome_key"], run["digest"]) for run in runs_in(room)]
    assert len(keys) == len(set(keys)) == 8


def test_a_cluster_that_is_not_there_is_a_line():
    from dipsearch.search.cluster import Cluster

    with pytest.raises(DipsearchError, match=r"--ray 127\.0\.0\.1:1: "):
        Cluster("127.0.0.1:1")


def test_a_cluster_of_its_own_that_has_no_room_is_refused():
    from dipsearch.search.cluster import Cluster

    with pytest.raises(UsageError, match="this machine has not the CPUs or GPUs"):
        Cluster("local", cpus=1, gpus=1000, workers=1)
