import subprocess
import sys
import time

import pytest
import torch
from fits import EVERY_FAMILY, copies, equal, failing_at, fitting_of, picture, run, same, step_of, tiny
from pydantic import ValidationError

import dipsearch
from dipsearch.error import DipsearchError, Diverged, OutOfMemory, UsageError
from dipsearch.fitting.device import pick_device
from dipsearch.fitting.loop import MOST_ROLLBACKS
from dipsearch.fitting.recipe import Recipe
from dipsearch.fitting.step import Step
from dipsearch.fitting.stopping import STOPPERS
from dipsearch.metric import psnr
from dipsearch.network.build import PRECISIONS, build
from dipsearch.operator import Downsample, Mask

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
    step()
    out, loss = step.mean.value, step.losses[0]
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


@pytest.mark.parametrize("settings", [{}, {"stop": "es-wmv", "warm_up": 1000}], ids=["fixed", "es-wmv"])
def test_a_result_does_not_change_when_the_fit_goes_on(settings):
    fitting = fitting_of(truth=picture(seed=5), **settings)
    fitting.advance(20)
    current, result = fitting.current, fitting.result()
    kept, curve = current.clone(), {name: list(values) for name, values in result.curve.items()}
    fitting.advance()
    assert not torch.equal(fitting.current, kept)
    assert torch.equal(current, kept) and torch.equal(result.x, kept)
    assert result.curve == curve


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


def test_the_time_limit_ends_a_fit_of_long_steps_before_the_next_check(monkeypatch):
    step = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda self: time.sleep(0.1) or step(self))
    result = run(iterations=1000, time_limit=0.25)
    assert result.stop_reason == "time-limit" and result.iterations <= 3
    assert result.seconds < 0.6 and result.curve["iteration"] == [result.iterations]


def test_the_time_limit_ends_a_fit():
    result = run(iterations=100_000, time_limit=0.2)
    assert result.stop_reason == "time-limit"
    assert 10 < result.iterations < 100_000
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
    with pytest.raises(
        ValidationError, match=f"unknown stopping rule 'never'; choose from: {', '.join(sorted(STOPPERS))}"
    ):
        Recipe(stop="never")


def test_an_unknown_protocol_is_a_usage_error():
    with pytest.raises(UsageError):
        run(truth=picture(), protocol="rbg", iterations=2)


# Failures


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("call", "noticed"), [(1, 10), (4, 10), (10, 10), (11, 20)])
def test_a_loss_that_is_not_finite_before_any_good_snapshot_is_a_diverged_fit(value, call, noticed):
    with pytest.raises(Diverged, match=f"iteration {noticed} "):
        run(operator=failing_at(call, value=value))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", [14, 20, 21, 25, 30, 39])
def test_a_loss_that_is_not_finite_is_counted_and_rolled_back(value, call):
    result = run(operator=failing_at(call, value=value), iterations=100, truth=picture(), stop="es-wmv", window=5)
    assert result.rollbacks == 1
    assert result.non_finite >= 1
    assert result.curve["loss"][-1] < result.curve["loss"][0] / 2
    assert result.x.isfinite().all() and result.psnr > 15


def test_every_loss_that_is_not_finite_is_counted():
    """It leaves weights that give no other until the next look, every 10 iterations."""
    result = run(operator=failing_at(12, 33, value=float("nan")), iterations=60)
    assert result.rollbacks == 2
    assert result.non_finite == (20 - 11) + (40 - 32)


def test_a_fit_that_keeps_giving_losses_that_are_not_finite_is_a_diverged_fit():
    fitting = fitting_of(failing_at(*range(20, 1000, 10), value=float("nan")), iterations=1000)
    with pytest.raises(Diverged, match=f"rolled back {MOST_ROLLBACKS} times") as caught:
        fitting.advance()
    assert caught.value.rollbacks == fitting.rollbacks == MOST_ROLLBACKS
    assert caught.value.non_finite == fitting.non_finite > MOST_ROLLBACKS


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


