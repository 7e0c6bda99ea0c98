"""Files to restore, and where the results go: nothing is overwritten, lost or done twice."""

import contextlib
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dipsearch.atomic import leftovers, write_atomically
from dipsearch.dataset import sha256
from dipsearch.error import DipsearchError, UsageError
from dipsearch.image import EXTENSIONS
from dipsearch.run import hashed

WILD = "*?["
RECORD, UNFINISHED, STRIP = ".json", ".unfinished", ".compare.png"  # added to a result's name
LOCK = "lock"  # within what is unfinished
KEPT = re.compile("[0-9a-f]{16}")  # folders of fits, by the hash of their settings
FOREIGN = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".pdf", ".exr", ".npy")


class Identified(Protocol):
    """Settings, of which a picture's result depends."""

    def identity(self, source: Path) -> dict[str, Any]:
        """What decides the result, as plain data."""


@dataclass(frozen=True)
class Job:
    """A picture's file, and that of its restored copy; `label` is what the first is called, if not by its path."""

    source: Path
    target: Path
    label: str = ""

    @property
    def name(self) -> str:
        """What the picture is called."""
        return self.label or str(self.source)

    @property
    def record(self) -> Path:
        """The file that says how the copy was made."""
        return self.target.with_name(f"{self.target.name}{RECORD}")

    @property
    def unfinished(self) -> Path:
        """The folder of what is kept while the work lasts."""
        return self.target.with_name(f"{self.target.name}{UNFINISHED}")

    @property
    def preview(self) -> Path:
        """The file that shows how far it is."""
        return self.unfinished / "preview.png"

    @property
    def strip(self) -> Path:
        """The file that shows the picture before and after."""
        return self.target.with_name(f"{self.target.name}{STRIP}")

    def made(self, *, compare: bool) -> list[Path]:
        """The files that are there in the end."""
        return [self.target, self.record, *([self.strip] if compare else [])]

    def kept(self, settings: dict[str, Any]) -> Path:
        """The folder of the fits with these settings, while they last."""
        return self.unfinished / hashed(settings)

    def prepare(self, settings: dict[str, Any], *, compare: bool = False) -> Path:
        """Make that folder; UsageError where the copy could not be written beside it."""
        try:
            for path in self.made(compare=compare):
                if path.is_dir():
                    raise UsageError(f"{path}: cannot be written: it is a folder")
            self.kept(settings).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.target}: cannot be written: {error.strerror}") from None
        return self.kept(settings)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Work on a copy that was prepared while no other process does; UsageError where one does."""
        import filelock  # only where there is something to do

        lock = self.unfinished / LOCK
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(filelock.FileLock(lock, timeout=0))
            except filelock.Timeout:
                raise UsageError(f"{self.target}: another process is at work on it") from None
            except (OSError, NotImplementedError):  # a file system without locks
                pass
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # something is kept
                    lock.unlink(missing_ok=True)
                    self.unfinished.rmdir()

    def leave(self, settings: dict[str, Any]) -> None:
        """Remove that folder where nothing was kept."""
        with contextlib.suppress(OSError):  # something was
            self.kept(settings).rmdir()
            self.unfinished.rmdir()

    def in_the_way(self, settings: "Identified", *, resume: bool, compare: bool) -> Path | None:
        """A file that exists and would be lost; none where these settings made it, have begun to, or made what was
        beside it and is gone."""
        there = [path for path in self.made(compare=compare) if os.path.lexists(path)]
        if not there:
            return None
        if resume:
            with contextlib.suppress(DipsearchError):  # a source that cannot be read made nothing
                mine = settings.identity(self.source)
                gone = not os.path.lexists(self.target) and self._recorded().get("settings_hash") == hashed(mine)
                if gone or self.done(mine) or self.kept(mine).is_dir():
                    return None
        return there[0]

    def done(self, settings: dict[str, Any]) -> bool:
        """Whether the copy exists as these settings make it, by its record."""
        record = self._recorded()
        same = record.get("settings_hash") == hashed(settings) and record.get("complete")
        with contextlib.suppress(OSError):
            return bool(same) and record.get("output_sha256") == sha256(self.target)
        return False

    def _recorded(self) -> dict[str, Any]:
        """What the record says; nothing where there is none that can be read."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return dict(json.loads(self.record.read_text(encoding="utf-8")))
        return {}

    def tidy(self) -> None:
        """Remove what was kept while the work lasted, and nothing else."""
        with contextlib.suppress(OSError):
            for path in (left for made in (*self.made(compare=True), self.preview) for left in leftovers(made)):
                path.unlink(missing_ok=True)
            self.preview.unlink(missing_ok=True)
            (self.unfinished / LOCK).unlink(missing_ok=True)
            for folder in self.unfinished.iterdir():
                if KEPT.fullmatch(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)
            self.unfinished.rmdir()

    def write_record(self, settings: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
        """Say beside the copy how it was made."""
        record = {
            "input": self.name,
            "output": str(self.target),
            **told,
            "settings": settings,
            "settings_hash": hashed(settings),
            "output_sha256": sha256(self.target),
        }
        text = json.dumps(record, indent=1) + "\n"  # ASCII: a file's name need not be UTF-8
        write_atomically(self.record, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return record


@contextlib.contextmanager
def bad_paths() -> Iterator[None]:
    """What the system says of a path, such as that its name is too long, as a UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{str(error.filename)[:100]}: {error.strerror}") from None
    except RuntimeError as error:  # of links that lead back to themselves, before Python 3.13
        raise UsageError(str(error)) from None


@bad_paths()
def jobs(
    inputs: Sequence[str],
    output: Path,
    *,
    recursive: bool = False,
    suffix: str = "",
    extension: str = "",
    read: Sequence[Path] = (),
    compare: bool = False,
) -> list[Job]:
    """What is to be done.

    Args:
        inputs: files, folders, and patterns such as `*.png` that no shell has expanded.
        output: a folder; for one file, it may be a file (it has the extension of a picture, and is no folder).
        recursive: folders within folders, too.
        suffix: added to names.
        extension: of the copies, such as `png`; empty: that of the source.
        read: other files that are read, such as a mask: among what a folder or a pattern holds, they are no inputs.
        compare: the picture before and after is written, too.

    Of a folder or a pattern, copies that were made before are no inputs, nor is what lies beside such copies elsewhere.
    Records and what is unfinished are none, however they are named: a shell expands patterns, too.

    Raises:
        UsageError: an input does not exist or holds no picture, or a copy would be an input or another copy.
    """
    if {"/", os.sep} & set(suffix):
        raise UsageError(f"--suffix: {suffix}: a part of a name, not of a path")
    extension = ending_of(extension) if extension else ""
    found: dict[tuple[Path, Path], None] = {}  # a file, and its place under the output; a set in the order given
    beside = {path.resolve() for path in read}
    for given in inputs:
        for path in _expanded(given):
            if _at_work(path) or _records(path):
                continue
            if path.is_dir():
                inside = sorted(path.rglob("*") if recursive else path.iterdir())
                places = [(entry, entry.relative_to(path)) for entry in inside if _picture(entry)]
                if not places and path == Path(given) and not any(map(_at_work, inside)):
                    raise UsageError(f"{path}: no picture in this folder; known extensions: {_known_extensions()}")
            else:
                places = [(path, Path(path.name))]
            named = path == Path(given) and not path.is_dir()
            found |= {
                (entry, place): None
                for entry, place in places
                if named or not (entry.resolve() in beside or _made_before(entry, output))
            }
    if not found:
        raise UsageError(f"{', '.join(inputs)}: no picture but results, masks and references")
    if output.suffix.lower() in FOREIGN and not output.is_dir():
        raise UsageError(f"{output}: not a format that is written; choose from {_known_extensions()}")
    file = not output.is_dir() and (output.suffix.lower() in EXTENSIONS or output.exists())
    if file and len(found) > 1:
        raise UsageError(f"{output}: several pictures need a folder")
    if file and (suffix or extension):
        raise UsageError(f"--suffix and --ext name files in a folder, but {output} is a file")
    if file:
        made = [Job(source, output) for source, _ in found]
    else:
        made = [
            Job(source, output / place.with_name(f"{place.stem}{suffix}{extension or place.suffix}"))
            for source, place in found
        ]
    _refuse_losses(made, read, compare)
    return made


def ending_of(extension: str) -> str:
    """`png` or `.png` as the ending of a name; UsageError where that is no format."""
    word = extension.removeprefix(".")
    if f".{word.lower()}" not in EXTENSIONS:
        raise UsageError(f"--ext: {word}: choose from {_known_extensions()}")
    return f".{word}"


def _known_extensions() -> str:
    return ", ".join(each.removeprefix(".") for each in EXTENSIONS)


def _made_before(path: Path, output: Path) -> bool:
    """Whether a file under the output is a copy, or one anywhere belongs to a copy."""
    if any(map(_at_work, path.parents)):
        return True
    if not path.name.endswith(STRIP) and output.resolve() not in path.resolve().parents:
        return False
    return _records(path.with_name(path.name.removesuffix(STRIP) + RECORD))


def _at_work(path: Path) -> bool:
    """Whether it is the folder of what is kept while the work lasts."""
    return path.name.endswith(UNFINISHED)


def _records(path: Path) -> bool:
    """Whether a file says how a copy was made."""
    try:
        return path.suffix == RECORD and "settings_hash" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _expanded(given: str) -> list[Path]:
    path = Path(given)
    if not given:
        raise UsageError("an empty name is none of a picture")
    if path.exists():
        if not path.is_file() and not path.is_dir():
            raise UsageError(f"{path}: not a regular file")
        return [path]
    pattern = set(given) & set(WILD)
    matches = [Path(match) for match in sorted(glob.glob(given, recursive=True)) if pattern]  # noqa: PTH207
    if not matches:
        raise UsageError(f"{given}: no such file or folder")
    return matches


def _picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and path.is_file()


def _refuse_losses(made: list[Job], read: Sequence[Path], compare: bool) -> None:
    sources = {path.resolve() for path in (*(job.source for job in made), *read)}
    targets: dict[Path, Path] = {}
    for job in made:
        for path in job.made(compare=compare):
            target = path.resolve()
            if target in sources:
                raise UsageError(f"{path}: this is an input; name another output, or add --suffix")
            if other := targets.get(target):
                raise UsageError(f"{other} and {job.source} would both become {path}; restore them one by one")
            targets[target] = job.source
