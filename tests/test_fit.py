import copy

import pytest
import torch
from pydantic import ValidationError

from dipsearch.error import DipsearchError, Diverged, OutOfMemory, UsageError
from dipsearch.fit.averaging import RunningMean
from dipsearch.fit.device import pick_device
from dipsearch.fit.engine import fit
from dipsearch.fit.fitting import MOST_ROLLBACKS, Fitting
from dipsearch.fit.recipe import Recipe
from dipsearch.fit.step import Step
from dipsearch.fit.stopping import MOST_VALUES, WindowedVariance
from dipsearch.genome import parse_genome
from dipsearch.metric import psnr
from dipsearch.network.build import build
from dipsearch.operator import Downsample, Identity, Mask


def tiny(**genes):
    return parse_genome(
        {
            "family": "hourglass",
            "depth": 1,
            "channels_down": 4,
            "channels_up": 4,
            "channels_skip": 0,
            "input": {"kind": "noise", "channels": 4},
        }
        | genes
    )


GENOME = tiny()


def picture(height=16, width=16, channels=3, seed=0):
    coarse = torch.rand(1, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def run(y=None, operator=None, **settings):
    settings = {"iterations": 30, "input_noise": 0.01, "device": "cpu"} | settings
    return fit(settings.pop("genome", GENOME), picture() if y is None else y, operator, **settings)


def fitting_of(operator=None, callback=None, truth=None, **settings):
    recipe = Recipe(**({"iterations": 40, "input_noise": 0.01} | settings))
    return Fitting(GENOME, picture(), operator or Identity(), recipe, device="cpu", truth=truth, callback=callback)


def same(a, b):
    """Two fits, bit for bit, but for the clock. (NaN stands for "no truth" in a curve.)"""
    assert torch.equal(a.x, b.x)
    assert repr(a.curve) == repr(b.curve)
    assert (a.chosen, a.iterations, a.stop_reason, a.psnr, a.oracle, a.rollbacks) == (
        b.chosen,
        b.iterations,
        b.stop_reason,
        b.psnr,
        b.oracle,
        b.rollbacks,
    )


# The fit


def test_a_fit_lowers_the_loss_and_comes_near_the_observation():
    y = picture()
    result = run(y, iterations=100, averaging=0)
    assert result.curve["loss"][-1] < result.curve["loss"][0] / 3
    assert psnr(result.x, y) > 20
    assert result.x.shape == y.shape and result.x.dtype == torch.float32
    assert result.x.min() > 0 and result.x.max() < 1
    assert result.device == "cpu" and result.seconds > 0


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    first, again, other = run(seed=3, truth=picture()), run(seed=3, truth=picture()), run(seed=4, truth=picture())
    same(first, again)
    assert not torch.equal(first.x, other.x)
    assert first.curve["loss"] != other.curve["loss"]


def test_the_global_generator_neither_matters_nor_moves():
    torch.manual_seed(1)
    first = run()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    same(first, run())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("stop", ["fixed", "es-wmv"])
def test_the_truth_never_changes_the_answer(stop):
    settings = {"iterations": 60, "stop": stop, "window": 5, "patience": 20}
    blind, seeing = run(**settings), run(truth=picture(seed=9), **settings)
    assert torch.equal(blind.x, seeing.x)
    assert (blind.chosen, blind.iterations, blind.stop_reason) == (seeing.chosen, seeing.iterations, seeing.stop_reason)
    assert blind.curve["loss"] == seeing.curve["loss"]
    assert blind.psnr is None and blind.oracle is None
    assert all(value != value for value in blind.curve["psnr"])


def test_the_oracle_is_the_best_iterate_and_stands_beside_the_honest_result():
    pictures = {}
    run(iterations=60, callback=lambda iteration, x: pictures.update({iteration: x.clone()}))
    result = run(iterations=60, truth=pictures[20])
    assert (result.oracle.psnr, result.oracle.iteration) == (100.0, 20)
    assert result.psnr == pytest.approx(psnr(pictures[60], pictures[20]))
    assert result.psnr < result.oracle.psnr
    assert result.chosen == 60 and torch.equal(result.x, pictures[60])


def test_the_oracle_is_the_maximum_of_the_curve_and_never_below_the_result():
    result = run(iterations=50, truth=picture(seed=5))
    assert result.oracle.psnr == max(result.curve["psnr"])
    assert result.oracle.psnr >= result.psnr - 1e-9
    assert result.curve["psnr"][-1] == pytest.approx(result.psnr)


def test_a_masked_loss_is_a_mean_over_all_pixels():
    known = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.75).float()
    y = picture() * known
    step = step_of(y=y, operator=Mask(known))
    out, loss = step()
    assert float(loss) == pytest.approx(float(((out * known - y) ** 2).sum() / y.numel()), rel=1e-6)
    assert float(loss) < float(((out * known - y) ** 2).sum() / (3 * known.sum())) / 2


