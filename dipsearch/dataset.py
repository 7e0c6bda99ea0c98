"""Data sets of published tables: pictures by name (`set9:house`), fetched once and checked whenever they are used.

A data set is a YAML file under `datasets/`: its files, with what they are called at their source and their SHA-256.
None is part of this package: `dipsearch data fetch NAME` brings one, or `DIPSEARCH_DATA` names a folder that holds
them as NAME/FILE (a dash of the name may be an underscore there).
"""

import hashlib
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dipsearch import catalog
from dipsearch.error import DipsearchError, UsageError, unknown

VARIABLE = "DIPSEARCH_DATA"
TIMEOUT = 30  # seconds without a byte
TRIES = 3


class DataFile(BaseModel):
    """One file: its path at the source, and what it contains."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str = Field(alias="from")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class DataSet(BaseModel):
    """Pictures of one published table, with where they come from and what is known of their licence."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    about: str
    source: str
    licence: str
    url: str = Field(description="what the files' paths at the source are relative to")
    files: dict[str, DataFile] = Field(min_length=1)

    @property
    def pictures(self) -> dict[str, str]:
        """The file of each picture, by the picture's name."""
        return {file.rsplit(".", 1)[0]: file for file in self.files}


def load_dataset(name: str) -> DataSet:
    """A data set by name; UsageError names the choices."""
    return catalog.load_named("datasets", name, DataSet.model_validate)


def data_folder() -> Path:
    """Where data sets are looked for: `DIPSEARCH_DATA`, or a folder of the user's cache."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    return Path(cache or Path.home() / ".cache") / "dipsearch"


def is_data(name: str) -> bool:
    """Whether a picture's name is one of a data set: `SET:PICTURE`."""
    of, colon, _ = name.partition(":")
    return bool(colon) and of in catalog.names("datasets")


def expand(name: str) -> list[str]:
    """`SET:` to the names of all its pictures; `SET:PICTURE` to itself."""
    of, _, picture = name.partition(":")
    return [name] if picture else [f"{of}:{each}" for each in load_dataset(of).pictures]


def locate(name: str) -> Path:
    """The file of a picture `SET:PICTURE`, checked.

    UsageError where there is no such picture, where it was not fetched yet, or where the file is another one.
    """
    of, _, picture = name.partition(":")
    dataset = load_dataset(of)
    if picture not in dataset.pictures:
        raise UsageError(unknown(f"picture of {of}", picture, dataset.pictures))
    file = dataset.pictures[picture]
    path = _folder_of(dataset, data_folder()) / file
    if not path.exists():
        own = f" --data-dir {shlex.quote(os.environ[VARIABLE])}" if os.environ.get(VARIABLE) else ""
        raise UsageError(f"{name}: not fetched yet ({path}); run: dipsearch data fetch {of}{own}")
    if sha256(path) != dataset.files[file].sha256:
        raise UsageError(f"{path}: not the published file (its SHA-256 differs); remove it and fetch {of} again")
    return path


def missing(dataset: DataSet, folder: Path) -> list[str]:
    """The files that a folder lacks, or holds with other contents."""
    inside = _folder_of(dataset, folder)
    return [
        file
        for file, entry in dataset.files.items()
        if not (inside / file).exists() or sha256(inside / file) != entry.sha256
    ]


def fetch(
    dataset: DataSet, folder: Path, watch: Callable[[int, int, str], None] = lambda done, total, file: None
) -> list[str]:
    """Download what a folder lacks; the files that came. A file that is there and right is not asked for again.

    `watch` is told how many of how many files are done, and the newest.

    Raises:
        DipsearchError: a file could not be had, or is not the published one; those that came before it are kept.
    """
    try:
        import pooch
    except ImportError:
        raise DipsearchError("fetching data sets needs pooch: pip install 'dipsearch[data]'") from None
    pooch.get_logger().setLevel("CRITICAL")
    wanted, inside = missing(dataset, folder), _folder_of(dataset, folder)
    for file in wanted:
        entry = dataset.files[file]
        url = dataset.url + entry.source
        try:
            inside.mkdir(parents=True, exist_ok=True)
            _retrieve(pooch, url, f"sha256:{entry.sha256}", file, inside)
        except ValueError:
            raise DipsearchError(f"{url}: not the published file (its SHA-256 differs)") from None
        except OSError as error:  # those of requests are OSErrors, too
            reason = " ".join(str(error).split())[:200]
            raise DipsearchError(f"{url}: cannot be fetched: {reason}; the same command goes on from here") from None
        watch(len(dataset.files) - len(wanted) + wanted.index(file) + 1, len(dataset.files), file)
    return wanted


def _retrieve(pooch: Any, url: str, known_hash: str, file: str, folder: Path) -> None:
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT) if url.startswith("http") else None
    for attempt in range(1, TRIES + 1):
        try:
            pooch.retrieve(url, known_hash, fname=file, path=folder, downloader=downloader)
        except (OSError, ValueError):  # a truncated file has another hash
            if attempt == TRIES:
                raise
        else:
            return


def _folder_of(dataset: DataSet, folder: Path) -> Path:
    """The data set's own folder inside a folder of data sets."""
    written = folder / dataset.name.replace("-", "_")
    return written if written.is_dir() else folder / dataset.name


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal; UsageError where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
