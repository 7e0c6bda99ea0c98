import csv
import io
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from dipsearch.cli import main
from dipsearch.error import UsageError
from dipsearch.leaderboard import COLUMNS, leaderboard, search_ranking, with_front
from dipsearch.provenance import found_genome
from dipsearch.report.text import FORMATS, caption
from dipsearch.run import Run, RunStore, run_key

ROOT = Path(__file__).resolve().parent.parent
SETTING = {
    "operator": {"name": "identity"},
    "metric": "rgb",
    "pictures": {"size": 64, "shrink": 2, "multiple_of": 1},
    "recipe": {"iterations": 400, "stop": "fixed"},
}
FULL, PROXY = "full-protocol", "proxy-protocol"


def record(**fields):
    values = asdict(
        Run(
            task="denoise",
            purpose="rerun",
            preset="quick",
            protocol=FULL,
            setting=SETTING,
            metric="rgb",
            image="skimage:cat",
            digest="digest-cat",
            repeat=0,
            study_seed=0,
            seed=11,
            name="small",
            genome_key="key-small",
            genome={"family": "hourglass", "depth": 1},
            summary="hourglass 1 x 4",
            psnr=25.0,
            ssim=0.5,
            oracle_psnr=26.0,
            iterations=400,
            parameters=1000,
            gflop=0.5,
            seconds=2.0,
            machine={"python": "3.11", "system": "Linux x86_64", "cores": 2},
            created="2025-01-01T00:00:00+00:00",
        )
    )
    return values | fields


def store_of(root, runs):
    folder = root / "runs" / "denoise"
    folder.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs):
        key = run_key(run["protocol"], run["genome_key"] or run["name"], run["digest"], run["seed"])
        (folder / f"{number}-{key}.json").write_text(json.dumps(run))
    return RunStore(root / "runs")


def genome_runs(name, psnr, **fields):
    """Runs of one genome: `psnr` has a row for each seed and in it a value for each picture."""
    runs = []
    for repeat, row in enumerate(psnr):
        for picture, value in zip(("cat", "dog"), row, strict=False):
            runs.append(
                record(
                    name=name,
                    genome_key=f"key-{name}",
                    psnr=value,
                    image=f"skimage:{picture}",
                    digest=f"digest-{picture}",
                    repeat=repeat,
                    seed=100 * repeat + len(picture) + (picture == "dog"),
                    **fields,
                )
            )
    return runs


def baseline_runs(name, psnr, **fields):
    given = {"genome": None, "summary": "(baseline)", "oracle_psnr": None, "parameters": 0, "gflop": 0.0}
    return [run | {"genome_key": None} for run in genome_runs(name, psnr, **(given | fields))]


def rows_of(board):
    return {row["name"]: row for row in board.table.to_dict("records")}


SMALL = [[20.0, 30.0], [22.0, 30.0], [21.0, 33.0]]  # means by seed: 25, 26, 27
LARGE = [[24.0, 30.0], [24.0, 30.0], [24.0, 30.0]]


# Ranking


def test_mean_and_deviation_have_known_answers(tmp_path):
    board = leaderboard(store_of(tmp_path, genome_runs("small", SMALL) + genome_runs("large", LARGE)), "denoise")
    small, large = rows_of(board)["small"], rows_of(board)["large"]
    assert small["psnr"] == pytest.approx(26.0)
    assert small["psnr_sd"] == pytest.approx(statistics.stdev([25, 26, 27])) == pytest.approx(1.0)
    assert (large["psnr"], large["psnr_sd"]) == (pytest.approx(27.0), pytest.approx(0.0))
    assert (small["rank"], large["rank"]) == (2, 1)
    assert list(board.table["name"]) == ["large", "small"]
    assert (small["images"], small["seeds"], small["failed"]) == (2, 3, 0)
    assert board.images == ["cat", "dog"]
    assert (board.preset, board.metric, board.purpose, board.other_protocols) == ("quick", "rgb", "rerun", 0)


