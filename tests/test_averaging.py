import pytest
import torch
from fits import fitting_of, run, seeded

from dipsearch.fitting.averaging import Posterior, RunningMean


def scalar(value):
    return torch.tensor([float(value)])


def taking(mean, outputs):
    """The value after each of the outputs."""
    values = []
    for t, output in enumerate(outputs):
        mean.update(torch.tensor(t), torch.as_tensor(output).reshape(mean.value.shape))
        values.append(float(mean.value))
    return values


def double(count):
    return torch.rand(count, generator=seeded(), dtype=torch.float64)


def test_the_running_mean_has_known_answers():
    second = 2 / 11
    third = second * 3 / 12
    fourth = third * 4 / 13 + 9 / 13
    assert taking(RunningMean(0.99, scalar(0)), [1.0, 0.0, 0.0, 1.0]) == pytest.approx([1, second, third, fourth])


def test_a_small_decay_is_reached_at_once():
    assert taking(RunningMean(0.1, scalar(0)), [1.0, 0.0, 5.0]) == pytest.approx([1, 0.1, 0.01 + 4.5])


def test_no_decay_gives_the_last_output():
    assert taking(RunningMean(0, scalar(0)), [3.0, 1.0, 4.0]) == [3, 1, 4]


def test_the_warm_up_of_the_running_mean_follows_its_formula():
    outputs = double(60)
    expected = [float(outputs[0])]
    for t, output in enumerate(outputs[1:].tolist(), start=1):
        decay = min(0.8, (1 + t) / (10 + t))
        expected.append(decay * expected[-1] + (1 - decay) * output)
    assert taking(RunningMean(0.8, outputs[:1]), outputs) == pytest.approx(expected, rel=1e-6)


def test_the_running_mean_is_the_papers_once_warm():
    outputs = double(1000)
    values = taking(RunningMean(0.99, outputs[:1]), outputs)
    for t in range(890, 1000):
        assert values[t] == pytest.approx(0.99 * values[t - 1] + 0.01 * float(outputs[t]), rel=1e-6)


@pytest.mark.parametrize("decay", [0, 0.9])
def test_the_running_mean_shares_no_memory_with_an_output(decay):
    mean, x = RunningMean(decay, scalar(0)), scalar(1)
    mean.update(torch.tensor(0), x)
    x.fill_(9)
    assert float(mean.value) == 1


# The posterior


@pytest.mark.parametrize(("burn_in", "thinning"), [(0, 1), (5, 1), (5, 3), (8, 4)])
def test_mean_and_deviation_of_the_posterior_are_those_of_the_sampled_outputs(burn_in, thinning):
    outputs = torch.rand(24, 1, 3, 4, 4, generator=seeded())
    posterior, plain = Posterior(0.9, outputs[0], burn_in, thinning), RunningMean(0.9, outputs[0])
    samples = []
    for t, output in enumerate(outputs):
        posterior.update(torch.tensor(t), output)
        plain.update(torch.tensor(t), output)
        past = t + 1 - burn_in
        if past > 0 and past % thinning == 0:
            samples.append(output.double())
        if samples:
            stacked = torch.stack(samples).numpy()
            assert posterior.value.numpy() == pytest.approx(stacked.mean(0), abs=1e-6)
        else:
            assert torch.equal(posterior.value, plain.value)
        if len(samples) > 1:
            assert posterior.uncertainty.numpy() == pytest.approx(stacked.std(0, ddof=1), abs=1e-6)
        else:
            assert posterior.uncertainty is None
    assert float(posterior.count) == len(samples) == (24 - burn_in) // thinning


def test_under_weight_noise_the_answer_is_the_mean_of_the_sampled_outputs():
    result = run(weight_noise=2.0, iterations=20, burn_in=10, thinning=5)
    unsampled, outputs = fitting_of(weight_noise=2.0, iterations=9000, averaging=0), []
    for until in (15, 20):
        unsampled.advance(until)
        outputs.append(unsampled.current.clone())
    samples = torch.stack(outputs)
    assert torch.allclose(result.x, samples.mean(0), atol=1e-6)
    assert torch.allclose(result.uncertainty, samples.std(0), atol=1e-6)
    assert result.uncertainty.shape == result.x.shape and result.uncertainty.max() > 0
    assert unsampled.result().uncertainty is None


def test_a_fit_without_weight_noise_has_no_uncertainty():
    assert run(iterations=5).uncertainty is None
