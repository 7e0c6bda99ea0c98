"""Runs in one file, to take them to another machine: a .tar.xz of records and curves, without pictures."""

import io
import lzma
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipsearch.atomic import write_atomically
from dipsearch.error import UsageError
from dipsearch.run import RunStore, key_of, parse_run, read_run

LARGEST = 2 * 2**30  # bytes, unpacked: a record and its curve have about ten thousand


@dataclass(frozen=True)
class Merged:
    """What came of a parcel: runs that are new here, that were here already, and entries that are no runs."""

    new: int
    known: int
    unreadable: int


def pack(store: RunStore, file: Path, tasks: list[str]) -> int:
    """Write the runs of tasks (none: of all) into a file; how many.

    Raises:
        UsageError: there are none, or none of one of the tasks.
    """
    chosen = dict.fromkeys(tasks or sorted(path.name for path in store.root.glob("*") if path.is_dir()))
    found = {task: [path for path in sorted((store.root / task).glob("*.json")) if read_run(path)] for task in chosen}
    if missing := [task for task in dict.fromkeys(tasks) if not found[task]]:
        raise UsageError(f"no runs of {', '.join(missing)} under {store.root}")
    paths = [path for each in found.values() for path in each]
    if not paths:
        raise UsageError(f"no runs under {store.root}")

    def write(temporary: Path) -> None:
        with tarfile.open(temporary, "w:xz") as parcel:
            for path in paths:
                for each in (path.with_suffix(".csv"), path):  # the record last, as in the store
                    if each.exists():
                        parcel.add(each, arcname=f"{each.parent.name}/{each.name}", recursive=False)

    write_atomically(file, write)
    return len(paths)


def merge(store: RunStore, file: Path) -> Merged:
    """Add the runs of a parcel that a store does not hold. Where a run goes follows from what it is, not from its name.

    Raises:
        UsageError: the file is no parcel.
    """
    new = known = unreadable = 0
    curves: dict[str, bytes] = {}
    for name, content in _entries(file):
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
    return Merged(new, known, unreadable)


def _entries(file: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with lzma.open(file) as opened:  # to its end, where its checksum is
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UsageError(f"{file}: more than {LARGEST // 2**20} MiB, unpacked; pack fewer tasks at once")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as parcel:
            for entry in parcel:
                if entry.isfile() and (inside := parcel.extractfile(entry)) is not None:
                    yield entry.name, inside.read()
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UsageError(f"{file}: not a whole parcel of runs: {reason}") from None


def _sound(run: dict[str, Any]) -> bool:
    """Whether a run can have a place in a store: its task's name is that of a folder."""
    task, image = run["task"], run["image"]
    if not (isinstance(image, str) and isinstance(task, str)) or "\0" in task + image:
        return False
    return task not in ("", ".", "..") and Path(task).name == task