def test_what_an_interruption_leaves_moves_no_mean(tmp_path):
    runs = genome_runs("small", [[30.0, 20.0], [30.0]]) + genome_runs("large", [[29.0, 19.0], [29.0]])
    small = rows_of(leaderboard(store_of(tmp_path, runs), "denoise"))["small"]
    assert small["rank"] == 1 and small["psnr"] == 25.0  # of pictures, each of which counts once
    assert math.isnan(small["psnr_sd"])  # one seed alone has both


def test_what_a_search_has_fitted_counts_in_a_rerun_of_the_same_protocol(tmp_path):
    found = genome_runs("found", [[20.0], [26.0], [27.0]])
    found[0] |= {"purpose": "search"}
    runs = found + genome_runs("published", [[24.0], [25.0], [26.0]])
    rows = rows_of(leaderboard(store_of(tmp_path, runs), "denoise"))
    assert {name: (row["rank"], row["seeds"]) for name, row in rows.items()} == {"published": (1, 3), "found": (2, 3)}


def test_costs_and_other_numbers_are_means_and_sums(tmp_path):
    runs = genome_runs("small", [[20.0, 30.0]])
    runs[0] |= {"seconds": 1.0, "ssim": 0.2, "rollbacks": 1, "parameters": 5}
    runs[1] |= {"seconds": 2.0, "ssim": 0.6, "rollbacks": 2, "parameters": 5}
    row = rows_of(leaderboard(store_of(tmp_path, runs), "denoise"))["small"]
    assert (row["seconds"], row["ssim"], row["rollbacks"], row["parameters"]) == (1.5, pytest.approx(0.4), 3, 5)


def test_one_seed_has_no_deviation(tmp_path):
    board = leaderboard(store_of(tmp_path, genome_runs("small", [[20.0, 30.0]])), "denoise")
    assert math.isnan(rows_of(board)["small"]["psnr_sd"])


def test_the_oracle_never_ranks(tmp_path):
    runs = genome_runs("honest", [[25.0]], oracle_psnr=25.5) + genome_runs("lucky", [[24.0]], oracle_psnr=99.0)
    board = leaderboard(store_of(tmp_path, runs), "denoise")
    assert list(board.table["name"]) == ["honest", "lucky"]
    assert list(board.table["rank"]) == [1, 2]
    assert list(board.table["oracle_psnr"]) == [25.5, 99.0]


def test_equal_results_share_a_rank(tmp_path):
    runs = genome_runs("a", [[25.0]]) + genome_runs("b", [[25.0]]) + genome_runs("c", [[24.0]])
    assert sorted(leaderboard(store_of(tmp_path, runs), "denoise").table["rank"]) == [1, 1, 3]


def test_a_row_without_every_instance_has_no_rank_and_stands_last(tmp_path):
    runs = genome_runs("whole", [[20.0, 20.0]]) + genome_runs("part", [[40.0]])
    board = leaderboard(store_of(tmp_path, runs), "denoise")
    assert list(board.table["name"]) == ["whole", "part"]
    assert rows_of(board)["whole"]["rank"] == 1
    assert math.isnan(rows_of(board)["part"]["rank"])
    assert rows_of(board)["part"]["psnr"] == 40.0


def test_failures_are_counted_and_take_the_rank(tmp_path):
    runs = genome_runs("sound", [[20.0, 22.0]]) + genome_runs("fragile", [[40.0, 41.0]])
    runs[3] |= {"status": "diverged", "reason": "the loss", "psnr": None, "ssim": None, "oracle_psnr": None}
    runs[3] |= {"seconds": 0.0, "gflop": 0.0}  # as a failed fit has them
    board = leaderboard(store_of(tmp_path, runs), "denoise")
    rows = rows_of(board)
    assert (rows["sound"]["failed"], rows["fragile"]["failed"]) == (0, 1)
    assert math.isnan(rows["fragile"]["rank"]) and rows["sound"]["rank"] == 1
    assert rows["fragile"]["psnr"] == 40.0 and rows["fragile"]["images"] == 1
    assert (rows["fragile"]["gflop"], rows["fragile"]["seconds"]) == (0.5, 2.0)


