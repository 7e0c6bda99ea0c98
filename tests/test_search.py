import contextlib
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fits import TINY
from PIL import Image
from studies import GENES, runs_in, search_in, searched, values_of, write, write_space, write_task

from dipsearch import kept
from dipsearch.cli import main
from dipsearch.error import DipsearchError, UsageError
from dipsearch.fitting.engine import start
from dipsearch.fitting.step import Step
from dipsearch.genome import load_genome, parse_genome
from dipsearch.leaderboard import leaderboard, search_ranking
from dipsearch.metric import psnr
from dipsearch.provenance import found_genome
from dipsearch.report.text import FORMATS
from dipsearch.run import RunStore
from dipsearch.search.evaluation import Protocol
from dipsearch.search.ladder import imputed
from dipsearch.search.rerun import Rerun, rerun_genomes
from dipsearch.search.settings import Settings
from dipsearch.search.study import Search
from dipsearch.task import choose_effort, load_task

ROOT = Path(__file__).resolve().parent.parent

# The search


def test_a_search_runs_as_many_trials_as_asked(room):
    work, trials = searched(room, trials=4, pruner="none")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    folder = room / "out" / "studies" / "study"
    assert {"study.db", "config.yaml", "environment.json"} <= {path.name for path in folder.iterdir()}
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 0
    assert json.loads((folder / "environment.json").read_text())["cores"] >= 1
    assert all(set(trial.params) == set(work.settings.space.slots) for trial in trials)


def test_the_score_is_the_mean_honest_psnr_of_the_run_files(room):
    work, trials = searched(room, trials=3, pruner="none")
    runs = runs_in(room)
    for trial in trials:
        key = work.settings.space.genome(trial.params).key()
        own = [run for run in runs if run["genome_key"] == key]
        assert {run["image"] for run in own} == {str(room / "0.png"), str(room / "1.png")}
        assert trial.value == pytest.approx(sum(run["psnr"] for run in own) / 2, rel=1e-12)
        assert all(run["oracle_psnr"] >= run["psnr"] - 1e-9 for run in own)
    assert all(run["purpose"] == "search" and run["iterations"] == 16 for run in runs)


def test_a_search_tells_what_happens(room):
    events = []
    _, trials = searched(room, trials=2, watch=events.append)
    ends = [event for event in events if event.kind == "end"]
    assert [(event.number, event.total, event.outcome) for event in ends] == [(1, 2, "complete"), (2, 2, "complete")]
    assert [event.value for event in ends] == [trial.value for trial in trials]
    assert ends[-1].best == max(trial.value for trial in trials)
    shares = [event.share for event in events if event.kind == "progress"]
    assert shares and all(0 < share <= 1 for share in shares)


def test_the_same_seed_gives_the_same_trials_and_values(room):
    _, first = searched(room, trials=3, out="first", seed=3)
    _, again = searched(room, trials=3, out="again", seed=3)
    _, other = searched(room, trials=3, out="other", seed=4)
    assert values_of(first) == values_of(again)
    assert values_of(first) != values_of(other)


def begun_fits(monkeypatch):
    """The keys of the genomes whose fits begin, one for each."""
    keys, leg = [], Protocol.leg

    def noted(self, genome, **part):
        if not part.get("kept"):
            keys.append(genome.key())
        return leg(self, genome, **part)

    monkeypatch.setattr(Protocol, "leg", noted)
    return keys


def test_a_genome_that_comes_again_is_not_fitted_again(room, monkeypatch):
    fits = begun_fits(monkeypatch)
    write_space(room, genes={"kernel": [1, 3]}, template=TINY_TEMPLATE)
    work, trials = searched(room, trials=7)
    keys = {work.settings.space.genome(trial.params).key() for trial in trials}
    assert len(keys) == 2 and len(trials) == 7
    assert len(fits) == len(runs_in(room)) == len(keys) * 2
    assert len({trial.value for trial in trials}) == 2


TINY_TEMPLATE = {key: value for key, value in TINY.items() if key != "family"} | {"kernel_down": "$kernel"}


def test_the_start_genomes_of_a_space_come_first_and_keep_their_names(room):
    start = write(room / "start.yaml", TINY | {"kernel_down": 1, "activation": "elu", "upsample": "nearest"})
    write_space(room, start=[start])
    work, trials = searched(room, trials=2)
    assert work.settings.space.genome(trials[0].params).key() == load_genome(str(start)).key()
    assert "start" in {run["name"] for run in runs_in(room)}


def test_few_iterations_make_a_search_too(room):
    write_task(room, recipe={"iterations": 3})
    _, trials = searched(room, trials=2)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2


