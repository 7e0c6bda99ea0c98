"""What a search is told to want: several objectives, limits, no truth, where to start, which sampler and ladder."""

import re

import numpy as np
import optuna
import pytest
from PIL import Image
from studies import PLAIN, TEMPLATE, runs_in, search_in, searched, write_space, write_task

from dipsearch.cli import main
from dipsearch.error import UsageError
from dipsearch.genome import load_genome, parse_genome
from dipsearch.image import read
from dipsearch.leaderboard import leaderboard, search_ranking, with_front
from dipsearch.report.text import caption
from dipsearch.run import RunStore
from dipsearch.search.cokriging import SEEN
from dipsearch.search.evidence import read_evidence
from dipsearch.search.goals import COSTS, GOALS, QUALITIES, parse_goals
from dipsearch.search.ladder import LADDERS, Ladder, Pruned
from dipsearch.search.samplers import SAMPLERS, Around
from dipsearch.search.screen import NOTED, Screen
from dipsearch.search.settings import start_genomes
from dipsearch.search.study import PRUNERS
from dipsearch.space import load_space
from dipsearch.task import choose_effort, load_task, observe


class Trial:
    """A trial that is pruned when its last report is below a bar."""

    number = 0

    def __init__(self, bar=float("-inf")):
        self.bar, self.reports, self.constraints = bar, [], {}

    def report(self, value, step):
        self.reports.append((step, value))

    def should_prune(self):
        return self.reports[-1][1] < self.bar

    def set_constraint(self, key, constraint):
        self.constraints[key] = constraint

    def set_user_attr(self, key, value):
        self.noted = {**getattr(self, "noted", {}), key: value}


# Ladders


@pytest.mark.parametrize("name", LADDERS)
def test_a_ladder_ends_with_everything_and_only_rises(name):
    stages = LADDERS[name].stages(4, 320)
    assert stages[-1] == (4, 320)
    assert stages == sorted(set(stages))
    assert LADDERS[name].stages(1, 1) == [(1, 1)]


def test_the_stages_of_a_ladder():
    ladder = Ladder(((1 / 4, 1 / 8), (1 / 2, 1 / 4), (1, 1)), keep=4)
    assert ladder.stages(4, 320) == [(1, 40), (2, 80), (4, 320)]
    assert ladder.stages(2, 80) == [(1, 10), (1, 20), (2, 80)]


def test_a_climb_reports_every_rung_and_stops_where_it_is_pruned():
    ladder = Ladder(((1, 1 / 4), (1, 1 / 2), (1, 1)), keep=3)
    asked = []

    def value(instance, iterations):
        asked.append((instance, iterations))
        return (9, 11)[instance] + iterations / 100

    stages = ladder.stages(2, 100)
    kept = Trial()
    assert ladder.climb(stages, value, kept, {}) == (11, True)
    assert kept.reports == [(1, 10.25), (3, 10.5)]
    asked.clear()
    with pytest.raises(Pruned, match=re.escape("rung: 10.50 dB at 50 of 100 iterations, on 2 of 2 pictures")):
        ladder.climb(stages, value, Late(), {0: 20.0, 1: 22.0})
    assert asked == [(0, 25), (1, 25), (0, 50), (1, 50)]


def test_a_trial_given_up_after_whole_fits_is_estimated():
    ladder = Ladder(((1 / 2, 1), (1, 1)))
    worse = ladder.climb([(1, 8), (2, 8)], lambda *_: 24.0, Trial(bar=99), {0: 25.0, 1: 31.0})
    assert worse == (27.0, False)  # 1 dB below the best on the picture seen
    with pytest.raises(Pruned):  # nothing to be held against
        ladder.climb([(1, 8), (2, 8)], lambda *_: 24.0, Trial(bar=99), {})


