"""Data sets: their files, and fetching them from a server that behaves and from ones that do not."""

import hashlib
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from studies import write

from dipsearch import catalog, dataset
from dipsearch.cli import main
from dipsearch.dataset import load_dataset
from dipsearch.error import DipsearchError, UsageError
from dipsearch.image import expand, normal, read


@pytest.mark.parametrize("name", catalog.names("datasets"))
def test_the_built_in_ones_say_where_they_come_from(name):
    found = load_dataset(name)
    assert found.about and found.source and found.licence
    assert re.match(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/", found.url)  # at one commit
    assert len(found.pictures) == len(found.files)


def test_the_sets_have_the_pictures_of_their_tables():
    sizes = {name: len(load_dataset(name).files) for name in catalog.names("datasets")}
    assert sizes == {"set9": 9, "bernoulli11": 11, "set5": 5, "set14": 14, "dip-figures": 15, "double-dip": 5}
    with pytest.raises(UsageError, match="unknown data set 'set6'"):
        load_dataset("set6")


class Handler(SimpleHTTPRequestHandler):
    """Counts what it is asked for; cuts a file short, changes it, or goes away, as it is told."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        name = self.path.rsplit("/", 1)[-1]
        server.asked.append(name)
        if server.gone_after is not None and len(server.asked) > server.gone_after:
            self.close_connection = True
            self.connection.close()
            return
        content = (server.folder / name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if name in server.truncated:
            server.truncated.discard(name) if server.once else None
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content[::-1] if name in server.changed else content)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A data set `toy` of three pictures, and the server that has them."""
    folder = tmp_path / "served"
    folder.mkdir()
    files = {}
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        digest = hashlib.sha256((folder / f"{number}.png").read_bytes()).hexdigest()
        files[f"{'abc'[number]}.png"] = {"from": f"{number}.png", "sha256": digest}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        server.folder, server.asked, server.gone_after = folder, [], None
        server.truncated, server.changed, server.once = set(), set(), True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        about = {"about": "a toy", "source": "made here", "licence": "none", "url": url, "files": files}
        path = write(tmp_path / "toy-set.yaml", about)
        every = catalog.names
        monkeypatch.setattr(catalog, "names", lambda kind: {"toy-set": path} if kind == "datasets" else every(kind))
        monkeypatch.setattr(dataset, "TIMEOUT", 5)
        monkeypatch.setenv("DIPSEARCH_DATA", str(tmp_path / "data"))
        yield server
        server.shutdown()
        thread.join()


def test_a_set_is_fetched_once_and_read_by_name(served, tmp_path, capsys):
    with pytest.raises(UsageError, match="run: dipsearch data fetch toy-set"):
        read("toy-set:a")
    assert main(["data", "fetch", "toy-set"]) == 0
    assert "licence: none" in capsys.readouterr().err
    assert sorted(served.asked) == ["0.png", "1.png", "2.png"]
    assert read("toy-set:b").shape == (1, 3, 20, 24)
    assert expand(["toy-set:"]) == ["toy-set:a", "toy-set:b", "toy-set:c"]
    assert expand(["toy-set:a", str(tmp_path / "served" / "0.png")])[0] == normal("toy-set:a") == "toy-set:a"
    assert main(["data", "fetch", "toy-set"]) == 0
    assert len(served.asked) == 3  # nothing was asked for again
    with pytest.raises(UsageError, match="unknown picture of toy-set 'd'; choose from: a, b, c"):
        read("toy-set:d")


def test_a_folder_of_ones_own_is_used_and_checked(served, tmp_path):
    own = tmp_path / "own" / "toy_set"  # an underscore for the dash
    own.mkdir(parents=True)
    for number, letter in enumerate("abc"):
        shutil.copy(served.folder / f"{number}.png", own / f"{letter}.png")
    assert main(["data", "fetch", "toy-set", "--data-dir", str(own.parent)]) == 0
    assert served.asked == []
    shutil.copy(own / "a.png", own / "b.png")
    with pytest.raises(UsageError, match=r"b\.png: not the published file"):
        read("toy-set:b")
    assert dataset.missing(load_dataset("toy-set"), own.parent) == ["b.png"]
    assert main(["data", "fetch", "toy-set", "--data-dir", str(own.parent)]) == 0
    assert served.asked == ["1.png"] and read("toy-set:b").shape == (1, 3, 20, 24)


def test_a_wrong_file_stays_until_the_right_one_is_there(served, tmp_path):
    own = tmp_path / "own" / "toy-set"
    own.mkdir(parents=True)
    (own / "b.png").write_bytes(b"mine")
    served.gone_after = 1
    assert main(["data", "fetch", "toy-set", "--data-dir", str(own.parent)]) == 1
    assert (own / "b.png").read_bytes() == b"mine"
    served.gone_after = None
    assert main(["data", "fetch", "toy-set", "--data-dir", str(own.parent)]) == 0
    assert (own / "b.png").read_bytes() == (served.folder / "1.png").read_bytes()


def test_the_hint_names_the_folder_that_was_asked_for(served, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=rf"run: dipsearch data fetch toy-set --data-dir {tmp_path}/data"):
        read("toy-set:a")
    monkeypatch.delenv("DIPSEARCH_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match=r"run: dipsearch data fetch toy-set$"):
        read("toy-set:a")


def test_a_folder_in_place_of_a_file_is_refused(served, tmp_path):
    (tmp_path / "data" / "toy-set" / "a.png").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"a\.png: cannot be read"):
        read("toy-set:a")
    assert main(["data", "fetch", "toy-set"]) == 2


def test_a_file_that_was_cut_short_is_asked_for_again(served, tmp_path):
    served.truncated.add("1.png")
    assert dataset.fetch(load_dataset("toy-set"), tmp_path / "data") == ["a.png", "b.png", "c.png"]
    assert served.asked == ["0.png", "1.png", "1.png", "2.png"]
    assert dataset.missing(load_dataset("toy-set"), tmp_path / "data") == []


@pytest.mark.parametrize("fault, message", [("changed", "not the published file"), ("truncated", "1.png")])
def test_what_is_not_the_published_file_is_refused(served, tmp_path, capsys, fault, message):
    getattr(served, fault).add("1.png")
    served.once = False
    assert main(["data", "fetch", "toy-set"]) == 1
    assert message in capsys.readouterr().err
    assert dataset.missing(load_dataset("toy-set"), tmp_path / "data") == ["b.png", "c.png"]
    assert [path.name for path in (tmp_path / "data" / "toy-set").iterdir()] == ["a.png"]  # nothing half-fetched
    getattr(served, fault).clear()
    assert main(["data", "fetch", "toy-set"]) == 0


def test_a_server_that_goes_away_keeps_what_came(served, tmp_path):
    served.gone_after = 1
    with pytest.raises(DipsearchError, match=r"1\.png: cannot be fetched: .*the same command goes on"):
        dataset.fetch(load_dataset("toy-set"), tmp_path / "data")
    assert dataset.missing(load_dataset("toy-set"), tmp_path / "data") == ["b.png", "c.png"]
    served.gone_after = None
    assert dataset.fetch(load_dataset("toy-set"), tmp_path / "data") == ["b.png", "c.png"]
