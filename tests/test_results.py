"""The committed results: each has its command, and each command is one."""

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dipsearch.cli import main
from dipsearch.dataset import data_folder, load_dataset, missing
from dipsearch.reproduce.table import load_table

RESULTS = Path(__file__).parents[1] / "results"
ROW = re.compile(r"^\| (`.+?`) \| (.+) \|$", re.MULTILINE)


def listed() -> dict[str, str]:
    """The patterns of files that the README lists, with what stands beside each."""
    rows = ROW.findall((RESULTS / "README.md").read_text(encoding="utf-8"))
    return {pattern.strip("`"): command for files, command in rows for pattern in files.split(", ")}


def committed() -> list[str]:
    """Files under results/ but what commands keep there for themselves."""
    files = (path.relative_to(RESULTS) for path in RESULTS.rglob("*") if path.is_file())
    kept = (path for path in files if path.parts[0] in ("tables", "genomes", "dipbench", "benchmarks", "figures"))
    return [path.as_posix() for path in kept if not {"fits", "parts"} & set(path.parts)]


@pytest.mark.parametrize("name", committed())
def test_every_result_has_its_command(name: str) -> None:
    assert [pattern for pattern in listed() if fnmatch(name, pattern)], f"{name} is not in results/README.md"


def test_every_row_is_of_a_file() -> None:
    names = committed()
    assert names
    for pattern in listed():
        assert any(fnmatch(name, pattern) for name in names), pattern


@pytest.mark.parametrize(("pattern", "told"), listed().items())
def test_every_command_is_one(pattern: str, told: str) -> None:
    commands = [part for text in re.findall(r"`(.+?)`", told) for part in text.split(" && ")]
    programs = [shlex.split(command) for command in commands]
    assert programs
    for words in programs:
        assert words[:2] in (["python", "-m"], ["make", "demo"]) or words[0] == "dipsearch", words
        if words[0] == "dipsearch":
            assert main([*words[1:], "--help"]) == 0, words  # which knows every option


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the committed runs."""
    folder = tmp_path_factory.mktemp("merged")
    assert main(["runs", "merge", str(RESULTS / "tables" / "runs.tar.xz"), "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("name", "told"), [(name, told) for name, told in listed().items() if told.startswith("`dipsearch reproduce")]
)
def test_a_reproduced_table_is_what_its_command_makes_of_the_committed_runs(
    merged: Path, tmp_path: Path, name: str, told: str
) -> None:
    (words,) = (shlex.split(command) for command in re.findall(r"`(.+?)`", told))
    table = load_table(words[2])
    sets = {image.split(":")[0] for image in table.images if not image.startswith("skimage:")}
    if any(missing(load_dataset(each), data_folder()) for each in sets):
        pytest.skip(f"the pictures of {', '.join(sets)} are not here")
    assert words[-2:] == ["-o", f"results/{name}"]
    made = tmp_path / "made.md"
    assert main([*words[1:-1], str(made), "--budget", "0", "--out", str(merged)]) == 0
    assert made.read_text(encoding="utf-8") == (RESULTS / name).read_text(encoding="utf-8")