def test_a_climb_goes_on_where_an_earlier_one_stopped():
    """Known: picture 1 after 25 and 100 iterations. Its fit to the end is stored; what it was at 50 nobody knows."""
    ladder = Ladder(((1 / 2, 1 / 4), (1 / 2, 1), (1, 1)), learned=True)
    asked = []

    def value(instance, iterations):
        asked.append((instance, iterations))
        return 10.0 * instance + iterations / 100

    trial = Trial(bar=float("inf"))  # would be pruned wherever it is judged
    known = {(1, 25): 10.25, (1, 100): 11.0}
    assert ladder.climb(ladder.stages(2, 100), value, trial, {0: 20.0, 1: 20.0}, known, [1, 0]) == (6.0, True)
    assert asked == [(1, 100), (0, 25), (0, 100)]
    assert trial.reports == [(1, 10.25), (2, 11.0)]
    assert sorted(trial.noted[SEEN]) == [(0, 25, 0.25), (0, 100, 1.0), (1, 25, 10.25), (1, 100, 11.0)]
    again = Trial(bar=float("inf"))
    with pytest.raises(Pruned, match="at 25 of 100 iterations, on 1 of 2"):
        ladder.climb(ladder.stages(2, 100), value, again, {}, {}, [1, 0])
    assert again.noted[SEEN] == [(1, 25, 10.25)]


class Late(Trial):
    """A trial that is pruned at its second report."""

    def should_prune(self):
        return len(self.reports) == 2


@pytest.mark.parametrize("keep", [2, 3])
def test_one_trial_in_so_many_passes_a_rung(keep):
    ladder = Ladder(((1, 1 / 2), (1, 1)), keep=keep)
    study = optuna.create_study(direction="maximize", pruner=ladder.pruner(0))
    values = np.random.default_rng(0).permutation(60)
    for place, value in enumerate(values, 1):
        trial = study.ask()
        better = sum(other > value for other in values[:place])
        promoted = better < max(1, place // keep)
        try:
            ladder.climb([(1, 1), (1, 2)], lambda i, n, value=value: float(value), trial, {})
            assert promoted
            study.tell(trial, float(value))
        except Pruned:
            assert not promoted
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)


# Several objectives


def test_goals_are_one_quality_and_then_costs():
    assert parse_goals("psnr") == ("psnr",)
    assert parse_goals("psnr, gflop") == ("psnr", "gflop")
    assert set(GOALS) == {*QUALITIES, *COSTS}
    for wrong, named in (("gflop", "psnr"), ("psnr,psnr", "gflop"), ("psnr,speed", "gflop"), ("", "psnr")):
        with pytest.raises(UsageError, match=named):
            parse_goals(wrong)
    with pytest.raises(UsageError, match="twice"):
        parse_goals("psnr,gflop,gflop")


