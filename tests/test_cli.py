"""The command line, as a user meets it: what it prints, its exit codes, and unkind input."""

import io
import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dipsearch.cli import main, terminal
from dipsearch.cli.options import Duration
from dipsearch.fitting import plan

ROOT = Path(__file__).parent.parent
TINY_SPACE = """
about: tiny
genes: {width: [4, 6, 8], depth: [1, 2]}
templates:
  hourglass:
    depth: $depth
    channels_down: $width
    channels_up: $width
    channels_skip: 0
    input: {kind: noise, channels: 4}
"""
TINY_TASK = """
about: tiny
operator: {{name: identity}}
noise: {{name: gaussian, sigma: 25}}
metric: rgb
genome: {folder}/published.yaml
baselines: [observation]
images: {{search: ['{folder}/a.png', '{folder}/b.png'], evaluation: ['{folder}/c.png']}}
recipe: {{iterations: 16}}
search: {{quick: {{trials: 3, timeout: 100, start_up: 2}}}}
rerun: {{quick: {{seeds: 2}}}}
"""
PUBLISHED = (
    "{family: hourglass, depth: 1, channels_down: 4, channels_up: 4, channels_skip: 0, input: {kind: meshgrid}}\n"
)
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three pictures, a genome, a space and a task."""
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "published.yaml").write_text(PUBLISHED)
    (tmp_path / "tiny-space.yaml").write_text(TINY_SPACE)
    (tmp_path / "tiny.yaml").write_text(TINY_TASK.format(folder=tmp_path))
    return tmp_path


def arguments(folder: Path, verb: str, *more: str) -> list[str]:
    """A command on the tiny task, with its results in the folder."""
    space = ["--space", f"{folder}/tiny-space.yaml"] if verb == "search" else []
    return [verb, "--task", f"{folder}/tiny.yaml", "--out", f"{folder}/out", *space, *more]


def refused(capsys: Captured, given: list[str], code: int = 2) -> str:
    """Run a command that has to fail with `code`; its message, which has to be one line without a traceback."""
    assert main(given) == code
    captured = capsys.readouterr()
    message = captured.err.strip()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    if message.startswith("error:"):
        assert len(message.splitlines()) == 1
    return message


def as_process(given: list[str], folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dipsearch", *given]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, **options)


def largest_file(size: int) -> object:
    """What a process calls first to get a disk that takes no file above `size` bytes; the kernel enforces it."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_main_job(folder: Path, capsys: Captured) -> None:
    assert main(arguments(folder, "search")) == 0
    captured = capsys.readouterr()
    assert "predicted time" in captured.err
    assert "trial 3/3" in captured.err
    assert " rerun --task" in captured.out
    assert main(arguments(folder, "rerun", "--top", "1")) == 0
    assert "published" in capsys.readouterr().out
    for form in ("table", "csv", "json", "md"):
        assert main(arguments(folder, "leaderboard", "--format", form)) == 0
        assert "observation" in capsys.readouterr().out
    assert main(arguments(folder, "leaderboard", "--by", "search")) == 0
    assert "not evidence" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["search", "rerun", "restore"])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_a_precision_that_is_emulated_is_warned_of(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, verb: str, native: bool, precision: str
) -> None:
    monkeypatch.setattr(plan, "has_bfloat16", lambda device: native)
    genome = ["--genome", f"{folder}/published.yaml"] * (verb != "search")
    if verb == "restore":
        command = [verb, "denoise", f"{folder}/a.png", "-o", f"{folder}/restored.png"]
    else:
        command = arguments(folder, verb)
    command += [*genome, "--precision", precision, "--iterations", "1", "--device", "cpu"]
    assert main(command) == 0
    warned = "the processor has no instructions for bfloat16" in capsys.readouterr().err
    assert warned == ((native, precision) == (False, "bfloat16"))


@pytest.mark.slow
def test_printed_commands_run_as_printed(folder: Path) -> None:
    """A user pastes what the search printed."""
    printed = as_process(arguments(folder, "search"), folder).stdout
    commands = [line.strip() for line in printed.split("next:")[1].splitlines() if line.strip()]
    assert len(commands) == 3
    for line in commands:
        prefix = "python -m dipsearch "
        assert line.startswith(prefix)  # as it was called
        assert as_process(shlex.split(line.removeprefix(prefix)), folder).returncode == 0, line
    assert main(["show", "genome", str(folder / "best.yaml")]) == 0


