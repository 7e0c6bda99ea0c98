"""DIPBench: what is in it, making it, its tables, replays and what it says."""

import itertools

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from studies import write_space, write_task

from dipsearch import catalog
from dipsearch.bench import design, replay
from dipsearch.bench.answers import correlations
from dipsearch.bench.check import check
from dipsearch.bench.collect import collect, measure
from dipsearch.bench.replay import Curves, Plan, Trajectory, compare, curves, plans
from dipsearch.bench.table import STEPS, have, load, pack, part_path, part_rows
from dipsearch.cli import main
from dipsearch.error import DipsearchError, UsageError, WorkerKilled
from dipsearch.report.dipbench import write_report
from dipsearch.run import RunStore
from dipsearch.search.evaluation import Protocol
from dipsearch.search.executor import Here
from dipsearch.search.ladder import LADDERS
from dipsearch.search.samplers import SAMPLERS
from dipsearch.search.scores import SCORES, scores
from dipsearch.space import load_space
from dipsearch.task import load_task

GENES = {"depth": [1, 2], "channels": [2, 4], "upsample": ["nearest", "bilinear"]}
TEMPLATE = {
    "depth": "$depth",
    "channels_down": "$channels",
    "channels_up": "$channels",
    "channels_skip": 0,
    "upsample": "$upsample",
    "input": {"kind": "noise", "channels": 2},
}


@pytest.fixture
def small(room, monkeypatch):
    """A tiny DIPBench: a task with its preset, eight genomes, two sampled ones, one that is built in."""
    for path in room.glob("*.png"):
        Image.open(path).resize((32, 32), Image.Resampling.BICUBIC).save(path)
    recipe = {"iterations": 20, "stop": "held-out", "held_out": 0.2, "patience": 20, "precision": "float32"}
    write_task(room, bench={"trials": 4, "timeout": 600, "images": 2, "shrink": 2, "size": 16, "recipe": recipe})
    whole = write_space(room, "whole", GENES, TEMPLATE)
    sampled = write_space(room, "sampled", {"kernel": [1, 3, 5]}, TEMPLATE | {
        "depth": 1, "channels_down": 2, "channels_up": 2, "upsample": "bicubic", "kernel_up": "$kernel",
    })  # fmt: skip
    monkeypatch.setattr(design, "WHOLE", str(whole))
    monkeypatch.setattr(design, "SAMPLED", str(sampled))
    monkeypatch.setattr(design, "SAMPLES", 2)
    every = catalog.names
    one = {"dip-library-2": every("genomes")["dip-library-2"]}
    tasks = every("tasks") | {"task": room / "task.yaml"}
    own = {"genomes": one, "tasks": tasks}
    monkeypatch.setattr(catalog, "names", lambda kind: own[kind] if kind in own else every(kind))
    return room


def task_of(room):
    return str(room / "task.yaml")


# What is in it


def test_the_built_in_design_is_what_the_table_promises():
    protocol = design.protocol_of("denoise")
    assert protocol.recipe.stop == "held-out" and protocol.recipe.precision == "float32"
    assert protocol.recipe.iterations == STEPS[-1]
    space = load_space(design.WHOLE)
    genomes = list(space.genomes())
    assert len(genomes) == space.size() == len({genome.key() for genome in genomes}) >= 300
    for task in ("denoise", "inpaint", "sr"):
        loaded = load_task(task)
        assert len(loaded.images.search[: loaded.search["bench"].images]) >= 4


def test_a_task_without_the_preset_is_refused(room):
    with pytest.raises(UsageError, match="no search preset 'bench'"):
        design.protocol_of(task_of(room))


def test_the_fits_are_every_genome_once_and_a_quarter_again(small):
    protocol = design.protocol_of(task_of(small))
    made = list(design.fits(protocol))
    entries = design.entries(protocol.effort)
    assert [entry.origin == "named" for entry in entries] == [False] * 10 + [True]
    assert len({entry.genome.key() for entry in entries}) == 11
    whole, sampled, named = entries[:8], entries[8:10], entries[10:]
    expected = [(entry, 0, 16) for entry in whole] + [(entry, 1, 16) for entry in whole[::4]]
    expected += [(whole[0], 0, 32)] + [(entry, 0, 16) for entry in sampled + named] + [(sampled[0], 1, 16)]
    assert [(entry, each.repeat, each.shape[1]) for entry, each in made[::2]] == expected
    torch.testing.assert_close(F.avg_pool2d(made[20][1].truth, 2), made[0][1].truth)
    assert made[0][0] == made[1][0] and made[0][1].image != made[1][1].image
    assert [entry.genome.key() for entry, _ in design.fits(protocol)] == [entry.genome.key() for entry, _ in made]


