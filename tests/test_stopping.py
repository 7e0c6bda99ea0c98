import numpy as np
import pytest
import torch
from fits import failing_at, fitting_of, picture, run, seeded, step_of

from dipsearch.error import UsageError
from dipsearch.fitting.recipe import Recipe
from dipsearch.fitting.stopping import MOST_VALUES, STOPPERS, Minimum, Seen, clipped_misfit
from dipsearch.operator import Downsample, Mask

SHAPE = (1, 3, 4, 4)
TARGET = torch.rand(SHAPE, generator=seeded(99))
HELD_OUT = torch.arange(0, 48, 5)
MINIMA = [name for name, rule in STOPPERS.items() if issubclass(rule, Minimum)]


def rule_of(name, shape=SHAPE, **settings):
    y = TARGET if shape == SHAPE else torch.zeros(shape)
    recipe = {"stop": name, "sigma": 25.0 if name == "discrepancy" else None} | settings
    return STOPPERS[name](Recipe(**recipe), Seen(y, HELD_OUT), torch.zeros(shape))


def show(rule, t, x, mean=None):
    """Iteration t, counted from 1."""
    rule.update(torch.tensor(t - 1), x, x if mean is None else mean, x)


def outputs_of(count, seed=0, shape=SHAPE):
    return list(torch.rand(count, *shape, generator=seeded(seed)))


# The same again, plainly: what is to be least after each output; None while it means nothing


def windowed_variance(outputs, window):
    stacked = np.stack([x.double().numpy().ravel() for x in outputs])
    return [None if t < window else float(stacked[t - window : t].var(0).mean()) for t in range(1, len(outputs) + 1)]


def moving_variance(outputs, window):
    mean, variance, values = outputs[0].double().numpy(), 0.0, []
    for t, x in enumerate(outputs, start=1):
        change = x.double().numpy() - mean if t > 1 else 0 * mean
        mean = mean + 0.1 * change
        variance = 0.9 * (variance + 0.1 * float((change**2).mean()))
        values.append(variance if t > 100 else None)
    return values


def held_out_error(outputs, window):
    target, values = TARGET.double().numpy().ravel()[HELD_OUT], []
    average = 0 * target
    for t, x in enumerate(outputs):
        there = x.double().numpy().ravel()[HELD_OUT]
        average = average + (max(9 / (10 + t), 0.01) if t else 1) * (there - average)
        values.append(float(((average - target) ** 2).mean()))
    return values


STATISTICS = {"es-wmv": windowed_variance, "es-emv": moving_variance, "held-out": held_out_error}


def expected(values, patience, warm_up):
    """When a rule stops (None: never) and what it has chosen by then."""
    best, chosen = float("inf"), 0
    for t, value in enumerate(values, start=1):
        if value is None or t <= warm_up:
            chosen = t
        elif value < best:
            best, chosen = value, t
        elif t - chosen >= patience:
            return t, chosen
    return None, chosen


def followed(rule, outputs):
    """The same of a rule; its answer has to be the averaged output at what it has chosen."""
    for t, x in enumerate(outputs, start=1):
        show(rule, t, x, mean=torch.full_like(x, t))
        assert bool((rule.answer(torch.zeros(())) == int(rule.chosen)).all())
        if bool(rule.stop):
            return t, int(rule.chosen)
    return None, int(rule.chosen)


def test_every_rule_that_seeks_a_minimum_has_a_second_writing():
    assert set(MINIMA) == set(STATISTICS)
    assert set(STOPPERS) == {*MINIMA, "fixed", "discrepancy"}


@pytest.mark.parametrize(("patience", "warm_up"), [(12, 0), (30, 0), (12, 130), (1, 20), (1000, 0)])
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", MINIMA)
def test_a_rule_chooses_the_minimum_and_stops_patience_after_it(name, seed, patience, warm_up):
    outputs = outputs_of(250, seed)
    rule = rule_of(name, window=5, patience=patience, warm_up=warm_up)
    stop, chosen = expected(STATISTICS[name](outputs, 5), patience, warm_up)
    assert followed(rule, outputs) == (stop, chosen)
    assert stop is None if patience == 1000 else stop == chosen + patience


