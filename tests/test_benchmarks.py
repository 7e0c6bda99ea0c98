"""The benchmarks at toy size: that they measure what they say, not what comes out."""

import json

import pytest
import torch

from benchmarks import driver, kills, parity, pausing, rules, step, workers
from benchmarks.networks import FAMILIES, network
from benchmarks.paper import PaperLoop
from dipsearch.fitting.loop import Fitting
from dipsearch.fitting.recipe import Recipe
from dipsearch.network import winograd
from dipsearch.network.build import build
from dipsearch.operator import Downsample, Identity, Mask
from dipsearch.task import load_task, observe

X = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
KNOWN = (torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1)) > 0.5).float()
RECIPE = Recipe(iterations=10, precision="float32")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("operator", [Identity(), Mask(KNOWN), Downsample(4)], ids=lambda each: type(each).__name__)
def test_the_paper_loop_and_the_engine_start_alike(family, operator):
    genome, y = network(family, 16), operator(X)
    loop = PaperLoop(genome, y, operator, X, RECIPE, seed=3)
    fitting = Fitting(genome, y, operator, RECIPE, seed=3, device="cpu")
    losses = [loop.step() for _ in range(2)]
    fitting.advance(2)
    # Processors round otherwise; Adam's first step is the sign of each gradient, which shows from the second loss on.
    assert fitting._step.losses[:2].tolist() == [pytest.approx(losses[0], rel=5e-5), pytest.approx(losses[1], rel=0.02)]


def test_the_paper_loop_falls_back_once_its_fit_collapses():
    loop = PaperLoop(network("two-level", 8), X, Identity(), X, Recipe(iterations=300, input_noise=0), seed=0)
    while loop.iteration < 150:
        loop.step()
    weights = next(loop.net.parameters())
    before = loop.psnr[0]
    with torch.no_grad():
        for parameter in loop.net.parameters():
            parameter.mul_(-30)
    while loop.iteration < 201:
        loop.step()
    assert weights.abs().max() < 10 and loop.psnr[0] < before - 5  # found at 200, restored for the next
    loop.step()
    assert loop.psnr[0] > before - 5


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_have_the_width_that_was_asked_for(family):
    few, many = (sum(p.numel() for p in build(network(family, width), 3).parameters()) for width in (32, 64))
    assert 2 < many / few < 4.5


@pytest.mark.slow
def test_a_cell_of_the_step_benchmark(monkeypatch, tmp_path):
    monkeypatch.setattr(step, "ROUNDS", 1)
    row = step.cell("two-level", 4, 32, "float32")
    assert len(row["ms"]["paper"]) == len(row["ms"]["engine"]) == step.TIMED
    assert min(row["memory"].values()) > 0 and row["precision"] == "float32"
    path = tmp_path / "step.jsonl"
    path.write_text(json.dumps(row | {"peak": {"float32": 100.0, "bfloat16": 1.0}}) + "\n", encoding="utf-8")
    (shown,) = step.table(path).to_dict("records")
    assert shown["network"] == "two-level, 4" and shown["size"] == 32


def test_parity_keeps_its_fits_and_makes_none_twice(monkeypatch, tmp_path):
    path, made = tmp_path / "parity.jsonl", []
    monkeypatch.setattr(parity, "AT", (2, 4))
    monkeypatch.setattr(parity, "SIZE", 32)

    def fit(arm):
        def run(instance, recipe, metric):
            made.append((arm, instance.image, instance.repeat))
            return {"2": 20.0 + len(made), "4": 21.0 + instance.repeat}

        return run

    monkeypatch.setattr(parity, "ARMS", {arm: fit(arm) for arm in ("paper", "float32")})
    for _ in range(2):
        parity.measure(path, ["paper", "float32"], ["denoise"], 2, float("inf"))
    assert len(made) == len(set(made)) == 2 * parity.IMAGES * 2
    table = parity.table(path)
    assert list(table["iteration"]) == [2, 4] and list(table["pairs"]) == [2 * parity.IMAGES] * 2
    assert list(table["difference"]) == ["+1.000", "+0.000"]


def test_an_arm_filters_narrow_convolutions(monkeypatch):
    monkeypatch.setattr(parity, "AT", (2,))
    done = []
    monkeypatch.setattr(winograd, "convolve", lambda *given, whole=winograd.convolve: done.append(1) or whole(*given))
    task = load_task("denoise")
    instance = observe(task, task.rerun["standard"].changed(size=32), "skimage:camera", seed=0, repeat=0)
    plain, filtered = (run(instance, RECIPE, "gray") for run in (parity.engine("float32"), parity.filtered))
    assert done and filtered["2"] == pytest.approx(plain["2"], abs=0.01) and winograd.LEAST_CHANNELS > 1


def test_the_rules_are_all_measured(monkeypatch):
    monkeypatch.setattr(rules, "REPEATS", 2)
    row = rules.measure("two-level", 4, 32)
    assert set(row["costs"]) == {*rules.STOPPERS, "EMA", "SGLD mean"} and row["step"] > 0


@pytest.mark.parametrize("sampler", driver.SAMPLERS)
def test_the_driver_is_timed_without_a_fit(monkeypatch, tmp_path, sampler):
    monkeypatch.setattr(driver, "AT", (3, 6))
    rows = driver.measure(sampler, 6, tmp_path)
    assert [row["trials"] for row in rows] == [3, 6]
    assert all(0 < row["proposing"] < row["ms"] for row in rows)


@pytest.mark.slow
def test_a_search_that_is_killed_is_held_against_an_undisturbed_one(monkeypatch):
    monkeypatch.setattr(
        kills, "SEARCH", kills.SEARCH.replace(f"--trials {kills.TRIALS} --iterations 20", "--trials 2 --iterations 10")
    )
    monkeypatch.setattr(kills, "LATEST", 3.0)
    row = kills.compared(0, 1, 1)
    assert row["kills"] == 1 and row["trials"] == 2 and row["fits"] == 4
    assert row["lost"] == row["doubled"] == row["unreadable"] == 0


@pytest.mark.slow
def test_workers_are_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "ITERATIONS", 10)
    team = workers.Workers(1)
    fits, seconds = workers.rate(team, tmp_path, 2)
    team.stop()
    assert fits == 4 and seconds > 0


@pytest.mark.slow
def test_a_pause_is_timed(monkeypatch):
    monkeypatch.setattr(pausing, "ITERATIONS", 10)
    row = pausing.measure("denoise-quick", 32)
    assert 0 < row["step"] < row["worker"] and row["pause"] < row["worker"] and row["state_mb"] > 1