def test_a_search_with_two_objectives_gives_a_pareto_front(room):
    work, trials = searched(room, trials=8, goals=("psnr", "gflop"))
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert len(complete) == 8
    assert work._study.directions == [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
    board = leaderboard(work.store, "task", purpose="search")
    table = with_front(board.table, ["gflop"])
    ranked = table[table["rank"].notna() & table["genome"].notna()]
    for _, row in ranked.iterrows():
        others = ranked[ranked["subject"] != row["subject"]]
        beaten = (
            (others["psnr"] >= row["psnr"])
            & (others["gflop"] <= row["gflop"])
            & ((others["psnr"] > row["psnr"]) | (others["gflop"] < row["gflop"]))
        ).any()
        assert (row["front"] == "*") == (not beaten)
    assert 0 < (ranked["front"] == "*").sum() < len(ranked)
    best = {trial.values[1] for trial in work._study.best_trials}
    assert {round(value, 9) for value in best} == set(ranked.loc[ranked["front"] == "*", "gflop"].round(9))


def test_a_search_judged_by_held_out_values_is_ranked_by_them(room):
    """Though a clean picture is known: what is shown, re-run and exported was not chosen with it."""
    write_task(room, recipe={"stop": "held-out", "held_out": 0.2})
    work, _ = searched(room, trials=5, goals=("held-out",), sampler="random", pruner="none")
    ranking = search_ranking(work.store, "task")
    assert ranking["psnr"].notna().all() and ranking["held_out"].is_monotonic_decreasing
    assert work.best_value() == pytest.approx(ranking["held_out"].iloc[0])
    board = leaderboard(work.store, "task", purpose="search")
    assert board.judged == "held_out" and "Ranked by held-out PSNR" in caption(board)


def test_a_search_with_two_objectives_cannot_prune(room):
    with pytest.raises(UsageError, match="several objectives cannot prune"):
        search_in(room, goals=("psnr", "gflop"), pruner="halving")
    with pytest.raises(UsageError, match="tpe"):
        search_in(room, goals=("psnr", "gflop"), sampler="cokriging")


def test_the_front_is_shown_by_the_command_line(room, capsys):
    words = ["search", "--task", str(room / "task.yaml"), "--space", str(room / "space.yaml"), "--out", str(room / "o")]
    assert main([*words, "--trials", "5", "--objective", "psnr,parameters"]) == 0
    shown = capsys.readouterr().out
    assert "front" in shown and "*" in shown
    assert main(["leaderboard", "--task", str(room / "task.yaml"), "--by", "search", "--out", str(room / "o")]) == 0
    assert "front" not in capsys.readouterr().out


# Limits


@pytest.mark.parametrize("limit", ["max_gflop", "max_memory", "max_seconds"])
def test_a_genome_above_a_limit_is_pruned_unfitted_and_the_sampler_is_told(room, limit):
    write_task(room, effort={limit: 1e-9, "trials": 3})
    work, trials = searched(room)
    assert runs_in(room) == []
    name = limit.removeprefix("max_")
    for trial in trials:
        assert trial.state.name == "PRUNED" and "above the limit of 1e-09" in trial.user_attrs["reason"]
        assert trial.constraints[name] > 0
    assert work.best_value() is None


def test_what_was_measured_once_is_not_measured_again(room, monkeypatch):
    times = {}

    def slower(protocol, genome, instance, executor):
        times[genome.key()] = times.get(genome.key(), 0) + 1
        return 1e-6 if times[genome.key()] == 1 else 1e6

    monkeypatch.setattr("dipsearch.search.limits.seconds_per_iteration", slower)
    write_task(room, effort={"max_seconds": 1.0})
    write_space(room, genes={"depth": [1, 2]}, template=TEMPLATE | {"kernel_down": 3, "upsample": "nearest",
        "activation": "relu", "input": {"kind": "noise", "channels": 2}})  # fmt: skip
    work, trials = searched(room, trials=8, **PLAIN)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 8
    assert sorted(times.values()) == [1, 1]  # two networks, each many times
    assert len(read_evidence(work.folder).scored) == 2


def test_what_is_too_large_is_not_timed(room, monkeypatch):
    def never(*given, **named):
        raise AssertionError

    monkeypatch.setattr("dipsearch.search.limits.seconds_per_iteration", never)
    monkeypatch.setattr("dipsearch.search.study.seconds_per_iteration", never)
    write_task(room, effort={"max_memory": 1e-9, "max_seconds": 1.0, "trials": 2})
    work, trials = searched(room)
    assert work.predict() == 0 and [trial.state.name for trial in trials] == ["PRUNED"] * 2


@pytest.mark.slow
def test_limits_part_the_dear_from_the_cheap(room):
    searched(room, trials=6)
    prices = sorted({run["gflop"] for run in runs_in(room)})
    bar = (prices[0] + prices[-1]) / 2
    write_task(room, effort={"max_gflop": bar, "trials": 6})
    _, trials = searched(room, out="other")
    fitted = {run["gflop"] for run in runs_in(room, out="other")}
    assert fitted and max(fitted) <= bar
    for trial in trials:
        assert (trial.constraints["gflop"] > 0) == trial.user_attrs.get("reason", "").startswith("cost: ")
    assert {trial.state.name for trial in trials} == {"PRUNED", "COMPLETE"}


# Without a truth


def test_without_a_truth_the_picture_itself_is_the_observation(room):
    task = load_task(str(room / "task.yaml")).without_truth()
    effort = choose_effort(task.search, "quick")
    instance = observe(task, effort, str(room / "0.png"), seed=0, repeat=0)
    assert instance.truth is None
    assert (instance.y == read(str(room / "0.png"))).all()
    assert instance.shape == (3, 16, 16)


def test_a_search_without_a_truth_ranks_by_held_out_pixels(room, capsys):
    words = ["search", "--task", str(room / "task.yaml"), "--space", str(room / "space.yaml"), "--out", str(room / "o")]
    assert main([*words, "--no-truth", "--images", str(room / "5.png"), "--trials", "4", "--pruner", "none"]) == 0
    shown = capsys.readouterr().out
    assert "held-out PSNR" in shown and "oracle" not in shown.split("\n\n")[1]
    runs = runs_in(room, out="o")
    assert len(runs) == 4 and all(run["psnr"] is None and run["oracle_psnr"] is None for run in runs)
    assert all(5 < run["held_out"] < 60 for run in runs)
    table = leaderboard(RunStore(room / "o" / "runs"), "task", purpose="search").table
    assert list(table["rank"]) == [1, 2, 3, 4]
    assert list(table["held_out"]) == sorted(table["held_out"], reverse=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--no-truth"], "--images"),
        (["--no-truth", "--images", "{room}/5.png", "--mask", "{room}/mask.png"], "takes none"),
        (["--no-truth", "--images", "{room}/5.png", "--objective", "psnr"], "no clean picture"),
    ],
)
def test_what_a_search_without_a_truth_cannot_do(room, capsys, words, said):
    given = ["search", "--task", str(room / "task.yaml"), "--space", str(room / "space.yaml"), "--out", str(room / "o")]
    assert main([*given, *(word.format(room=room) for word in words)]) == 2
    assert said in capsys.readouterr().err