def test_pictures_too_small_for_the_metric_are_refused(room):
    """Of 16 pixels, y-border leaves 7, and the window of SSIM has 11."""
    operator = {"operator": {"name": "downsample", "factor": 4}, "noise": {"name": "none"}, "baselines": ["bicubic"]}
    write_task(room, metric="y-border", **operator)
    with pytest.raises(UsageError, match="at least 20 pixels"):
        search_in(room)


def test_the_time_limit_of_a_search_starts_no_trial(room):
    write_task(room, effort={"timeout": 1e-9})
    work = search_in(room)
    with work.opened():
        assert work.run() == "timeout"
        assert work.done == 0


# Resume


def test_resume_adds_up_to_the_total(room):
    _, first = searched(room, trials=3)
    files = {path: path.stat().st_mtime_ns for path in (room / "out").rglob("*.json")}
    work, trials = searched(room, trials=5, resume=True)
    assert len(trials) == 5 and work.settings.effort.trials == 5
    assert values_of(trials[:3]) == values_of(first)
    assert all(path.stat().st_mtime_ns == before for path, before in files.items())
    _, unchanged = searched(room, trials=4, resume=True)
    assert len(unchanged) == 5


def test_resume_does_not_repeat_the_random_start(room):
    _, trials = searched(room, trials=3)
    _, more = searched(room, trials=6, resume=True)
    assert [trial.params for trial in more[3:]] != [trial.params for trial in trials]


def test_a_study_that_exists_is_not_overwritten(room):
    searched(room, trials=1)
    with pytest.raises(UsageError, match=r"exists.*--resume"), search_in(room, trials=2).opened():
        pass
    assert len(searched(room, trials=1, resume=True)[1]) == 1


def test_there_has_to_be_a_study_to_resume(room):
    with pytest.raises(UsageError, match="no study to resume"), search_in(room, resume=True).opened():
        pass
    assert not (room / "out").exists()


@pytest.mark.parametrize("change", ["task", "space", "seed", "sampler", "pictures"])
def test_resume_under_other_settings_names_what_differs(room, change):
    searched(room, trials=1)
    settings = {"seed": 1} if change == "seed" else {}
    if change == "task":
        write_task(room, noise={"name": "gaussian", "sigma": 50})
    elif change == "space":
        write_space(room, genes=GENES | {"channels": [2, 8]})
    elif change == "pictures":  # the same file name with other pixels
        Image.fromarray(np.full((16, 16, 3), 90, dtype=np.uint8)).save(room / "0.png")
    work = search_in(room, trials=2, resume=True, **settings)
    if change == "sampler":
        work.settings = Settings(work.settings.task, work.settings.space, "quick", work.settings.effort, 0, "random")
    with pytest.raises(UsageError, match=f"another {change}[;,]"), work.opened():
        pass
    assert len(searched_trials(room)) == 1


def searched_trials(room, study="study", out="out"):
    with contextlib.closing(sqlite3.connect(room / out / "studies" / study / "study.db")) as database:
        return database.execute("select number, state from trials order by number").fetchall()


def test_a_study_has_one_writer(room):
    searched(room, trials=1)
    with (
        search_in(room, trials=2, resume=True).opened(),
        pytest.raises(DipsearchError, match="another process is working on this study"),
        search_in(room, trials=2, resume=True).opened(),
    ):
        pass
    assert len(searched(room, trials=2, resume=True)[1]) == 2  # the lock is free again


def test_a_trial_that_was_interrupted_runs_again_once(room):
    def stop(event):
        if event.kind == "progress" and event.number == 1:
            raise KeyboardInterrupt

    work = search_in(room, trials=4, watch=stop, pruner="none")
    with pytest.raises(KeyboardInterrupt), work.opened():
        work.run()
    assert searched_trials(room) == [(0, "COMPLETE"), (1, "FAIL")]
    for total in (3, 4):
        _, trials = searched(room, trials=total, resume=True, pruner="none")
        assert sum(trial.state.name == "COMPLETE" for trial in trials) == total
    assert trials[2].params == trials[1].params
    assert [trial.user_attrs.get("retry_of") for trial in trials] == [None, None, 1, None, None]


def test_a_trial_that_was_half_stored_fits_only_what_is_missing(room):
    """As after a kill between the two run files of a trial."""
    searched(room, trials=1)
    kept, lost = sorted((room / "out" / "runs" / "task").glob("*.json"))
    before, at = json.loads(lost.read_text()), kept.stat().st_mtime_ns
    lost.unlink()
    searched(room, trials=1, study="another")
    assert json.loads(lost.read_text())["psnr"] == before["psnr"]
    assert kept.stat().st_mtime_ns == at


# Pruning