def test_a_genome_that_only_failed_is_shown(tmp_path):
    failure = {"status": "out-of-memory", "ssim": None, "oracle_psnr": None}
    board = leaderboard(store_of(tmp_path, genome_runs("huge", [[None]], **failure)), "denoise")
    row = rows_of(board)["huge"]
    assert row["failed"] == 1 and math.isnan(row["psnr"]) and math.isnan(row["rank"]) and row["images"] == 0
    for form in FORMATS.values():
        assert "huge" in form(board)


def test_baselines_rank_among_the_genomes(tmp_path):
    runs = genome_runs("small", [[25.0, 25.0]]) + baseline_runs("observation", [[20.0, 20.0]])
    runs += baseline_runs("non-local-means", [[28.0, 28.0]])
    board = leaderboard(store_of(tmp_path, runs), "denoise")
    assert list(board.table["name"]) == ["non-local-means", "small", "observation"]
    assert list(board.table["rank"]) == [1, 2, 3]
    assert rows_of(board)["observation"]["summary"] == "(baseline)"


def test_baselines_alone_make_a_table(tmp_path):
    board = leaderboard(store_of(tmp_path, baseline_runs("observation", [[20.0, 20.0]])), "denoise")
    assert rows_of(board)["observation"]["rank"] == 1
    for form in FORMATS.values():
        assert "observation" in form(board)


def test_runs_under_two_study_seeds_are_instances_of_their_own(tmp_path):
    """`rerun --seed 0` and `rerun --seed 1`: other noise and other weights on the same pictures."""
    small = genome_runs("small", [[20.0, 30.0]]) + [
        run | {"study_seed": 1, "seed": run["seed"] + 1} for run in genome_runs("small", [[22.0, 32.0]])
    ]
    once = genome_runs("once", [[40.0, 40.0]])
    rows = rows_of(leaderboard(store_of(tmp_path, small + once), "denoise"))
    assert rows["small"]["psnr"] == 26.0
    assert rows["small"]["rank"] == 1  # it has every instance, "once" lacks those of the second seed
    assert math.isnan(rows["once"]["rank"])


# What is shown of many runs


def test_one_protocol_is_shown_and_the_others_are_counted(tmp_path):
    runs = genome_runs("old", [[40.0]], protocol="older", created="2025-01-01T00:00:00+00:00")
    runs += genome_runs("new", [[20.0]], created="2025-03-01T00:00:00+00:00")
    runs += genome_runs("third", [[30.0]], protocol="third", created="2025-02-01T00:00:00+00:00")
    board = leaderboard(store_of(tmp_path, runs), "denoise")
    assert list(board.table["name"]) == ["new"]
    assert board.other_protocols == 2
    assert "2 other protocol(s) are not shown" in caption(board)


def test_search_runs_and_full_runs_are_never_mixed(tmp_path):
    runs = genome_runs("small", [[25.0]]) + genome_runs("proxy", [[40.0]], purpose="search", protocol=PROXY)
    store = store_of(tmp_path, runs)
    assert list(leaderboard(store, "denoise").table["name"]) == ["small"]
    by_search = leaderboard(store, "denoise", purpose="search")
    assert list(by_search.table["name"]) == ["proxy"]
    assert "not evidence" in caption(by_search) and "not evidence" not in caption(leaderboard(store, "denoise"))


def test_the_pictures_that_a_genome_was_found_on_are_said(tmp_path):
    pictures = ("skimage:ihc", "a/b.png")
    found = [record(purpose="search", protocol=PROXY, image=picture, digest=picture) for picture in pictures]
    runs = genome_runs("small", [[25.0]]) + genome_runs("published", [[24.0]]) + baseline_runs("bicubic", [[23.0]])
    rows = rows_of(leaderboard(store_of(tmp_path, found + runs), "denoise"))
    assert rows["small"]["found_on"] == "b.png, ihc"
    assert rows["published"]["found_on"] == rows["bicubic"]["found_on"] == ""


