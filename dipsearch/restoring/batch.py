"""Files to restore, and where the results go: nothing is overwritten, lost or done twice."""

import glob
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipsearch.atomic import write_atomically
from dipsearch.dataset import sha256
from dipsearch.error import UsageError
from dipsearch.image import EXTENSIONS
from dipsearch.run import hashed

WILD = "*?["


@dataclass(frozen=True)
class Job:
    """A picture's file, and that of its restored copy."""

    source: Path
    target: Path

    @property
    def record(self) -> Path:
        """The file that says how the copy was made."""
        return self.target.with_name(f"{self.target.name}.json")

    @property
    def unfinished(self) -> Path:
        """The folder of what is kept while the work lasts."""
        return self.target.with_name(f"{self.target.name}.unfinished")

    @property
    def preview(self) -> Path:
        """The file that shows how far it is."""
        return self.target.with_name(f"{self.target.stem}_preview.png")

    @property
    def strip(self) -> Path:
        """The file that shows the picture before and after."""
        return self.target.with_name(f"{self.target.stem}_compare.png")

    def done(self, settings: dict[str, Any]) -> bool:
        """Whether the copy exists as these settings make it, by its record."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            same = record["settings_hash"] == hashed(settings) and record["complete"]
            return bool(same) and record["output_sha256"] == sha256(self.target)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def tidy(self) -> None:
        """Remove what was kept while the work lasted."""
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self.preview.unlink(missing_ok=True)

    def write_record(self, settings: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
        """Say beside the copy how it was made."""
        record = {
            "input": str(self.source),
            "output": str(self.target),
            **told,
            "settings": settings,
            "settings_hash": hashed(settings),
            "output_sha256": sha256(self.target),
        }
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.record, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return record


def jobs(
    inputs: Sequence[str], output: Path, *, recursive: bool = False, suffix: str = "", extension: str = ""
) -> list[Job]:
    """What is to be done.

    Args:
        inputs: files, folders, and patterns such as `*.png` that no shell has expanded.
        output: a folder; for one file, it may be a file (it has the extension of a picture, and is no folder).
        recursive: folders within folders, too.
        suffix: added to names.
        extension: of the copies, such as `.png`; empty: that of the source.

    Raises:
        UsageError: an input does not exist or holds no picture, or a copy would be an input or another copy.
    """
    found: list[tuple[Path, Path]] = []  # a file, and its place under the output
    for given in inputs:
        for path in _expanded(given):
            if path.is_dir():
                entries = sorted(path.rglob("*") if recursive else path.iterdir())
                inside = [entry for entry in entries if _picture(entry)]
                if not inside:
                    raise UsageError(f"{path}: no picture in this folder; known extensions: {', '.join(EXTENSIONS)}")
                found += [(entry, entry.relative_to(path)) for entry in inside]
            else:
                found.append((path, Path(path.name)))
    file = not output.is_dir() and (output.suffix.lower() in EXTENSIONS or output.exists())
    if file and len(found) > 1:
        raise UsageError(f"{output}: several pictures need a folder")
    if file:
        made = [Job(found[0][0], output)]
    else:
        made = [
            Job(source, output / place.with_name(f"{place.stem}{suffix}{extension or place.suffix}"))
            for source, place in found
        ]
    _refuse_losses(made)
    return made


def _expanded(given: str) -> list[Path]:
    path = Path(given)
    if path.exists():
        return [path]
    pattern = set(given) & set(WILD)
    matches = [Path(match) for match in sorted(glob.glob(given, recursive=True)) if pattern]  # noqa: PTH207
    if not matches:
        raise UsageError(f"{given}: no such file or folder")
    return matches


def _picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and path.is_file()


def _refuse_losses(made: list[Job]) -> None:
    sources = {job.source.resolve() for job in made}
    targets: dict[Path, Path] = {}
    for job in made:
        target = job.target.resolve()
        if target in sources:
            raise UsageError(f"{job.target}: this is an input; name another output, or add --suffix")
        if other := targets.get(target):
            raise UsageError(f"{other} and {job.source} would both become {job.target}; restore them one by one")
        targets[target] = job.source