@pytest.mark.slow
def test_bad_trials_are_pruned_at_a_rung_and_listed(room):
    write_task(room, effort={"start_up": 2}, recipe={"iterations": 48})
    work, trials = searched(room, trials=10, sampler="tpe", pruner="halving")
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert pruned and len(complete) >= 2 and len(pruned) + len(complete) == 10
    assert all(trial.state.name == "COMPLETE" for trial in trials[:2])
    assert work.pruned == [(trial.number + 1, trial.user_attrs["reason"]) for trial in pruned]
    fitted = {run["genome_key"] for run in runs_in(room)}
    for trial in pruned:
        genome = work.settings.space.genome(trial.params)
        last = max(trial.intermediate_values)
        assert trial.user_attrs["reason"] == (
            f"rung: {trial.intermediate_values[last]:.2f} dB at {6 * last} of 48 iterations, on 2 of 2 pictures"
        )
        assert last in (1, 2, 4)  # the rung of 6, 12, 24 iterations, as the pruner counts
        others = [other.intermediate_values.get(last) for other in trials[: trial.number]]
        assert any(value > trial.intermediate_values[last] for value in others if value is not None)
        assert genome.key() not in fitted
    for trial in complete:
        rungs = list(trial.intermediate_values.items())  # none where the store had the answer
        assert [step for step, _ in rungs] in ([1, 2, 4], [])
        assert rungs == sorted(rungs, key=lambda rung: rung[1])  # the best so far is what is reported


def test_a_network_that_was_pruned_is_pruned_again_without_a_fit(room, monkeypatch):
    write_task(room, effort={"start_up": 1}, recipe={"iterations": 40})
    write_space(room, genes={"kernel": [1, 3]}, template=TINY_TEMPLATE | {"norm": "none"})
    fits = begun_fits(monkeypatch)
    work, _ = searched(room, trials=6, sampler="tpe", pruner="halving")
    first, *again = work.pruned
    assert first[1].startswith("rung:")
    assert again and all(reason == f"pruned before: {first[1]}" for _, reason in again)
    assert len(fits) == 2 * 2  # two networks on two pictures


def test_a_network_that_cannot_be_is_pruned_with_the_reason(room):
    write_space(room, genes={"kernel": [3, 4]}, template=TINY_TEMPLATE)
    work, trials = searched(room, trials=6)
    bad = [trial for trial in trials if trial.params["kernel"] == 4]
    assert bad and all(trial.state.name == "PRUNED" for trial in bad)
    assert [place for place, _ in work.pruned] == [trial.number + 1 for trial in bad]
    assert all(reason.startswith("no such network: ") and "odd" in reason for _, reason in work.pruned)


DIVERGING = {"depth": 5, "channels_down": 16, "channels_up": 16, "norm": "none", "activation": "none"}


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [1, 5])
def test_a_fit_that_diverges_is_a_stored_failure_and_a_pruned_trial(room, pictures):
    write_task(room, search=pictures, recipe={"learning_rate": 10, "iterations": 32})
    template = TINY_TEMPLATE | DIVERGING | {"kernel_down": 3, "norm": "$norm"}
    write_space(room, genes={"norm": ["none", "batch"]}, template=template)
    work, trials = searched(room, trials=4)
    bad = [trial for trial in trials if trial.params["norm"] == "none"]
    assert bad and [trial.state.name for trial in bad] == ["PRUNED"] * len(bad)
    assert [place for place, _ in work.pruned] == [trial.number + 1 for trial in bad]
    assert work.pruned[0][1].startswith("diverged: the loss is not a finite number by iteration")
    failures = [run for run in runs_in(room) if run["status"] == "diverged"]
    assert len(failures) == 1 and failures[0]["psnr"] is None and "finite" in failures[0]["reason"]
    assert all(trial.state.name == "COMPLETE" for trial in trials if trial not in bad)
    _, afresh = searched(room, trials=4, study="another")
    assert values_of(afresh) == values_of(trials)  # the store remembers failures, too


def test_a_network_that_diverges_does_not_stop_the_prediction(room):
    write_task(room, recipe={"learning_rate": 10, "iterations": 32})
    template = TINY_TEMPLATE | DIVERGING | {"kernel_down": 7, "kernel_up": 7, "norm": "$norm"}
    write_space(room, genes={"norm": ["none", "batch"]}, template=template)
    work = search_in(room)
    with work.opened():
        assert 0 < work.predict() <= work.settings.effort.timeout
    write(room / "bad.yaml", TINY | DIVERGING | {"kernel_down": 7, "kernel_up": 7})
    assert rerun_in(room, named=[str(room / "bad.yaml")]).predict() >= 0


def test_the_imputed_mean_has_known_answers():
    best = {0: 22.0, 1: 25.0, 2: 31.0, 3: 26.0}  # mean 26
    assert imputed({0: 20.0, 2: 30.0}, best) == pytest.approx(26 - 1.5)
    assert imputed({2: 32.0}, best) == pytest.approx(27)  # not 32: an easy picture
    assert imputed(best, best) == pytest.approx(26)
    assert imputed({0: 20.0, 2: 30.0}, {}) == pytest.approx(25)