@pytest.mark.parametrize("parts", [(10, 20), (20, 60), (10, 20, 30, 70)])
def test_advancing_in_parts_is_advancing_at_once(parts):
    whole, split = fitting_of(iterations=80, truth=picture(seed=5)), fitting_of(iterations=80, truth=picture(seed=5))
    whole.advance()
    for until in parts:
        split.advance(until)
        assert split.iteration == until and not split.done
        assert split.result().stop_reason == "paused"
    split.advance()
    assert split.done
    same(whole.result(), split.result())


@pytest.mark.parametrize("parts", [(1, 2, 4), (7, 33), (5, 12, 25)])
def test_pauses_between_checks_do_not_change_the_answer(parts):
    whole, split = fitting_of(), fitting_of()
    whole.advance()
    for until in parts:
        split.advance(until)
    split.advance()
    assert torch.equal(whole.result().x, split.result().x)
    assert split.result().iterations == 40


def test_pauses_between_checks_do_not_change_where_a_rollback_goes():
    def collapsing():
        return fitting_of(failing_at(20), truth=picture(seed=5))

    whole, split = collapsing(), collapsing()
    whole.advance()
    split.advance(12)
    split.advance()
    assert whole.rollbacks == split.rollbacks == 1
    assert torch.equal(whole.result().x, split.result().x)


def test_pauses_between_checks_do_not_change_the_oracle():
    whole = fitting_of(truth=picture(seed=5))
    whole.advance()
    at_13 = fitting_of()
    at_13.advance(13)
    split, unsplit = fitting_of(truth=at_13.current), fitting_of(truth=at_13.current)
    split.advance(13)
    split.advance()
    unsplit.advance()
    assert split.result().oracle == unsplit.result().oracle  # the oracle looks every 10 iterations


def test_advancing_to_0_does_nothing():
    fitting = fitting_of()
    fitting.advance(0)
    assert fitting.iteration == 0 and not fitting.done


def test_advancing_a_finished_fit_does_nothing():
    fitting = fitting_of(iterations=20)
    fitting.advance()
    before = fitting.result()
    fitting.advance()
    same(before, fitting.result())


def test_the_callback_is_called_every_10_iterations_with_the_answer_so_far():
    seen = []
    result = run(iterations=40, callback=lambda iteration, x: seen.append((iteration, x.clone())))
    assert [iteration for iteration, _ in seen] == [10, 20, 30, 40]
    assert torch.equal(seen[-1][1], result.x)
    assert result.curve["iteration"] == [10, 20, 30, 40]


def test_a_budget_that_10_does_not_divide_ends_on_time():
    result = run(iterations=23)
    assert (result.iterations, result.chosen, result.stop_reason) == (23, 23, "budget")
    assert result.curve["iteration"] == [10, 20, 23]


def test_the_time_limit_ends_a_fit():
    result = run(iterations=100_000, time_limit=0.2)
    assert result.stop_reason == "time-limit"
    assert result.iterations < 100_000 and result.iterations % 10 == 0
    assert 0.2 <= result.seconds < 5


def test_es_wmv_ends_a_fit_and_answers_with_the_chosen_iterate():
    answers = {}
    settings = {"iterations": 2000, "stop": "es-wmv", "window": 10, "patience": 15, "input_noise": 0.3}
    result = run(callback=lambda iteration, x: answers.update({iteration: x.clone()}), **settings)
    assert result.stop_reason == "es-wmv"
    assert result.iterations < 2000
    assert 15 <= result.iterations - result.chosen < 15 + 10  # it is looked at every 10 iterations
    at_chosen = run(**(settings | {"iterations": result.chosen, "stop": "fixed"}))
    assert torch.equal(result.x, at_chosen.x)
    assert torch.equal(result.x, answers[result.iterations])