# Making it


@pytest.mark.slow
def test_parts_are_made_apart_and_packed_together(small):
    folder, task = small / "bench", task_of(small)
    assert collect(folder, task, part=(0, 2), budget=0) == 15
    assert collect(folder, task, part=(0, 2)) == 0
    lines = part_path(folder, task, 0, 2).read_bytes().splitlines(keepends=True)
    part_path(folder, task, 0, 2).write_bytes(b"".join(lines[:-2]) + lines[-2][:12])  # as an interruption leaves it
    assert len(part_rows(folder, task)) == 13
    assert collect(folder, task, part=(0, 2)) == 0
    assert len(part_rows(folder, task)) == 15
    assert collect(folder, task, part=(1, 2)) == 0
    table = pack(folder, task)
    assert len(table) == 30 and len(have(folder, task)) == 30
    assert not table.duplicated(["key", "digest", "seed"]).any()
    part_path(folder, task, 0, 2).unlink()
    part_path(folder, task, 1, 2).unlink()
    assert collect(folder, task) == 0  # the packed table holds them
    pd.testing.assert_frame_equal(load(folder, task), table)


def test_what_the_machine_could_not_hold_is_no_row(small, monkeypatch):
    folder, task, asked = small / "bench", task_of(small), []

    class Small(Here):
        def call(self, function, *given, memory=0, **near):
            asked.append(memory)
            if function is measure:
                raise WorkerKilled("killed")
            return super().call(function, *given, **near)

    assert collect(folder, task, part=(0, 10), executor=Small()) == 3 and part_rows(folder, task) == []
    assert len(asked) == 3 and min(asked) > 2**20


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b""])
def test_a_table_that_is_none_is_told(tmp_path, content):
    (tmp_path / "denoise.parquet").write_bytes(content)
    with pytest.raises(DipsearchError, match="cannot be read"):
        load(tmp_path, "denoise")


def test_a_report_of_no_table_overwrites_nothing(tmp_path):
    (tmp_path / "README.md").write_text("precious")
    with pytest.raises(UsageError, match="no table there"):
        write_report(tmp_path, repeats=1)
    assert (tmp_path / "README.md").read_text() == "precious"


def test_a_row_says_what_its_fit_was(small):
    protocol = design.protocol_of(task_of(small))
    entry, instance = next(design.fits(protocol))
    row = measure(protocol, entry, instance)
    run = protocol.evaluate(RunStore(small / "runs"), "x", entry.genome, instance)
    assert row["psnr"] == run["psnr"] and row["oracle_psnr"] == run["oracle_psnr"] and row["chosen"] == run["chosen"]
    assert row["held_out"] == pytest.approx(10 ** (-run["held_out"] / 10))
    assert (
        row["honest_20"] == row["psnr"]
        and row["average_20"] == row["final_psnr"]
        and row["held_out_20"] == row["held_out"]
    )
    assert row["average_10"] != row["average_20"] and "average_30" not in row
    assert row["parameters"] == run["parameters"]
    assert {name for name in row if name.startswith("score_")} == {f"score_{name}" for name in SCORES}
    again = measure(protocol, entry, instance)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in row.items() if k != "seconds"}


@pytest.mark.slow
def test_rows_are_made_again(small, capsys):
    folder, task = small / "bench", task_of(small)
    collect(folder, task)
    pack(folder, task)
    found = check(folder, task, rows=3, seed=1)
    assert len(found) == 3 and found["difference"].abs().max() < 1e-4  # kept as float32
    assert len(check(folder, task, rows=99)) == 30
    command = ["bench", "check", "--task", task, "--folder", str(folder), "--rows", "2"]
    assert main(command) == 0
    assert "difference" in capsys.readouterr().out
    table = load(folder, task)
    table["psnr"] += 0.2
    table.to_parquet(folder / "task.parquet")
    assert main(command) == 1


@pytest.mark.slow
def test_the_command_line_makes_and_reports(small, capsys):
    folder, task = str(small / "bench"), task_of(small)
    assert main(["bench", "collect", "--task", task, "--folder", folder]) == 0
    assert "30 rows; 0 of this part are missing" in capsys.readouterr().out
    assert main(["bench", "collect", "--task", task, "--folder", folder, "--part", "2/2"]) == 2
    assert main(["bench", "replay", "--task", "inpaint", "--folder", folder]) == 2
    assert "make it with" in capsys.readouterr().err


