"""A search that a kill interrupts at any moment goes on as if nothing had been, rungs and all."""

import shutil

import pytest
from studies import runs_in, search_in, searched, write, write_task

from dipsearch.cli import main
from dipsearch.error import UsageError
from dipsearch.search.ledger import RUNG
from dipsearch.space import load_space

OUTCOMES = ("state", "params", "values", "intermediate_values")


def outcomes(trials):
    """What every trial came to that did not fail, with the rungs that it is compared at."""
    return [
        (
            *(getattr(trial, name) for name in OUTCOMES),
            {key: value for key, value in trial.system_attrs.items() if key.startswith(RUNG)},
        )
        for trial in trials
        if trial.state.name != "FAIL"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["halving", "promising", "wilcoxon"])
def test_trials_are_judged_as_in_a_search_that_nothing_interrupts(room, pruner):
    write_task(room, effort={"start_up": 2}, recipe={"precision": "float32", "iterations": 40})
    moments = []

    def die(event):
        moments.append(event.kind)
        last_fit = event.kind == "progress" and event.share > 0.9  # another picture's run is stored by then
        if len(moments) % 8 == 0 or (last_fit and len(moments) % 2):
            shutil.copytree(room / "out", room / f"dead-{len(moments)}")  # as a kill leaves it

    ways = {"sampler": "random", "pruner": pruner, "trials": 7}
    _, undisturbed = searched(room, watch=die, **ways)
    assert "PRUNED" in {trial.state.name for trial in undisturbed} or pruner == "wilcoxon"
    dead = sorted(room.glob("dead-*"))
    assert len(dead) >= 3
    for folder in dead:
        _, resumed = searched(room, out=folder.name, resume=True, **ways)
        assert outcomes(resumed) == outcomes(undisturbed)
        assert not any(
            key.startswith(RUNG) for trial in resumed if trial.state.name == "FAIL" for key in trial.system_attrs
        )
        assert len(runs_in(room, folder.name)) == len(runs_in(room))


def test_genomes_to_start_from_are_tried_once_whatever_else_they_are_called(room):
    data = load_space("dip").model_dump(mode="json", exclude={"name", "start"})
    write(room / "space.yaml", data)  # most slots are of one family
    ways = {"trials": 3, "sampler": "random", "pruner": "none"}
    limit = {"max_gflop": 1e-9}  # nothing is fitted
    write_task(room, effort=limit)
    work, trials = searched(room, **ways)
    space = work.settings.space
    found = tuple(space.genome(trial.params) for trial in trials)
    assert all(space.find(genome) != trial.params for genome, trial in zip(found, trials, strict=True))
    again = search_in(room, resume=True, start=found, **ways)
    with again.opened():
        assert [trial.state.name for trial in again._study.trials] == ["PRUNED"] * 3


def test_a_study_whose_folder_was_renamed_goes_on(room, capsys):
    searched(room, trials=2, sampler="random", pruner="none")
    (room / "out" / "studies" / "study").rename(room / "out" / "studies" / "other")
    work, trials = searched(room, study="other", trials=3, sampler="random", pruner="none", resume=True)
    assert work.done == len(trials) == 3
    assert main(["status", str(work.folder)]) == 0
    assert "3 of 3 trials" in capsys.readouterr().out


def test_a_genome_that_the_space_does_not_hold_leaves_no_study_behind(room):
    from dipsearch.genome import load_genome

    with pytest.raises(UsageError, match="does not hold"):
        search_in(room, around=load_genome("dip-denoise"))
    assert not (room / "out").exists()