def test_inpainting_without_a_truth_needs_a_mask_and_fits_only_what_is_known(room):
    write_task(room, operator={"name": "mask", "missing": 0.5}, metric="gray", baselines=["observation"])
    task = load_task(str(room / "task.yaml"))
    with pytest.raises(UsageError, match="--mask FILE"):
        task.without_truth()
    holes = np.zeros((16, 16), dtype=np.uint8)
    holes[4:8, 4:8] = 255
    Image.fromarray(holes).save(room / "mask.png")
    task = task.without_truth(str(room / "mask.png"))
    instance = observe(task, choose_effort(task.search, "quick"), str(room / "0.png"), seed=0, repeat=0)
    assert (instance.y[..., 4:8, 4:8] == 0).all() and (instance.y[..., 8:, 8:] > 0).any()
    assert instance.operator.known.sum() == 256 - 16


def test_the_mask_of_a_large_picture_is_cut_as_the_picture_is(room):
    pixels = np.random.default_rng(0).integers(1, 256, (60, 80), dtype=np.uint8)
    holes = (np.indices(pixels.shape).sum(0) % 5 == 0).astype(np.uint8) * 255
    for name, values in (("large", pixels), ("mask", holes)):
        Image.fromarray(values).save(room / f"{name}.png")
    write_task(room, operator={"name": "mask", "missing": 0.5}, metric="gray", baselines=["observation"])
    task = load_task(str(room / "task.yaml")).without_truth(str(room / "mask.png"))
    effort = choose_effort(task.search, "quick").changed(size=32)
    instance = observe(task, effort, str(room / "large.png"), seed=0, repeat=0)
    middle = (pixels * (holes == 0))[14:46, 24:56] / 255
    assert np.allclose(instance.y[0, 0].numpy(), middle, atol=1e-6)


# Where to start


def test_a_search_begins_with_the_genomes_that_it_is_given(room):
    space = load_space(str(room / "space.yaml"))
    first, second = space.sample(1), space.sample(2)
    foreign = load_genome("dip-resnet")
    _, trials = searched(room, trials=4, start=(first, foreign, second))
    assert [space.genome(trial.params).key() for trial in trials[:2]] == [first.key(), second.key()]


def test_a_task_stands_for_the_best_genomes_found_for_it(room, monkeypatch):
    work, trials = searched(room, trials=6)
    monkeypatch.setattr("dipsearch.catalog.names", lambda kind: {"task": None} if kind == "tasks" else {})
    found = start_genomes(["task"], work.store, top=2)
    best = sorted(trials, key=lambda trial: -trial.value)[:2]
    assert [genome.key() for genome in found] == [work.settings.space.genome(trial.params).key() for trial in best]
    with pytest.raises(UsageError, match="no finished trial"):
        start_genomes(["task"], RunStore(room / "empty"))


def test_a_search_around_a_genome_begins_with_it_and_stays_near(room):
    space = load_space(str(room / "space.yaml"))
    centre = space.sample(3)
    _, trials = searched(room, trials=12, around=centre)
    assert space.genome(trials[0].params).key() == centre.key()
    best, distances = trials[0], []
    for trial in trials[1:]:
        distances.append(sum(trial.params[slot] != best.params[slot] for slot in best.params))
        if trial.value is not None and trial.value > best.value:
            best = trial
    slots, expected = space.slots, 0.0
    for choices in slots.values():
        expected += Around.changed / len(slots) * (1 - 1 / len(choices))
    assert 0 < np.mean(distances) < 2 * expected
    with (
        pytest.raises(UsageError, match="does not hold"),
        search_in(room, study="other", around=parse_genome({"family": "resnet"})).opened(),
    ):
        pass


