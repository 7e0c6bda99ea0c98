"""Runs: the record of one fit, and the store that keeps one JSON file for each.

A run's name is made of its inputs, so a run that exists is never repeated: that is resume, sharing and
merging at once. A file appears whole or not at all.
"""

import csv
import functools
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dipsearch.atomic import write_atomically
from dipsearch.error import UsageError

if TYPE_CHECKING:  # the store reads and writes records; only what makes them needs torch
    from torch import Tensor

    from dipsearch.fitting.loop import Fit

SCHEMA = 1
OK = "ok"
RESULTS = Path("results")  # where commands put what they make


def out_option(folder: Path) -> list[str]:
    """What a command has to say so that it looks into this folder; nothing where commands do so anyway."""
    return [] if folder == RESULTS else ["--out", str(folder)]


def hashed(data: Any) -> str:
    """16 hexadecimal digits of plain data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Run:
    """One fit, or one classical baseline: what went in, what came out, where, how long.

    `protocol` identifies everything but the genome, the picture and the seeds: runs of one protocol
    are comparable. `recipe_changes`, which a search over recipes finds, belong to the genome and not to the
    protocol, so that genomes that bring their own can be ranked. PSNR in dB and SSIM under `metric`; `psnr` is
    the honest result, `oracle_psnr` is not.
    """

    task: str
    purpose: str  # "search", "rerun" or "reproduce"
    preset: str
    protocol: str
    setting: dict[str, Any]  # what `protocol` is a hash of
    metric: str
    image: str
    digest: str
    repeat: int
    study_seed: int
    seed: int  # of this instance: made of study seed, picture and repeat
    name: str  # of the genome or baseline, for people
    genome_key: str | None  # None: a baseline
    genome: dict[str, Any] | None
    summary: str
    status: str = OK
    reason: str = ""
    psnr: float | None = None
    ssim: float | None = None
    oracle_psnr: float | None = None
    oracle_iteration: int | None = None
    iterations: int = 0
    chosen: int = 0
    stop_reason: str = ""
    rollbacks: int = 0
    non_finite: int = 0  # losses that were not finite numbers
    seconds: float = 0.0
    parameters: int = 0
    gflop: float = 0.0
    device: str = "cpu"
    precision: str = ""
    held_out: float | None = None  # dB, as PSNR, of held-out values of the observation, its noise included
    objective: str = "psnr"  # what a search judges by
    recipe_changes: dict[str, Any] | None = None  # values found with the genome, in place of the protocol's
    final_psnr: float | None = None  # of the averaged output at the last iteration, whatever the rule says
    raw_psnr: float | None = None  # of the last output itself
    uncertainty: float | None = None  # mean over values of the standard deviation, of samples or an ensemble
    machine: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, allow_inf_nan=False)  # of records that are read

    @property
    def key(self) -> str:
        """What makes this run the same as another: its inputs."""
        return key_of(vars(self))


def subject_of(key: str, recipe_changes: dict[str, Any] | None) -> str:
    """What a run judges: a genome by its key (a baseline by its name), or a genome with a recipe of its own."""
    return hashed([key, recipe_changes]) if recipe_changes else key


def key_of(run: Mapping[str, Any]) -> str:
    """The key of a run's record."""
    return run_key(run["protocol"], judged_by(run), run["digest"], run["seed"])


def judged_by(run: Mapping[str, Any]) -> str:
    """The subject of a run's record."""
    return subject_of(run["genome_key"] or run["name"], run["recipe_changes"])


def picture_of(image: str) -> str:
    """A picture's own name: without what says where it is."""
    return image.split(":")[-1].split("/")[-1]


def run_key(protocol: str, subject: str, digest: str, seed: int) -> str:
    """The key of a run: protocol, subject, picture and seed."""
    return hashed([SCHEMA, protocol, subject, digest, seed])


BESIDE = (".csv", ".png", ".uncertainty.png", ".frames.png")  # files of a run beside its record
FIELDS = {entry.name: entry for entry in fields(Run)}
LATER = {name: FIELDS[name] for name in (
    "non_finite", "precision", "uncertainty", "held_out", "recipe_changes", "final_psnr", "raw_psnr", "objective",
)}  # fmt: skip


