"""`dipsearch restore`: files in, files out, and nothing lost on the way."""

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from fits import TINY
from hypothesis import given as given_values
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image
from studies import write

from dipsearch.atomic import _begun
from dipsearch.cli import main
from dipsearch.dataset import sha256
from dipsearch.error import DipsearchError, UsageError
from dipsearch.photo import load_photo
from dipsearch.restoring.batch import Job, jobs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in, with a tiny genome."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tiny.yaml", TINY)
    return tmp_path


def pixels(*shape, seed=0, kind=np.uint8):
    values = np.random.default_rng(seed).random(shape)
    return (values * np.iinfo(kind).max).astype(kind)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return str(path)


def restored(*words, code=0, task="denoise"):
    quick = ["--genome", "./tiny.yaml", "--iterations", "20", "--device", "cpu", "--precision", "float32"]
    assert main(["restore", task, *map(str, words), *quick]) == code


# Which file becomes which


def named(*inputs, **options):
    return [str(job.target) for job in jobs([str(each) for each in inputs], **options)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_need_not_be_utf_8(here, capfd):
    save(here / "in" / os.fsdecode(b"a\xe9.png"), pixels(20, 24))
    save(here / "in/b.png", pixels(20, 24))
    restored("in")
    made = {os.fsencode(path.name) for path in (here / "restored").iterdir()}
    assert made == {b"a\xe9.png", b"a\xe9.png.json", b"b.png", b"b.png.json"}
    restored("in", "--resume")
    (here / "in/b.png").unlink()
    assert main(["restore", "denoise", "in", "-o", "searched", "--genome", "auto"]) == 1
    assert "this one is no UTF-8" in capfd.readouterr().err


def test_results_are_called_as_their_pictures(here):
    save(here / "in/a.png", pixels(20, 20))
    save(here / "in/deep/b.jpg", pixels(20, 20))
    (here / "in/notes.txt").write_text("no picture")
    out = Path("out")
    assert named("in/a.png", output=out) == ["out/a.png"]
    assert named("in/a.png", output=Path("x.tif")) == ["x.tif"]
    assert named("in", output=out) == ["out/a.png"]
    assert named("in", output=out, recursive=True) == ["out/a.png", "out/deep/b.jpg"]
    assert named("in/**/*.jpg", "in/*.png", output=out) == ["out/b.jpg", "out/a.png"]
    assert named("in/a.png", output=out, suffix="_x", extension=".tif") == ["out/a_x.tif"]


def test_what_would_be_lost_is_refused(here):
    for folder in "ab":
        save(here / folder / "same.png", pixels(20, 20))
    with pytest.raises(UsageError, match=r"a/same.png and b/same.png would both become out/same.png"):
        jobs(["a/same.png", "b/same.png"], Path("out"))
    for output in (Path("a"), Path("a/same.png"), Path("b/../a")):
        with pytest.raises(UsageError, match="this is an input"):
            jobs(["a/same.png"], output)
    save(here / "mask.png", pixels(20, 20))
    with pytest.raises(UsageError, match=r"mask.png: this is an input"):
        jobs(["a/same.png"], Path("mask.png"), read=[Path("mask.png")])
    with pytest.raises(UsageError, match=r"b/same.png.compare.png: this is an input"):
        jobs(["a/same.png", str(save(here / "b/same.png.compare.png", pixels(20, 20)))], Path("b"), compare=True)
    with pytest.raises(UsageError, match="a part of a name"):
        jobs(["a/same.png"], Path("out"), suffix="../x")
    with pytest.raises(UsageError, match="File name too long"):
        jobs(["x" * 300], Path("out"))
    with pytest.raises(UsageError, match="not a format that is written"):
        jobs(["a/same.png"], Path("out.gif"))
    with pytest.raises(UsageError, match="--ext: xyz: choose from png"):
        jobs(["a/same.png"], Path("out"), extension=".xyz")
    for output in (Path("new.png"), Path(save(here / "one.png", pixels(20, 20)))):
        with pytest.raises(UsageError, match="several pictures need a folder"):
            jobs(["a/same.png", "b/same.png"], output)


@pytest.mark.parametrize(
    ("given", "message"), [("none.png", "no such file"), ("*.gif", "no such file"), (".", "no pic")]
)
def test_nothing_to_do_is_an_error(here, given, message):
    with pytest.raises(UsageError, match=message):
        jobs([given], Path("out"))


# What comes out

KINDS = {
    "grey.png": pixels(20, 24),
    "colour.png": pixels(20, 24, 3),
    "alpha.png": pixels(20, 24, 4),
    "grey16.png": pixels(20, 24, kind=np.uint16),
    "photo.jpg": pixels(20, 24, 3),
}


def read(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", KINDS)
def test_size_mode_and_depth_stay(here, name):
    given = KINDS[name]
    save(here / name, given)
    restored(name)
    made = read(here / "restored" / name)
    assert (made.shape, made.dtype) == (given.shape, given.dtype)
    with Image.open(here / name) as before, Image.open(here / "restored" / name) as after:
        assert (before.mode, before.format) == (after.mode, after.format)
    if name == "alpha.png":
        assert np.array_equal(made[:, :, 3], given[:, :, 3])
    assert not np.array_equal(made, given)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_a_tiff_stays_one(here, kind):
    given = (pixels(20, 24, 3) * 200.0 + 5).astype(kind)
    tifffile.imwrite(here / "deep.tif", given, photometric="rgb")
    restored("deep.tif")
    made = tifffile.imread(here / "restored/deep.tif")
    assert (made.shape, made.dtype) == (given.shape, given.dtype)


def test_a_larger_one(here):
    save(here / "small.png", pixels(20, 24, 4))
    restored("small.png", "--factor", "2", task="sr")
    assert read(here / "restored/small.png").shape == (40, 48, 4)


def test_holes_are_filled_and_all_else_stays(here):
    given, holes = pixels(20, 24, 3), np.zeros((20, 24), np.uint8)
    holes[4:9, 6:12] = 255
    save(here / "torn.png", given)
    save(here / "holes.png", holes)
    save(here / "known.png", 255 - holes)
    save(here / "alpha.png", np.dstack([given, 255 - holes]))
    restored("torn.png", "--mask", "holes.png", task="inpaint")
    made = read(here / "restored/torn.png")
    assert np.array_equal(made[holes == 0], given[holes == 0]) and not np.array_equal(made, given)
    restored("torn.png", "--mask", "known.png", "--invert-mask", "-o", "inverted.png", task="inpaint")
    assert np.array_equal(read(here / "inverted.png"), made)
    restored("alpha.png", "--mask", "alpha", task="inpaint")
    restored("alpha.png", "--mask", "alpha", "-o", "flat.jpg", task="inpaint")  # nothing transparent is left
    assert read(here / "flat.jpg").shape == (20, 24, 3)
    assert "JPEG changes the pixels that are known" in json.loads((here / "flat.jpg.json").read_text())["notes"][-1]
    assert json.loads((here / "restored/torn.png.json").read_text())["notes"] == []
    filled = read(here / "restored/alpha.png")
    assert np.array_equal(filled[:, :, :3], made) and (filled[:, :, 3] == 255).all()


def test_transparency_of_floats_is_a_mask_too(here):
    alpha = np.ones((20, 24), np.float32)
    alpha[4:9, 6:12] = 0.1
    colour = pixels(20, 24, 3).astype(np.float32) * 40  # whose range says nothing of alpha's
    tifffile.imwrite(here / "a.tif", np.dstack([colour, alpha]), photometric="rgb", extrasamples=["unassalpha"])
    restored("a.tif", "--mask", "alpha", task="inpaint")
    made = tifffile.imread(here / "restored/a.tif")
    assert (made[:, :, 3] == 1).all() and np.allclose(made[alpha == 1][:, :3], colour[alpha == 1], rtol=1e-5)
    assert not np.allclose(made[4:9, 6:12, :3], colour[4:9, 6:12])


def test_what_stands_in_a_hole_is_no_value(here):
    given, holes = 0.2 + 0.7 * pixels(20, 24).astype(np.float32) / 255, np.zeros((20, 24), np.uint8)
    holes[4:9, 6:12] = 255
    save(here / "holes.png", holes)
    made = {}
    for name, value in (
        ("zero", 0),
        ("sentinel", -9999),
        ("no data", np.finfo(np.float32).min),
        ("not a number", np.nan),
    ):
        tifffile.imwrite(here / f"{name}.tif", np.where(holes > 0, np.float32(value), given))
        restored(f"{name}.tif", "--mask", "holes.png", task="inpaint")
        made[name] = tifffile.imread(here / f"restored/{name}.tif")
        told = json.loads((here / f"restored/{name}.tif.json").read_text(), parse_constant=pytest.fail)
        assert told["fit_db"] > 0
    assert all(np.array_equal(made["zero"], each) for each in made.values())
    assert np.allclose(made["zero"][holes == 0], given[holes == 0], rtol=1e-6)
    filled = made["zero"][holes > 0]
    assert given.min() <= filled.min() and filled.max() <= given.max()


def test_what_is_known_has_to_be_a_number(here, capsys):
    given, holes = pixels(20, 24).astype(np.float32), np.zeros((20, 24), np.uint8)
    holes[4:9, 6:12] = 255
    save(here / "holes.png", holes)
    for value in (np.nan, np.inf):
        given[0, 0] = value
        tifffile.imwrite(here / "a.tif", given)
        restored("a.tif", "--mask", "holes.png", task="inpaint", code=1)
        restored("a.tif", code=1)
        assert capsys.readouterr().err.count("no finite numbers") == 2
    tifffile.imwrite(here / "a.tif", np.full_like(given, np.nan))
    restored("a.tif", "--mask", "holes.png", task="inpaint", code=1)
    assert "no finite numbers" in capsys.readouterr().err


def test_noise_is_told_of_the_picture_as_it_is(here, capsys):
    """Shrunk, it has less: of the mean of 16 pixels, a quarter."""
    save(here / "large.png", pixels(100, 140, 3))
    restored("large.png", "--sigma", "24", "--max-side", "35", "--json")
    assert json.loads(capsys.readouterr().out)["sigma"] == pytest.approx(6)


def test_a_result_that_no_memory_holds_is_told_before_the_work(here, capsys, monkeypatch):
    monkeypatch.setattr("dipsearch.restoring.file.memory_of", lambda device: 2e6)
    monkeypatch.setattr("dipsearch.restoring.work.Work.run", lambda *_: pytest.fail("no work is to begin"))
    restored(save(here / "a.png", pixels(40, 40, 3)), "--factor", "4", task="sr", code=1)
    assert "a result of 160x160 takes about 0 GiB of memory" in capsys.readouterr().err


def test_a_large_picture_is_made_in_tiles_or_shrunk(here, capsys):
    save(here / "large.png", pixels(100, 140, 3))
    restored("large.png", "--tile", "80", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["tiles"] == 6 and told["size"] == [140, 100] and told["iterations"] == [20] * 6
    assert read(here / "restored/large.png").shape == (100, 140, 3)
    restored("large.png", "--max-side", "70", "-o", "small.png")
    assert read(here / "small.png").shape == (50, 70, 3)
    restored("large.png", "--max-side", "110", "-o", "odd.png")
    assert read(here / "odd.png").shape == (78, 110, 3)  # 140 * (110 / 140) is a little less than 110


def test_the_record_says_how_it_was_made(here, capsys):
    given = save(here / "noisy.png", pixels(20, 24, 3))
    restored(given, "--json", "--sigma", "auto", "--reference", given, "--seed", "3")
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told == json.loads((here / "restored/noisy.png.json").read_text())
    assert told["settings"]["seed"] == 3 and told["recipe"]["iterations"] == 20
    assert told["complete"] and told["sigma"] > 10 and told["fit_seconds"] > 0
    assert {"psnr", "ssim", "fit_db", "notes"} <= set(told) and told["versions"]["torch"]
    # the reference is the noisy picture itself: PSNR is then what the fit is, but for the rounding of nothing
    assert told["psnr"] == pytest.approx(told["fit_db"], abs=0.01)
    assert not list(here.glob("restored/*.unfinished"))


def test_without_a_reference_nothing_is_called_psnr(here, capsys):
    restored(save(here / "noisy.png", pixels(20, 24, 3)))
    shown = capsys.readouterr()
    assert "PSNR" not in shown.out + shown.err and "fit " in shown.err
    assert shown.out == "restored/noisy.png\n"


def test_before_and_after_beside_one_another(here):
    given = pixels(20, 24, 3)
    restored(save(here / "noisy.png", given), "--compare")
    strip = read(here / "restored/noisy.png.compare.png")
    assert strip.shape == (20, 48, 3)
    assert np.array_equal(strip[:, :24], given) and np.array_equal(strip[:, 24:], read(here / "restored/noisy.png"))


def test_an_interruption_at_the_strip_loses_nothing(here, capsys, monkeypatch):
    from dipsearch.restoring.file import Restoration

    given, plain = save(here / "noisy.png", pixels(20, 24, 3)), Restoration.strip
    monkeypatch.setattr(Restoration, "strip", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    restored(given, "--compare", code=130)
    monkeypatch.setattr(Restoration, "strip", plain)
    monkeypatch.setattr("dipsearch.restoring.work.start", lambda *_, **__: pytest.fail("it is fitted already"))
    restored(given, "--compare", "--resume")
    assert read(here / "restored/noisy.png.compare.png").shape == (20, 48, 3)
    (here / "restored/noisy.png.compare.png").unlink()
    capsys.readouterr()
    restored(given, "--compare", "--resume")
    assert "done already, without --compare" in capsys.readouterr().err


def test_how_far_it_is_can_be_looked_at(here, monkeypatch):
    from dipsearch.restoring.file import Restoration

    seen, plain = [], Restoration.preview

    def preview(self):
        plain(self)
        seen.append(read(self.job.preview).shape)

    monkeypatch.setattr(Restoration, "preview", preview)
    restored(save(here / "noisy.png", pixels(20, 24)), "--preview-every", "0.000001")
    assert seen == [(20, 24)] * 2
    assert sorted(path.name for path in (here / "restored").iterdir()) == ["noisy.png", "noisy.png.json"]
    blocked = Job(here / "noisy.png", here / "restored/blocked.png").preview
    blocked.mkdir(parents=True)
    restored("noisy.png", "-o", "restored/blocked.png", "--preview-every", "0.000001")  # it may yet be written
    assert read(here / "restored/blocked.png").shape == (20, 24)


@pytest.mark.slow
def test_a_picture_may_come_and_go_by_pipes(here):
    given = save(here / "noisy.jpg", pixels(20, 24, 3))
    restored(given, "-o", "file.png")
    quick = ["--genome", "./tiny.yaml", "--iterations", "20", "--device", "cpu", "--precision", "float32"]
    words = [sys.executable, str(ROOT / "cli.py"), "restore", "denoise", "-", "-o", "-", "--quiet", *quick]
    made = subprocess.run(words, input=Path(given).read_bytes(), capture_output=True, check=True)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(made.stdout))), read(here / "file.png"))
    assert not (here / "restored").exists()
    words[words.index("-o") + 1] = "out.png"
    subprocess.run(words, input=Path(given).read_bytes(), capture_output=True, check=True)
    assert json.loads((here / "out.png.json").read_text())["input"] == "-"
    values = np.asarray(Image.open(given), np.float32) / 255
    tifffile.imwrite(here / "values.tif", values, photometric="rgb")
    words[words.index("out.png") - 1 :] = ["-o", "-", "--ext", "tif", *quick]
    made = subprocess.run(words, input=(here / "values.tif").read_bytes(), capture_output=True, check=True)
    assert tifffile.imread(io.BytesIO(made.stdout)).dtype == np.float32 and b"stdout" not in made.stderr
    words[words.index("-o") + 1] = "out.png"
    words.remove("--ext")
    words.remove("tif")
    broken = subprocess.run([*words, "--overwrite"], input=b"no picture", capture_output=True, check=False)
    assert broken.returncode == 1 and broken.stderr.startswith(b"failed: -: not a readable picture")


@pytest.mark.slow
def test_what_restoring_does_not_need_is_not_waited_for(here):
    given = save(here / "a.png", pixels(20, 24, 3))
    words = ["restore", "denoise", given, "-o", "b.png", "--genome", "./tiny.yaml", "--iterations", "20"]
    code = (
        f"import sys; from dipsearch.cli import main; assert main({words!r}) == 0;"
        "assert not {'torch._dynamo', 'sympy', 'optuna', 'scipy.stats'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_progress_counts_the_time_where_that_is_limited(here, monkeypatch):
    from dipsearch.restoring.file import Restoration, Settings
    from dipsearch.task import load_task

    clock, shares = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    settings = Settings(load_task("denoise"), "fast", "./tiny.yaml", {"iterations": 1000, "time_limit": 100.0})
    now = Restoration(Job(Path(save(here / "a.png", pixels(20, 24))), here / "b.png"), settings)

    def run(look):
        for clock[0], iteration in ((1.0, 10), (51.0, 20), (61.0, 900), (500.0, 910)):
            look(0, iteration, now.y)
        raise KeyboardInterrupt

    monkeypatch.setattr(now.work, "run", run)
    with pytest.raises(KeyboardInterrupt):
        now.run(lambda _, share: shares.append(share))
    assert shares == pytest.approx([0.01, 0.5, 0.9, 1])


def test_a_time_that_is_too_short_is_told(here, capsys):
    restored(save(here / "a.png", pixels(20, 24)), "--time-limit", "0.0001")
    assert "(time-limit): too few to show anything" in capsys.readouterr().err


def test_quiet_says_only_what_was_made(here, capsys):
    restored(save(here / "a.png", pixels(20, 24)), "--quiet")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("restored/a.png\n", "")


# What goes wrong


def test_broken_files_are_listed_and_the_others_restored(here, capsys):
    save(here / "in/a.png", pixels(20, 24))
    (here / "in/b.png").write_bytes((here / "in/a.png").read_bytes()[:60])
    (here / "in/c.tif").write_text("no picture")
    save(here / "in/d.jpg", pixels(20, 24, 3))
    restored("in", code=1)
    shown = capsys.readouterr()
    assert shown.out.split() == ["restored/a.png", "restored/d.jpg"]
    last = shown.err.splitlines()[-2:]
    assert last[0].startswith("failed: in/b.png: ") and last[1].startswith("failed: in/c.tif: ")
    assert sorted(path.name for path in (here / "restored").iterdir() if path.suffix != ".json") == ["a.png", "d.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing", "a.png"], "unknown task 'nothing'"),
        (["denoise"], "Missing argument"),
        (["denoise", "b.png"], "b.png: no such file"),
        (["denoise", "a.png", "-o", "a.png"], "this is an input"),
        (["denoise", "a.png", "-o", "."], "this is an input"),
        (["denoise", "a.png", "-", "-o", "out"], "one picture, but there are several"),
        (["denoise", "a.png", "--mask", "m.png"], "--mask: m.png: no such file"),
        (["denoise", "a.png", "--genome", "nobody"], "nobody"),
        (["denoise", "a.png", "--preset", "bets"], "bets"),
        (["denoise", "a.png", "--sigma", "loud"], "'loud'"),
        (["denoise", "a.png", "--sigma", "0"], "'0'"),
        (["denoise", "a.png", "--stop", "soon"], "soon"),
        (["denoise", "a.png", "--stop", "es-wmv", "--sigma", "9"], "sigma: only the rule discrepancy is told"),
        (["denoise", "a.png", "--factor", "2"], "factor"),
        (["denoise", "a.png", "--resume", "--overwrite"], "choose one"),
        (["denoise", "a.png", "--time-limit", "0"], "no time at all"),
        (["denoise", "a.png", "--preview-every", "0"], "no time at all"),
        (["denoise", "a.png", "--reference", "b.png"], "--reference: b.png: no such file"),
        (["denoise", "a.png", "--reference", "."], "--reference: .: not a file"),
        (["denoise", "a.png", "--reference", "x" * 300], "File name too long"),
        (["inpaint", "a.png"], "which pixels are missing?"),
        (["denoise", "a.png", "--invert-mask"], "--invert-mask: the task denoise takes none"),
        (["sr", "a.png", "--mask", "a.png"], "--mask: the task sr takes none"),
        (["denoise", "a.png", "--ext", "xyz"], "--ext: xyz: choose from"),
        (["denoise", "a.png", "--ext", "xyz", "-o", "-"], "--ext: xyz: choose from"),
        (["denoise", "a.png", "--suffix", "a/b"], "a part of a name"),
        (["denoise", "a.png", "-o", "b.png", "--suffix", "_x"], "name files in a folder, but b.png is a file"),
        (["denoise", "a.png", "-o", "b.gif"], "b.gif: not a format that is written"),
        (["denoise", "a.png", "-o", "-", "--compare"], "--compare: a file, but"),
    ],
)
def test_a_wrong_word_is_told_before_all_else(here, capsys, words, message):
    save(here / "a.png", pixels(20, 24))
    before = sorted(here.iterdir())
    assert main(["restore", *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("mask", "words", "message"),
    [
        (None, [], "which pixels are missing?"),
        (None, ["--mask", "alpha"], "nothing of it is transparent"),
        (np.full((20, 24), 255, np.uint8), ["--mask", "m.png"], "leaves no pixel known"),
        (np.zeros((20, 24), np.uint8), ["--mask", "m.png"], "no pixel is missing"),
        (np.eye(30, dtype=np.uint8) * 255, ["--mask", "m.png"], "the mask is 30x30, but the picture is 24x20"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error(here, capsys, mask, words, message):
    save(here / "a.png", pixels(20, 24))
    if mask is not None:
        save(here / "m.png", mask)
    restored("a.png", *words, code=1 if words else 2, task="inpaint")
    assert message in capsys.readouterr().err
    assert not (here / "restored").exists() or not list((here / "restored").iterdir())


def test_a_reference_of_another_size_is_told_before_the_work(here, capsys, monkeypatch):
    monkeypatch.setattr("dipsearch.restoring.work.Work.run", lambda *_: pytest.fail("no work is to begin"))
    save(here / "a.png", pixels(20, 24))
    restored("a.png", "--reference", save(here / "b.png", pixels(24, 20)), code=1)
    assert "differ in size: 20x24 and 24x20" in capsys.readouterr().err


def test_a_floating_point_picture_is_compared_by_its_values(here, capsys):
    given = pixels(20, 24).astype(np.float32) * 40 - 300
    save(here / "a.tif", given)
    told = []
    for reference in (given, given + 3060):  # the same, and off by 0.3 of the range
        clean = save(here / "clean.tif", reference)
        restored("a.tif", "--json", "--overwrite", "--reference", clean)
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["psnr"] == pytest.approx(told[0]["fit_db"], abs=0.01)
    assert told[1]["psnr"] < told[0]["psnr"] - 0.5
    restored("a.tif", "--overwrite", "--reference", save(here / "b.png", pixels(20, 24)), code=1)
    assert "b.png: uint8, but the picture is float32" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_on_the_picture_itself(here, monkeypatch, capsys):
    """Of colour, without what writes 16-bit colour PNG; where a hole is all that it would see, and where the picture
    is too small for it, the usual genome is taken."""
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    few = ["--genome", "auto", "--iterations", "5"]
    save(here / "a.png", pixels(64, 64, 3))
    assert main(["restore", "denoise", "a.png", *few, "--time-limit", "90"]) == 0
    told = json.loads((here / "restored/a.png.json").read_text())
    assert told["genome"].startswith("found on it") and told["notes"] == []
    save(here / "b.png", pixels(128, 128))
    holes = np.zeros((128, 128), np.uint8)
    holes[30:98, 30:98] = 255
    save(here / "holes.png", holes)
    assert main(["restore", "inpaint", "b.png", "--mask", "holes.png", *few]) == 0
    assert "none was found on it" in json.loads((here / "restored/b.png.json").read_text())["genome"]
    assert "no genome was found on it; the usual one was taken" in capsys.readouterr().err
    save(here / "c.png", pixels(17, 18))
    assert main(["restore", "sr", "c.png", *few]) == 0


@pytest.mark.slow
def test_a_search_sees_the_picture_as_it_is_fitted(here, monkeypatch, capsys):
    """Shrunk, with the holes of the shrunk mask, and of any depth."""
    seen = []

    def look(task, y, known, usual, folder, **_):
        seen.append((y, known))
        return None  # no time for a fit

    monkeypatch.setattr("dipsearch.restoring.auto.genome_for", look)
    save(here / "a.tif", pixels(80, 96).astype(np.float32) / 3)
    holes = np.zeros((80, 96), np.uint8)
    holes[16:18, 32:34] = 255
    save(here / "holes.png", holes)
    words = ["--mask", "holes.png", "--max-side", "48", "--genome", "auto", "--iterations", "20", "--time-limit", "9s"]
    assert main(["restore", "inpaint", "a.tif", *words]) == 0
    ((y, known),) = seen
    assert y.shape == known.shape == (1, 1, 40, 48) and 0 <= y.min() < y.max() <= 1
    assert known.logical_not().nonzero().tolist() == [[0, 0, 8, 16]]


def test_a_genome_found_on_small_pieces_restores_small_tiles(here, monkeypatch, capsys):
    monkeypatch.setattr("dipsearch.restoring.auto.genome_for", lambda *_, **__: here / "tiny.yaml")
    save(here / "a.png", pixels(100, 300))
    assert main(["restore", "denoise", "a.png", "--genome", "auto", "--iterations", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tiles"] == 3 and told["genome"].startswith("found on it")


def test_a_mask_is_shrunk_with_its_picture(here):
    holes = np.zeros((80, 96), np.uint8)
    holes[17, 33] = 255  # one pixel: its whole neighbourhood is lost
    save(here / "holes.png", holes)
    save(here / "a.png", given := pixels(80, 96))
    restored("a.png", "--mask", "holes.png", "--max-side", "48", task="inpaint")
    small = given.reshape(40, 2, 48, 2).mean((1, 3))
    changed = np.abs(read(here / "restored/a.png") - small) > 0.51
    assert changed.sum() <= 1 and not np.delete(changed.ravel(), 8 * 48 + 16).any()


def test_a_result_that_cannot_be_written_is_told_before_the_work(here, capsys, monkeypatch):
    monkeypatch.setattr("dipsearch.restoring.work.Work.run", lambda *_: pytest.fail("no work is to begin"))
    save(here / "alpha.png", pixels(20, 24, 4))
    restored("alpha.png", "-o", "flat.jpg", code=1)
    assert "alpha.png" in capsys.readouterr().err
    save(here / "long.png", pixels(16, 8200))
    restored("long.png", "--factor", "2", "-o", "longer.webp", code=1, task="sr")
    assert "16400x32 is too large for WEBP" in capsys.readouterr().err


def test_what_exists_is_not_overwritten_unasked(here, capsys):
    given = save(here / "a.png", pixels(20, 24))
    restored(given)
    first = (here / "restored/a.png").read_bytes()
    assert main(["restore", "denoise", given]) == 2
    assert "restored/a.png exists" in capsys.readouterr().err
    restored(given, "--seed", "1", "--overwrite")
    assert (here / "restored/a.png").read_bytes() != first


def test_another_process_at_the_same_result_is_left_alone(here, capsys):
    save(here / "a.png", pixels(20, 24))
    job = Job(Path("a.png"), Path("restored/a.png"))
    job.prepare({})
    with job.alone():
        restored("a.png", "--overwrite", code=1)
    assert "restored/a.png: another process is at work on it" in capsys.readouterr().err
    assert not job.target.exists() and job.kept({}).is_dir()
    restored("a.png")
    assert job.target.exists() and not job.unfinished.exists()


def test_what_another_process_made_meanwhile_stays(here, capsys, monkeypatch):
    from dipsearch.restoring.file import Restoration

    for name in "ab":
        save(here / f"in/{name}.png", pixels(20, 24))
    plain = Restoration.run

    def run(self, tell):
        (here / "restored/b.png").write_text("another's")
        return plain(self, tell)

    monkeypatch.setattr(Restoration, "run", run)
    restored("in", code=1)
    assert "restored/b.png exists" in capsys.readouterr().err
    assert (here / "restored/b.png").read_text() == "another's"


def test_files_beside_the_results_are_nobody_elses(here, capsys):
    """Previews and strips have the results' whole names, and are written over unasked no more than these."""
    named = {name: save(here / "in" / name, pixels(20, 24, 3)) for name in ("a.png", "a.jpg", "a_preview.png")}
    restored("in", "--compare", "--preview-every", "0.000001")
    made = {path.name for path in (here / "restored").iterdir()}
    assert made == {f"{name}{more}" for name in named for more in ("", ".json", ".compare.png")}
    capsys.readouterr()
    for path in (here / "restored").glob("a.png*"):
        if not path.name.endswith("compare.png"):
            path.unlink()
    restored(named["a.png"], "--compare", code=2)
    assert "restored/a.png.compare.png exists" in capsys.readouterr().err
    restored(named["a.png"])


def test_results_in_the_folder_of_the_pictures_are_no_pictures(here, capsys):
    save(here / "in/a.png", pixels(20, 24))
    for given, words in (
        ("in", ["-r", "-o", "in/restored"]),
        ("in", ["-o", "in", "--suffix", "_x", "--compare"]),
        ("in/*.png", ["-o", "in", "--suffix", "_y"]),
        ("in/*", ["-o", "in", "--suffix", "_z"]),
    ):
        restored(given, *words)
        capsys.readouterr()
        restored(given, *words, "--resume")
        shown = capsys.readouterr()
        assert not shown.out and shown.err.count("done already") == 1


def test_what_was_killed_is_none_to_restore_however_it_is_named(here):
    """A folder that holds nothing else is what a shell makes of * after the first picture was killed."""
    save(here / "a.png", pixels(20, 24))
    (here / "restored/a.png.unfinished/0123456789abcdef").mkdir(parents=True)
    (here / "restored/a.png.json").write_text('{"settings_hash": "0"}')
    for given in (["[ar]*"], ["a.png", "restored"], ["a.png", "restored/a.png.json", "restored/a.png.unfinished"]):
        assert named(*given, output=Path("restored")) == ["restored/a.png"]
    assert named("restored/*", "a.png", output=Path("out")) == ["out/a.png"]


def test_a_picture_that_is_named_twice_is_restored_once(here):
    save(here / "in/deep/a.png", pixels(20, 24))
    assert named("in/**", "in/deep/a.png", "in/deep", output=Path("out")) == ["out/a.png"]
    assert named("in/deep/a.png", "in/deep/a.png", output=Path("x.png")) == ["x.png"]


def test_a_link_that_leads_to_itself_is_one_line(here, capsys):
    (here / "loop.png").symlink_to("loop.png")
    restored(save(here / "a.png", pixels(20, 24)), "-o", "loop.png", code=2)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_read_beside_a_picture_is_none_to_restore(here):
    for name in ("a.png", "holes.png"):
        save(here / "in" / name, pixels(20, 24))
    for given in ("in", "in/*.png"):
        assert named(given, output=Path("out"), read=[Path("in/../in/holes.png")]) == ["out/a.png"]
    assert named("in/holes.png", output=Path("out"), read=[Path("in/holes.png")]) == ["out/holes.png"]


def test_of_results_elsewhere_only_the_pictures_are_inputs(here, capsys):
    restored(save(here / "a.png", pixels(20, 24)), "--compare")
    save(here / "restored/b.png.unfinished/preview.png", pixels(20, 24))
    assert named("restored", output=Path("larger"), recursive=True) == ["larger/a.png"]
    with pytest.raises(UsageError, match="no picture but results"):
        jobs(["restored"], Path("restored"))
    restored("a.png", "restored", "--compare", "--resume")  # as a shell makes of *
    assert "done already" in capsys.readouterr().err


def test_an_empty_name_is_not_the_folder_here(here, capsys):
    save(here / "a.png", pixels(20, 24))
    with pytest.raises(UsageError, match="an empty name"):
        jobs([""], Path("out"))
    restored("a.png", "-o", "", code=2)
    assert "--output: an empty name" in capsys.readouterr().err


def test_each_picture_has_a_line_of_json(here, capsys):
    for name in "ab":
        save(here / f"in/{name}.png", pixels(20, 24))
    (here / "in/c.png").write_bytes(b"torn")
    for _ in range(2):
        restored("in", "--json", "--resume", code=1)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["input"] for line in lines] == ["in/a.png", "in/b.png", "in/c.png"]
        assert ["error" in line for line in lines] == [False, False, True]


# Going on


def test_what_is_done_with_the_same_settings_stays(here, capsys):
    given = [save(here / f"{name}.png", pixels(20, 24, seed=number)) for number, name in enumerate("abc")]
    restored(*given)
    kept = {path: path.stat().st_mtime_ns for path in (here / "restored").glob("*.png")}
    for name in ("b.png", "b.png.json"):
        (here / "restored" / name).unlink()
    (here / "restored/c.png.json").unlink()  # as if killed between the last two steps
    identity = json.loads((here / "restored/a.png.json").read_text())["settings"]
    last = Job(Path(given[2]), here / "restored/c.png")
    last.prepare(identity | {"input_sha256": sha256(Path(given[2]))})
    torn = [last.target.with_name(f"{_begun(path)}0123abcd.part") for path in last.made(compare=True)]
    for path in torn:  # as if killed within a write
        path.touch()
    capsys.readouterr()
    restored(*given, "--resume")
    shown = capsys.readouterr()
    assert shown.out.split() == ["restored/b.png", "restored/c.png"] and "restored/a.png: done already" in shown.err
    restored(given[0], "--resume", "--reference", given[1])
    assert "restored/a.png: done already, without --reference" in capsys.readouterr().err
    assert kept[here / "restored/a.png"] == (here / "restored/a.png").stat().st_mtime_ns
    assert not last.unfinished.exists() and not any(path.exists() for path in torn)


@pytest.mark.parametrize("spoil", ["other settings", "another hand", "no record"])
def test_going_on_replaces_nothing_else(here, capsys, spoil):
    given, result = save(here / "a.png", pixels(20, 24)), here / "restored/a.png"
    if spoil == "no record":
        save(result, pixels(20, 24, seed=1))
    else:
        restored(given)
    if spoil == "another hand":
        save(result, pixels(20, 24, seed=1))
    before = result.read_bytes()
    restored(given, "--resume", *(["--seed", "1"] if spoil == "other settings" else []), code=2)
    assert "restored/a.png exists; was made otherwise, --overwrite replaces it" in capsys.readouterr().err
    assert result.read_bytes() == before
    restored(given, "--overwrite")
    restored(given, "--resume")
    assert "done already" in capsys.readouterr().err


def test_a_result_that_is_gone_is_made_again(here):
    restored(save(here / "a.png", pixels(20, 24)))
    (here / "restored/a.png").unlink()
    restored("a.png", "--resume", "--seed", "1", code=2)  # of other settings: the record would be lost
    restored("a.png", "--resume")
    assert (here / "restored/a.png").exists()


def test_what_fails_before_a_fit_leaves_nothing(here):
    holes = np.zeros((100, 100), np.uint8)
    holes[:70, :70] = 255
    save(here / "a.png", pixels(100, 100))
    save(here / "holes.png", holes)
    restored("a.png", "--mask", "holes.png", "--tile", "64", task="inpaint", code=1)
    assert not list((here / "restored").iterdir())


def test_an_interruption_keeps_the_best_so_far(here, capsys, monkeypatch):
    given = save(here / "a.png", pixels(20, 24))
    restored(given, "-o", "whole.png")

    def stop(self, share):
        if share == 0.5:
            raise KeyboardInterrupt

    from dipsearch.restoring.file import Restoration

    plain = Restoration.run
    monkeypatch.setattr(
        Restoration, "run", lambda self, tell: plain(self, lambda now, share: (tell(now, share), stop(now, share)))
    )
    restored(given, "--json", code=130)
    shown = capsys.readouterr()
    assert "restored/a.png is the best so far" in shown.err and "--resume" in shown.err
    told = json.loads((here / "restored/a.png.json").read_text())
    assert told == json.loads(shown.out.splitlines()[-1])
    assert told["stop_reason"] == ["interrupted"] and not told["complete"]
    assert read(here / "restored/a.png").shape == (20, 24)
    monkeypatch.setattr(Restoration, "run", plain)
    restored(given, "--resume")
    assert np.array_equal(read(here / "restored/a.png"), read(here / "whole.png"))  # bit for bit
    assert not Job(Path(given), here / "restored/a.png").unfinished.exists()


def test_an_interruption_soon_after_going_on_keeps_what_was_there(here, capsys, monkeypatch):
    from dipsearch.fitting.loop import Fitting

    given, plain = save(here / "a.png", pixels(20, 24)), Fitting.advance

    def advance(self, until=None):
        plain(self, 10)
        raise KeyboardInterrupt

    monkeypatch.setattr(Fitting, "advance", advance)
    restored(given, code=130)
    best = read(here / "restored/a.png")
    capsys.readouterr()
    monkeypatch.setattr(Fitting, "advance", lambda self, until=None: (_ for _ in ()).throw(KeyboardInterrupt))
    restored(given, "--resume", code=130)
    assert "restored/a.png is the best so far" in capsys.readouterr().err
    assert np.array_equal(read(here / "restored/a.png"), best)


def test_how_to_go_on_is_said_in_words_that_work(here, capsys, monkeypatch):
    from dipsearch.restoring.file import Restoration

    given = [save(here / f"in/{name}.png", pixels(20, 24)) for name in ("-a", ":on:", "c")]
    restored("in")
    before = {path.name: path.read_bytes() for path in (here / "restored").glob("*.png")}
    capsys.readouterr()
    quick = ["--genome", "./tiny.yaml", "--iterations", "20", "--device", "cpu", "--precision", "float32"]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Restoration, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        words = ["denoise", "--overwrite", "--seed", "1", *quick, "--", *given]
        assert main(["restore", *words]) == 130
    last = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert "--overwrite" not in last and last[-3:] == given
    assert main(last[last.index("restore") :]) == 0
    after = {path.name: path.read_bytes() for path in (here / "restored").glob("*.png")}
    assert after.keys() == before.keys() and all(after[name] != before[name] for name in after)
    assert not list((here / "restored").glob("*.unfinished"))


def test_an_interruption_waits_for_the_end_of_a_step(here, monkeypatch):
    """So that what is kept is a state of the fit, and going on gives the same picture."""
    from dipsearch.fitting.step import Step

    given, steps, plain = save(here / "a.png", pixels(20, 24)), [], Step._once
    restored(given, "-o", "whole.png")

    def once(self):
        steps.append(1)
        if len(steps) == 7:
            signal.raise_signal(signal.SIGINT)
        plain(self)

    monkeypatch.setattr(Step, "_once", once)
    restored(given, code=130)
    assert len(steps) == 7
    restored(given, "--resume")
    assert len(steps) == 20
    assert np.array_equal(read(here / "restored/a.png"), read(here / "whole.png"))


def test_an_interrupted_pipe_gives_the_best_so_far(here, monkeypatch, capfdbinary):
    from dipsearch.restoring.file import Restoration

    plain = Restoration.run

    def run(self, tell):
        def stop(now, share):
            tell(now, share)
            raise KeyboardInterrupt

        return plain(self, stop)

    monkeypatch.setattr(Restoration, "run", run)
    restored(save(here / "a.png", pixels(20, 24)), "-o", "-", code=130)
    shown = capfdbinary.readouterr()
    with Image.open(io.BytesIO(shown.out)) as picture:
        assert picture.size == (24, 20)
    assert b"the result is the best so far" in shown.err and b"--resume" not in shown.err
    monkeypatch.setattr(Restoration, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    restored("a.png", "-o", "-", code=130)
    shown = capfdbinary.readouterr()
    assert not shown.out and b"nothing of this picture is done yet" in shown.err


def test_a_full_disk_costs_what_was_kept_and_not_the_picture(here, monkeypatch):
    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr("torch.save", full)
    restored(save(here / "a.png", pixels(20, 24)))
    assert read(here / "restored/a.png").shape == (20, 24)


def test_a_strip_that_cannot_be_written_costs_no_result(here, capsys, monkeypatch):
    from dipsearch.restoring.file import Restoration

    monkeypatch.setattr(Restoration, "strip", lambda self: (_ for _ in ()).throw(DipsearchError("the disk is full")))
    restored(save(here / "a.png", pixels(20, 24)), "--compare")
    assert "the disk is full" in capsys.readouterr().err
    assert json.loads((here / "restored/a.png.json").read_text())["notes"] == ["the disk is full"]


@pytest.mark.parametrize("output", ["file/x.png", "folder.png", "strip.png", "a" * 250 + ".png"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(here, capsys, monkeypatch, output):
    monkeypatch.setattr("dipsearch.restoring.work.Work.run", lambda *_: pytest.fail("no work is to begin"))
    (here / "file").write_text("no folder")
    (here / "folder.png.json").mkdir()
    (here / "strip.png.compare.png").mkdir()
    words = ["denoise", save(here / "a.png", pixels(20, 24)), "-o", output, "--overwrite", "--compare"]
    assert main(["restore", *words]) in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_a_batch_that_is_killed_goes_on(here):
    for number in range(3):
        save(here / f"in/{number}.png", pixels(24, 24, seed=number))
    quick = ["--genome", "./tiny.yaml", "--iterations", "200", "--device", "cpu", "--precision", "float32"]
    words = [sys.executable, str(ROOT / "cli.py"), "restore", "denoise", "in", *quick, "--preview-every", "0.001"]
    assert subprocess.run([*words, "-o", "whole"], check=False).returncode == 0
    done = {}
    for sign in ("1.png.unfinished/preview.png", "1.png.json"):  # within a fit, and just after one
        process = subprocess.Popen([*words, "--resume"])
        deadline = time.monotonic() + 60
        while not (here / "restored" / sign).exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done |= {path: path.stat().st_mtime_ns for path in here.glob("restored/*.json") if path not in done}
    assert {"0.png.json", "1.png.json"} <= {path.name for path in done}
    assert subprocess.run([*words, "--resume"], check=False).returncode == 0
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())  # nothing is done twice
    for number in range(3):
        assert np.array_equal(read(here / f"restored/{number}.png"), read(here / f"whole/{number}.png"))
    assert not [path for path in (here / "restored").iterdir() if path.suffix not in (".png", ".json")]


# Whatever is thrown at it

MODES = {"1": (), "L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "P": (), "CMYK": (4,), "I;16": (), "F": ()}
SIDES = st.one_of(st.integers(16, 40), st.integers(16, 40), st.integers(16, 40), st.integers(1, 40))
FORMATS = ["png", "jpg", "tif", "bmp", "webp"]


def thrown(path, mode, width, height, seed):
    """A picture of a mode in a format; whether Pillow can write that."""
    rng = np.random.default_rng(seed)
    if mode in ("I;16", "F"):
        values = rng.integers(0, 65536, (height, width)).astype(np.uint16 if mode == "I;16" else np.float32)
        made = Image.fromarray(values)
    elif mode in ("1", "P"):
        made = Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).convert(mode)
    else:
        made = Image.fromarray(rng.integers(0, 256, (height, width, *MODES[mode]), dtype=np.uint8), mode=mode)
    try:
        made.save(path)
    except (OSError, KeyError, ValueError):
        path.unlink(missing_ok=True)
        return False
    return True


@settings(max_examples=60, deadline=None)
@given_values(
    mode=st.sampled_from(list(MODES)),
    form=st.sampled_from(FORMATS),
    width=SIDES,
    height=SIDES,
    seed=st.integers(0, 100),
    cut=st.one_of(st.none(), st.none(), st.none(), st.floats(0, 1)),
    work=st.sampled_from(
        [("denoise", "none"), ("jpeg", "none"), ("sr", "none"), ("denoise", "fits")]
        + [("inpaint", mask) for mask in ("none", "alpha", "fits", "fits", "other", "full", "torn")]
    ),
)
def test_whatever_comes_in_a_picture_or_one_line_comes_out(mode, form, width, height, seed, cut, work):
    task, mask = work
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        given, output = room / f"in.{form}", room / "out"
        if not thrown(given, mode, width, height, seed):
            return
        if cut is not None:
            given.write_bytes(given.read_bytes()[: int(cut * given.stat().st_size)])
        words = ["restore", task, str(given), "-o", str(output), "--iterations", "3", "--device", "cpu"]
        words += ["--genome", str(write(room / "tiny.yaml", TINY)), "--precision", "float32"]
        if mask == "alpha":
            words += ["--mask", "alpha"]
        elif mask != "none":
            sizes = {"other": (33, 17)}.get(mask, (width, height))
            holes = np.random.default_rng(seed).random(sizes[::-1]) < (1.1 if mask == "full" else 0.3)
            Image.fromarray(holes.astype(np.uint8) * 255).save(room / "mask.png")
            if mask == "torn":
                (room / "mask.png").write_bytes((room / "mask.png").read_bytes()[:40])
            words += ["--mask", str(room / "mask.png")]
        out, told = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
            code = main(words)
        made = sorted(path.name for path in output.glob("*") if not path.name.endswith(".unfinished"))
        if code == 0:
            assert made == [f"in.{form}", f"in.{form}.json"]
            with Image.open(output / f"in.{form}") as picture:
                picture.load()
                factor = 4 if task == "sr" else 1
                assert picture.size == (width * factor, height * factor)
            before, after = load_photo(given), load_photo(output / f"in.{form}")
            assert (after.dtype, after.x.shape[1]) == (before.dtype, 3 if form == "webp" else before.x.shape[1])
            assert form == "webp" or (after.alpha is None) == (before.alpha is None)
            if mask == "fits" and form not in ("jpg", "webp"):
                known = torch.from_numpy(~holes)[None, None].expand_as(before.x)
                values = [each.x.double() * (each.high - each.low) + each.low for each in (after, before)]
                assert torch.allclose(values[0][known], values[1][known], rtol=1e-6, atol=0)
        else:
            assert code in (1, 2) and made == []
            lines = told.getvalue().splitlines()
            assert len(lines) == 1 and lines[0].startswith(("failed: ", "error: ")), lines