def eight_pictures(room, start):
    write_task(room, search=6, effort={"start_up": 1}, recipe={"iterations": 60})
    genes = {"channels": [1, 8], "kernel": [1, 3], "norm": ["batch", "none"]}
    template = TINY_TEMPLATE | {"channels_down": "$channels", "channels_up": "$channels", "norm": "$norm"}
    write_space(room, genes=genes, template=template, start=start)


@pytest.mark.slow
def test_with_enough_pictures_trials_are_pruned_by_a_paired_test(room):
    good = write(room / "good.yaml", TINY | {"channels_down": 8, "channels_up": 8})
    bad = write(room / "bad.yaml", TINY | {"channels_down": 1, "channels_up": 1, "kernel_down": 1, "norm": "none"})
    eight_pictures(room, [good, bad])
    work, (first, second) = searched(room, trials=2, pruner="wilcoxon")
    assert work.pruned == []
    assert (first.user_attrs["whole"], second.user_attrs["whole"]) == (True, False)
    digests = [instance.digest for instance in work.instances]
    by_name = {}
    for run in runs_in(room):
        by_name.setdefault(run["name"], {})[digests.index(run["digest"])] = run["psnr"]
    best, seen = by_name["good"], by_name["bad"]
    assert len(best) == 6 and len(seen) == 5
    assert first.value == pytest.approx(sum(best.values()) / 6)
    assert second.value == pytest.approx(imputed(seen, best))
    assert second.intermediate_values == pytest.approx(seen)
    assert work.instances and max(values for values in seen.values()) < max(best.values())


@pytest.mark.slow
def test_a_second_study_over_stored_runs_prunes_like_the_first(room):
    good = write(room / "good.yaml", TINY | {"channels_down": 8, "channels_up": 8})
    bad = write(room / "bad.yaml", TINY | {"channels_down": 1, "channels_up": 1, "kernel_down": 1, "norm": "none"})
    eight_pictures(room, [good])
    searched(room, trials=1, pruner="wilcoxon")
    eight_pictures(room, [good, bad])
    _, (first, second) = searched(room, trials=2, study="second", pruner="wilcoxon")
    assert first.intermediate_values.keys() == set(range(6))  # answered by the store, and told to the pruner
    assert second.user_attrs["whole"] is False
    assert second.value < first.value


# Recipes


def recipes_searched(room, trials=8):
    """A search over two networks and four recipes: the search, its trials, and the runs of each pair."""
    recipe = {"learning_rate": [0.01, 0.002], "averaging": [0.0, 0.9]}
    write_space(room, genes={"kernel": [1, 3]}, template=TINY_TEMPLATE, recipe=recipe)
    work, trials = searched(room, trials=trials, pruner="none")
    pairs = {}
    for run in runs_in(room):
        pairs.setdefault((run["genome_key"], tuple(sorted(run["recipe_changes"].items()))), []).append(run)
    return work, trials, pairs


def pair_of(work, trial):
    space = work.settings.space
    return space.genome(trial.params).key(), tuple(sorted(space.changes(trial.params).items()))


def test_a_search_over_recipes_judges_pairs(room):
    work, trials, pairs = recipes_searched(room)
    assert {pair_of(work, trial) for trial in trials} == set(pairs)
    assert len(pairs) > len({key for key, _ in pairs}) == 2
    for trial in trials:
        own = pairs[pair_of(work, trial)]
        assert trial.value == pytest.approx(sum(run["psnr"] for run in own) / 2, rel=1e-12)
    assert {run["protocol"] for runs in pairs.values() for run in runs} == {work.protocol.key}  # so they can be ranked
    means = [runs[0]["psnr"] for runs in pairs.values()]
    assert len(set(means)) == len(means)  # each pair was fitted on its own


def test_a_pair_is_fitted_with_its_recipe(room):
    work, trials, pairs = recipes_searched(room, trials=2)
    for trial in trials:
        genome, instance = work.settings.space.genome(trial.params), work.instances[0]
        recipe = work.protocol.recipe.model_copy(update=work.settings.space.changes(trial.params))
        fitted = start(genome, instance.y, instance.operator, recipe, seed=instance.seed, device="cpu")
        fitted.advance()
        (run,) = [run for run in pairs[pair_of(work, trial)] if run["digest"] == instance.digest]
        assert psnr(fitted.result().x, instance.truth, "rgb") == pytest.approx(run["psnr"], abs=1e-9)


