"""A study for optuna-dashboard: a copy of its database, with the restored pictures of its trials as artifacts."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from uuid import uuid4

import optuna
from optuna.artifacts import FileSystemArtifactStore

from dipsearch import catalog
from dipsearch.error import DipsearchError, UsageError
from dipsearch.run import RunStore, judged_by, key_of
from dipsearch.search.evidence import read_study
from dipsearch.search.ledger import address


def prepare(folder: Path, store: RunStore) -> tuple[str, FileSystemArtifactStore, int]:
    """Copy a study to its folder dashboard/, with the pictures of its trials.

    The copy is made anew each time, so that nothing that is looked at or changed there touches a search at work.

    Args:
        folder: of the study (study.db, config.yaml).
        store: of the search's runs.

    Returns:
        The copy's address, the artifacts, and how many pictures there are.

    Raises:
        UsageError: the study cannot be read.
        DipsearchError: the copy cannot be written.
    """
    config = catalog.read_yaml(folder / "config.yaml")
    try:
        task, protocol, seen = str(config["task"]["name"]), config["protocol"], set(config["pictures"])
    except (TypeError, KeyError):
        raise UsageError(f"{folder / 'config.yaml'}: it does not say of which task the study is") from None
    stored = read_study(folder)
    copy = folder / "dashboard"
    shutil.rmtree(copy, ignore_errors=True)
    try:
        (copy / "artifacts").mkdir(parents=True)
    except OSError as error:
        raise DipsearchError(f"{copy}: {error.strerror or error}") from None
    artifacts, url = FileSystemArtifactStore(copy / "artifacts"), address(copy / "study.db")
    storage = optuna.storages.RDBStorage(url)
    study = optuna.create_study(storage=storage, study_name=stored.name, directions=stored.directions)
    pictures, added = _pictures(store, task, protocol, seen), 0
    for trial in stored.trials:
        held = {}
        for path in pictures.get(str(trial.user_attrs.get("subject")), []):
            key = uuid4().hex
            with path.open("rb") as file:
                artifacts.write(key, file)
            # as optuna.artifacts.upload_artifact has it, which takes no trial that has ended
            said = {"artifact_id": key, "filename": path.name, "mimetype": "image/png", "encoding": None}
            held[f"artifacts:{key}"] = json.dumps(said)
        shown = deepcopy(trial)
        shown.system_attrs = {**trial.system_attrs, **held}
        study.add_trial(shown)
        added += len(held)
    storage.remove_session()
    storage.engine.dispose()
    return url, artifacts, added


def _pictures(store: RunStore, task: str, protocol: str, digests: set[str]) -> dict[str, list[Path]]:
    """The restored pictures of a search of a task under a protocol, of clean pictures of some digests, by what was
    judged."""
    pictures: dict[str, list[Path]] = {}
    for run in store.load(task)[0]:
        path = store.path_of(task, run["image"], key_of(run)).with_suffix(".png")
        mine = run["protocol"] == protocol and run["digest"] in digests and run["purpose"] == "search"
        if mine and run["genome_key"] and path.exists():
            pictures.setdefault(judged_by(run), []).append(path)
    return pictures