def test_a_preset_can_be_asked_for(tmp_path):
    runs = genome_runs("quick", [[25.0]])
    runs += genome_runs("paper", [[35.0]], preset="paper", protocol="p", created="2025-02-01T00:00:00+00:00")
    store = store_of(tmp_path, runs)
    assert list(leaderboard(store, "denoise", preset="quick").table["name"]) == ["quick"]
    assert list(leaderboard(store, "denoise", preset="paper").table["name"]) == ["paper"]
    with pytest.raises(UsageError, match="no rerun runs with preset 'standard'"):
        leaderboard(store, "denoise", preset="standard")


@pytest.mark.parametrize("purpose", ["rerun", "search"])
def test_without_runs_the_error_says_what_to_run(tmp_path, purpose):
    with pytest.raises(UsageError) as caught:
        leaderboard(RunStore(tmp_path / "runs"), "denoise", purpose=purpose)
    assert f"run: dipsearch {purpose} --task denoise" in str(caught.value)
    assert str(tmp_path / "runs") in str(caught.value)


def test_broken_files_are_named_and_do_no_harm(tmp_path):
    store = store_of(tmp_path, genome_runs("small", [[25.0]]))
    broken = tmp_path / "runs" / "denoise" / "coffee-0000.json"
    for garbage in (b'{"schema": 1, "psnr": 2', b""):
        broken.write_bytes(garbage)
        board = leaderboard(store, "denoise")
        assert list(board.table["name"]) == ["small"]
        assert board.broken == [broken]
        assert f"1 file(s) could not be read as runs, the first: {broken}" in caption(board)


def test_the_ranking_of_a_search_holds_ranked_genomes_only(tmp_path):
    search = {"purpose": "search", "protocol": PROXY}
    runs = genome_runs("good", [[30.0, 30.0]], **search) + genome_runs("best", [[31.0, 31.0]], **search)
    runs += genome_runs("part", [[50.0]], **search)
    ranking = search_ranking(store_of(tmp_path, runs), "denoise")
    assert list(ranking["name"]) == ["best", "good"]
    assert ranking.iloc[0]["genome"] == {"family": "hourglass", "depth": 1}
    assert search_ranking(RunStore(tmp_path / "nowhere"), "denoise").empty


def test_a_search_is_judged_on_what_two_genomes_were_fitted_on_to_the_end(tmp_path):
    """Most were given up after the first picture; in a re-run, what most have would decide."""
    names = {"whole": [[20.0, 30.0]], "other": [[21.0, 30.0]], **{f"part {n}": [[25.0 + n]] for n in range(5)}}
    for purpose, ranked in (("search", ["other", "whole"]), ("rerun", ["part 4", "part 3"])):
        runs = [run for name, psnr in names.items() for run in genome_runs(name, psnr, purpose=purpose)]
        runs[-1]["created"] = "2030-01-01T00:00:00+00:00"  # the latest is a part
        board = leaderboard(store_of(tmp_path / purpose, runs), "denoise", purpose=purpose)
        table = board.table[board.table["rank"].notna()]
        assert list(table["name"])[:2] == ranked and (purpose == "rerun" or len(table) == 2)


# Renderings


def board_of(tmp_path, name="small"):
    runs = genome_runs(name, SMALL) + genome_runs("large", LARGE) + baseline_runs("observation", [[20.123456789, 21.0]])
    return leaderboard(store_of(tmp_path, runs), "denoise")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_shows_every_row(tmp_path, form):
    text = FORMATS[form](board_of(tmp_path))
    assert all(name in text for name in ("small", "large", "observation")) and text.endswith("\n")
    assert "nan" not in text.lower()


def test_csv_parses_back_at_full_precision(tmp_path):
    board = board_of(tmp_path)
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](board))))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["name"] for row in rows] == ["large", "small", "observation"]
    assert float(rows[1]["psnr"]) == board.table["psnr"][1]
    assert float(rows[2]["psnr"]) == (20.123456789 + 21.0) / 2
    assert rows[2]["oracle_psnr"] == rows[2]["rank"] == ""  # a baseline has no oracle; this one misses two seeds