# Replays


@pytest.fixture
def landscape():
    """Curves of the space `bench` with a planted best genome: the score is the sum of the choices' places."""
    space = load_space("bench")
    keys, honest = {}, []
    for chosen in _every(space):
        genome = space.genome(chosen)
        if genome.key() in keys:
            continue
        keys[genome.key()] = len(keys)
        place = sum(space.slots[slot].index(value) / len(space.slots[slot]) for slot, value in chosen.items())
        noise = np.random.default_rng(len(keys)).normal(0, 0.05, (4, 1))
        honest.append(20 + place + noise - 5 / np.array(STEPS)[None])
    return Curves(space, keys, np.stack(honest), STEPS)


def _every(space):
    for values in itertools.product(*space.slots.values()):
        yield dict(zip(space.slots, values, strict=True))


def test_a_random_replay_without_pruning_costs_whole_trials(landscape):
    run = replay.replay(landscape, Plan("random", "none"), seed=0, budget=10 * landscape.full)
    assert landscape.full == 4 * STEPS[-1]
    new = np.diff(np.concatenate([[0], run.iterations]))
    assert set(new) <= {0, landscape.full} and run.iterations[-1] == 10 * landscape.full
    assert (np.diff(run.best) >= 0).all()
    assert run.best[-1] in landscape.scores


@pytest.mark.parametrize("pruner", [name for name in LADDERS if name != "none"])
def test_pruning_spends_less_on_a_trial(landscape, pruner):
    run = replay.replay(landscape, Plan("random", pruner, start_up=2), seed=0, budget=20 * landscape.full)
    costs = np.diff(np.concatenate([[0], run.iterations]))
    stages = LADDERS[pruner].stages(4, STEPS[-1])
    assert costs.max() == landscape.full
    assert costs[costs > 0].min() == stages[0][0] * stages[0][1]
    assert len(costs[costs > 0]) > 30


@pytest.mark.slow
def test_a_sampler_that_learns_beats_a_random_one(landscape):
    table = compare(landscape, [Plan("random", "none"), Plan("tpe", "none")], repeats=8)
    random, learned = table["median"]
    assert learned < 0.7 * random
    (default,) = compare(landscape, [Plan("cokriging", "promising")], repeats=2)["median"]
    assert default < 1 / 6
    scores = np.sort(landscape.scores)
    assert scores[-30] < table["goal"].iloc[0] <= scores[-1]


