"""Fits as tasks of a Ray cluster (Ray Core): placement, and what is done where a worker or a node is lost.

Ray's own retries are off. A worker that ends by itself counts against the call, since a genome may have killed it; a
node that is lost does not.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dipsearch.error import DipsearchError, UsageError, WorkerKilled
from dipsearch.run import package_version
from dipsearch.search.executor import ATTEMPTS, BESIDE, POLL, Stopped, packed, unpacked
from dipsearch.task import Observation

T = TypeVar("T")
EXTRA = "pip install 'dipsearch[ray]'"
LOST = 100  # nodes that a call may lose
NOTICED = 10.0  # seconds in which a node's end is known everywhere
SENT = ...  # in place of a picture that was sent before
VRAM = "vram_mb"  # the resource that nodes may offer: MiB of their GPUs


class Cluster:
    """A Ray cluster.

    Args:
        address: of its head; `auto`: of the one that runs on this machine; `local`: one for this search alone.
        cpus: of each fit, and its threads.
        gpus: of each fit, a share below 1 for several fits on one.
        workers: fits at once of a cluster of its own.

    Raises:
        UsageError: Ray is not installed, or a cluster of its own has not what one fit takes.
        DipsearchError: there is no such cluster.
    """

    near = False

    def __init__(self, address: str, cpus: int = 1, gpus: float = 0, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise UsageError(f"--ray: Ray is not installed ({EXTRA})") from None
        self._ray: Any = ray
        self._cpus, self._gpus, self._stopped = cpus, gpus, False
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        count = None if workers is None else workers * cpus
        own: dict[str, Any] = {"include_dashboard": False, "num_cpus": count} if address == "local" else {}
        threads = {name: str(cpus) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        try:
            _knock(address)
            ray.init(
                address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": threads}, **own
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise DipsearchError(f"--ray {address}: {' '.join(str(error).split())}") from None
        self._task = ray.remote(max_retries=0)(_done_there)
        self._versions = _versions()
        self._sent = dict[int, tuple[Observation, Any]]()
        self._lock, self._looked, self._room = threading.Lock(), float("-inf"), 0
        if address == "local" and not self.room():  # no node will ever come
            self._ray.shutdown()
            raise UsageError("--ray local: this machine has not the CPUs or GPUs that one fit is to take")

    def room(self) -> int:
        """As many fits as the nodes that are there now have CPUs and GPUs for."""
        if time.monotonic() - self._looked > POLL:
            there = self._ray.cluster_resources()
            room = there.get("CPU", 0) / self._cpus
            self._room = int(min(room, there.get("GPU", 0) / self._gpus) if self._gpus else room)
            self._looked = time.monotonic()
        return self._room

    def call(self, function: Callable[..., T], *given: Any, memory: int = 0, **near: Any) -> T:
        """As a `Caller`."""
        errors = self._ray.exceptions
        plain = [SENT if isinstance(each, Observation) else each for each in given]
        data = packed((function, plain))
        sent = [self._once(each) for each in given if isinstance(each, Observation)]
        killed = lost = 0
        while killed < ATTEMPTS and lost < LOST:
            nodes = self._nodes()
            try:
                begun = self._task.options(**self._needs(memory)).remote(self._versions, data, *sent)
                return unpacked(self._get(begun))  # type: ignore[no-any-return]
            except errors.RayTaskError as error:
                raise error.cause from None
            except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
                last = error
                if self._lost_one_of(nodes):
                    lost += 1
                else:
                    killed += 1
            except errors.RayError as error:
                if self._stopped:
                    raise Stopped("the work was stopped") from None
                lost += 1
                last = error
                time.sleep(POLL)
        if killed == ATTEMPTS:
            raise WorkerKilled(f"killed {ATTEMPTS} workers")
        raise DipsearchError(f"the cluster lost {LOST} nodes under one fit: {last}")

    def _once(self, instance: Observation) -> Any:
        """A picture, sent to each node once."""
        with self._lock:
            if id(instance) not in self._sent:
                self._sent[id(instance)] = (instance, self._ray.put(packed(instance)))
            return self._sent[id(instance)][1]

    def _needs(self, memory: int) -> dict[str, Any]:
        needs: dict[str, Any] = {"num_cpus": self._cpus, "num_gpus": self._gpus, "scheduling_strategy": "SPREAD"}
        there = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if self._gpus and (offered := max((each.get(VRAM, 0) for each in there), default=0)):
            needs["resources"] = {VRAM: min(memory / 2**20, offered)}
        elif not self._gpus:  # more than the largest node has would never begin
            needs["memory"] = min(memory + BESIDE, max((each.get("memory", 0) for each in there), default=0))
        return needs

    def _get(self, reference: Any) -> bytes:
        """The result, once it is there."""
        while True:
            if self._stopped:
                self._ray.cancel(reference, force=True)
                raise Stopped("the work was stopped")
            try:
                return self._ray.get(reference, timeout=POLL)  # type: ignore[no-any-return]
            except self._ray.exceptions.GetTimeoutError:
                continue

    def _nodes(self) -> set[str]:
        return {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}

    def _lost_one_of(self, nodes: set[str]) -> bool:
        """Whether one of these nodes is lost, as will soon be known."""
        until = time.monotonic() + NOTICED
        while time.monotonic() < until and not self._stopped:
            if nodes - self._nodes():
                return True
            time.sleep(POLL)
        return False

    def stop(self) -> None:
        """As an `Executor`: what runs is cancelled, and the cluster left, which ends one of its own."""
        self._stopped = True
        time.sleep(2 * POLL)  # in which calls under way cancel their tasks
        self._ray.shutdown()


def _knock(address: str) -> None:
    """OSError where nobody listens at HOST:PORT, for which Ray would look for minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _versions() -> dict[str, str]:
    """What has to be the same on all nodes; Ray sees to itself and to Python."""
    return {package: package_version(package) for package in ("dipsearch", "torch")}


def _done_there(versions: dict[str, str], data: bytes, *instances: bytes) -> bytes:
    """A call, on a node."""
    for package, version in _versions().items():
        if version != versions[package]:
            raise DipsearchError(
                f"{socket.gethostname()} has {package} {version}, and the driver {versions[package]}: "
                "install the same everywhere"
            )
    function, plain = unpacked(data)
    there = iter(instances)
    return packed(function(*[unpacked(next(there)) if each is SENT else each for each in plain]))