@pytest.mark.parametrize("name", MINIMA)
def test_the_statistic_of_a_rule_is_the_plain_one(name):
    outputs = outputs_of(130)
    rule, values = rule_of(name, window=7), STATISTICS[name](outputs, 7)
    for t, (x, value) in enumerate(zip(outputs, values, strict=True), start=1):
        statistic, ready = rule.statistic(torch.tensor(t - 1), x, x)
        assert bool(ready) == (value is not None)
        if value is not None:
            assert float(statistic) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", MINIMA)
def test_a_rule_finds_the_calmest_outputs(name):
    """Around the target, by less and less until iteration 200, then by more and more."""
    spread = [0.4 * abs(t - 200) / 200 + 0.01 for t in range(1, 401)]
    noise = outputs_of(400, seed=4)
    outputs = [(TARGET + size * (x - 0.5)).clamp(0, 1) for size, x in zip(spread, noise, strict=True)]
    rule = rule_of(name, window=10, patience=100)
    stop, chosen = followed(rule, outputs)
    assert 190 <= chosen <= 240
    assert stop == chosen + 100


@pytest.mark.parametrize("name", MINIMA)
def test_a_stop_is_final(name):
    rule, outputs = rule_of(name, window=5, patience=12), outputs_of(250)
    stop, chosen = followed(rule, outputs)
    kept = rule.answer(torch.zeros(())).clone()
    for t in range(stop + 1, stop + 60):
        show(rule, t, TARGET)
        assert bool(rule.stop) and int(rule.chosen) == chosen
        assert torch.equal(rule.answer(torch.zeros(())), kept)


@pytest.mark.parametrize("name", MINIMA)
def test_until_the_warm_up_is_over_the_answer_is_the_last_output(name):
    rule, outputs = rule_of(name, window=2, patience=1, warm_up=120), outputs_of(120)
    for t, x in enumerate(outputs, start=1):
        show(rule, t, x)
        assert int(rule.chosen) == t and not bool(rule.stop)
        assert torch.equal(rule.answer(torch.zeros(())), x)
        assert not rule.best.isfinite()


@pytest.mark.parametrize("name", STOPPERS)
def test_a_rule_shares_no_memory_with_what_it_was_shown(name):
    def shown(outputs, overwritten):
        rule = rule_of(name, window=4, patience=30)
        for t, output in enumerate(outputs, start=1):
            x = output.clone()
            show(rule, t, x)
            if overwritten:
                x.fill_(9)
        return rule.state()

    plain, spoilt = shown(outputs_of(120), False), shown(outputs_of(120), True)
    assert all(torch.equal(plain[key], spoilt[key]) for key in plain)


@pytest.mark.parametrize("name", STOPPERS)
def test_the_state_of_a_rule_is_all_that_another_needs_to_go_on(name):
    outputs = outputs_of(240, seed=5)
    first, second = (rule_of(name, window=5, patience=50) for _ in range(2))
    for t, x in enumerate(outputs[:113], start=1):
        show(first, t, x)
    for key, value in second.state().items():
        value.copy_(first.state()[key])
    for t, x in enumerate(outputs[113:], start=114):
        show(first, t, x), show(second, t, x)
    assert all(torch.equal(first.state()[key], second.state()[key]) for key in first.state())


@pytest.mark.parametrize("name", ["es-wmv", "es-emv"])
def test_of_a_large_picture_a_part_is_looked_at(name):
    shape = (1, 3, 150, 151)
    rule, outputs = rule_of(name, shape, window=3), outputs_of(4, shape=shape)
    for t, x in enumerate(outputs, start=1):
        statistic, _ = rule.statistic(torch.tensor(t - 1), x, x)
    size = max(value.shape[-1] for value in rule.state().values() if value.ndim in (1, 2))
    assert MOST_VALUES / 4 < size <= MOST_VALUES
    whole = STATISTICS[name](outputs, 3)[-1] if name == "es-wmv" else None
    if whole is not None:
        assert float(statistic) == pytest.approx(whole, rel=0.02)


