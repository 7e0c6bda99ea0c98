"""Repeated and interrupted fits."""

import io
import signal

import pytest
import torch
from fits import EVERY_FAMILY, failing_at, fitting_of, picture, same

import dipsearch.fitting.ensemble
from dipsearch.error import BegunAnew, Diverged, UsageError
from dipsearch.fitting import plan as planning
from dipsearch.fitting.ensemble import Ensemble
from dipsearch.fitting.loop import MOST_ROLLBACKS, Fitting
from dipsearch.fitting.step import Step
from dipsearch.fitting.stopping import STOPPERS
from dipsearch.kept import Kept, write_kept
from dipsearch.network.build import PRECISIONS

TRUTH = picture(seed=5)
STOPS = {
    "fixed": {},
    "es-wmv": {"window": 5, "patience": 20},
    "es-emv": {"patience": 20},
    "held-out": {"held_out": 0.2, "patience": 12},
    "discrepancy": {"sigma": 30.0},
}
SETTINGS = {
    **{name: {"stop": name, **settings} for name, settings in STOPS.items()},
    "weight noise": {"weight_noise": 2.0, "burn_in": 8, "thinning": 3, "weight_decay": 0.01},
    "no averaging": {"averaging": 0},
    "ensemble": {"kind": Ensemble, "ensemble": 2},
    "ensemble under held-out": {"kind": Ensemble, "ensemble": 2, "stop": "held-out", **STOPS["held-out"]},
    "ensemble with weight noise": {
        "kind": Ensemble,
        "ensemble": 2,
        "weight_noise": 2.0,
        "burn_in": 8,
        "thinning": 3,
    },
}


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def begin(**settings):
    return fitting_of(**({"truth": TRUTH, "iterations": 30} | settings))


def finished(fitting):
    fitting.advance()
    assert fitting.done
    return fitting.result()


def same_with_uncertainty(a, b):
    same(a, b)
    assert (a.uncertainty is None) == (b.uncertainty is None)
    assert a.uncertainty is None or torch.equal(a.uncertainty, b.uncertainty)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("genome", EVERY_FAMILY.values(), ids=EVERY_FAMILY)
def test_a_seed_gives_the_same_bits_and_another_seed_does_not(genome, precision):
    first, again, other = (
        finished(begin(genome=genome, precision=precision, seed=seed, iterations=12)) for seed in (3, 3, 4)
    )
    same(first, again)
    assert not torch.equal(first.x, other.x)
    assert first.curve["loss"] != other.curve["loss"]
    assert first.precision == precision


@pytest.mark.parametrize("genome", EVERY_FAMILY.values(), ids=EVERY_FAMILY)
def test_bfloat16_fits_about_as_well(genome):
    losses = [finished(begin(genome=genome, precision=name)).curve["loss"] for name in ("float32", "bfloat16")]
    assert losses[1] != losses[0]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.1)
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.25)


def test_every_stopping_rule_is_interrupted_below():
    assert set(STOPS) == set(STOPPERS)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_interrupted_fit_is_the_uninterrupted_one(settings, precision):
    settings = settings | {"precision": precision}
    whole = finished(begin(**settings))
    going = begin(**settings)
    for at in (1, 7, 10, 25):
        going.advance(at)
        state = saved_and_loaded(going.state())
        going = begin(**settings)  # a fresh one, each time
        going.resume(state)
    same_with_uncertainty(finished(going), whole)


def test_a_member_that_had_ended_keeps_its_last_output():
    rule = {"stop": "es-wmv", "window": 4, "patience": 6, "input_noise": 0.3}
    settings = {"kind": Ensemble, "ensemble": 3, "iterations": 400, **rule}
    whole = begin(**settings)
    result = finished(whole)
    ends = sorted(each.iteration for each in whole.members)
    assert ends[0] < ends[-1]
    going = begin(**settings)
    going.advance(ends[0] + 5)
    again = begin(**settings)
    again.resume(saved_and_loaded(going.state()))
    assert finished(again).curve["raw"] == result.curve["raw"]


@pytest.mark.parametrize("at", [1, 7, 10, 25])
@pytest.mark.parametrize("kind", [Fitting, Ensemble])
def test_a_fit_interrupted_once_is_the_uninterrupted_one(kind, at):
    settings = {"kind": kind, "ensemble": 1 if kind is Fitting else 2, "stop": "es-wmv", **STOPS["es-wmv"]}
    going, whole = begin(**settings), finished(begin(**settings))
    going.advance(at)
    fresh = begin(**settings)
    fresh.resume(saved_and_loaded(going.state()))
    assert torch.equal(fresh.current, going.current)
    same_with_uncertainty(finished(fresh), whole)


