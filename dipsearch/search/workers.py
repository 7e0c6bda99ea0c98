"""Fits in processes of this machine. One that is killed is replaced, and makes its call again."""

import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

import torch

from dipsearch.error import WorkerKilled
from dipsearch.fitting.device import memory_of
from dipsearch.search.executor import ATTEMPTS, BESIDE, Stopped, packed, unpacked

T = TypeVar("T")


class Workers:
    """Processes, each with so many threads, for one call at a time.

    Calls are under way together as long as their predicted memory is less than `memory` bytes, by default what this
    machine has beside the libraries of the workers; a larger one is made alone. Who asks first is let in first.
    """

    near = False

    def __init__(self, count: int, threads: int = 1, memory: float | None = None) -> None:
        there = memory_of(torch.device("cpu")) - (count + 1) * BESIDE if memory is None else memory
        self._count, self._memory, self._taken = count, max(there, 1.0), 0.0
        self._queue, self._changed, self._stopped = deque[object](), threading.Condition(), False
        self._all = [_Worker(threads) for _ in range(count)]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._free.put(worker)

    def room(self) -> int:
        """One call for each process."""
        return self._count

    def call(self, function: Callable[..., T], *given: Any, memory: int = 0, **near: Any) -> T:
        """As a `Caller`."""
        data = packed((function, given))
        with self._admitted(memory):
            worker = self._free.get()
            try:
                for _ in range(ATTEMPTS):
                    if self._stopped:
                        break
                    try:
                        answer = worker.call(data)
                    except (EOFError, OSError):  # it was killed
                        worker.end()
                    else:
                        return _opened(answer)  # type: ignore[no-any-return]
            finally:
                self._free.put(worker)
        if self._stopped:
            raise Stopped("the work was stopped")
        raise WorkerKilled(f"killed {ATTEMPTS} workers")

    @contextmanager
    def _admitted(self, memory: float) -> Iterator[None]:
        needed, ticket = min(memory, self._memory), object()
        with self._changed:
            self._queue.append(ticket)
            self._changed.wait_for(
                lambda: self._stopped or (self._queue[0] is ticket and self._taken + needed <= self._memory)
            )
            self._queue.remove(ticket)
            self._taken += needed
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()

    def stop(self) -> None:
        """As an `Executor`: the processes are killed."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for worker in self._all:
            worker.kill()


class _Worker:
    """A process that is started when it is first needed, and again after its end."""

    def __init__(self, threads: int) -> None:
        self._threads, self._lock, self._over = threads, threading.Lock(), False
        self._process: Any = None
        self._end: Connection | None = None

    def call(self, data: bytes) -> bytes:
        """What a call gives, packed; EOFError or OSError where the process has ended before."""
        with self._lock:
            if self._over:
                raise EOFError
            if self._end is None:
                context = get_context("spawn")
                self._end, theirs = context.Pipe()
                self._process = context.Process(target=_serve, args=(theirs, self._threads), daemon=True)
                self._process.start()
                theirs.close()  # so that this end is told when the process is gone
            end = self._end
        end.send_bytes(data)
        return end.recv_bytes()

    def end(self) -> None:
        """Forget the process, which has ended."""
        with self._lock:
            if self._end is not None:
                self._end.close()
                self._end = None
                self._process.kill()
                self._process.join()

    def kill(self) -> None:
        """Kill the process, if there is one; none is started any more."""
        with self._lock:
            self._over = True
            if self._process is not None:
                self._process.kill()


def _serve(driver: Connection, threads: int) -> None:
    """What a worker does: call after call, until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver
    torch.set_num_threads(threads)
    if (parent := parent_process()) is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: wait_for([sentinel]) and os._exit(1), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            driver.send_bytes(_answer(driver.recv_bytes()))


def _answer(data: bytes) -> bytes:
    """The result of a call or what it raised, packed."""
    try:
        function, given = unpacked(data)
        return packed((function(*given), None))
    except Exception as error:
        try:
            return packed((None, error))
        except Exception:  # one that does not pickle
            return packed((None, RuntimeError(f"{type(error).__name__}: {error}")))


def _opened(answer: bytes) -> Any:
    result, error = unpacked(answer)
    if error is not None:
        raise error
    return result