def test_the_store_answers_for_the_same_recipe_only(room):
    work, trials, _ = recipes_searched(room, trials=1)
    genome, changes = work.settings.space.genome(trials[0].params), work.settings.space.changes(trials[0].params)
    found = {
        rate: work.protocol.changed(changes | {"learning_rate": rate}).find(work.store, genome.key(), work.instances[0])
        for rate in (changes["learning_rate"], 0.5)
    }
    assert found[changes["learning_rate"]]["recipe_changes"] == changes
    assert found[0.5] is None
    assert work.protocol.find(work.store, genome.key(), work.instances[0]) is None


def test_the_leaderboard_shows_each_pair_under_a_name_of_its_own(room):
    work, _, pairs = recipes_searched(room)
    table = leaderboard(work.store, "task", purpose="search", scope=work.protocol.scope(work.instances)).table
    table = table[table["genome"].notna()]
    assert len(table) == len(set(table["name"])) == len(pairs)
    assert table["rank"].notna().all()
    for row in table.to_dict("records"):
        words = ", ".join(f"{name} {value}" for name, value in sorted(row["recipe_changes"].items()))
        assert row["summary"].endswith(f", {words}") and "learning_rate" in words


def test_a_rerun_uses_the_recipe_that_a_genome_was_found_with(room):
    work, _, _ = recipes_searched(room)
    ranking = search_ranking(work.store, "task")
    best = {row["name"]: row["recipe_changes"] for row in ranking.head(2).to_dict("records")}
    again = rerun_in(room)
    assert {name: candidate.changes for name, candidate in again.genomes.items()} == {"published": {}} | best
    assert again.predict() > 0
    runs = [run for run in again.run(ignore) if run["genome_key"]]
    assert {run["name"]: run["recipe_changes"] for run in runs} == {"published": None} | best
    assert len({run["protocol"] for run in rerun_runs(room)}) == 1
    assert rerun_in(room).missing == []
    board = leaderboard(work.store, "task")
    assert board.table["rank"].notna().all() and {"published", *best} < set(board.table["name"])
    found_on = dict(zip(board.table["name"], board.table["found_on"], strict=True))
    assert all(found_on[name] == "0.png, 1.png" for name in best)


def test_an_exported_genome_keeps_its_recipe(room):
    work, _, _ = recipes_searched(room)
    best = search_ranking(work.store, "task").iloc[0]
    list(rerun_in(room, top=1).run(ignore))
    write(room / "best.yaml", json.loads(json.dumps(found_genome(work.store, "task", best["name"]))))
    again = rerun_in(room, named=[str(room / "best.yaml")])
    assert again.genomes["best"].changes == best["recipe_changes"]
    assert again.missing == []  # the same pair
    write(room / "wrong.yaml", {"genome": TINY, "recipe": {"lerning_rate": 1}})
    with pytest.raises(UsageError, match=r"wrong: recipe: lerning_rate"):
        rerun_in(room, named=[str(room / "wrong.yaml")])


def test_a_genome_is_exported_by_its_own_newest_runs(room):
    first, _ = searched(room, trials=2)
    names = set(search_ranking(first.store, "task")["name"])
    write_task(room, recipe={"iterations": 24})
    searched(room, trials=1, seed=7, study="later")
    old = min(names - set(search_ranking(first.store, "task")["name"]))
    data = found_genome(first.store, "task", old)  # of an earlier search, by another protocol
    told = data["provenance"]["search"]
    runs = [run for run in runs_in(room) if run["name"] == old]
    assert told["setting"]["recipe"]["iterations"] == runs[0]["setting"]["recipe"]["iterations"] != 24
    assert told["psnr"] == pytest.approx(sum(run["psnr"] for run in runs) / len(runs), abs=1e-3)
    assert found_genome(first.store, "task", runs[0]["genome_key"]) == data


def test_a_name_of_two_genomes_is_no_name(room):
    for width in (4, 6):
        file = write(room / "best.yaml", TINY | {"channels_down": width, "channels_up": width})
        list(rerun_in(room, top=1, named=[str(file)]).run(ignore))
    store = RunStore(room / "out" / "runs")
    with pytest.raises(UsageError, match="best: 2 genomes are called so; give the key of one: "):
        found_genome(store, "task", "best")
    key = load_genome(str(room / "best.yaml")).key()
    assert found_genome(store, "task", key)["genome"]["channels_down"] == 6


def test_a_recipe_that_cannot_be_is_pruned_with_the_reason(room):
    write_space(room, genes={"kernel": [1, 3]}, template=TINY_TEMPLATE, recipe={"stop": ["fixed", "discrepancy"]})
    work, trials = searched(room, trials=6)
    bad = [trial for trial in trials if trial.params["recipe.stop"] == "discrepancy"]
    assert bad and all(trial.state.name == "PRUNED" for trial in bad)
    assert all(reason.startswith("no such recipe: ") and "sigma" in reason for _, reason in work.pruned)
    assert len(work.pruned) == len(bad)


