"""Runs packed into one file and merged elsewhere."""

import io
import json
import lzma
import os
import shutil
import tarfile

import pytest
from fits import GENOME, tiny

from dipsearch import parcel
from dipsearch.cli import main
from dipsearch.error import UsageError
from dipsearch.parcel import Merged, Packed, merge, pack
from dipsearch.run import RunStore
from dipsearch.search.evaluation import Paused, Protocol
from dipsearch.task import load_task


def fits(room):
    """The tiny task's protocol, and an instance."""
    task = load_task(str(room / "task.yaml"))
    protocol = Protocol(task, task.search["quick"], "quick", "search", task.recipe_for(task.search["quick"]), "cpu")
    (instance,) = protocol.observe([task.images.search[0]], seed=0, repeats=1)
    return protocol, instance


def store_with(room, folder, *genomes):
    """A store of runs of the tiny task."""
    protocol, instance = fits(room)
    store = RunStore(folder)
    for number, genome in enumerate(genomes):
        protocol.evaluate(store, f"genome {number}", genome, instance)
    return store


def contents(store):
    return {path.relative_to(store.root): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


@pytest.fixture
def packed(room, tmp_path):
    store = store_with(room, tmp_path / "runs", GENOME, tiny(channels_skip=2))
    assert pack(store, tmp_path / "two.tar.xz", []) == Packed(2)
    return store, tmp_path / "two.tar.xz"


def test_runs_arrive_as_they_left(packed, tmp_path):
    store, file = packed
    other = RunStore(tmp_path / "other")
    assert merge(other, file) == Merged(new=2, known=0, unreadable=0)
    expected = {path: content for path, content in contents(store).items() if path.suffix in (".json", ".csv")}
    assert contents(other) == expected and len(expected) == 4
    assert merge(other, file) == Merged(new=0, known=2, unreadable=0)
    assert contents(other) == expected


def test_only_what_is_missing_is_added(packed, room, tmp_path):
    _, file = packed
    other = store_with(room, tmp_path / "other", GENOME)
    before = contents(other)
    assert merge(other, file) == Merged(new=1, known=1, unreadable=0)
    assert {path: content for path, content in contents(other).items() if path in before} == before
    assert len(other.load("task")[0]) == 2


def test_a_task_that_has_no_runs_is_told_and_one_that_comes_twice_is_packed_once(packed, tmp_path):
    store, _ = packed
    (task,) = (path.name for path in store.root.iterdir())
    assert pack(store, tmp_path / "some.tar.xz", [task, task]) == Packed(2)
    with pytest.raises(UsageError, match="no runs of typo under"):
        pack(store, tmp_path / "some.tar.xz", [task, "typo"])


def test_tasks_can_be_chosen(packed, tmp_path):
    store, _ = packed
    shutil.copytree(store.root / "task", store.root / "second")
    assert pack(store, tmp_path / "one.tar.xz", ["second"]) == Packed(2)
    with pytest.raises(UsageError, match="no runs of third"):
        pack(store, tmp_path / "none.tar.xz", ["third"])
    assert not (tmp_path / "none.tar.xz").exists()


def parcel_of(path, *entries):
    with tarfile.open(path, "w:xz") as parcel:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            parcel.addfile(entry, io.BytesIO(content))
    return path


def test_a_foreign_parcel_writes_nowhere_else(packed, tmp_path):
    store, _ = packed
    (path, *_) = sorted(store.root.rglob("*.json"))
    run = json.loads(path.read_bytes())
    file = parcel_of(
        tmp_path / "bad.tar.xz",
        ("../../escaped.json", json.dumps(run).encode()),  # a run under a strange name goes where runs go
        ("/etc/absolute.json", json.dumps(run | {"task": "../up"}).encode()),
        ("task/up.json", json.dumps(run | {"task": ".."}).encode()),
        ("task/image.json", json.dumps(run | {"image": ["x"]}).encode()),
        ("task/zero.json", json.dumps(run | {"task": "a\0b"}).encode()),
        ("task/torn.json", b'{"schema": 1'),
        ("task/other.json", b'{"schema": 99}'),
    )
    other = RunStore(tmp_path / "deep" / "er" / "runs")
    assert merge(other, file) == Merged(new=1, known=0, unreadable=6)
    assert list(contents(other)) == [path.relative_to(store.root)]
    assert not list(tmp_path.rglob("escaped*")) and not list((tmp_path / "deep").rglob("up*"))


@pytest.mark.parametrize("content", [b"", b"not a parcel", None])
def test_what_is_no_parcel_is_refused(packed, tmp_path, content):
    _, file = packed
    bad = tmp_path / "bad.tar.xz"
    bad.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    with pytest.raises(UsageError, match=r"bad\.tar\.xz: not a whole parcel of runs"):
        merge(RunStore(tmp_path / "other"), bad)


def test_a_bit_that_flipped_on_the_way_is_noticed(packed, tmp_path):
    _, file = packed
    content = file.read_bytes()
    for place in range(0, len(content), len(content) // 40):
        flipped = tmp_path / "flipped.tar.xz"
        flipped.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        other = RunStore(tmp_path / "other")
        with pytest.raises(UsageError, match="not a whole parcel"):
            merge(other, flipped)
        assert not other.root.exists()


def test_an_interrupted_fit_goes_on_elsewhere(room, tmp_path):
    protocol, instance = fits(room)
    here, there, file = RunStore(tmp_path / "here"), RunStore(tmp_path / "there"), tmp_path / "begun.tar.xz"
    with pytest.raises(Paused, match="kept at iteration 10"):
        protocol.evaluate(here, "tiny", GENOME, instance, until=0)
    with pytest.raises(UsageError, match="no runs"):
        pack(here, file, [])  # states travel where they are asked for
    assert pack(here, file, ["task"], unfinished=True) == Packed(0, 1)
    assert merge(there, file) == Merged(0, 0, 0, unfinished=1)
    assert merge(there, file) == Merged(0, 0, 0)  # nothing newer
    assert contents(there) == contents(here)
    (state,) = there.root.rglob("*.unfinished")
    os.utime(state, (0, 0))
    assert merge(there, file).unfinished == 1
    seen = []
    went_on = protocol.evaluate(there, "tiny", GENOME, instance, lambda iteration, score: seen.append(iteration))
    assert seen == [16] and not state.exists()
    whole = protocol.evaluate(RunStore(tmp_path / "whole"), "tiny", GENOME, instance)
    assert {key: value for key, value in went_on.items() if key not in ("created", "seconds")} == {
        key: value for key, value in whole.items() if key not in ("created", "seconds")
    }
    assert merge(there, file) == Merged(0, 0, 0)  # its run is there


@pytest.mark.parametrize(
    "name", ["../0123456789abcdef", "task/sub/0123456789abcdef", "task/../../x", "0123456789abcdef"]
)
def test_a_foreign_state_writes_nowhere(name, tmp_path):
    file = parcel_of(tmp_path / "bad.tar.xz", (f"{name}.unfinished", b"x"))
    assert merge(RunStore(tmp_path / "a" / "b" / "runs"), file) == Merged(0, 0, 0)
    assert not list(tmp_path.rglob("*.unfinished"))


def test_what_is_no_file_is_not_packed(packed, tmp_path):
    store, _ = packed
    (store.root / "task" / "folder.json").mkdir()
    (store.root / "task" / "dangling.json").symlink_to(tmp_path / "nowhere")
    assert pack(store, tmp_path / "again.tar.xz", []) == Packed(2)


def test_a_fit_that_ends_while_it_is_packed_is_left_out(packed, tmp_path, monkeypatch):
    store, _ = packed
    state = store.unfinished("task", "0123456789abcdef")
    state.write_bytes(b"x")

    def add(opened, path, plain=parcel._add):
        state.unlink(missing_ok=True)
        return plain(opened, path)

    monkeypatch.setattr(parcel, "_add", add)
    assert pack(store, tmp_path / "again.tar.xz", [], unfinished=True) == Packed(2, 0)


def test_what_no_parcel_would_give_back_is_not_packed(packed, tmp_path, monkeypatch):
    (store, file), again = packed, tmp_path / "again.tar.xz"
    whole = len(lzma.decompress(file.read_bytes()))
    monkeypatch.setattr(parcel, "LARGEST", whole - 1)
    with pytest.raises(UsageError, match="pack fewer tasks at once"):
        pack(store, again, [])
    assert not again.exists()
    monkeypatch.setattr(parcel, "LARGEST", whole)
    pack(store, again, [])
    assert merge(RunStore(tmp_path / "there"), again).new == 2


def test_the_command_line_packs_and_merges(packed, tmp_path, capsys):
    store, _ = packed
    out = tmp_path / "results"
    shutil.copytree(store.root, out / "runs")
    file = str(tmp_path / "all.tar.xz")
    assert main(["runs", "pack", file, "--out", str(out)]) == 0
    assert "2 runs" in capsys.readouterr().out
    assert main(["runs", "merge", file, "--out", str(tmp_path / "there")]) == 0
    assert "2 new, 0 were there" in capsys.readouterr().out
    assert main(["runs", "merge", file, "--out", str(out)]) == 0
    assert "0 new, 2 were there" in capsys.readouterr().out
    assert main(["runs", "merge", str(tmp_path / "absent"), "--out", str(out)]) == 2