@pytest.mark.parametrize("value", [3.0, float("nan")])
@pytest.mark.parametrize(
    ("at", "failing"), [(10, 20), (19, 20), (20, 20), (25, 20), (30, 20), (21, 30), (25, 30), (25, 23)]
)
def test_an_interruption_does_not_change_where_a_rollback_goes(at, failing, value):
    whole = finished(begin(operator=failing_at(failing, value=value), iterations=50))
    going = begin(operator=failing_at(failing, value=value), iterations=50)
    going.advance(at)
    fresh = begin(operator=failing_at(failing - at, value=value), iterations=50)
    fresh.resume(saved_and_loaded(going.state()))
    result = finished(fresh)
    assert result.rollbacks == (failing % 10 == 0 or value != value)
    assert (result.non_finite > 0) == (value != value)
    same(result, whole)


@pytest.mark.parametrize(
    ("count", "method", "place"),
    [
        *((1, "_step", place) for place in (7, 10, 20)),
        *((2, "_step", place) for place in (10, 15, 20, 35, 40)),  # each member makes ten steps at a time
        *((3, "_step", place) for place in (20, 25, 60)),
        *((1, "_check", place) for place in (1, 2)),
        *((2, "_check", place) for place in (1, 2, 4)),
        *((2, "judge", place) for place in (1, 2)),
    ],
)
def test_ctrl_c_in_a_step_or_a_check_does_not_change_the_fit(monkeypatch, count, method, place):
    """It waits for the end of either, not for the check after a step, nor for the other members of an ensemble."""
    rule = {"stop": "held-out", **STOPS["held-out"]}
    settings = {"kind": Fitting if count == 1 else Ensemble, "ensemble": count, "iterations": 20, **rule}
    whole, calls = finished(begin(**settings)), []
    where = {"_step": (Step, "_once"), "_check": (Fitting, "_check"), "judge": (dipsearch.fitting.ensemble, "judge")}
    owner, name = where[method]
    plain = getattr(owner, name)

    def interrupted(*given):
        calls.append(1)
        if len(calls) == place:
            signal.raise_signal(signal.SIGINT)
        return plain(*given)

    monkeypatch.setattr(owner, name, interrupted)
    going = begin(**settings)
    with pytest.raises(KeyboardInterrupt):
        going.advance()
    monkeypatch.setattr(owner, name, plain)
    assert going.whole
    fresh = begin(**settings)
    fresh.resume(saved_and_loaded(going.state()))
    same_with_uncertainty(finished(fresh), whole)


@pytest.mark.parametrize("value", [3.0, float("nan")])
def test_ctrl_c_in_a_step_that_collapses_does_not_lose_the_rollback(monkeypatch, value):
    whole = finished(begin(operator=failing_at(20, value=value)))
    assert whole.rollbacks == 1
    plain = Step._once

    def interrupted(self):
        plain(self)
        if going.iteration == 19:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Step, "_once", interrupted)
    going = begin(operator=failing_at(20, value=value))
    with pytest.raises(KeyboardInterrupt):
        going.advance()
    monkeypatch.setattr(Step, "_once", plain)
    fresh = begin()
    fresh.resume(saved_and_loaded(going.state()))
    same(finished(fresh), whole)


def test_a_fit_that_fails_as_ctrl_c_comes_is_interrupted(monkeypatch):
    plain = Step._once

    def interrupted(self):
        signal.raise_signal(signal.SIGINT)
        plain(self)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Step, "_once", interrupted)
    with pytest.raises(KeyboardInterrupt):
        begin().advance()


def test_a_state_from_before_the_last_statistic_was_kept_goes_on():
    settings = {"stop": "held-out", **STOPS["held-out"]}
    going, whole = begin(**settings), finished(begin(**settings))
    going.advance(20)
    state = saved_and_loaded(going.state())
    del state["step"]["stopper"]["now"]
    fresh = begin(**settings)
    fresh.resume(state)
    same(finished(fresh), whole)


def test_a_state_from_before_checks_were_counted_goes_on():
    for settings in ({}, {"kind": Ensemble, "ensemble": 2}):
        going, whole = begin(**settings), finished(begin(**settings))
        going.advance(20)
        state = saved_and_loaded(going.state())
        for each in (state, *state.get("members", ())):
            each.pop("checked", None)
            each.get("host", {}).pop("checked", None)
        fresh = begin(**settings)
        fresh.resume(state)
        same_with_uncertainty(finished(fresh), whole)


def test_a_resumed_fit_takes_the_precision_of_its_state():
    going, whole = begin(precision="bfloat16"), finished(begin(precision="bfloat16"))
    going.advance(7)
    fresh = begin(precision="float32")
    fresh.resume(saved_and_loaded(going.state()))
    same(finished(fresh), whole)