class RunStore:
    """Runs under a folder: TASK/IMAGE-KEY.json, with a curve (.csv) and a thumbnail (.png) beside it.

    An ensemble's, and one with posterior samples, has a map of its uncertainty, too (.uncertainty.png), and runs of
    other purposes than a search their progress frames (.frames.png). Observations and clean pictures are under
    TASK/pictures/.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, tuple[int, dict[str, list[Path]]]] = {}  # of a task: the folder's time, files by key

    def look_again(self) -> None:
        """Forget which files there are: what another process wrote while this one saved a run is seen from now on."""
        self._files.clear()

    def find(self, task: str, key: str) -> dict[str, Any] | None:
        """The run with this key, or None. A file that does not parse counts as absent, and is replaced."""
        for path in self._by_key(task).get(key, []):
            if run := read_run(path):
                return run
        return None

    def take_over(self, run: Run) -> dict[str, Any] | None:
        """The run of another task that is the same fit as this one would be, made this task's, too, with what lies
        beside it; None where there is none. Tables that share a protocol share its fits."""
        for folder in sorted(path for path in self.root.glob("*") if path.is_dir() and path.name != run.task):
            found = self.find(folder.name, run.key)
            if found is None or found["status"] != OK:
                continue
            source = self.path_of(folder.name, found["image"], run.key)
            target = self.path_of(run.task, run.image, run.key)
            mine = {name: getattr(run, name) for name in ("task", "purpose", "preset", "image", "name")}
            beside = [(source.with_suffix(suffix), target.with_suffix(suffix)) for suffix in BESIDE]
            pictures = zip(self.pictures_of(found).values(), self.pictures_of(found | mine).values(), strict=True)
            for old, new in (*beside, *pictures):
                if old.exists():
                    write_atomically(new, lambda temporary, old=old: shutil.copyfile(old, temporary))  # type: ignore[misc]
            self.save(Run(**{name: (found | mine)[name] for name in FIELDS}))
            return self.find(run.task, run.key)
        return None

    def _by_key(self, task: str) -> dict[str, list[Path]]:
        """The files of a task's runs; the folder is read again where another process has changed it."""
        folder = self.root / task
        try:
            changed = folder.stat().st_mtime_ns
        except OSError:
            return {}
        known = self._files.get(task)
        if known is None or known[0] != changed:
            files: dict[str, list[Path]] = {}
            for path in folder.glob("*.json"):
                files.setdefault(path.stem.rpartition("-")[2], []).append(path)
            known = self._files[task] = (changed, files)
        return known[1]

    def unfinished(self, task: str, key: str) -> Path:
        """Where the state of a long fit is kept until its run is saved."""
        return self.root / task / f"{key}.unfinished"

    def path_of(self, task: str, image: str, key: str) -> Path:
        """Where the record of a run is kept."""
        stem = "".join(letter if letter.isalnum() else "_" for letter in picture_of(image))[:40]
        return self.root / task / f"{stem}-{key}.json"

    def load(self, task: str) -> tuple[list[dict[str, Any]], list[Path]]:
        """All runs of a task, and the files that could not be read as runs."""
        runs, broken = [], []
        for path in sorted((self.root / task).glob("*.json")):
            run = read_run(path)
            if run is None:
                broken.append(path)
            else:
                runs.append(run)
        return runs, broken

    def pictures_of(self, run: Mapping[str, Any]) -> dict[str, Path]:
        """Where the pictures of a run's instance are kept, once for all its runs: `observation`, `truth`."""
        folder = self.root / run["task"] / "pictures"
        return {kind: folder / f"{run['digest']}-{run['seed']}.{kind}.png" for kind in ("observation", "truth")}

    def keep_pictures(self, run: Run, pictures: "dict[str, Tensor | None]") -> None:
        """Write small pictures of a run's instance, if they are not there."""
        from dipsearch.image import thumbnail

        for kind, path in self.pictures_of(asdict(run)).items():
            if (x := pictures[kind]) is not None and not path.exists():
                write_atomically(path, lambda temporary, x=x: thumbnail(x, temporary))  # type: ignore[misc]

    def save(
        self, run: Run, fit: "Fit | None" = None, *, x: "Tensor | None" = None, seen: "list[Tensor] | None" = None
    ) -> Path:
        """Write a run: what there is of curve, thumbnail (of the fit, or of `x`) and progress frames first, the record
        last and atomically."""
        from dipsearch.image import thumbnail

        path = self.path_of(run.task, run.image, run.key)
        known = self._by_key(run.task)
        if (restored := x if fit is None else fit.x) is not None:
            write_atomically(path.with_suffix(".png"), lambda temporary: thumbnail(restored, temporary))
        if fit is not None:
            write_atomically(path.with_suffix(".csv"), lambda temporary: _write_curve(fit.curve, temporary))
            if (map_ := fit.uncertainty) is not None:  # white: the largest
                shown = map_ / map_.max().clamp(min=1e-12)
                write_atomically(path.with_suffix(".uncertainty.png"), lambda temporary: thumbnail(shown, temporary))
        if seen:
            from dipsearch.frames import write_strip

            write_atomically(path.with_suffix(".frames.png"), lambda temporary: write_strip(seen, temporary))
        record = asdict(run) | {"created": datetime.now(UTC).isoformat(timespec="seconds")}
        text = json.dumps(record, indent=1, allow_nan=False, sort_keys=True)
        write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
        if path not in known.setdefault(run.key, []):
            known[run.key].append(path)
        self._files[run.task] = (path.parent.stat().st_mtime_ns, known)  # read again only after others' changes
        return path


def read_run(path: Path) -> dict[str, Any] | None:
    """A run's record, or None where the file is not a whole run of this schema."""
    try:
        return parse_run(path.read_bytes())
    except OSError:
        return None


def parse_run(content: bytes) -> dict[str, Any] | None:
    """As `read_run`, of a file's content."""
    try:
        run = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(run, dict) or run.get("schema") != SCHEMA:
        return None
    defaults = {name: entry.default for name, entry in LATER.items()}  # in runs from before these were known
    whole = defaults | run
    if not whole.keys() >= FIELDS.keys():
        return None
    try:
        _validator().validate_json(content)  # strict: of Python data it would only take a Run
    except ValidationError:
        return None
    return whole if whole["genome_key"] != "" and (whole["genome_key"] is None) == (whole["genome"] is None) else None


@functools.cache
def _validator() -> TypeAdapter[Run]:
    return TypeAdapter(Run)


def _write_curve(curve: dict[str, list[float]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(curve)
        writer.writerows(zip(*curve.values(), strict=True))


def read_curve(path: Path) -> dict[str, list[float]]:
    """The curve beside a run's record at `path`, its columns by name; UsageError where there is none."""
    curve = path.with_suffix(".csv")
    try:
        with curve.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{curve}: no readable curve of a run") from None


def environment() -> dict[str, Any]:
    """The machine and the versions that made a run."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        **{package: package_version(package) for package in ("dipsearch", "torch", "optuna", "numpy")},
    }


@functools.cache
def package_version(package: str) -> str:
    """The installed version, or "unknown" (a checkout that was never installed)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
