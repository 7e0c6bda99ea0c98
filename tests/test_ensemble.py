import pytest
import torch
from fits import GENOME, failing_at, fitting_of, picture, run, same

from dipsearch.error import Diverged
from dipsearch.fitting.engine import start
from dipsearch.fitting.ensemble import Ensemble
from dipsearch.fitting.loop import Fitting
from dipsearch.fitting.recipe import Recipe
from dipsearch.metric import psnr
from dipsearch.operator import Identity
from dipsearch.seed import seed_of

TRUTH = picture(seed=5)
STOP = {"stop": "es-wmv", "window": 4, "patience": 6, "input_noise": 0.3, "iterations": 200}


def member(index, **settings):
    return run(seed=0 if index == 0 else seed_of(0, "member", index), **settings)


@pytest.mark.parametrize(("count", "kind"), [(1, Fitting), (2, Ensemble)])
def test_an_ensemble_of_one_is_a_fit(count, kind):
    recipe = Recipe(ensemble=count, precision="float32")
    assert type(start(GENOME, picture(), Identity(), recipe, device="cpu")) is kind


def test_an_ensemble_of_one_gives_what_a_fit_gives():
    alone = fitting_of(kind=Ensemble, ensemble=1, truth=TRUTH)
    alone.advance()
    result = run(iterations=40, truth=TRUTH)
    assert torch.equal(alone.current, result.x)
    assert (alone.curve, alone.oracle) == (result.curve, result.oracle)
    assert run(iterations=5, ensemble=1).uncertainty is None


@pytest.mark.parametrize("settings", [{}, STOP, {"averaging": 0}], ids=["budget", "es-wmv", "no averaging"])
@pytest.mark.parametrize("count", [2, 3])
def test_the_answer_is_the_mean_of_those_of_the_members(count, settings):
    result = run(ensemble=count, truth=TRUTH, **settings)
    members = [member(index, **settings) for index in range(count)]
    answers = torch.stack([each.x for each in members])
    assert torch.equal(result.x, answers.mean(0))
    assert not torch.equal(answers[0], answers[1])
    assert torch.allclose(result.uncertainty, answers.std(0)) and result.uncertainty.shape == TRUTH.shape
    assert result.psnr == psnr(result.x, TRUTH)
    assert result.chosen == max(each.chosen for each in members)
    assert result.iterations == max(each.iterations for each in members)


def test_the_curve_and_the_oracle_are_those_of_the_mean():
    means = {}
    result = run(ensemble=2, truth=TRUTH, iterations=25, callback=lambda t, x: means.update({t: x.clone()}))
    assert list(means) == result.curve["iteration"] == [10, 20, 25]
    assert result.curve["psnr"] == [psnr(x, TRUTH) for x in means.values()]
    assert result.oracle.psnr == max(result.curve["psnr"])
    assert result.oracle.iteration == result.curve["iteration"][result.curve["psnr"].index(result.oracle.psnr)]
    losses = [member(index, iterations=25).curve["loss"] for index in range(2)]
    assert result.curve["loss"] == pytest.approx([sum(pair) / 2 for pair in zip(*losses, strict=True)])
    assert torch.equal(means[25], result.x)


def test_without_a_truth_there_is_no_oracle():
    result = run(ensemble=2, iterations=12)
    assert result.oracle is None and result.psnr is None
    assert all(value != value for value in result.curve["psnr"])


def test_what_went_wrong_is_summed():
    """Members take 10 iterations in turn: these are iteration 19 of the first and 28 of the second."""
    result = run(operator=failing_at(29, 58, value=float("nan")), ensemble=2, iterations=60)
    assert result.rollbacks == 2
    assert result.non_finite == (20 - 18) + (30 - 27)


def test_a_member_that_fails_ends_the_ensemble():
    with pytest.raises(Diverged):
        run(operator=failing_at(14, value=float("nan")), ensemble=2)


def test_members_stop_each_at_its_time_and_the_others_go_on():
    both = fitting_of(kind=Ensemble, ensemble=3, **(STOP | {"iterations": 400}))
    both.advance()
    ends = [each.iteration for each in both.members]
    assert len(set(ends)) > 1 and max(ends) < 400
    assert both.iteration == max(ends) and both.done
    assert both.result().curve["iteration"] == list(range(10, max(ends) + 1, 10))


@pytest.mark.parametrize("parts", [(10, 20), (3, 17, 30)])
def test_advancing_an_ensemble_in_parts_is_advancing_it_at_once(parts):
    whole, split = (fitting_of(kind=Ensemble, ensemble=2, truth=TRUTH) for _ in range(2))
    whole.advance()
    for until in parts:
        split.advance(until)
        assert split.iteration == until and not split.done
    split.advance()
    split.advance()
    same(whole.result(), split.result())


def test_the_seconds_are_those_of_all_members():
    both = fitting_of(kind=Ensemble, ensemble=2)
    both.advance()
    assert both.seconds == sum(each.seconds for each in both.members) > 0


def test_a_time_limit_is_shared_by_the_members():
    several = start(GENOME, picture(), Identity(), Recipe(ensemble=4, precision="float32", time_limit=8), device="cpu")
    assert [member.recipe.time_limit for member in several.members] == [2] * 4 and several.recipe.time_limit == 8