# Samplers


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_proposes_the_same_for_the_same_seed(room, name):
    space = load_space(str(room / "space.yaml"))

    def proposed(seed):
        study = optuna.create_study(direction="maximize", sampler=SAMPLERS[name](seed, 4))
        for number in range(10):
            trial = study.ask()
            chosen = space.suggest(trial.suggest_categorical)
            study.tell(trial, float(list(space.slots["activation"]).index(chosen["activation"])) + number % 2)
        return [trial.params for trial in study.trials]

    assert proposed(0) == proposed(0)
    assert all(set(params) == set(space.slots) for params in proposed(0))
    assert proposed(0) != proposed(1)


@pytest.mark.parametrize("name", [name for name in PRUNERS if name != "wilcoxon"])
def test_every_pruner_ends_a_search(room, name):
    write_task(room, effort={"start_up": 1}, recipe={"iterations": 32})
    _, trials = searched(room, trials=5, pruner=name)
    assert sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials) == 5
    assert name != "none" or all(trial.state.name == "COMPLETE" for trial in trials)


def test_an_unknown_pruner_names_the_choices(room):
    with pytest.raises(UsageError, match="steep"):
        search_in(room, pruner="median")


def test_a_sampler_that_could_have_no_effect_is_refused(room):
    with pytest.raises(UsageError, match="a search around a genome has its own"):
        search_in(room, sampler="gp", around=load_genome(str(room / "published.yaml")))


# Screens


def test_a_screen_lets_the_better_half_pass_once_it_has_seen_enough():
    screen = Screen("smoothness")
    assert screen.passes(-1.0, [0.0] * 7)
    assert not screen.passes(-1.0, [0.0] * 8)
    assert screen.passes(4.5, [1, 2, 3, 4, 5, 6, 7, 0])  # three of eight are better
    assert not screen.passes(3.5, [1, 2, 3, 4, 5, 6, 7, 0])  # four are
    with pytest.raises(UsageError, match="spectral-bias"):
        Screen("speed")


def test_a_score_that_is_no_number_lets_nothing_pass(room, monkeypatch):
    monkeypatch.setattr("dipsearch.search.screen.score", lambda name, genome, instance: float("nan"))
    work, _ = searched(room, screen=Screen("smoothness"), trials=2, **PLAIN)
    assert [reason for _, reason in work.pruned] == ["diverged: its score smoothness is no number"] * 2


@pytest.mark.slow
def test_a_screened_search_notes_scores_and_fits_no_genome_in_the_lower_half(room):
    write_task(room, effort={"trials": 20})
    _, trials = searched(room, screen=Screen("smoothness"))
    before, screened = [], 0
    for trial in trials:
        if (value := trial.user_attrs.get(NOTED)) is None:
            continue  # a network that was there before
        passed = Screen("smoothness").passes(value, before)
        assert passed == (not trial.user_attrs.get("reason", "").startswith("screen"))
        screened += not passed
        before.append(value)
    assert screened > 0
    fitted = {run["genome_key"] for run in runs_in(room)}
    assert len(fitted) <= len(before) - screened


@pytest.mark.parametrize(
    ("operator", "sampler", "ladder"),
    [({"name": "identity"}, "cokriging", "promising"), ({"name": "mask"}, "cokriging", "promising"),
     ({"name": "downsample", "factor": 2}, "tpe", "halving")],
)  # fmt: skip
def test_the_defaults_are_those_that_were_measured_for_the_operator(room, operator, sampler, ladder):
    write_task(room, operator=operator)
    work = search_in(room)
    assert work._sampler == sampler and work.ladder is LADDERS[ladder]
    assert search_in(room, sampler="random", pruner="steep").ladder is LADDERS["steep"]


def test_a_genome_that_does_not_fit_into_memory_is_pruned_by_its_screen_with_the_reason(room, monkeypatch):
    def wants_more(*given):
        raise RuntimeError("not enough memory: you tried to allocate 12345678 bytes")

    monkeypatch.setattr("dipsearch.search.scores.untrained", wants_more)
    work, trials = searched(room, screen=Screen("smoothness"), trials=2, pruner="none", sampler="random")
    assert [trial.state.name for trial in trials] == ["PRUNED"] * 2
    assert all(reason.startswith("out-of-memory: ") for _, reason in work.pruned)