def test_a_recipe_may_not_change_what_trials_are_judged_by(room):
    write_space(room, genes={"kernel": [1, 3]}, template=TINY_TEMPLATE, recipe={"held_out": [0.05, 0.1]})
    settings = search_in(room).settings
    with pytest.raises(UsageError, match=r"recipe\.held_out is what the held-out objective is of"):
        Search(replace(settings, goals=("held-out",)), room / "studies", RunStore(room / "runs"))


def test_a_network_that_diverged_with_one_recipe_is_fitted_with_another(room):
    write_task(room, search=1, recipe={"iterations": 32})
    template = TINY_TEMPLATE | DIVERGING | {"kernel_down": "$kernel"}
    write_space(room, genes={"kernel": [3]}, template=template, recipe={"learning_rate": [10.0, 0.001]})
    _, trials = searched(room, trials=6)
    states = [(trial.params["recipe.learning_rate"], trial.state.name) for trial in trials]
    assert set(states) == {(10.0, "PRUNED"), (0.001, "COMPLETE")}
    assert states.index((10.0, "PRUNED")) < len(states) - 1 - states[::-1].index((0.001, "COMPLETE"))


def test_values_of_a_recipe_are_read_as_the_recipe_reads_them(room):
    work = search_in(room)
    assert work.protocol.changed({"learning_rate": "1e-3"}).changes == {"learning_rate": 0.001}
    assert work.protocol.changed({"averaging": 0}).key == work.protocol.changed({}).key == work.protocol.key


# Kill and interrupt


