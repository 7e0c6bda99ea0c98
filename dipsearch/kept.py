"""A fit under way in a file: its state and what was gathered on the way, so that an interrupted one goes on."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from dipsearch.atomic import write_atomically
from dipsearch.error import BegunAnew, DipsearchError
from dipsearch.fitting.ensemble import Ensemble
from dipsearch.fitting.loop import Fitting

SAVE_EVERY = 60.0  # seconds between two states of a fit


Begun = TypeVar("Begun", Fitting, Ensemble, Fitting | Ensemble)


def read_kept(path: Path) -> dict[str, Any] | None:
    """What a file keeps of a fit (`state`, `gathered`); None where there is none, or, with a warning, it is torn."""
    if not path.exists():
        return None
    try:
        # On the CPU, wherever the fit runs: states of generators are read there only, the rest is copied over.
        return dict(torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:  # whatever reading a torn file runs into
        _warn(f"{path} cannot be read", error)
        return None


def write_kept(path: Path, kept: dict[str, Any]) -> None:
    """Keep a fit; DipsearchError where it cannot be written."""
    write_atomically(path, lambda temporary: torch.save(kept, temporary))


def going_on(
    begin: Callable[[], Begun], kept: dict[str, Any] | None, gathered: dict[str, Any]
) -> tuple[Begun, dict[str, Any]]:
    """A fit that goes on from what was kept, with what was gathered; where that is of no use, with a warning, one that
    begins."""
    fitting = begin()
    if kept is None:
        return fitting, gathered
    try:
        fitting.resume(kept["state"])
        return fitting, kept["gathered"]
    except Exception as error:  # of another version or device, and half taken over perhaps
        _warn("what was kept of a fit is of no use here", error)
        return begin(), gathered


def _warn(what: str, error: Exception) -> None:
    reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
    warnings.warn(f"{what}: {reason}; the fit begins anew", BegunAnew, stacklevel=3)


@contextlib.contextmanager
def calling(fitting: Fitting | Ensemble, look: Callable[[int, Tensor], None]) -> Iterator[None]:
    """`look` is the fit's callback meanwhile. It mostly knows the fit, which would else hold itself, and its memory."""
    fitting.callback = look
    try:
        yield
    finally:
        fitting.callback = None


class Kept(Generic[Begun]):
    """A fit whose state is written to a file now and then.

    Args:
        path: the file; a fit that was interrupted goes on from there.
        begin: makes the fit, not yet started.
        gathered: what its callback adds to, tensors on the CPU and plain data: kept with the state.
    """

    def __init__(self, path: Path, begin: Callable[[], Begun], gathered: dict[str, Any]) -> None:
        self.path, self._last = path, time.monotonic()
        self.fitting: Begun
        self.fitting, self.gathered = going_on(begin, read_kept(path), gathered)

    def save(self, *, now: bool = False) -> None:
        """Write the state: where the last time is long ago, if that can be done; or `now`, DipsearchError where it
        cannot."""
        if now:
            self._write()
        elif time.monotonic() - self._last >= SAVE_EVERY:
            with contextlib.suppress(DipsearchError, RuntimeError):
                self._write()  # a full disk ends the fit only when it writes its result
            self._last = time.monotonic()

    def drop(self) -> None:
        """Forget the file: the fit has ended."""
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        write_kept(self.path, {"state": self.fitting.state(), "gathered": self.gathered})