@pytest.mark.slow
def test_processes_share_the_seeds_and_change_nothing(landscape):
    plan = [Plan("cokriging", "promising")]
    one, two = (compare(landscape, plan, repeats=2, fits=4, processes=processes) for processes in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_a_search_that_goes_on_pays_only_for_what_it_lacks(landscape):
    run = replay.replay(landscape, Plan("cokriging", "promising"), seed=0, budget=12 * landscape.full)
    costs = np.diff(np.concatenate([[0], run.iterations]))
    assert costs[:2].tolist() == [landscape.full] * 2  # never given up
    assert 0 < costs[2:].min() <= STEPS[-1] / 4 and costs.max() == landscape.full
    assert len(costs) > 20


def test_a_genome_that_was_seen_costs_nothing(landscape):
    class Same(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            return distribution.choices[0]

    SAMPLERS["same"] = lambda seed, start_up: Same(seed=seed)
    try:
        run = replay.replay(landscape, Plan("same", "none"), seed=0, budget=1e9)
    finally:
        del SAMPLERS["same"]
    assert run.iterations[-1] == landscape.full
    assert len(run.iterations) == 1 + replay.STUCK


def test_what_a_trajectory_reaches_and_when():
    run = Trajectory(np.array([10, 20, 30]), np.array([float("-inf"), 25.0, 27.0]))
    assert run.reaches(25) == 20 and run.reaches(26) == 30 and run.reaches(28) == float("inf")
    assert run.at(15) == float("-inf") and run.at(20) == 25 and run.at(99) == 27


def test_plans_are_a_product_and_errors_name_the_choices():
    assert len(plans()) == len(SAMPLERS) * len(LADDERS)
    assert plans(["tpe"], ["steep"]) == [Plan("tpe", "steep")]
    with pytest.raises(UsageError, match="nsga2"):
        plans(["bayes"])


# What it says


@pytest.fixture
def table():
    """Forty genomes on two pictures whose honest PSNR is known, with a good, a bad and a noisy predictor."""
    rng, rows = np.random.default_rng(0), []
    for number in range(40):
        for picture in ("a", "b"):
            for repeat in range(2 if number % 4 == 0 else 1):
                score = number + (0.1 if picture == "a" else 0.0)
                rows.append(
                    {
                        "key": f"{number:02}",
                        "image": picture,
                        "size": 64,
                        "seed": repeat,
                        "repeat": repeat,
                        "origin": "bench",
                    }
                    | {"status": "ok", "psnr": score, "final_psnr": -score, "oracle_psnr": score + 1}
                    | {"held_out": 1 / (1 + score), "parameters": 40 - number, "gflop": 1.0 + number}
                    | {"seconds": rng.random(), "score_noise": rng.random(), "honest_10": score**2}
                )
    return pd.DataFrame(rows)


def test_known_rank_correlations(table, origin="bench"):
    said = correlations(table, origin="bench").set_index("number")
    assert said.loc["honest_10", "mean"] == pytest.approx(1)
    assert said.loc["held_out", "mean"] == pytest.approx(1)  # an error, better when low
    assert said.loc["parameters", "mean"] == pytest.approx(-1)
    assert said.loc["final_psnr", "least"] == pytest.approx(-1)
    assert abs(said.loc["score_noise", "mean"]) < 0.3
    assert said.loc["another seed", "genomes"] == 10 and said.loc["honest_10", "genomes"] == 40
    larger = table[table["key"] < "20"].assign(size=128, psnr=-table["psnr"])
    said = correlations(pd.concat([table, larger], ignore_index=True)).set_index("number")
    assert said.loc["64 px for 128", "mean"] == pytest.approx(-1) and said.loc["64 px for 128", "genomes"] == 20
    assert said.loc["honest_10", "mean"] == pytest.approx(1) and said.loc["honest_10", "genomes"] == 40
    swapped = table.assign(held_out=table["held_out"].where(table["image"] == "a", 1 / table["held_out"]))
    said = correlations(swapped).set_index("number")
    assert said.loc["held_out", "least"] == pytest.approx(-1) and said.loc["held_out", "greatest"] == pytest.approx(1)


def test_failed_fits_and_other_spaces_do_not_count(table):
    broken = table.copy()
    broken.loc[broken["key"] == "03", ["status", "psnr"]] = ["diverged", np.nan]
    broken.loc[broken["key"] == "04", "origin"] = "wide"
    assert correlations(broken, origin="bench").set_index("number").loc["honest_10", "genomes"] == 38


@pytest.mark.slow
def test_the_report_is_written_beside_the_tables(small, capsys):
    folder, task = small / "bench", task_of(small)
    collect(folder, task)
    pack(folder, task)
    assert len(curves(folder, task).rows) == 8
    text = write_report(folder, repeats=2).read_text()
    assert "## task" in text and "30 fits of 11 genomes (8 of space" in text
    assert "| tpe, halving |" in text and "| ceiling | another seed |" in text
    assert "| small size | 16 px for 32 |" in text


# Zero-cost scores


def test_scores_are_the_same_again_and_differ_between_genomes(small):
    protocol = design.protocol_of(task_of(small))
    instance = design.observations(protocol)[0][0]
    one, another = sorted(load_space(design.WHOLE).genomes(), key=lambda genome: genome.key())[:2]
    first, other = scores(one, instance), scores(another, instance)
    assert first == scores(one, instance)
    assert set(first) == set(SCORES) and all(np.isfinite(list(first.values())))
    assert all(first[name] != other[name] for name in SCORES)


def test_a_bilinear_network_is_smoother_than_one_with_pixel_shuffle(small):
    protocol = Protocol(
        load_task("denoise"), load_task("denoise").search["bench"], "bench", "bench", load_task("denoise").recipe
    )
    (instance,) = protocol.observe(["skimage:coffee"], seed=0, repeats=1)
    from dipsearch.genome import Hourglass

    smooth, rough = (
        scores(Hourglass(depth=3, channels_down=8, channels_up=8, channels_skip=0, upsample=name), instance)
        for name in ("bilinear", "pixel-shuffle")
    )
    for name in ("smoothness", "spectral-bias", "bandwidth"):
        assert smooth[name] > rough[name], name


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DipsearchError, match="file/x"):
        collect(tmp_path / "file" / "x", "denoise")
