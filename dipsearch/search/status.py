"""What a study is doing, and what is wrong under a folder of results: read only, beside a search at work."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import filelock
from optuna.trial import FrozenTrial, TrialState

from dipsearch.error import UsageError
from dipsearch.run import RunStore
from dipsearch.search.evidence import read_study
from dipsearch.search.ledger import WANTED
from dipsearch.search.trial import DONE, HOST, SUMMARY, fitted_whole, made_again

RECENT = 20  # trials whose ends tell the speed


@dataclass(frozen=True)
class Status:
    """A study as it is now.

    `running` are (number from 0, what it fits, seconds so far, the host that it was last on, if that is known), and
    `best` is (number from 0, score); `per_hour` trials end, by the last of them; `left` are seconds. `at_work`: a
    driver holds the study; None where that cannot be told. Without one, running trials are stale: they run again with
    `--resume`.
    """

    name: str
    wanted: int | None
    whole: int
    estimated: int
    pruned: int
    failed: int
    running: list[tuple[int, str, float, str]]
    best: tuple[int, float] | None
    per_hour: float | None
    at_work: bool | None

    @property
    def done(self) -> int:
        """Trials that have ended, but for those that run again."""
        return self.whole + self.estimated + self.pruned

    @property
    def left(self) -> float | None:
        """Seconds that the rest should take; None where that is not known."""
        if self.wanted is None or not self.per_hour:
            return None
        return max(0, self.wanted - self.done) / self.per_hour * 3600


def status(folder: Path) -> Status:
    """That of the study in a folder; UsageError says what cannot be read."""
    study = read_study(folder)
    by = defaultdict[TrialState, list[FrozenTrial]](list)
    for trial in study.trials:
        by[trial.state].append(trial)
    now = datetime.now()
    whole = list(filter(fitted_whole, study.trials))
    best = max(whole, key=lambda trial: trial.values[0], default=None)
    recent = _times([trial for state in DONE for trial in by[state]])[-RECENT:]
    passed = _at_work(recent)
    return Status(
        folder.name,
        study.noted.get(WANTED),
        len(whole),
        len(by[TrialState.COMPLETE]) - len(whole),
        len(by[TrialState.PRUNED]),
        len({trial.number for trial in by[TrialState.FAIL]} - made_again(study.trials)),
        [
            (
                trial.number,
                trial.user_attrs.get(SUMMARY, ""),
                (now - trial.datetime_start).total_seconds(),
                trial.user_attrs.get(HOST, ""),
            )
            for trial in by[TrialState.RUNNING]
            if trial.datetime_start is not None
        ],
        None if best is None else (best.number, best.values[0]),
        len(recent) / passed * 3600 if passed > 0 else None,
        _held(folder),
    )


def _times(trials: list[FrozenTrial]) -> list[tuple[datetime, datetime]]:
    """When trials began and ended, in the order in which they ended."""
    times = [(trial.datetime_start, trial.datetime_complete) for trial in trials]
    known = [(start, end) for start, end in times if start is not None and end is not None]
    return sorted(known, key=lambda time: time[1])


def _at_work(times: list[tuple[datetime, datetime]]) -> float:
    """Seconds in which anything was under way: pauses of a search do not count."""
    seconds, until = 0.0, datetime.min
    for start, end in sorted(times):
        seconds += max(0.0, (end - max(start, until)).total_seconds())
        until = max(until, end)
    return seconds


def _held(folder: Path) -> bool | None:
    """Whether a driver holds the study's lock; None where that cannot be told, in a folder of somebody else."""
    if not (folder / "study.lock").exists():
        return False
    try:
        with filelock.FileLock(folder / "study.lock", timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return None


def ailments(root: Path) -> list[str]:
    """What is wrong under a folder of studies and runs, a line each: stale trials, torn files, several versions."""
    found = []
    for database in sorted((root / "studies").glob("*/study.db")):
        try:
            study = status(database.parent)
        except UsageError as error:
            found.append(str(error))
            continue
        if study.running and study.at_work is False:
            numbers = ", ".join(str(number + 1) for number, *_ in study.running)
            found.append(f"{database.parent}: no search is at work, but trials {numbers} run; go on with --resume")
    runs = root / "runs"
    for task in sorted(path for path in runs.glob("*") if path.is_dir()):
        whole, broken = RunStore(runs).load(task.name)
        found += [f"{path}: not a whole run; it is made again when it is needed" for path in broken]
        found += [f"{path}: half-written; it may be deleted" for path in sorted(task.glob(".*.part"))]
        for package in ("torch", "dipsearch"):
            versions = {str(run["machine"].get(package, "unknown")) for run in whole}
            if len(versions) > 1:
                found.append(f"{task}: runs of several versions of {package}: {', '.join(sorted(versions))}")
    return found
