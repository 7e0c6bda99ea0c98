"""What the command line shows while it works: on stderr, live on a terminal and as plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dipsearch.cli.options import INTERRUPTED
from dipsearch.error import Paused

if TYPE_CHECKING:
    from dipsearch.search.executor import Caller
    from dipsearch.search.study import Event
    from dipsearch.task import Observation

PLAIN_EVERY = 10.0  # seconds between plain lines of one long fit


def duration(seconds: float) -> str:
    """Seconds for a person: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 5400:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Reporter:
    """Progress of a search or a re-run: a bar on a terminal, a line for each trial or fit elsewhere."""

    def __init__(self, console: Console, progress: Progress | None, bar: TaskID | None) -> None:
        self._console, self._progress, self._bar = console, progress, bar
        self._first: tuple[float, float] | None = None  # work done at the first report, and when that was
        self._total = 0.0
        self._said = time.monotonic()
        self._left = ""

    def line(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def warn_of_emulation(self, executor: "Caller", precision: str | None, device: str) -> None:
        """Say so where fits, which the executor runs, would take many times as long as they need to."""
        from dipsearch.fitting.plan import emulates_bfloat16

        if precision == "bfloat16" and executor.call(emulates_bfloat16, device):
            self.line(f"warning: the processor has no instructions for {precision}; float32 is many times faster there")

    def update(self, done: float, total: float, text: str, bound: str = "") -> None:
        """Move the bar to `done` of `total`, with the time that the rest should take; `bound` is said before it."""
        now = time.monotonic()
        if self._first is None or total != self._total or done < self._first[0]:  # other work begins
            self._first, self._total = (done, now), total
        worked, passed = done - self._first[0], now - self._first[1]
        rest = duration((total - done) * passed / worked) if worked > 0 and passed > 3 else ""
        self._left = left = rest and f"{bound}{rest} left"
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=done, total=total, text=text, left=left)
        elif now - self._said > PLAIN_EVERY:
            self._said = now
            self.line(f"  {text}  {left}".rstrip())

    def trial(self, event: "Event") -> None:
        """Show what happened in a search."""
        best = f"best {event.best:.2f} dB" if event.best is not None else ""
        if event.kind == "end":
            self._said = time.monotonic()
            about = "about " if event.outcome == "estimated" else ""
            outcome = f"{about}{event.value:.2f} dB" if event.value is not None else f"pruned ({event.reason})"
            trial = f"trial {event.number}/{event.total}"
            self.update(event.number, event.total, f"{trial}  {best}")
            words = (trial, event.summary, outcome, duration(event.seconds), best, self._left)
            self.line("  ".join(word for word in words if word))
        else:
            done = event.number + event.share
            self.update(done, event.total, f"trial {event.number + 1}/{event.total}  {event.summary}  {best}")

    def fit(self, number: int, total: int, name: str, instance: "Observation", share: float, psnr: float) -> None:
        """Show how far a fit of a re-run is."""
        picture = instance.image.split(":")[-1]
        text = f"fit {number}/{total}  {name} on {picture}, seed {instance.repeat}  {psnr:.2f} dB"
        self.update(number - 1 + share, total, text)


@contextmanager
def reporting(*, quiet: bool = False) -> Iterator[Reporter]:
    """A Reporter on stderr for as long as the work lasts; a quiet one says nothing."""
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal or quiet:
        yield Reporter(console, None, None)
        return
    columns = [
        BarColumn(20),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    ]
    with Progress(*columns, console=console, transient=True) as progress:
        yield Reporter(console, progress, progress.add_task("", total=None, text="", left=""))


@contextmanager
def going_on(reporter: Reporter, command: str) -> Iterator[None]:
    """End a command whose time is over (code 0) or that is interrupted (130), and say what goes on with it."""
    try:
        yield
    except Paused as paused:
        reporter.line(f"the time is over ({paused}); go on with:\n  {command}")
        raise click.exceptions.Exit(0) from None
    except KeyboardInterrupt:
        reporter.line(f"\ninterrupted; what is done is kept. Go on with:\n  {command}")
        raise click.exceptions.Exit(INTERRUPTED) from None
