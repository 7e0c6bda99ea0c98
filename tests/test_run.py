import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dipsearch.atomic import leftovers, write_atomically
from dipsearch.error import DipsearchError
from dipsearch.fitting.loop import Fit
from dipsearch.run import OK, SCHEMA, Run, RunStore, environment, hashed, run_key

ROOT = Path(__file__).resolve().parent.parent


def run_of(**fields):
    values = {
        "task": "denoise",
        "purpose": "rerun",
        "preset": "quick",
        "protocol": "0123456789abcdef",
        "setting": {"metric": "rgb", "recipe": {"iterations": 20}},
        "metric": "rgb",
        "image": "skimage:coffee",
        "digest": "00ff00ff00ff00ff",
        "repeat": 0,
        "study_seed": 0,
        "seed": 5,
        "name": "small",
        "genome_key": "aaaa",
        "genome": {"family": "hourglass", "depth": 1},
        "summary": "hourglass 1 x 4",
        "psnr": 25.123456789012345,
        "ssim": 0.75,
        "oracle_psnr": 26.5,
        "oracle_iteration": 10,
        "iterations": 20,
        "chosen": 20,
        "stop_reason": "budget",
        "seconds": 1.5,
        "parameters": 1234,
        "gflop": 0.5,
        "machine": environment(),
    }
    return Run(**(values | fields))


