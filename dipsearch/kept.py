"""A fit under way in a file: its state and what was gathered on the way, so that an interrupted one goes on."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from dipsearch.atomic import write_atomically
from dipsearch.error import DipsearchError
from dipsearch.fitting.ensemble import Ensemble
from dipsearch.fitting.loop import Fitting

SAVE_EVERY = 60.0  # seconds between two states of a fit


Begun = TypeVar("Begun", Fitting, Ensemble, Fitting | Ensemble)


class Kept(Generic[Begun]):
    """A fit whose state is written to a file now and then.

    Args:
        path: the file; a fit that was interrupted goes on from there.
        begin: makes the fit, not yet started.
        gathered: what its callback adds to, tensors on the CPU and plain data: kept with the state.
    """

    def __init__(self, path: Path, begin: Callable[[], Begun], gathered: dict[str, Any]) -> None:
        self.path, self.gathered, self._last = path, gathered, time.monotonic()
        self.fitting: Begun = begin()
        if path.exists():
            try:
                # On the CPU, wherever the fit runs: states of generators are read there only, the rest is copied over.
                kept = torch.load(path, weights_only=True, map_location="cpu")
                self.fitting.resume(kept["state"])
                self.gathered = kept["gathered"]
            except Exception:  # torn, of another version or device: of no use, and half taken over perhaps
                self.fitting = begin()

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
        kept = {"state": self.fitting.state(), "gathered": self.gathered}
        write_atomically(self.path, lambda temporary: torch.save(kept, temporary))
