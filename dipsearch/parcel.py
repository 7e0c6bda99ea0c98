"""Runs in one file, to take them to another machine: a .tar.xz of records and curves, without pictures, and of the
states of interrupted fits where they are asked for."""

import io
import lzma
import math
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipsearch.atomic import write_atomically
from dipsearch.error import UsageError
from dipsearch.run import RunStore, key_of, parse_run, read_run

LARGEST = 2 * 2**30  # bytes, unpacked: a record and its curve have about ten thousand, a state up to some 10^8
STATE = re.compile(r"[0-9a-f]{16}\.unfinished")  # a file's name


@dataclass(frozen=True)
class Packed:
    """How many runs a parcel holds, and how many states of fits that were interrupted."""

    runs: int
    unfinished: int = 0


@dataclass(frozen=True)
class Merged:
    """What came of a parcel: runs that are new here, that were here already, entries that are no runs, and states of
    interrupted fits that were taken."""

    new: int
    known: int
    unreadable: int
    unfinished: int = 0


def pack(store: RunStore, file: Path, tasks: list[str], *, unfinished: bool = False) -> Packed:
    """Write the runs of tasks (none: of all) into a file.

    Args:
        store: where they are.
        file: a .tar.xz, which appears whole or not at all.
        tasks: their names, as those of the store's folders.
        unfinished: states of interrupted fits as well, so that these go on elsewhere; they are large.

    Of fits that are under way meanwhile, what is there when its turn comes is taken.

    Raises:
        UsageError: there are none, or none of one of the tasks, or they are more than a parcel holds.
    """
    chosen = dict.fromkeys(tasks or sorted(path.name for path in store.root.glob("*") if path.is_dir()))
    found = {task: [path for path in sorted((store.root / task).glob("*.json")) if read_run(path)] for task in chosen}
    states = {task: sorted((store.root / task).glob("*.unfinished")) if unfinished else [] for task in chosen}
    if missing := [task for task in dict.fromkeys(tasks) if not found[task] + states[task]]:
        raise UsageError(f"no runs of {', '.join(missing)} under {store.root}")
    paths, begun = ([path for each in kind.values() for path in each] for kind in (found, states))
    if not paths + begun:
        raise UsageError(f"no runs under {store.root}")

    taken = {".json": 0, ".unfinished": 0, ".csv": 0}

    def write(temporary: Path) -> None:
        with tarfile.open(temporary, "w:xz") as parcel:
            beside = (each for path in paths for each in (path.with_suffix(".csv"), path))  # records last
            for path in (*beside, *begun):
                taken[path.suffix] += _add(parcel, path)
                records = math.ceil((parcel.offset + 2 * tarfile.BLOCKSIZE) / tarfile.RECORDSIZE)  # with what ends it
                if records * tarfile.RECORDSIZE > LARGEST:
                    raise UsageError(f"{file}: more than {LARGEST // 2**20} MiB; pack fewer tasks at once")

    write_atomically(file, write)
    return Packed(taken[".json"], taken[".unfinished"])


def _add(parcel: tarfile.TarFile, path: Path) -> bool:
    """Put a file into a parcel, if it is there."""
    try:
        with path.open("rb") as file:  # as it is now: one that is written anew meanwhile is another file
            parcel.addfile(parcel.gettarinfo(arcname=f"{path.parent.name}/{path.name}", fileobj=file), file)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def merge(store: RunStore, file: Path) -> Merged:
    """Add the runs of a parcel that a store does not hold. Where a run goes follows from what it is, not from its name.

    A state of an interrupted fit is taken where its run is not here, nor a state that was written later.

    Raises:
        UsageError: the file is no parcel.
    """
    new = known = unreadable = unfinished = 0
    curves: dict[str, bytes] = {}
    for name, written, content in _entries(file):
        if name.endswith(".unfinished"):
            unfinished += _take(store, name, written, content)
            continue
        if name.endswith(".csv"):
            curves = {name.removesuffix(".csv"): content}  # that of the record that follows
            continue
        run = parse_run(content)
        if run is None or not name.endswith(".json") or not _sound(run):
            unreadable += 1
            continue
        key = key_of(run)
        if store.find(run["task"], key):
            known += 1
            continue
        path = store.path_of(run["task"], run["image"], key)
        if (curve := curves.pop(name.removesuffix(".json"), None)) is not None:
            write_atomically(path.with_suffix(".csv"), lambda temporary, curve=curve: temporary.write_bytes(curve))  # type: ignore[misc]
        write_atomically(path, lambda temporary, content=content: temporary.write_bytes(content))  # type: ignore[misc]
        new += 1
    return Merged(new, known, unreadable, unfinished)


def _take(store: RunStore, name: str, written: float, content: bytes) -> bool:
    """Put the state of an interrupted fit where a fit will look for it; whether it was of use."""
    folder, _, state = name.rpartition("/")
    if not _is_folder(folder) or not STATE.fullmatch(state):
        return False
    key = state.removesuffix(".unfinished")
    path = store.unfinished(folder, key)
    if store.find(folder, key) or (path.exists() and int(path.stat().st_mtime) >= int(written)):
        return False
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    os.utime(path, (written, written))  # the next parcel has to be newer
    return True


def _entries(file: Path) -> Iterator[tuple[str, float, bytes]]:
    """Name, time of writing (seconds since 1970) and content of each file in a parcel."""
    try:
        with lzma.open(file) as opened:  # to its end, where its checksum is
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UsageError(f"{file}: more than {LARGEST // 2**20} MiB, unpacked; pack fewer tasks at once")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as parcel:
            for entry in parcel:
                if entry.isfile() and (inside := parcel.extractfile(entry)) is not None:
                    yield entry.name, float(entry.mtime), inside.read()
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UsageError(f"{file}: not a whole parcel of runs: {reason}") from None


def _sound(run: dict[str, Any]) -> bool:
    """Whether a run can have a place in a store: its task's name is that of a folder."""
    task, image = run["task"], run["image"]
    if not (isinstance(image, str) and isinstance(task, str)) or "\0" in task + image:
        return False
    return _is_folder(task)


def _is_folder(task: str) -> bool:
    """Whether a task's name is that of one folder."""
    return task not in ("", ".", "..") and "\0" not in task and Path(task).name == task