def test_exported_genome_is_the_one_that_was_judged(folder: Path, capsys: Captured) -> None:
    from dipsearch import load_genome
    from dipsearch.run import RunStore

    main(arguments(folder, "search"))
    runs, _ = RunStore(folder / "out" / "runs").load("tiny")
    capsys.readouterr()
    for run in runs:
        assert main(["export", "genome", run["name"], "--task", f"{folder}/tiny.yaml", "--out", f"{folder}/out"]) == 0
        (folder / "found.yaml").write_text(capsys.readouterr().out)
        assert load_genome(str(folder / "found.yaml")).key() == run["genome_key"]


def test_export_of_an_unknown_genome(folder: Path, capsys: Captured) -> None:
    main(arguments(folder, "search"))
    capsys.readouterr()
    given = ["export", "genome", "nope", "--task", f"{folder}/tiny.yaml", "--out", f"{folder}/out"]
    assert "unknown genome 'nope'; choose from" in refused(capsys, given)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("tasks", "inpaint"), ("spaces", "dip"), ("genomes", "dip-denoise"), ("operators", "mask")],
)
def test_lists(kind: str, name: str, capsys: Captured) -> None:
    assert main(["list", kind]) == 0
    about = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{name} "))
    assert len(about.split()) > 2


def test_list_of_spaces_says_how_large_and_whence(capsys: Captured) -> None:
    assert main(["list", "spaces"]) == 0
    small = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("small "))
    assert " 6.0e+02 " in small  # 5 depths, 5 widths, 3 skips, 4 upsamplers, 2 kernels: 600
    assert "hundred trials" in small and "Ulyanov" in small


def test_show_space(folder: Path, capsys: Captured) -> None:
    (folder / "mine.yaml").write_text(TINY_SPACE + "source: me\nrecipe: {learning_rate: [0.01, 0.001]}\n")
    assert main(["show", "space", f"{folder}/mine.yaml"]) == 0
    shown = capsys.readouterr().out
    for words in ("mine: tiny", "source: me", "size: 12 ", "width: 4, 6, 8", "learning_rate: 0.01, 0.001", "$width"):
        assert words in shown
    assert main(["show", "space", "dip"]) == 0
    assert "skip for each of 6 levels: 0, 4, 16" in capsys.readouterr().out