def test_a_state_shares_no_memory_with_the_fit_that_goes_on():
    going = begin()
    going.advance(17)
    state = going.state()
    kept = saved_and_loaded(state)
    finished(going)
    first, second = begin(), begin()
    first.resume(state), second.resume(kept)
    same(finished(first), finished(second))


def test_a_resumed_fit_serves_a_state_twice():
    going = begin()
    going.advance(17)
    state = saved_and_loaded(going.state())
    results = []
    for _ in range(2):
        fresh = begin()
        fresh.resume(state)
        results.append(finished(fresh))
    same(*results)


@pytest.mark.parametrize("kind", [Fitting, Ensemble])
def test_a_finished_fit_resumes_as_finished(kind):
    going = begin(kind=kind, ensemble=1 if kind is Fitting else 2)
    result = finished(going)
    fresh = begin(kind=kind, ensemble=1 if kind is Fitting else 2)
    fresh.resume(saved_and_loaded(going.state()))
    assert fresh.done
    same_with_uncertainty(fresh.result(), result)


def test_a_resumed_fit_goes_on_with_its_clock():
    going = begin()
    going.advance(20)
    going.seconds = 1000.0
    fresh = begin(time_limit=999.0)
    fresh.resume(saved_and_loaded(going.state()))
    result = finished(fresh)
    assert result.seconds > 1000
    assert result.stop_reason in ("time-limit", "budget")


def test_a_fit_without_a_truth_resumes_without_an_oracle():
    going = begin(truth=None)
    going.advance(7)
    fresh = begin(truth=None)
    fresh.resume(saved_and_loaded(going.state()))
    assert finished(fresh).oracle is None


def test_a_resumed_fit_still_counts_its_rollbacks():
    going = begin(operator=failing_at(20), iterations=1000)
    going.advance(30)
    fresh = begin(operator=failing_at(*range(10, 1000, 10)), iterations=1000)
    fresh.resume(saved_and_loaded(going.state()))
    with pytest.raises(Diverged, match=f"rolled back {MOST_ROLLBACKS} times"):
        fresh.advance()
    assert fresh.iteration == 30 + 10 * MOST_ROLLBACKS  # one of them was before


def test_a_state_of_another_format_is_refused():
    going = begin()
    going.advance(5)
    with pytest.raises(UsageError, match="format 999"):
        begin().resume(going.state() | {"format": 999})


# A fit in a file


def test_a_kept_fit_goes_on_with_what_was_gathered(monkeypatch, tmp_path):
    """Its file is read once, and on the CPU: a generator takes its state from nowhere else."""
    reads = []

    def load(*given, whole=torch.load, **settings):
        reads.append(settings["map_location"])
        return whole(*given, **settings)

    monkeypatch.setattr(torch, "load", load)
    path, whole = tmp_path / "fit.unfinished", finished(begin())
    kept = Kept(path, begin, {"seen": {}})
    kept.fitting.advance(10)
    kept.gathered["seen"][10] = kept.fitting.current
    kept.save(now=True)
    again = Kept(path, begin, {"seen": {}})
    assert reads == ["cpu"] and again.fitting.iteration == 10
    assert torch.equal(again.gathered["seen"][10], kept.fitting.current)
    same(finished(again.fitting), whole)


def test_a_fit_goes_on_with_less_memory_than_it_began_with(monkeypatch):
    whole, going = finished(begin()), begin()
    going.advance(10)
    state = saved_and_loaded(going.state())
    precision, _, memory, *_ = state["plan"]
    for made, recompute in ((memory, False), (2**60, True)):
        fresh = begin()
        monkeypatch.setattr(planning, "RECOMPUTE_ABOVE", 0)  # what is planned from now on
        fresh.resume(state | {"plan": (precision, False, made)})
        assert fresh.plan.recompute == recompute
        assert torch.allclose(finished(fresh).x, whole.x, atol=1e-3)


def test_what_is_of_no_use_is_told(tmp_path):
    path = tmp_path / "fit.unfinished"
    kept = Kept(path, begin, {})
    kept.fitting.advance(10)
    write_kept(path, {"state": kept.fitting.state() | {"device": "cuda"}, "gathered": {}})
    with pytest.warns(
        BegunAnew, match="of no use here: the state of a fit on cuda cannot go on on cpu; the fit begins"
    ):
        again = Kept(path, begin, {})
    assert again.fitting.iteration == 0


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_a_torn_file_begins_anew(tmp_path, content):
    path = tmp_path / "fit.unfinished"
    path.write_bytes(content)
    with pytest.warns(BegunAnew, match="fit.unfinished cannot be read: "):
        kept = Kept(path, begin, {"seen": {}})
    assert kept.fitting.iteration == 0 and kept.gathered == {"seen": {}}
    kept.drop()
    assert not path.exists()