def values_of(step):
    """Everything that a rollback brings back."""
    parts = {"weights": step.weights, "mean": step.mean, "stopper": step.stopper}
    return {f"{part}.{name}": value for part, owner in parts.items() for name, value in owner.state().items()}


def times(step, count):
    for _ in range(count):
        step()
    return step


@pytest.mark.parametrize("precision", PRECISIONS)
def test_restore_brings_back_weights_moments_and_the_averaged_output(precision):
    step = times(step_of(precision=precision, averaging=0.9, stop="es-wmv", window=3), 5)
    snapshot, before = step.snapshot(), copies(values_of(step))
    network = copies(dict(step.net.named_parameters()))
    times(step, 3)
    changed = {name for name, value in values_of(step).items() if not torch.equal(value, before[name])}
    assert {f"weights.{name}" for name in ("master", "exp_avg", "exp_avg_sq", "step")} < changed
    assert {"mean.value", "stopper.ring", "stopper.sum", "stopper.chosen", "stopper.kept", "stopper.best"} < changed
    step.restore(snapshot)
    assert equal(values_of(step), before)
    assert equal(dict(step.net.named_parameters()), network)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_way_on_from_a_restored_snapshot_is_the_way_on_of_a_step_that_never_went_further(precision):
    step, twin = (times(step_of(precision=precision), 5) for _ in range(2))
    snapshot = step.snapshot()
    times(step, 4)
    step.restore(snapshot)
    for _ in range(4):
        step(), twin()
        assert torch.equal(step.mean.value, twin.mean.value)
    assert equal(step.weights.state(), twin.weights.state())
    assert int(step.tick) == int(twin.tick) + 4  # iterations are counted on


def test_a_snapshot_shares_no_memory_and_serves_twice():
    step = times(step_of(), 3)
    snapshot, before = step.snapshot(), copies(values_of(step))
    for _ in range(2):
        times(step, 2)
        step.restore(snapshot)
        assert equal(values_of(step), before)


def test_a_snapshot_serves_a_fresh_step():
    step = times(step_of(), 3)
    snapshot, fresh = step.snapshot(), step_of()
    fresh.restore(snapshot)
    assert equal(values_of(fresh), values_of(step))
    assert torch.equal(times(fresh, 1).mean.value, times(step, 1).mean.value)


def test_input_noise_goes_on_after_a_restore():
    step = times(step_of(input_noise=0.1), 1)
    snapshot = step.snapshot()
    first = times(step, 1).mean.value.clone()
    step.restore(snapshot)
    assert not torch.equal(first, times(step, 1).mean.value)


def test_a_fit_that_collapses_once_is_rolled_back_once_to_the_last_snapshot():
    states = {}

    def keep(iteration, x):
        states[iteration] = copies(values_of(fitting._step)), x.clone()

    fitting = fitting_of(failing_at(20), callback=keep, iterations=100, averaging=0)
    fitting.advance()
    result = fitting.result()
    assert result.rollbacks == 1
    assert equal(states[20][0], states[10][0]) and torch.equal(states[20][1], states[10][1])
    assert not equal(states[30][0], states[10][0])
    assert psnr(result.x, picture()) > 20


def scramble(fitting):
    with torch.no_grad():
        fitting._step.weights.master.add_(20.0)


def test_scrambled_weights_are_rolled_back_and_the_fit_recovers():
    fitting = fitting_of(
        callback=lambda iteration, x: scramble(fitting) if iteration == 50 else None, iterations=100, averaging=0
    )
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
    step, taken = fitting._step.weights.step, []

    def collapsing():
        step()
        taken.append(None)
        if len(taken) == at:
            scramble(fitting)

    fitting._step.weights.step = collapsing
    fitting.advance()
    result = fitting.result()
    assert result.rollbacks == 1
    assert max(result.curve["loss"]) > 4 * result.curve["loss"][3]
    assert result.curve["loss"][-1] < result.curve["loss"][3]