def test_show_genome(capsys: Captured) -> None:
    assert main(["show", "genome", "dip-denoise", "--size", "64"]) == 0
    shown = capsys.readouterr().out
    assert "2,217,831" in shown
    assert "7.19" in shown  # GFLOP: 115 at 256x256, over 16


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["search", "--task", "dwnsample"], ["'dwnsample'", "denoise, inpaint, jpeg, region, sr"]),
        (["search", "--task", "denoise", "--space", "nope"], ["'nope'", "decoder, dip"]),
        (["search", "--task", "denoise", "--preset", "nope"], ["'nope'", "quick, standard, thorough"]),
        (["search", "--task", "denoise", "--sampler", "nope"], ["'nope'", "random, tpe"]),
        (["search", "--task", "denoise", "--device", "nope"], ["'nope'", "cuda"]),
        (["rerun", "--task", "denoise", "--genome", "nope"], ["'nope'", "dip-denoise"]),
        (["rerun", "--task", "denoise", "--genome", "dip-jpeg", "--preset", "nope"], ["'nope'", "paper"]),
        (["show", "genome", "nope"], ["'nope'", "dip-denoise"]),
        (["show", "space", "nope"], ["'nope'", "upsampling, wide"]),
        (["leaderboard", "--task", "nope"], ["'nope'", "denoise, inpaint, jpeg, region, sr"]),
        (["leaderboard", "--task", "denoise", "--format", "nope"], ["'nope'", "json"]),
        (["search", "--task", "./nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["search", "--task", "denoise", "--images", "skimage:nope"], ["skimage:nope", "astronaut"]),
        (["search", "--task", "denoise", "--study", "../up"], ["'../up'", "letters"]),
        (["search"], ["--task"]),
        (["search", "--task", "denoise", "--trials", "0"], ["--trials"]),
        (["search", "--task", "denoise", "--seed", "-1"], ["--seed"]),
        (["list", "nope"], ["tasks"]),
        (["nope"], ["nope"]),
    ],
)
def test_unknown_names(
    given: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(capsys, given)
    for part in parts:
        assert part in message
    assert list(tmp_path.iterdir()) == []  # nothing half-written


@pytest.mark.parametrize("name", ["empty.png", "text.png", "cut.png", "missing.png"])
@pytest.mark.parametrize("verb", ["search", "rerun"])
def test_unreadable_pictures(name: str, verb: str, folder: Path, capsys: Captured) -> None:
    contents = {"empty.png": b"", "text.png": b"no picture", "cut.png": (folder / "a.png").read_bytes()[:200]}
    if name in contents:
        (folder / name).write_bytes(contents[name])
    named = ["--genome", f"{folder}/published.yaml"] if verb == "rerun" else []
    message = refused(capsys, arguments(folder, verb, "--images", f"{folder}/{name}", *named))
    assert str(folder / name) in message
    assert not (folder / "out").exists()


def test_folder_without_pictures(folder: Path, capsys: Captured) -> None:
    (folder / "bare").mkdir()
    assert "no picture" in refused(capsys, arguments(folder, "search", "--images", f"{folder}/bare"))


def test_too_small_a_picture(folder: Path, capsys: Captured) -> None:
    Image.new("RGB", (15, 40)).save(folder / "small.png")
    message = refused(capsys, arguments(folder, "search", "--images", f"{folder}/small.png"))
    assert "small.png" in message
    assert "15x40" in message


@pytest.mark.parametrize(("size", "says"), [((30, 30), "30x30"), ((20, 24), "no pixel known")])
def test_unfit_masks(size: tuple[int, int], says: str, folder: Path, capsys: Captured) -> None:
    Image.new("L", size, 255).save(folder / "mask.png")
    task = (folder / "tiny.yaml").read_text()
    operator = f"operator: {{name: mask, file: '{folder}/mask.png'}}"
    (folder / "tiny.yaml").write_text(task.replace("operator: {name: identity}", operator))
    message = refused(capsys, arguments(folder, "search"))
    assert "mask.png" in message
    assert says in message


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("metric: rgb", "metric: rgbb", ["metric", "'rgbb'", "gray, rgb, y-border"]),
        ("name: identity", "name: identiy", ["operator", "'identiy'", "downsample, identity, mask"]),
        ("name: identity", "name: mask, mising: 0.5", ["mising"]),
        ("metric: rgb", "metric: rgb\nmetric: gray", ["line 6", "duplicate key 'metric'"]),
        ("metric: rgb", "metrics: rgb", ["metric"]),
        ("sigma: 25", "sigma: lots", ["noise.sigma", "'lots'"]),
        ("iterations: 16", "iterations: 0", ["recipe.iterations"]),
        ("iterations: 16", "stop: never", ["recipe.stop", "es-wmv, fixed"]),
        ("about: tiny", "about: [", ["line"]),
        ("about: tiny", "about: &a tiny\nsource: *a", ["aliases"]),
        ("about: tiny", "about: !!python/object/apply:os.system [ls]", ["python"]),
        ("about: tiny", f"about: {'x' * 300_000}", ["too long"]),
        ("about: tiny", f"about: {'[' * 5000}", ["nested too deeply"]),
        ("trials: 3", "trials: 3, size: 8", ["search.quick.size"]),
        ("b.png", "c.png", ["search and evaluation images must differ"]),
    ],
)
def test_malformed_tasks(before: str, after: str, parts: list[str], folder: Path, capsys: Captured) -> None:
    text = (folder / "tiny.yaml").read_text()
    assert before in text
    (folder / "tiny.yaml").write_text(text.replace(before, after))
    message = refused(capsys, arguments(folder, "search"))
    for part in ["tiny.yaml", *parts]:
        assert part in message
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("down: $width", "down: $widht", ["'widht'", "depth, width"]),
        ("depth: [1, 2]", "depth: [0]", ["genes.depth", "from 1 to 8, got 0"]),
        ("depth: [1, 2]", "depth: []", ["genes.depth"]),
        ("hourglass:", "hourglas:", ["no valid genome", "hourglas"]),
    ],
)
def test_malformed_spaces(before: str, after: str, parts: list[str], folder: Path, capsys: Captured) -> None:
    text = (folder / "tiny-space.yaml").read_text()
    assert before in text
    (folder / "tiny-space.yaml").write_text(text.replace(before, after))
    message = refused(capsys, arguments(folder, "search"))
    for part in ["tiny-space.yaml", *parts]:
        assert part in message


def test_study_that_exists(folder: Path, capsys: Captured) -> None:
    main(arguments(folder, "search"))
    capsys.readouterr()
    assert "--resume" in refused(capsys, arguments(folder, "search"))


def test_resume_without_a_study(folder: Path, capsys: Captured) -> None:
    assert "no study to resume" in refused(capsys, arguments(folder, "search", "--resume"))