# fixed


def test_the_fixed_rule_answers_with_the_last_mean_and_never_stops():
    rule = rule_of("fixed", patience=1)
    for t, x in enumerate(outputs_of(30), start=1):
        show(rule, t, x)
        assert int(rule.chosen) == t and not bool(rule.stop)
        assert rule.answer(x) is x


# es-wmv


def alternating(amplitudes):
    """Outputs whose windows of 2 have known variances: the difference's half, squared."""
    return [torch.full((1, 1, 2, 2), amplitude * (-1.0) ** t) for t, amplitude in enumerate(amplitudes)]


def test_es_wmv_has_known_answers():
    rule = STOPPERS["es-wmv"](Recipe(window=2, patience=3), Seen(TARGET), torch.zeros(1, 1, 2, 2))
    best, chosen, stops = [], [], []
    for t, x in enumerate(alternating([4, 2, 1, 3, 5, 6, 7]), start=1):
        show(rule, t, x)
        best.append(float(rule.best))
        chosen.append(int(rule.chosen))
        stops.append(bool(rule.stop))
    assert best == [float("inf"), 9, 2.25, 2.25, 2.25, 2.25, 2.25]
    assert chosen == [1, 2, 3, 3, 3, 3, 3]
    assert stops == [False] * 5 + [True] * 2


def test_es_wmv_still_knows_a_small_variance_after_many_large_outputs():
    rule = STOPPERS["es-wmv"](Recipe(window=10, patience=10_000), Seen(TARGET), torch.zeros(SHAPE))
    outputs = outputs_of(1000)
    for t, x in enumerate(outputs, start=1):
        rule.statistic(torch.tensor(t - 1), x, x)
    calm = [1 + 1e-3 * x for x in outputs[:10]]
    for t, x in enumerate(calm, start=1001):
        variance, _ = rule.statistic(torch.tensor(t - 1), x, x)
    assert float(variance) == pytest.approx(windowed_variance(calm, 10)[-1], rel=1e-3)


# es-emv


def test_es_emv_of_constant_outputs_has_known_answers():
    """One jump by d: the change decays by 0.9 a step, and the variance sums what is left of it."""
    rule = rule_of("es-emv")
    low, high = torch.full(SHAPE, 0.25), torch.full(SHAPE, 0.75)
    show(rule, 1, low)
    for t, wanted in ((2, 0.9 * 0.1 * 0.25), (3, 0.9 * (0.9 * 0.1 * 0.25 + 0.1 * 0.2025))):
        statistic, ready = rule.statistic(torch.tensor(t - 1), high, high)
        assert float(statistic) == pytest.approx(wanted, rel=1e-5)
        assert not bool(ready)


# held-out


def held_out_of(step):
    out = torch.zeros(step.y.numel(), dtype=torch.bool)
    out[step.stopper._places] = True
    return out.reshape(step.y.shape)


def gradient(y, **settings):
    step = step_of(y=y, stop="held-out", held_out=0.2, **settings)
    step()
    return step.weights.grad.clone()


def test_what_is_held_out_never_reaches_the_weights():
    y = picture()
    out = held_out_of(step_of(y=y, stop="held-out", held_out=0.2))
    assert 0 < out.sum() < out.numel()
    one = torch.zeros_like(out)
    one.view(-1)[(~out).flatten().nonzero()[0]] = True
    assert torch.equal(gradient(y), gradient(torch.where(out, y + 5, y)))
    assert not torch.equal(gradient(y), gradient(torch.where(one, y + 5, y)))


def test_a_fit_does_not_see_what_is_held_out_but_its_choice_does():
    def fitted(y):
        fitting = fitting_of(stop="held-out", held_out=0.2, patience=500, iterations=30)
        fitting.y = y
        fitting.__post_init__()
        fitting.advance()
        return fitting

    y = picture()
    out = held_out_of(fitted(y)._step)
    first, second = fitted(y), fitted(torch.where(out, 1 - y, y))
    assert torch.equal(first._step.weights.master, second._step.weights.master)
    assert first.curve["loss"] == second.curve["loss"]
    assert float(first._step.stopper.best) != float(second._step.stopper.best)