def test_a_collapse_within_the_threshold_is_no_rollback():
    assert run(operator=failing_at(20), rollback=200).rollbacks == 0
    assert run().rollbacks == 0


def test_where_nothing_is_random_only_what_is_not_finite_is_rolled_back():
    """A collapse would come again, at the same step, for ever."""
    assert run(operator=failing_at(20), input_noise=0.0).rollbacks == 0
    assert run(operator=failing_at(20, value=float("nan")), input_noise=0.0).rollbacks == 1


@pytest.mark.parametrize("genome", [tiny(norm="none", channels_skip=2), *EVERY_FAMILY.values()], ids=str)
def test_a_step_is_a_step_of_plain_adam(genome):
    step, net = step_of(genome, y=picture() / 2), build(genome, 3, seed=1)
    adam = torch.optim.Adam(net.parameters(), lr=0.01, fused=False)
    for count in range(1, 11):
        step()
        plain = net(step.z.contiguous())
        plain_loss = torch.nn.functional.mse_loss(plain, step.y)
        adam.zero_grad()
        plain_loss.backward()
        adam.step()
        assert torch.allclose(step.mean.value, plain, atol=1e-3)
        assert float(step.losses[(count - 1) % 10]) == pytest.approx(float(plain_loss.detach()), rel=1e-3)
    if genome == tiny(norm="none", channels_skip=2):  # else biases before a norm: Adam blows up their rounding
        weights = dict(net.named_parameters())
        assert all(torch.allclose(value, weights[name], atol=1e-3) for name, value in step.net.named_parameters())


def test_a_gradient_of_the_observation_is_nobodys():
    y = picture().requires_grad_()
    run(y, iterations=1)
    assert y.grad is None


def test_a_step_gives_the_output_and_the_loss_before_it():
    step = step_of()
    with torch.no_grad():
        before = step.net(step.z)
    step()
    assert torch.equal(step.mean.value, before)
    assert float(step.losses[0]) == pytest.approx(float((before - step.y).square().mean()))
    assert not step.mean.value.requires_grad and not step.losses.requires_grad
    assert not torch.equal(times(step, 1).mean.value, before)


def test_the_last_10_losses_are_kept_in_turn():
    step, losses = step_of(), []
    for count in range(23):
        step()
        losses.append(float(step.losses[count % 10]))
    assert step.losses.tolist() == losses[20:] + losses[13:20]
    assert int(step.tick) == 23


def test_an_output_without_a_finite_loss_stays_out_of_the_average():
    step = times(step_of(averaging=0.9, operator=failing_at(4, value=float("nan"))), 3)
    before = step.mean.value.clone()
    times(step, 1)
    assert not step.losses[3].isfinite()
    assert torch.equal(step.mean.value, before)


@pytest.mark.slow
def test_the_function_and_its_package_do_not_hide_each_other():
    code = """
import dipsearch
genome = dipsearch.parse_genome({"family": "resnet", "blocks": 1, "channels": 4})
y = dipsearch.read("skimage:chelsea")[..., :16, :16]
for _ in range(2):
    dipsearch.Recipe
    print(dipsearch.fit(genome, y, iterations=1, precision="float32").iterations)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["1", "1"]


def test_other_floating_point_numbers_than_float32_are_taken():
    single = run(iterations=10)
    assert torch.equal(run(y=picture().double(), iterations=10).x, single.x)
    assert run(operator=lambda x: x.double(), iterations=10).x.dtype == torch.float32


def test_held_out_values_that_never_counted_are_no_number():
    assert run(iterations=20, stop="held-out", warm_up=100).held_out is None


def test_a_mask_of_another_size_is_an_error():
    with pytest.raises(UsageError, match="the mask and the picture differ in size"):
        run(operator=Mask(torch.ones(1, 1, 8, 8)))


def test_arrays_are_no_observations():
    with pytest.raises(UsageError, match="not ndarray; restore takes arrays"):
        dipsearch.fit(tiny(), picture().numpy())
    with pytest.raises(UsageError, match="a mask is a tensor"):
        Mask(picture().numpy())
