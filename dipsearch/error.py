"""What can go wrong for a user, as types: each message is one line that names the value and the choices."""

from collections.abc import Iterable


class DipsearchError(Exception):
    """Anything this program refuses or fails at, with a one-line message meant for a person."""


class UsageError(DipsearchError, ValueError):
    """The request itself is wrong: an unknown name, a malformed file, pictures that do not fit."""


class TooLittle(UsageError):
    """Too little of a picture is left, or is known, to fit anything to it."""


class Paused(DipsearchError):
    """A slice of time is over. What is under way was kept, and goes on from there."""


class BegunAnew(UserWarning):
    """What was kept of a fit is of no use here: it is made again from its beginning."""


class FitError(DipsearchError):
    """A fit that could not be finished. `reason` is the word stored in the run, beside what had gone wrong by then."""

    reason = "failed"

    def __init__(self, message: str, *, rollbacks: int = 0, non_finite: int = 0) -> None:
        super().__init__(message)
        self.rollbacks, self.non_finite = rollbacks, non_finite


class Diverged(FitError):
    """The loss stopped being a finite number, or the fit kept collapsing."""

    reason = "diverged"


class OutOfMemory(FitError):
    """The fit needs more memory than the device has."""

    reason = "out-of-memory"


class WorkerKilled(FitError):
    """The fit has ended the process that it ran in, again and again."""

    reason = "killed"


def unknown(kind: str, name: object, choices: Iterable[str]) -> str:
    """The one way to say that a name is not known."""
    known = sorted(choices)
    between = "; " if any("," in each for each in known) else ", "
    return f"unknown {kind} {str(name)!r}; choose from: {between.join(known)}"