def start_search(room, *words):
    return subprocess.Popen(
        command_of(room, *words),
        cwd=room,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command_of(room, *words):
    files = ["--task", str(room / "task.yaml"), "--space", str(room / "space.yaml"), "--out", str(room / "out")]
    return [sys.executable, "-m", "dipsearch", "search", *files, "--device", "cpu", *words]


def wait_for_runs(room, process, count):
    deadline = time.monotonic() + 60
    while len(list((room / "out").glob("runs/*/*.json"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_repeats_no_fit(room):
    write_task(room, recipe={"iterations": 80})
    process = start_search(room, "--trials", "14", "--pruner", "none")
    wait_for_runs(room, process, 5)
    process.kill()
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in (room / "out").glob("runs/*/*.json")}
    assert len(before) < 28
    states = [state for _, state in searched_trials(room, "task-space-quick")]
    done = states.count("COMPLETE")
    assert 0 < done < 14 and set(states) <= {"COMPLETE", "RUNNING"}

    resumed = start_search(room, "--trials", str(done + 3), "--resume", "--pruner", "none")
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    states = [state for _, state in searched_trials(room, "task-space-quick")]
    assert states.count("COMPLETE") + states.count("PRUNED") == done + 3
    assert "RUNNING" not in states and "WAITING" not in states
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert "next:" in out and "rank" in out
    assert all(part.name.startswith(".") for part in (room / "out").rglob("*.part"))  # at most hidden leftovers


@pytest.mark.slow
def test_an_interrupted_search_says_how_to_go_on_and_that_works(room, capsys):
    write_task(room, recipe={"iterations": 200})
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # an ignored signal would be inherited
    try:
        process = start_search(room, "--trials", "8", "--study", "mine", "--pruner", "none")
    finally:
        signal.signal(signal.SIGINT, handler)
    wait_for_runs(room, process, 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err and out == ""
    resume = next(line for line in err.splitlines() if line.endswith("--resume")).strip()
    words = shlex.split(resume.removeprefix("python -m dipsearch "))  # as it was called
    assert words[0] == "search"
    before = {path: path.stat().st_mtime_ns for path in (room / "out").glob("runs/*/*.json")}
    assert 3 <= len(before) < 16

    assert main(words) == 0
    states = [state for _, state in searched_trials(room, "mine")]
    assert states.count("COMPLETE") == 8 and set(states) <= {"COMPLETE", "FAIL"}
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert "next:" in capsys.readouterr().out


def test_a_search_in_which_nothing_can_be_fitted_ends_without_a_traceback(room, capsys):
    write_task(room, search=1, recipe={"learning_rate": 10, "iterations": 32})
    template = TINY_TEMPLATE | DIVERGING | {"kernel_down": 3, "kernel_up": "$kernel"}
    write_space(room, genes={"kernel": [3, 5]}, template=template)
    code = main([*command_of(room, "--trials", "2")[3:]])
    said = capsys.readouterr()
    assert code == 1
    assert "diverged" in said.out + said.err


# Rerun


def rerun_in(room, top=2, named=(), seeds=2):
    task, store = load_task(str(room / "task.yaml")), RunStore(room / "out" / "runs")
    effort = choose_effort(task.rerun, "quick")
    protocol = Protocol(task, effort, "quick", "rerun", task.recipe_for(effort), "cpu")
    return Rerun(protocol, rerun_genomes(task, store, top, list(named)), store, 0, seeds)


def rerun_runs(room):
    return [run for run in runs_in(room) if run["purpose"] == "rerun"]


def ignore(*told):
    pass


def test_a_rerun_fits_the_best_found_and_the_published_genome(room):
    searched(room, trials=4)
    store = RunStore(room / "out" / "runs")
    best = list(search_ranking(store, "task")["name"])[:2]
    work, told = rerun_in(room), []
    assert list(work.genomes) == ["published", *best]
    assert work.genomes["published"].genome == load_genome(str(room / "published.yaml"))
    assert len(work.missing) == 3 * 4  # three genomes, two pictures, two seeds
    runs = list(work.run(lambda *given: told.append(given)))
    assert [run["genome_key"] is None for run in runs] == [True] * 8 + [False] * 12  # two baselines
    assert len(rerun_runs(room)) == 20
    assert {run["image"] for run in runs} == {str(room / "6.png"), str(room / "7.png")}
    assert {run["seed"] for run in runs if run["genome_key"]} == {instance.seed for instance in work.instances}
    assert len({instance.seed for instance in work.instances}) == 4
    assert {given[0] for given in told} == {"published", *best}
    board = leaderboard(store, "task")
    assert set(board.table["name"]) == {"published", *best, "observation", "total-variation"}
    assert board.table["rank"].notna().all()
    found_on = dict(zip(board.table["name"], board.table["found_on"], strict=True))
    assert found_on[best[0]] == "0.png, 1.png" and found_on["observation"] == ""


def test_a_second_rerun_does_nothing_and_a_lost_fit_is_made_again(room):
    searched(room, trials=2)
    first = list(rerun_in(room).run(ignore))
    files = {path: path.stat().st_mtime_ns for path in (room / "out" / "runs").rglob("*.json")}
    again = rerun_in(room)
    assert again.missing == [] and again.predict() == 0
    assert all(run["genome_key"] is None for run in again.run(ignore))
    assert {path: path.stat().st_mtime_ns for path in (room / "out" / "runs").rglob("*.json")} == files

    def is_fit(path):
        run = json.loads(path.read_text())
        return run["purpose"] == "rerun" and run["genome_key"] is not None

    lost = next(path for path in files if is_fit(path))
    before = json.loads(lost.read_text())
    lost.unlink()
    assert len(rerun_in(room).missing) == 1
    (made,) = [run for run in rerun_in(room).run(ignore) if run["genome_key"] is not None]
    assert made["psnr"] == before["psnr"] == json.loads(lost.read_text())["psnr"]
    others = [path for path in files if path != lost]
    assert all(path.stat().st_mtime_ns == files[path] for path in others)
    assert len(first) == len(rerun_runs(room))


def test_more_seeds_add_fits_and_keep_those_that_exist(room):
    searched(room, trials=1)
    list(rerun_in(room, seeds=1).run(ignore))
    count = len(rerun_in(room).genomes)
    assert len(rerun_in(room, seeds=3).missing) == count * 2 * 2


def test_a_rerun_without_a_search_says_what_to_run(room):
    with pytest.raises(UsageError, match="run: dipsearch search --task task"):
        rerun_in(room)


def test_named_genomes_are_run_without_a_search(room):
    work = rerun_in(room, named=[str(room / "published.yaml")])
    assert list(work.genomes) == ["published"]
    assert len(work.missing) == 4


def test_the_published_genome_is_judged_beside_named_ones(room):
    write(room / "mine.yaml", TINY)
    assert list(rerun_in(room, named=[str(room / "mine.yaml")]).genomes) == ["published", "mine"]


def test_named_genomes_of_the_same_file_name_are_both_run(room):
    for folder, kernel in (("a", 1), ("b", 3)):
        (room / folder).mkdir()
        write(room / folder / "best.yaml", TINY | {"kernel_down": kernel})
    work = rerun_in(room, named=[str(room / "a" / "best.yaml"), str(room / "b" / "best.yaml")])
    keys = {candidate.key for name, candidate in work.genomes.items() if name != "published"}
    assert keys == {parse_genome(TINY | {"kernel_down": kernel}).key() for kernel in (1, 3)}


def test_a_fit_of_a_rerun_that_fails_is_kept_and_not_tried_again(room):
    write_task(room, recipe={"learning_rate": 10, "iterations": 32})
    write(room / "bad.yaml", TINY | DIVERGING)
    runs = list(rerun_in(room, named=[str(room / "bad.yaml")]).run(ignore))
    failures = [run for run in runs if run["name"] == "bad"]
    assert [run["status"] for run in failures] == ["diverged"] * 4
    assert rerun_in(room, named=[str(room / "bad.yaml")]).missing == []
    board = leaderboard(RunStore(room / "out" / "runs"), "task")
    assert dict(zip(board.table["name"], board.table["failed"], strict=True))["bad"] == 4


def begun_rerun(room, monkeypatch, stop_at):
    """A rerun whose first fit is interrupted at an iteration; its state is kept at every check."""
    monkeypatch.setattr("dipsearch.search.leg.SAVE_EVERY", 0.0)
    work = rerun_in(room, named=["published.yaml"], seeds=1)

    def interrupt(name, instance, iteration, psnr):
        if iteration == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(work.run(interrupt))
    return work


@pytest.mark.filterwarnings("ignore::dipsearch.error.BegunAnew")
@pytest.mark.parametrize("harm", ["", "torn", "of another version", "of another device"])
def test_an_interrupted_fit_of_a_rerun_goes_on_where_it_was(room, monkeypatch, tmp_path, harm):
    monkeypatch.chdir(room)
    write_task(room, recipe={"iterations": 40})
    undisturbed = {run["digest"]: run["psnr"] for run in rerun_in(room, named=["published.yaml"], seeds=1).run(ignore)}
    shutil.rmtree(room / "out")
    begun_rerun(room, monkeypatch, stop_at=20)
    (path,) = (room / "out" / "runs" / "task").glob("*.unfinished")
    if harm == "torn":
        path.write_bytes(path.read_bytes()[:1000])
    elif harm:
        file = torch.load(path, weights_only=True)
        file["state"] |= {"format": 0} if "version" in harm else {"device": "cuda"}
        torch.save(file, path)
    seen = []
    again = rerun_in(room, named=["published.yaml"], seeds=1)
    runs = {run["digest"]: run for run in again.run(lambda name, instance, iteration, psnr: seen.append(iteration))}
    assert seen[0] == (10 if harm else 30)
    assert {digest: run["psnr"] for digest, run in runs.items()} == undisturbed
    assert not list((room / "out" / "runs" / "task").glob("*.unfinished"))


def test_a_disk_that_is_full_does_not_end_a_fit_for_want_of_its_state(room, monkeypatch):
    monkeypatch.chdir(room)
    monkeypatch.setattr("dipsearch.search.leg.SAVE_EVERY", 0.0)
    monkeypatch.setattr(kept.torch, "save", full)
    assert [run["status"] for run in rerun_in(room, named=["published.yaml"], seeds=1).run(ignore)][-1] == "ok"


def full(*given):
    raise RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file")


def test_what_went_wrong_in_a_fit_is_in_its_run_and_on_the_leaderboard(room, monkeypatch):
    monkeypatch.chdir(room)
    write_task(room, recipe={"iterations": 40})
    calls = []

    def collapse(step):  # no weight survives the 25th iteration of each fit
        calls.append(step)
        if calls.count(step) == 25:
            step.weights.master.mul_(float("nan"))
        Step.once(step)

    monkeypatch.setattr(Step, "once", Step._once, raising=False)
    monkeypatch.setattr(Step, "_once", collapse)
    runs = [run for run in rerun_in(room, named=["published.yaml"], seeds=1).run(ignore) if run["genome_key"]]
    assert [(run["status"], run["rollbacks"], run["non_finite"]) for run in runs] == [("ok", 1, 6)] * 2
    text = FORMATS["table"](leaderboard(RunStore(room / "out" / "runs"), "task"))
    heads, row = text.splitlines()[-4], next(line for line in text.splitlines() if "published" in line)
    assert "rollbacks" in text and "non-finite" in text and " 2 " in row and " 12" in row, heads


def test_no_time_at_all_is_no_failure(room, capsys):
    files = ["--task", str(room / "task.yaml"), "--out", str(room / "out"), "--device", "cpu"]
    assert main(["search", *files, "--space", str(room / "space.yaml"), "--budget", "0"]) == 0
    assert "the time is over: 0 of" in capsys.readouterr().err
    assert main(["rerun", *files, "--genome", str(room / "published.yaml"), "--budget", "0"]) == 0
    assert "the time is over" in capsys.readouterr().err


def test_a_genome_to_start_from_that_the_space_lacks_is_told(room, capsys):
    files = ["--task", str(room / "task.yaml"), "--out", str(room / "out"), "--device", "cpu"]
    given = ["--space", str(room / "space.yaml"), "--start-from", "dip-denoise", "--budget", "0"]
    assert main(["search", *files, *given]) == 0
    assert "not in the space space, and not tried first: hourglass 5 x 128" in capsys.readouterr().err