@pytest.mark.parametrize(
    ("file", "before", "after", "says"),
    [
        ("tiny.yaml", "sigma: 25", "sigma: 50", "task"),
        ("tiny-space.yaml", "width: [4, 6, 8]", "width: [4, 6]", "space"),
        ("tiny.yaml", "start_up: 2", "start_up: 1", "effort"),
    ],
)
def test_resume_with_another_question(
    file: str, before: str, after: str, says: str, folder: Path, capsys: Captured
) -> None:
    study = ["--study", "mine"]
    main(arguments(folder, "search", *study))
    capsys.readouterr()
    (folder / file).write_text((folder / file).read_text().replace(before, after))
    message = refused(capsys, arguments(folder, "search", *study, "--resume", "--trials", "4"))
    assert f"another {says}" in message
    assert "config.yaml" in message


def test_nothing_to_rank(folder: Path, capsys: Captured) -> None:
    assert "dipsearch rerun" in refused(capsys, arguments(folder, "leaderboard"))
    assert "dipsearch search" in refused(capsys, arguments(folder, "rerun"))


@pytest.mark.slow
def test_full_disk(folder: Path) -> None:
    given = arguments(folder, "rerun", "--genome", f"{folder}/published.yaml")
    ended = as_process(given, folder, preexec_fn=largest_file(100))
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "cannot be written" in ended.stderr.splitlines()[-1]
    assert [path for path in (folder / "out").rglob("*") if path.is_file()] == []


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_full_standard_output(folder: Path) -> None:
    command = [sys.executable, "-m", "dipsearch", "list", "tasks"]
    with Path("/dev/full").open("w") as full:
        made = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert made.returncode == 1
    assert made.stderr == "error: standard output, or a file: No space left on device\n"


@pytest.mark.slow
def test_what_the_terminal_has_no_letters_for() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "dipsearch", "show", "genome", "dip-denoise"]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "") and "\\u251c" in made.stdout  # a branch of the tree


def test_an_import_that_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some modules answer Ctrl-C with an error of their own."""

    def broken_off(kind: str) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("half a module") from error

    monkeypatch.setattr("dipsearch.catalog.described", broken_off)
    assert main(["list", "tables"]) == 130
    monkeypatch.setattr("dipsearch.catalog.described", lambda kind: (_ for _ in ()).throw(ImportError("none")))
    with pytest.raises(ImportError, match="none"):
        main(["list", "tables"])


@pytest.mark.slow
def test_full_disk_while_a_study_is_made(folder: Path) -> None:
    ended = as_process(arguments(folder, "search"), folder, preexec_fn=largest_file(20_000))
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: ")


def test_unwritable_results(folder: Path, capsys: Captured) -> None:
    (folder / "out").write_text("a file where the folder should be")
    assert main(arguments(folder, "search")) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_user_pictures_take_the_place_of_the_tasks(folder: Path, capsys: Captured) -> None:
    (folder / "mine").mkdir()
    Image.new("RGB", (24, 20), (10, 200, 30)).save(folder / "mine" / "own.png")
    (folder / "mine" / "notes.txt").write_text("not a picture")
    assert main(arguments(folder, "search", "--trials", "1", "--images", f"{folder}/mine")) == 0
    captured = capsys.readouterr()
    assert "mine/own.png" in captured.err
    assert "a.png" not in captured.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "m", "", "9 weeks"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 9m"):
        Duration().convert(text, None, None)


def test_progress_says_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the work of this process alone: what was stored, and the time before the first report, do not count."""
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    said = io.StringIO()
    reporter = terminal.Reporter(Console(file=said, width=200), None, None)
    for clock[0], done in ((20.0, 4.0), (31.0, 4.1), (45.0, 4.25)):
        reporter.update(done, 6, "5/6  a.png")
    assert said.getvalue().splitlines() == [
        "  5/6  a.png",
        "  5/6  a.png  3 min 29 s left",  # 1.9 files of 110 s
        "  5/6  a.png  2 min 55 s left",  # 1.75 files of 100 s
    ]
    for clock[0], done in ((500.0, 0.0), (511.0, 0.05), (531.0, 0.2)):  # other work, such as the fit after a search
        reporter.update(done, 1, "1/1  a.png  :on:")
    assert said.getvalue().splitlines()[3:] == [
        "  1/1  a.png  :on:",
        *(f"  1/1  a.png  :on:  {left} left" for left in ("3 min 29 s", "2 min 4 s")),
    ]
    clock[0] = 542.0
    reporter.update(0.3, 1, "1/1  a.png", "at most ")
    assert said.getvalue().splitlines()[-1] == "  1/1  a.png  at most 1 min 38 s left"