def test_the_loss_is_a_mean_over_what_is_not_held_out():
    step = step_of(stop="held-out", held_out=0.3)
    out = held_out_of(step)
    step()
    squares = (step.mean.value - step.y).square()
    assert float(step.losses[0]) == pytest.approx(float(squares[~out].mean()), rel=1e-5)


def test_pixels_are_held_out_with_all_their_channels_and_at_the_share_asked_for():
    step = step_of(y=torch.rand(1, 3, 16, 16), stop="held-out", held_out=0.3)
    out = held_out_of(step)
    assert bool((out == out[:, :1]).all())
    assert float(out.float().mean()) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("channels", [1, 3])
def test_only_observed_pixels_are_held_out(channels):
    known = (torch.rand(1, channels, 16, 16, generator=seeded()) < 0.6).float()
    step = step_of(y=picture() * known, operator=Mask(known), stop="held-out", held_out=0.3)
    out, everywhere = held_out_of(step), known.expand(1, 3, 16, 16) > 0
    assert out.any()
    assert not (out & ~everywhere).any()


def test_the_seed_decides_which_pixels_are_held_out():
    first, again, other = (held_out_of(step_of(stop="held-out", seeds=(1, 2, seed))) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_picture_without_an_observed_pixel_is_refused():
    nothing = Mask(torch.zeros(1, 1, 16, 16))
    with pytest.raises(UsageError, match=r"held-out.*no pixel"):
        step_of(y=torch.zeros(1, 3, 16, 16), operator=nothing, stop="held-out")


def test_held_out_works_where_the_observation_is_smaller_than_the_picture():
    result = run(picture(8, 8), Downsample(2), stop="held-out", held_out=0.3, iterations=10, patience=5)
    assert result.x.shape == (1, 3, 16, 16)


# discrepancy


@pytest.mark.parametrize("clipped", [False, True], ids=["not clipped", "clipped"])
def test_discrepancy_stops_at_the_first_crossing_and_stays_there(clipped):
    y = TARGET if clipped else torch.where(torch.arange(SHAPE[-1]) == 0, TARGET - 1, TARGET)
    rule = STOPPERS["discrepancy"](Recipe(stop="discrepancy", sigma=25.5), Seen(y), torch.zeros(SHAPE))
    stops, misfits, expected = [], [], []
    for t, x in enumerate([y + root for root in (0.3, 0.05, *[0.0] * 25, 0.5)], start=1):
        show(rule, t, x, mean=torch.full(SHAPE, t))
        expected.append(float(clipped_misfit(x, 0.1).mean()) if clipped else 0.01)
        stops.append(bool(rule.stop))
        misfits.append(float(rule.misfit))
    assert misfits[:2] == pytest.approx([0.09, 0.9 * 0.09 + 0.1 * 0.0025], rel=1e-4)
    first = next(t for t, misfit in enumerate(misfits, start=1) if misfit <= expected[t - 1])
    assert 2 < first < 27
    assert stops == [t >= first for t in range(1, len(stops) + 1)]
    assert int(rule.chosen) == first
    assert bool((rule.answer(torch.zeros(())) == first).all())


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.4])
def test_clipped_noise_has_the_misfit_that_drawing_it_gives(sigma):
    x = torch.tensor([0.0, 0.01, 0.1, 0.5, 0.93, 1.0], dtype=torch.float64)
    noise = sigma * torch.randn(200_000, 1, generator=seeded(), dtype=torch.float64)
    drawn = ((x + noise).clamp(0, 1) - x).square().mean(0)
    assert torch.allclose(clipped_misfit(x, sigma), drawn, rtol=0.02)
    assert float(clipped_misfit(x[:1], 0.01)) == pytest.approx(0.01**2 / 2)  # half of it is cut off


