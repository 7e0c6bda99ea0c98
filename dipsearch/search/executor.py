"""Where the work of fits is done: in this process, in processes of this machine, or on a Ray cluster.

The driver, which is one process, decides what is fitted and is the only one that writes. What it sends is a call of
a function with data that pickles, what comes back is the function's result: a worker that is lost costs that call,
which is made again with the same arguments and gives the same. So a search needs as many threads as it has calls
under way, of which one at a time does the driver's own work (`Turn`).
"""

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

from dipsearch.error import DipsearchError, Paused, UsageError

T = TypeVar("T")
ATTEMPTS = 3  # workers that a call may kill
POLL = 1.0  # seconds between two looks at how much room there is
MOST = 4096  # calls under way
BESIDE = 512 * 2**20  # bytes of a worker's libraries


class Caller(Protocol):
    """Calls functions, each call in a worker."""

    near: bool  # in this process

    def call(self, function: Callable[..., T], *given: Any, memory: int = 0, **near: Any) -> T:
        """The result of `function(*given)`, once it is there.

        `memory` is what it is predicted to take, in bytes. `near` are arguments that it is given in this process only,
        such as callbacks.

        Raises:
            WorkerKilled: it has killed as many workers as it may.
            Stopped: the executor was stopped.
        """


class Executor(Caller, Protocol):
    """Where several calls can be under way at once."""

    def room(self) -> int:
        """How many, now."""

    def stop(self) -> None:
        """End what is under way, if anything is, and be of no more use."""


class Stopped(DipsearchError):
    """The executor was stopped while a call was under way."""


class Here:
    """This process, one call at a time."""

    near = True

    def room(self) -> int:
        """One."""
        return 1

    def call(self, function: Callable[..., T], *given: Any, memory: int = 0, **near: Any) -> T:
        """As a `Caller`."""
        return function(*given, **near)

    def stop(self) -> None:
        """Nothing is left under way."""


def packed(what: Any) -> bytes:
    """Anything that pickles, as bytes: tensors of any device by value, and not as memory that processes share."""
    buffer = io.BytesIO()
    torch.save(what, buffer)
    return buffer.getvalue()


def unpacked(data: bytes) -> Any:
    """What was packed, its tensors on the CPU."""
    return torch.load(io.BytesIO(data), weights_only=False, map_location="cpu")


@contextmanager
def opened(workers: int | None = None, ray: str | None = None, cpus: int = 1, gpus: float = 0) -> Iterator[Executor]:
    """The executor that is asked for, for as long as it is needed: this process, if nothing is.

    Args:
        workers: fits at once, in processes of this machine, or on a local cluster.
        ray: the address of a Ray cluster, `auto` or `local`.
        cpus: threads of each fit.
        gpus: of each fit, on a cluster; a share below 1 for several fits on one.
    """
    executor: Executor = Here()
    if ray not in (None, "local") and workers is not None:
        raise UsageError("--workers: a cluster that is there has as many fits at once as it has CPUs; leave it out")
    if ray is not None:
        from dipsearch.search.cluster import Cluster  # Ray is an extra

        executor = Cluster(ray, cpus, gpus, workers)
    elif workers is not None:
        from dipsearch.search.workers import Workers

        executor = Workers(workers, cpus)
    try:
        yield executor
    finally:
        executor.stop()


class Turn:
    """One thread at a time does the driver's own work; another has its turn where one waits for a call."""

    def __init__(self, executor: Executor) -> None:
        self._executor, self._changed = executor, threading.Condition(threading.Lock())
        self.near = executor.near

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A turn."""
        with self._changed:
            try:
                yield
            finally:
                self._changed.notify_all()

    def call(self, function: Callable[..., T], *given: Any, **how: Any) -> T:
        """As the executor's; others have their turn meanwhile."""
        self._changed.release()
        try:
            return self._executor.call(function, *given, **how)
        finally:
            self._changed.acquire()

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, which is looked at after each turn."""
        self._changed.wait_for(holds)


def together(take: Callable[[int], Callable[[], T] | None], executor: Executor) -> Iterator[T]:
    """Do what `take` gives until it gives None while nothing is under way; yields each result as it ends.

    As many are under way as the executor has room for; `take` is told how many that are. Where one fails, the others
    are stopped; where one is Paused, they are waited for: their time is over, too.
    """
    if executor.near:
        while (job := take(0)) is not None:
            yield job()
        return
    paused: Paused | None = None
    with ThreadPoolExecutor(MOST) as threads:
        going = set[Future[T]]()
        try:
            while True:
                job = None
                try:
                    while paused is None and (room := len(going) < executor.room()) and (job := take(len(going))):
                        going.add(threads.submit(job))
                except Paused as error:
                    paused = error
                if not going and (paused is not None or (room and job is None)):
                    break
                if not going:
                    time.sleep(POLL)  # for a node to come
                ended, going = wait(going, timeout=POLL, return_when=FIRST_COMPLETED)
                for each in ended:
                    try:
                        result = each.result()
                    except Paused as error:
                        paused = error
                    else:
                        yield result
        except BaseException:
            executor.stop()
            raise
    if paused is not None:
        raise paused