def test_json_parses_back_at_full_precision(tmp_path):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    data = json.loads(FORMATS["json"](board_of(tmp_path)), parse_constant=refuse)
    assert [row["name"] for row in data["rows"]] == ["large", "small", "observation"]
    assert [row["psnr"] for row in data["rows"]] == list(board_of(tmp_path).table["psnr"])
    thirds = leaderboard(store_of(tmp_path / "thirds", genome_runs("small", [[26.0], [27.0], [27.0]])), "denoise")
    assert json.loads(FORMATS["json"](thirds))["rows"][0]["psnr"] == 80 / 3
    assert data["rows"][2]["rank"] is None and data["rows"][2]["genome"] is None
    assert data["rows"][0]["genome"] == {"family": "hourglass", "depth": 1}
    assert data["setting"] == SETTING and data["task"] == "denoise" and data["images"] == ["cat", "dog"]


def test_markdown_is_one_pipe_table_of_equal_rows(tmp_path):
    lines = [line for line in FORMATS["md"](board_of(tmp_path)).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert "| 26.00 | 1.00 |" in lines[3]


def test_the_table_is_aligned_and_has_two_digits(tmp_path):
    lines = FORMATS["table"](board_of(tmp_path)).splitlines()
    header = next(line for line in lines if line.startswith("rank"))
    small = next(line for line in lines if "small" in line)
    assert small[: header.index("PSNR") + 4].endswith("26.00")
    assert small.split()[0] == "2"
    assert "rollbacks" not in header and "failed" not in header


NAMES = ["a|b", "[bold]loud[/bold]", "x[/]y", "[red]", "back\\slash", "\\[escaped]", "end\\", ":warning:", "a]b", "50%"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMATS)
def test_markup_in_a_name_is_shown_literally(tmp_path, form, name):
    text = FORMATS[form](board_of(tmp_path, name))
    if form == "json":
        assert name in [row["name"] for row in json.loads(text)["rows"]]
    elif form == "csv":
        assert name in [row["name"] for row in csv.DictReader(io.StringIO(text))]
    elif form == "md":
        line = next(line for line in text.splitlines() if line.startswith("| 2 "))
        assert line.split(" | ")[1] == name.replace("|", "\\|")
        assert line.replace("\\|", "").count("|") == len(text.splitlines()[2].replace("\\|", "").split("|")) - 1
    else:
        row = next(line for line in text.splitlines() if line.split()[:1] == ["2"])
        assert f" {name} " in row


def test_a_wide_table_loses_nothing(tmp_path):
    pictures = [f"picture-{number:02}-with-a-long-name.png" for number in range(20)]
    runs = genome_runs("small", [[25.0]])
    runs += [record(purpose="search", protocol=PROXY, image=picture, digest=picture) for picture in pictures]
    text = FORMATS["table"](leaderboard(store_of(tmp_path, runs), "denoise"))
    assert ", ".join(pictures) in text and "…" not in text


# A genome with its provenance


def test_a_found_genome_carries_how_it_was_judged(tmp_path):
    runs = genome_runs("small", SMALL) + genome_runs("large", LARGE)
    runs += genome_runs("small", [[23.0]], purpose="search", protocol=PROXY, preset="standard")
    data = found_genome(store_of(tmp_path, runs), "denoise", "small")
    assert data["genome"] == {"family": "hourglass", "depth": 1} and data["image_channels"] == 3
    assert data["parameters"] == 1000  # and not the 0 of a fit that failed
    rerun, search = data["provenance"]["rerun"], data["provenance"]["search"]
    assert (rerun["psnr"], rerun["psnr_sd"], rerun["rank"], rerun["seeds"]) == (26.0, 1.0, 2, 3)
    assert (search["psnr"], search["psnr_sd"], search["preset"], search["images"]) == (23.0, None, "standard", ["cat"])
    with pytest.raises(UsageError, match="unknown genome 'smal'; choose from: large, small"):
        found_genome(RunStore(tmp_path / "runs"), "denoise", "smal")
    with pytest.raises(UsageError, match="run: dipsearch search --task inpaint"):
        found_genome(RunStore(tmp_path / "runs"), "inpaint", "small")


# The command line, and how long it takes


def command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "dipsearch", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_prints_the_table(tmp_path, capsys):
    board = board_of(tmp_path)
    assert main(["leaderboard", "--task", "denoise", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == FORMATS["table"](board)
    assert main(["leaderboard", "--task", "denoise", "--out", str(tmp_path), "--format", "csv"]) == 0
    assert capsys.readouterr().out == FORMATS["csv"](board)
    assert main(["leaderboard", "--task", "denoise", "--out", str(tmp_path / "nowhere")]) == 2
    assert "run: dipsearch rerun --task denoise" in capsys.readouterr().err


@pytest.mark.slow
def test_ten_thousand_runs_take_seconds(tmp_path):
    runs = (
        record(
            name=f"g{genome}",
            genome_key=f"key-{genome}",
            image=f"skimage:{picture}",
            digest=f"digest-{picture}",
            repeat=repeat,
            seed=repeat,
            psnr=20 + genome / 100 + picture / 1000,
            genome={"family": "hourglass", "depth": 5, "channels_down": [16, 32, 64, 128, 128]},
            machine={"python": "3.11", "processor": "a processor with a long name", "cores": 2, "torch": "2.13"},
        )
        for genome in range(200)
        for picture in range(10)
        for repeat in range(5)
    )
    store_of(tmp_path, runs)
    started = time.perf_counter()
    ended = command("leaderboard", "--task", "denoise", "--out", str(tmp_path), "--format", "csv", cwd=tmp_path)
    seconds = time.perf_counter() - started
    print(f"leaderboard over 10,000 runs: {seconds:.2f} s")
    assert ended.returncode == 0, ended.stderr
    rows = list(csv.DictReader(io.StringIO(ended.stdout)))
    assert len(rows) == 200 and rows[0]["name"] == "g199"
    assert (rows[0]["rank"], rows[0]["images"], rows[0]["seeds"]) == ("1.0", "10", "5")
    assert float(rows[0]["psnr"]) == pytest.approx(20 + 1.99 + 0.0045)
    assert seconds < 4, f"{seconds:.2f} s; below 2 s on an idle machine"


@pytest.mark.parametrize("words", [["--help"], ["list", "tasks"]], ids=" ".join)
def test_quick_commands_are_quick(tmp_path, words):
    times = []
    for _ in range(5):
        started = time.perf_counter()
        ended = command(*words, cwd=tmp_path)
        times.append(time.perf_counter() - started)
        assert ended.returncode == 0 and "denoise" in ended.stdout + "denoise" * (words == ["--help"])
    print(f"dipsearch {' '.join(words)}: {min(times):.2f} s")
    assert min(times) < 0.4


LOADED = """
import sys
from dipsearch.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "optuna", "pandas", "skimage", "scipy", "numpy"} & set(sys.modules)
print("loaded:", *sorted(heavy), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("words", ["--help", "search --help", "list tasks", "list genomes", "reproduce --list"])
def test_quick_commands_load_nothing_heavy(tmp_path, words):
    ended = subprocess.run(
        [sys.executable, "-c", LOADED, *words.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0 and ended.stdout
    assert ended.stderr.splitlines()[-1].strip() == "loaded:"


def test_a_leaderboard_loads_neither_torch_nor_optuna(tmp_path):
    board_of(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", LOADED, "leaderboard", "--task", "denoise", "--out", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0
    loaded = ended.stderr.splitlines()[-1].split()
    assert "torch" not in loaded and "optuna" not in loaded


def test_the_front_weighs_every_cost():
    rows = [(1, 5.0, 100), (2, 1.0, 100), (3, 1.2, 1), (4, 2.0, 2), (5, 0.5, 100)]
    table = pd.DataFrame(rows, columns=["rank", "gflop", "parameters"]).assign(genome="{}", front="")
    assert list(with_front(table, ["gflop"])["front"]) == ["*", "*", "", "", "*"]
    assert list(with_front(table, ["gflop", "parameters"])["front"]) == ["*", "*", "*", "", "*"]