@pytest.mark.parametrize("size", [(17, 19), (16, 23), (33, 18), (2, 3)])
def test_any_size_comes_back(size):
    genome = tiny(depth=2)
    assert run(picture(*size), genome=genome, iterations=2).x.shape == (1, 3, *size)


def test_grey_pictures_are_fitted_too():
    assert run(picture(channels=1), iterations=2).x.shape == (1, 1, 16, 16)


@pytest.mark.parametrize("factor", [2, 4])
def test_super_resolution_gives_the_larger_picture(factor):
    y = picture(6, 7)
    result = run(y, Downsample(factor), iterations=2)
    assert result.x.shape == (1, 3, 6 * factor, 7 * factor)


def test_super_resolution_fits_the_small_picture():
    y = picture(8, 8)
    result = run(y, Downsample(2), iterations=100, averaging=0)
    assert psnr(Downsample(2)(result.x), y) > 20


def test_any_callable_is_an_operator():
    def flipped(x):
        return x.flip(-1)

    y = picture()
    result = run(y.flip(-1), flipped, iterations=100, averaging=0)
    assert psnr(result.x, y) > 20


def test_a_size_can_be_given_for_a_plain_callable():
    result = run(picture(8, 8), lambda x: x[..., ::2, ::2], size=(16, 16), iterations=2)
    assert result.x.shape == (1, 3, 16, 16)


# What is refused


def test_an_operator_that_does_not_match_the_observation_is_refused():
    with pytest.raises(UsageError, match=r"\(1, 3, 8, 8\).*\(1, 3, 16, 16\)"):
        run(operator=lambda x: x[..., ::2, ::2])


def test_an_operator_whose_output_would_broadcast_is_refused():
    with pytest.raises(UsageError):
        run(operator=lambda x: x.mean(dim=1, keepdim=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_observation_that_is_not_finite_is_refused(value):
    y = picture()
    y[0, 1, 2, 3] = value
    with pytest.raises(UsageError, match="finite"):
        run(y)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 3, 16, 16), (16, 16)])
def test_an_observation_of_another_shape_is_refused(shape):
    with pytest.raises(UsageError, match="observation"):
        run(torch.rand(shape))


def test_a_truth_of_another_shape_is_refused():
    for truth in (picture(channels=1), picture(16, 20)):
        with pytest.raises(UsageError):
            run(truth=truth, iterations=2)