def fit_of():
    curve = {"iteration": [10, 20], "loss": [0.5, 0.25], "psnr": [20.0, 21.0]}
    return Fit(torch.full((1, 3, 20, 24), 0.5), 20, 20, "budget", 25.0, None, curve, 1.5, 0, 0, "cpu", "float32")


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def strict(text):
    """JSON without the NaN and Infinity that Python would let pass."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


# The round trip


def test_a_saved_run_is_found_and_loaded(tmp_path):
    store, run = RunStore(tmp_path), run_of()
    assert store.find("denoise", run.key) is None
    assert store.load("denoise") == ([], [])
    path = store.save(run)
    found = store.find("denoise", run.key)
    assert found is not None
    assert found == asdict(run) | {"created": found["created"]}
    assert found["psnr"] == 25.123456789012345
    assert store.load("denoise") == ([found], [])
    assert path == tmp_path / "denoise" / f"coffee-{run.key}.json"
    assert files_in(tmp_path) == [path.name]


def test_a_run_belongs_to_its_task(tmp_path):
    store, run = RunStore(tmp_path), run_of()
    store.save(run)
    assert store.find("inpaint", run.key) is None
    assert store.load("inpaint") == ([], [])


def test_another_key_is_not_found(tmp_path):
    store = RunStore(tmp_path)
    store.save(run_of())
    assert store.find("denoise", run_of(seed=6).key) is None


def test_a_run_is_strict_json_and_says_when_it_was_made(tmp_path):
    path = RunStore(tmp_path).save(run_of())
    record = strict(path.read_text())
    assert record["created"].endswith("+00:00") and record["created"].startswith("20")
    assert record["schema"] == SCHEMA and record["status"] == OK
    assert record["machine"]["cores"] >= 1 and record["machine"]["torch"]


def test_a_curve_and_a_thumbnail_lie_beside_a_run(tmp_path):
    path = RunStore(tmp_path).save(run_of(), fit_of())
    stem = path.name.removesuffix(".json")
    assert files_in(tmp_path) == [f"{stem}.csv", f"{stem}.json", f"{stem}.png"]
    with path.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [0.5, 0.25]
    assert [float(row["psnr"]) for row in rows] == [20.0, 21.0]
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.size == (24, 20) and picture.getpixel((0, 0)) == (128, 128, 128)


def test_a_run_that_is_taken_over_brings_all_that_lies_beside_it(tmp_path):
    store, run = RunStore(tmp_path), run_of()
    store.save(run, fit_of())
    store.keep_pictures(run, {"observation": torch.full((1, 3, 20, 24), 0.25), "truth": None})
    mine = run_of(task="table", name="mine", psnr=None)
    taken = store.take_over(mine)
    assert (taken["task"], taken["name"], taken["psnr"]) == ("table", "mine", run.psnr)
    there = {path.relative_to(tmp_path / "denoise") for path in tmp_path.glob("denoise/**/*.*")}
    assert {path.relative_to(tmp_path / "table") for path in tmp_path.glob("table/**/*.*")} == there
    assert len(there) == 4


def test_a_run_saved_twice_is_one_file_and_the_last_one_counts(tmp_path):
    store = RunStore(tmp_path)
    store.save(run_of(psnr=20.0))
    store.save(run_of(psnr=30.0))
    runs, broken = store.load("denoise")
    assert [run["psnr"] for run in runs] == [30.0] and broken == []


@pytest.mark.parametrize("image", ["skimage:coffee", "/some/where/my picture.png", "../../x.png", "é/ü*?[a].png", ""])
def test_any_picture_name_makes_a_file_name_in_the_tasks_folder(tmp_path, image):
    store, run = RunStore(tmp_path), run_of(image=image)
    path = store.save(run)
    assert path.parent == tmp_path / "denoise"
    assert store.find("denoise", run.key)["image"] == image


def test_a_failure_is_a_run_too(tmp_path):
    store, run = RunStore(tmp_path), run_of(status="diverged", reason="the loss", psnr=None, ssim=None)
    store.save(run)
    assert store.find("denoise", run.key)["status"] == "diverged"


@pytest.mark.parametrize("field", ["psnr", "ssim", "oracle_psnr", "seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_never_written(tmp_path, field, value):
    with pytest.raises(ValueError):
        RunStore(tmp_path).save(run_of(**{field: value}))
    assert files_in(tmp_path) == []


# The key


@pytest.mark.parametrize("field", ["protocol", "genome_key", "digest", "recipe_changes"])
def test_the_key_depends_on(field):
    assert run_of(**{field: "other"}).key != run_of().key


def test_the_key_depends_on_the_seed():
    assert run_of(seed=6).key != run_of().key


@pytest.mark.parametrize(
    "change",
    [
        {"task": "inpaint"},
        {"purpose": "search"},
        {"preset": "paper"},
        {"setting": {}},
        {"metric": "gray"},
        {"image": "elsewhere/coffee.png"},
        {"repeat": 3},
        {"name": "another"},
        {"genome": {"family": "unet"}},
        {"summary": ""},
        {"status": "diverged"},
        {"psnr": 1.0, "ssim": None, "oracle_psnr": 2.0},
        {"machine": {}, "device": "cuda", "seconds": 9.0},
        {"created": "2001-01-01T00:00:00+00:00"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_key_does_not_depend_on(change):
    assert replace(run_of(), **change).key == run_of().key


def test_the_key_of_a_baseline_depends_on_its_name():
    first, second = run_of(genome_key=None, name="bicubic"), run_of(genome_key=None, name="biharmonic")
    assert first.key != second.key
    assert first.key == run_key(first.protocol, "bicubic", first.digest, first.seed)


def test_keys_are_stable_between_machines():
    assert hashed({"b": [1, 2.5], "a": "é"}) == hashed({"a": "é", "b": [1, 2.5]})
    assert hashed([1, "a"]) == "4a72386a027702c1"
    assert run_key("p", "g", "d", 1) == hashed([SCHEMA, "p", "g", "d", 1])


# Files that are broken


GARBAGE = {
    "empty": b"",
    "truncated": b'{"schema": 1, "psnr": 2',
    "bytes": b"\xff\xfe\x00\x01",
    "list": b"[1, 2]",
    "null": b"null",
    "another schema": b'{"schema": 999}',
    "nested": b"[" * 200_000,
    "no run": b'{"schema": 1}',
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_a_broken_file_counts_as_absent_and_is_reported(tmp_path, garbage):
    store, run = RunStore(tmp_path), run_of()
    whole = store.save(run_of(seed=6))
    path = store.save(run)
    path.write_bytes(garbage)
    assert store.find("denoise", run.key) is None
    runs, broken = store.load("denoise")
    assert [found["seed"] for found in runs] == [6] and broken == [path]
    store.save(run)  # what is absent is made again
    assert store.find("denoise", run.key)["psnr"] == run.psnr
    assert store.load("denoise")[1] == []
    assert whole.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"psnr": "high"}, {"psnr": True}, {"setting": None}, {"genome_key": {}}, {"genome_key": ""}, {"genome": None},
        {"iterations": None}, {"seconds": None}, {"machine": None}, {"seed": 1.5}, {"name": 7},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_that_holds_other_things_is_broken(tmp_path, change):
    store, run = RunStore(tmp_path), run_of()
    path = store.save(run)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert store.load("denoise") == ([], [path])


def test_numbers_beyond_all_bounds_are_broken(tmp_path):
    store = RunStore(tmp_path)
    path = store.save(run_of(psnr=25.5))
    assert store.load("denoise")[1] == []
    path.write_text(path.read_text().replace('"psnr": 25.5', '"psnr": 1e999'))
    assert store.load("denoise")[1] == [path]


def test_what_another_process_wrote_meanwhile_is_seen(tmp_path, monkeypatch):
    mine, other, late = RunStore(tmp_path), RunStore(tmp_path), run_of(seed=2)
    mine.save(run_of(seed=1))
    write = write_atomically

    def interrupted(path, *rest):
        monkeypatch.undo()
        other.save(late)  # while this one is under way
        write(path, *rest)

    monkeypatch.setattr("dipsearch.run.write_atomically", interrupted)
    mine.save(run_of(seed=3))
    mine.look_again()
    assert mine.find("denoise", late.key) is not None


def test_every_cut_of_a_run_file_is_broken(tmp_path):
    store, run = RunStore(tmp_path), run_of()
    path = store.save(run)
    text = path.read_bytes()
    for end in range(0, len(text) - 2, 97):
        path.write_bytes(text[:end])
        assert store.find("denoise", run.key) is None
        assert store.load("denoise") == ([], [path])


def test_a_folder_in_a_files_place_is_reported(tmp_path):
    store, run = RunStore(tmp_path), run_of()
    folder = tmp_path / "denoise" / f"coffee-{run.key}.json"
    folder.mkdir(parents=True)
    assert store.find("denoise", run.key) is None
    assert store.load("denoise") == ([], [folder])


# Atomic writing


def test_a_file_appears_whole_under_its_name(tmp_path):
    seen = []

    def write(temporary):
        temporary.write_text("half")
        seen.append((path.read_text(), files_in(tmp_path)))
        temporary.write_text("whole")

    path = tmp_path / "deep" / "file.txt"
    write_atomically(path, lambda temporary: temporary.write_text("before"))
    write_atomically(path, write)
    (before, during), after = seen[0], files_in(tmp_path)
    assert before == "before" and len(during) == 2
    assert path.read_text() == "whole" and after == ["file.txt"]
    assert leftovers(path) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions of another kind")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_written_file_has_the_permissions_of_the_users_new_files(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "file.txt", lambda temporary: temporary.write_text("x"))
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError(), KeyboardInterrupt(), ValueError("no")]
)
def test_a_write_that_fails_leaves_what_was_there(tmp_path, error):
    def write(temporary):
        temporary.write_text("half")
        raise error

    path = tmp_path / "file.txt"
    path.write_text("before")
    with pytest.raises(DipsearchError if isinstance(error, OSError) else type(error)) as caught:
        write_atomically(path, write)
    assert path.read_text() == "before" and files_in(tmp_path) == ["file.txt"]
    if isinstance(error, OSError):
        assert str(caught.value) == f"{path}: cannot be written: {error.strerror or 'OSError'}"


@pytest.mark.skipif(os.name != "posix", reason="no such files elsewhere")
def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "null"
    os.mkfifo(pipe)
    link.symlink_to(os.devnull)
    for path in (pipe, link):
        with pytest.raises(DipsearchError, match="cannot be written: not a regular file"):
            write_atomically(path, lambda temporary: temporary.write_text("x"))
    assert pipe.is_fifo() and link.is_symlink()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "denoise").write_text("a file")
    with pytest.raises(DipsearchError, match=r"denoise.*cannot be written"):
        RunStore(tmp_path).save(run_of())


FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from dipsearch.error import DipsearchError
from dipsearch.run import Run, RunStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = Run(**json.loads(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
try:
    RunStore(Path(sys.argv[1])).save(run)
except DipsearchError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_behind_and_is_said(tmp_path):
    pytest.importorskip("resource")
    ended = subprocess.run(
        [sys.executable, "-B", "-c", FULL_DISK, str(tmp_path), json.dumps(asdict(run_of()))],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    file = tmp_path / "denoise" / f"coffee-{run_of().key}.json"
    assert ended.stdout.startswith(f"{file}: cannot be written: ")
    assert len(ended.stdout.splitlines()) == 1
    assert files_in(tmp_path) == []