@pytest.mark.parametrize("brightness", [0.0, 0.5, 1.0])
def test_discrepancy_knows_the_truth_of_a_clipped_picture(brightness):
    """The truth itself is at the noise, whatever its brightness; a picture half as noisy is not."""
    truth = torch.full((1, 1, 64, 64), brightness)
    y = (truth + 0.1 * torch.randn(truth.shape, generator=seeded())).clamp(0, 1)
    for sigma, reached in ((25.5 * 1.05, True), (25.5 / 1.05, False)):
        rule = STOPPERS["discrepancy"](Recipe(stop="discrepancy", sigma=sigma), Seen(y), torch.zeros_like(y))
        show(rule, 1, truth)
        assert bool(rule.stop) is reached


def test_discrepancy_answers_with_the_last_output_until_it_stops():
    rule = rule_of("discrepancy", sigma=0.001)
    for t, x in enumerate(outputs_of(20), start=1):
        show(rule, t, x)
        assert int(rule.chosen) == t and torch.equal(rule.answer(torch.zeros(())), x)


def test_discrepancy_counts_observed_values_only():
    known = torch.zeros(SHAPE)
    known[..., :2] = 1
    observed = known.flatten().nonzero()[:, 0]
    rule = STOPPERS["discrepancy"](
        Recipe(stop="discrepancy", sigma=25.5), Seen(TARGET, None, observed), torch.zeros(SHAPE)
    )
    x = torch.where(known > 0, TARGET + 0.2, TARGET)
    show(rule, 1, x)
    assert float(rule.misfit) == pytest.approx(0.04, rel=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_masked_fit_tells_discrepancy_what_was_observed(channels):
    known = (torch.rand(1, channels, 16, 16, generator=seeded()) < 0.3).float()
    step = step_of(y=picture() * known, operator=Mask(known), stop="discrepancy", sigma=10)
    step()
    everywhere = known.expand(1, 3, 16, 16) > 0
    misfit = (step.mean.value - step.y)[everywhere].square().mean()
    assert float(step.stopper.misfit) == pytest.approx(float(misfit), rel=1e-5)


def test_discrepancy_ends_a_fit_near_the_noise_level():
    noisy = picture() + 0.1 * torch.randn(1, 3, 16, 16, generator=seeded())
    result = run(noisy, stop="discrepancy", sigma=25.5, iterations=2000, averaging=0, input_noise=0)
    assert result.stop_reason == "discrepancy"
    assert result.chosen <= result.iterations < result.chosen + 10
    assert float((result.x - noisy).square().mean()) == pytest.approx(0.01, rel=0.25)


def test_discrepancy_without_a_noise_level_is_a_usage_error_that_says_so():
    with pytest.raises(UsageError, match="sigma"):
        run(stop="discrepancy", iterations=5)
    with pytest.raises(ValueError, match="sigma"):
        STOPPERS["discrepancy"](Recipe(), Seen(TARGET), TARGET)


# A loss that is not finite


@pytest.mark.parametrize("settings", [{"averaging": 0}, {"averaging": 0.99}], ids=["last output", "average"])
@pytest.mark.parametrize("name", MINIMA)
def test_an_iteration_without_a_finite_loss_is_no_minimum(name, settings):
    at = 124
    fitting = fitting_of(
        failing_at(at, value=float("nan")),
        stop=name,
        window=5,
        patience=1000,
        iterations=200,
        input_noise=0.1,
        held_out=0.3,
        **settings,
    )
    fitting.advance(at - 1)
    before = float(fitting._step.stopper.best)
    fitting.advance(130)
    assert fitting.non_finite == 7 and fitting.rollbacks == 1
    assert float(fitting._step.stopper.best) >= before


def test_iterations_without_a_finite_loss_do_not_lower_the_misfit_of_discrepancy():
    fitting = fitting_of(failing_at(22, value=float("nan")), stop="discrepancy", sigma=0.1, input_noise=0.1)
    fitting.advance(21)
    before = float(fitting._step.stopper.misfit)
    fitting.advance(30)
    assert fitting.non_finite == 9
    assert float(fitting._step.stopper.misfit) >= 0.999 * before