def test_an_unknown_device_is_refused_with_the_choices():
    with pytest.raises(UsageError, match=r"unknown device 'gpu'.*auto, cpu, cuda, mps"):
        run(device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(UsageError, match="'cuda' is not available"):
        run(device="cuda")
    assert pick_device("auto").type in ("cpu", "mps")


@pytest.mark.parametrize(
    "settings", [{"iterations": 0}, {"learning_rate": float("nan")}, {"iteration": 5}, {"stop": "never"}]
)
def test_wrong_settings_are_a_usage_error_on_one_line(settings):
    with pytest.raises(UsageError) as caught:
        run(**settings)
    assert "\n" not in str(caught.value)


def test_a_recipe_names_the_stopping_rules():
    with pytest.raises(ValidationError, match="unknown stopping rule 'never'; choose from: es-wmv, fixed"):
        Recipe(stop="never")


def test_an_unknown_protocol_is_a_usage_error():
    with pytest.raises(UsageError):
        run(truth=picture(), protocol="rbg", iterations=2)


# Failures


def failing_at(*calls, value=3.0):
    """The identity, but for the calls counted from 1, in which it is far off."""
    count = 0

    def operator(x):
        nonlocal count
        count += 1
        return x + value if count in calls else x

    return operator


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", [1, 14, 20])
def test_a_loss_that_is_not_finite_is_a_diverged_fit(value, call):
    with pytest.raises(Diverged, match=f"iteration {10 if call == 1 else 20}"):
        run(operator=failing_at(call, value=value))


def test_a_learning_rate_far_too_large_is_a_diverged_fit():
    genome = tiny(depth=5, norm="none", activation="none")
    with pytest.raises(Diverged):
        run(genome=genome, learning_rate=10)


def test_a_fit_that_keeps_collapsing_is_a_diverged_fit():
    calls = range(20, 1000, 10)
    fitting = fitting_of(failing_at(*calls), iterations=1000)
    with pytest.raises(Diverged, match=f"rolled back {MOST_ROLLBACKS} times"):
        fitting.advance()
    assert fitting.iteration == 10 + 10 * (MOST_ROLLBACKS + 1)


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: 99 bytes"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError(ALLOCATOR)])
def test_want_of_memory_has_its_own_type(error):
    def operator(x):
        raise error

    with pytest.raises(OutOfMemory, match="not enough memory for hourglass") as caught:
        run(operator=operator)
    assert caught.value.reason == "out-of-memory"
    assert "\n" not in str(caught.value)


def test_other_errors_of_an_operator_stay_what_they_are():
    def operator(x):
        raise RuntimeError("a bug in the operator")

    with pytest.raises(RuntimeError, match="a bug in the operator") as caught:
        run(operator=operator)
    assert not isinstance(caught.value, DipsearchError)


# One step, and going back


def step_of(genome=GENOME, y=None, operator=None, input_noise=0.0):
    z = torch.rand(1, 4, 16, 16, generator=torch.Generator().manual_seed(2)) * 0.1
    return Step(
        build(genome, 3, seed=1),
        z,
        picture() if y is None else y,
        operator or Identity(),
        size=(16, 16),
        learning_rate=0.01,
        input_noise=input_noise,
        seed=7,
    )


def tensors_of(step):
    moments = step.optimiser.state_dict()["state"]
    values = {f"net.{name}": value for name, value in step.net.state_dict().items()}
    return values | {f"adam.{index}.{name}": moments[index][name] for index in moments for name in moments[index]}


def copies(values):
    return {name: value.clone() for name, value in values.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_restore_brings_back_weights_moments_and_norm_statistics():
    step = step_of()
    for _ in range(5):
        step()
    snapshot, before = step.snapshot(), copies(tensors_of(step))
    for _ in range(3):
        step()
    after = tensors_of(step)
    for kind in ("weight", "running_mean", "running_var", "exp_avg", "exp_avg_sq", "step"):
        changed = [name for name in before if name.endswith(f".{kind}") and not torch.equal(before[name], after[name])]
        assert changed, kind
    step.restore(snapshot)
    assert equal(tensors_of(step), before)


def test_the_way_on_from_a_restored_snapshot_is_the_way_on_from_a_deep_copy():
    step = step_of()
    for _ in range(5):
        step()
    snapshot = step.snapshot()
    twin = copy.copy(step)
    twin.net, twin.optimiser = copy.deepcopy((step.net, step.optimiser))
    for _ in range(4):
        step()
    step.restore(snapshot)
    for _ in range(4):
        (a, loss_a), (b, loss_b) = step(), twin()
        assert torch.equal(a, b) and torch.equal(loss_a, loss_b)
    assert equal(tensors_of(step), tensors_of(twin))


def test_a_snapshot_shares_no_memory_and_serves_twice():
    step = step_of()
    for _ in range(3):
        step()
    snapshot, before = step.snapshot(), copies(tensors_of(step))
    for _ in range(2):
        step()
        step()
        step.restore(snapshot)
        assert equal(tensors_of(step), before)


def test_input_noise_goes_on_after_a_restore():
    step = step_of(input_noise=0.1)
    step()
    snapshot = step.snapshot()
    first, _ = step()
    step.restore(snapshot)
    second, _ = step()
    assert not torch.equal(first, second)


def test_a_fit_that_collapses_once_is_rolled_back_once_to_the_last_snapshot():
    states = {}

    def keep(iteration, x):
        states[iteration] = copies(tensors_of(fitting._step)), x.clone()

    fitting = fitting_of(failing_at(20), callback=keep, iterations=100, averaging=0)
    fitting.advance()
    result = fitting.result()
    assert result.rollbacks == 1
    assert equal(states[20][0], states[10][0]) and torch.equal(states[20][1], states[10][1])
    assert not equal(states[30][0], states[10][0])
    assert psnr(result.x, picture()) > 20


def test_scrambled_weights_are_rolled_back_and_the_fit_recovers():
    def scramble(iteration, x):
        if iteration == 50:
            with torch.no_grad():
                for parameter in fitting._step.net.parameters():
                    parameter.add_(torch.full_like(parameter, 20.0))

    fitting = fitting_of(callback=scramble, iterations=100, averaging=0)
    fitting.advance()
    result = fitting.result()
    assert result.rollbacks == 1
    assert result.curve["loss"][5] > 4 * result.curve["loss"][4]
    assert result.curve["loss"][-1] < result.curve["loss"][4]
    assert psnr(result.x, picture()) > 20


@pytest.mark.parametrize("at", range(50, 61))
def test_a_collapse_in_any_step_is_rolled_back(at):
    """Also in the step after which a snapshot is taken: that one holds the collapsed weights."""
    fitting = fitting_of(iterations=100, averaging=0)
    step, taken = fitting._step.optimiser.step, []

    def collapsing():
        step()
        taken.append(None)
        if len(taken) == at:
            with torch.no_grad():
                for parameter in fitting._step.net.parameters():
                    parameter.add_(torch.full_like(parameter, 20.0))

    fitting._step.optimiser.step = collapsing
    fitting.advance()
    result = fitting.result()
    assert result.rollbacks == 1
    assert max(result.curve["loss"]) > 4 * result.curve["loss"][3]
    assert result.curve["loss"][-1] < result.curve["loss"][3]


def test_a_collapse_within_the_threshold_is_no_rollback():
    assert run(operator=failing_at(20), rollback=200).rollbacks == 0
    assert run().rollbacks == 0


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_step_is_a_step_of_plain_adam(norm):
    genome = tiny(norm=norm, channels_skip=2)
    step, net = step_of(genome), build(genome, 3, seed=1)
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(15):
        out, loss = step()
        plain = net(step.z.contiguous())
        plain_loss = torch.nn.functional.mse_loss(plain, step.y)
        adam.zero_grad()
        plain_loss.backward()
        adam.step()
        assert torch.allclose(out, plain, atol=1e-4)
        assert float(loss) == pytest.approx(float(plain_loss.detach()), rel=1e-3)
    if norm == "none":  # a bias in front of a norm has no gradient but rounding, which Adam blows up
        weights = dict(net.named_parameters())
        assert all(torch.allclose(value, weights[name], atol=1e-3) for name, value in step.net.named_parameters())


def test_a_step_gives_the_output_before_it():
    step = step_of()
    net = copy.deepcopy(step.net)
    out, loss = step()
    assert torch.equal(out, net(step.z.contiguous(memory_format=torch.channels_last)))
    assert not out.requires_grad and not loss.requires_grad
    assert not torch.equal(step()[0], out)


# The running mean


def scalar(value):
    return torch.tensor([float(value)])


def test_the_running_mean_has_known_answers():
    mean = RunningMean(0.99)
    assert float(mean.update(scalar(1))) == 1
    assert float(mean.update(scalar(0))) == pytest.approx(2 / 11)
    assert float(mean.update(scalar(0))) == pytest.approx(2 / 11 * 3 / 12)
    assert float(mean.update(scalar(1))) == pytest.approx(2 / 11 * 3 / 12 * 4 / 13 + 9 / 13)


def test_a_small_decay_is_reached_at_once():
    mean = RunningMean(0.1)
    mean.update(scalar(1))
    assert float(mean.update(scalar(0))) == pytest.approx(0.1)
    assert float(mean.update(scalar(5))) == pytest.approx(0.01 + 4.5)


def test_no_decay_gives_the_last_output():
    mean = RunningMean(0)
    for value in (3, 1, 4):
        assert float(mean.update(scalar(value))) == value


def test_the_warm_up_of_the_running_mean_follows_its_formula():
    outputs = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, expected = RunningMean(0.8), float(outputs[0])
    mean.update(outputs[:1])
    for t, output in enumerate(outputs[1:].tolist(), start=1):
        decay = min(0.8, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * output
        assert float(mean.update(torch.tensor([output], dtype=torch.float64))) == pytest.approx(expected, rel=1e-12)


def test_the_running_mean_is_the_papers_once_warm():
    outputs = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, before = RunningMean(0.99), None
    for t, output in enumerate(outputs):
        value = float(mean.update(output))
        if t >= 890:
            assert value == pytest.approx(0.99 * before + 0.01 * float(output), rel=1e-12)
        before = value


def test_the_running_mean_shares_no_memory_with_an_output():
    for decay in (0, 0.9):
        mean, x = RunningMean(decay), scalar(1)
        mean.update(x)
        x.fill_(9)
        assert float(mean.value) == 1


# Windowed variance


def outputs_of(count, seed=0, shape=(1, 3, 4, 4)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator) for _ in range(count)]


def variance_of(window):
    stacked = torch.stack([x.double().flatten() for x in window])
    return float((stacked - stacked.mean(dim=0)).square().mean())


def test_the_windowed_variance_equals_brute_force():
    rule, outputs = WindowedVariance(Recipe(window=7, patience=1000)), outputs_of(60)
    for t, x in enumerate(outputs, start=1):
        rule.update(t, x)
        if t >= 7:
            assert rule.variance == pytest.approx(variance_of(outputs[t - 7 : t]), rel=1e-9)
        else:
            assert rule.variance == float("inf")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_es_wmv_chooses_the_minimum_and_stops_patience_after_it(seed):
    rule, outputs = WindowedVariance(Recipe(window=5, patience=12)), outputs_of(400, seed)
    variances, chosen = {}, 0
    for t, x in enumerate(outputs, start=1):
        chosen = t if rule.update(t, x) else chosen
        if t >= 5:
            variances[t] = variance_of(outputs[t - 5 : t])
        if rule.stop:
            break
    assert chosen == min(variances, key=variances.get)
    assert t == chosen + 12
    for earlier in range(5 + 12, t):  # no stop was due before
        best = min((v for v in variances if v <= earlier), key=variances.get)
        assert earlier - best < 12


def alternating(amplitudes):
    """Outputs whose windows of 2 have known variances: the difference's half, squared."""
    return [torch.full((1, 1, 2, 2), amplitude * (-1.0) ** t) for t, amplitude in enumerate(amplitudes)]


def test_es_wmv_has_known_answers():
    rule = WindowedVariance(Recipe(window=2, patience=3))
    variances, answers, stops = [], [], []
    for t, x in enumerate(alternating([4, 2, 1, 3, 5, 6, 7]), start=1):
        answers.append(rule.update(t, x))
        variances.append(rule.variance)
        stops.append(rule.stop)
    assert variances[1:] == pytest.approx([9, 2.25, 4, 16, 30.25, 30.25])  # it has stopped
    assert answers[:6] == [True, True, True, False, False, False]
    assert stops[:6] == [False, False, False, False, False, True]


def test_a_stop_is_final():
    rule = WindowedVariance(Recipe(window=2, patience=3))
    for t, x in enumerate(alternating([4, 2, 1, 3, 5, 6]), start=1):
        rule.update(t, x)
    assert rule.stop
    calm = torch.zeros(1, 1, 2, 2)
    assert [rule.update(t, calm) for t in (7, 8, 9)] == [False, False, False]
    assert rule.stop


def test_no_minimum_counts_before_the_warm_up_is_over():
    rule, answers = WindowedVariance(Recipe(window=2, patience=3, warm_up=4)), []
    for t, x in enumerate(alternating([1, 1, 1, 1, 4, 5, 6, 7]), start=1):
        answers.append(rule.update(t, x))
        assert rule.stop == (t == 8)
    assert answers == [True] * 5 + [False] * 3  # the answer is the last output until the warm-up is over
    assert rule.minimum == pytest.approx(6.25)


def test_of_a_large_picture_a_part_is_looked_at():
    rule, outputs = WindowedVariance(Recipe(window=3, patience=5)), outputs_of(4, shape=(1, 3, 150, 151))
    for t, x in enumerate(outputs, start=1):
        rule.update(t, x)
    assert MOST_VALUES / 2 < rule._ring.shape[1] <= MOST_VALUES
    assert rule.variance == pytest.approx(variance_of(outputs[1:]), rel=0.02)


def test_the_rules_state_shares_no_memory_with_an_output():
    rule, x = WindowedVariance(Recipe(window=2, patience=5)), torch.zeros(1, 1, 2, 2)
    rule.update(1, x)
    x.fill_(1)
    rule.update(2, x)
    assert rule.variance == pytest.approx(0.25)
