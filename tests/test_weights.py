import copy

import pytest
import torch
from fits import EVERY_FAMILY, seeded, step_of, tiny
from torch import nn

from dipsearch.error import UsageError
from dipsearch.fitting.weights import Weights
from dipsearch.network.blocks import NORMS
from dipsearch.network.build import PRECISIONS, build

NORM_LAYERS = nn.BatchNorm2d | nn.InstanceNorm2d


def weights_of(genome=None, precision="float32", net=None, **settings):
    net = build(genome or tiny(), 3, seed=1) if net is None else net
    return net, Weights(net, precision, **({"learning_rate": 0.01} | settings))


def loss_of(net, precision="float32"):
    """A misfit, and a part that gives every learned number a gradient: Adam blows up the rounding of a zero one."""
    z = torch.rand(1, 4, 16, 16, generator=seeded(2)).to(PRECISIONS[precision])
    learned = sum((parameter.float() + 1).square().sum() for parameter in net.parameters())
    return (net(z) - 0.3).square().mean() + 0.01 * learned


def plain_steps(net, count, **settings):
    adam = torch.optim.Adam(net.parameters(), lr=0.01, fused=False, **settings)
    for _ in range(count):
        adam.zero_grad()
        loss_of(net).backward()
        adam.step()
    return dict(net.named_parameters())


def steps(net, weights, count, precision="float32"):
    for _ in range(count):
        weights.zero_grad()
        loss_of(net, precision).backward()
        weights.step()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("genome", EVERY_FAMILY.values(), ids=EVERY_FAMILY)
def test_in_float32_steps_are_those_of_plain_adam(genome, decay):
    expected = plain_steps(build(genome, 3, seed=1), 12, weight_decay=decay)
    net, weights = weights_of(genome, decay=decay)
    steps(net, weights, 12)
    for name, value in net.named_parameters():
        assert torch.allclose(value, expected[name], atol=1e-4), name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("genome", EVERY_FAMILY.values(), ids=EVERY_FAMILY)
def test_a_fresh_network_keeps_its_values(genome, precision):
    before = dict(build(genome, 3, seed=1).named_parameters())
    net, _ = weights_of(genome, precision)
    for name, value in net.named_parameters():
        assert value.shape == before[name].shape
        assert torch.equal(value, before[name].to(value.dtype)), name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("genome", EVERY_FAMILY.values(), ids=EVERY_FAMILY)
def test_the_master_holds_every_learned_number_once_in_float32(genome, precision):
    net, weights = weights_of(genome, precision)
    assert weights.master.dtype == weights.grad.dtype == torch.float32
    everything = torch.cat([value.flatten() for value in build(genome, 3, seed=1).parameters()])
    assert torch.equal(weights.master.sort().values, everything.sort().values)
    assert weights.kernels == sum(value.numel() for value in net.parameters() if value.ndim == 4)


def test_in_float32_the_networks_parameters_are_the_master_itself():
    net, weights = weights_of()
    weights.master.fill_(3.0)
    assert all(bool((value == 3).all()) for value in net.parameters())
    weights.grad.fill_(2.0)
    assert all(bool((value.grad == 2).all()) for value in net.parameters())


@pytest.mark.parametrize("norm", NORMS)
def test_in_bfloat16_convolutions_are_rounded_and_norms_are_not(norm):
    net, weights = weights_of(tiny(norm=norm, channels_skip=2, upsample="transposed"), "bfloat16")
    steps(net, weights, 4, "bfloat16")
    of_norms = {
        id(value) for module in net.modules() if isinstance(module, NORM_LAYERS) for value in module.parameters()
    }
    rounded = [value for value in net.parameters() if id(value) not in of_norms]
    assert all(value.dtype == torch.float32 for value in net.parameters() if id(value) in of_norms)
    assert all(value.dtype == torch.bfloat16 for value in rounded)
    assert bool(of_norms) == norm.startswith("batch")
    count = sum(value.numel() for value in rounded)
    held = torch.cat([value.detach().flatten() for value in rounded]).float()
    assert torch.equal(held.sort().values, weights.master[:count].bfloat16().float().sort().values)
    assert not torch.equal(weights.master[:count], weights.master[:count].bfloat16().float())
    assert weights.master.dtype == torch.float32


def test_in_bfloat16_changes_smaller_than_its_rounding_add_up():
    net, weights = weights_of(precision="bfloat16", learning_rate=1e-4)
    before, low = weights.master.clone(), copy.deepcopy(net.state_dict())
    for _ in range(20):
        weights.grad.fill_(1.0)
        weights._low_grad.fill_(1.0)
        weights.step()
    assert torch.allclose(weights.master, before - 20e-4, atol=1e-6)
    assert any(not torch.equal(value, low[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zero_grad_leaves_no_gradient(precision):
    net, weights = weights_of(precision=precision)
    loss_of(net, precision).backward()
    assert any(value.grad.abs().max() > 0 for value in net.parameters())
    weights.zero_grad()
    assert all(bool((value.grad == 0).all()) for value in net.parameters())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_restored_state_is_the_one_that_was_copied(precision):
    net, weights = weights_of(precision=precision)
    steps(net, weights, 3, precision)
    kept = {name: value.clone() for name, value in weights.state().items()}
    network = {name: value.clone() for name, value in net.named_parameters()}
    steps(net, weights, 2, precision)
    on = weights.master.clone()
    weights.restore(kept)
    assert all(torch.equal(value, kept[name]) for name, value in weights.state().items())
    assert all(torch.equal(value, network[name]) for name, value in net.named_parameters())
    steps(net, weights, 2, precision)
    assert torch.equal(weights.master, on)


# Weight noise


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_weight_noise_changes_kernels_only_with_its_deviation(noise, precision):
    net = nn.Sequential(nn.Conv2d(8, 200, 5), nn.BatchNorm2d(200), nn.Conv2d(200, 3, 3))
    quiet, quiet_weights = weights_of(net=copy.deepcopy(net), precision=precision)
    noisy, weights = weights_of(net=net, precision=precision, noise=noise, generator=seeded(5))
    quiet_weights.step(), weights.step()  # with gradients of 0
    change = weights.master - quiet_weights.master
    kernels = weights.kernels
    assert kernels == 8 * 200 * 25 + 200 * 3 * 9
    assert float(change[:kernels].std()) == pytest.approx(noise * 0.01, rel=0.02)
    assert abs(float(change[:kernels].mean())) < noise * 0.01 * 4 / kernels**0.5
    assert not change[kernels:].any()
    for (name, value), other in zip(noisy.named_parameters(), quiet.parameters(), strict=True):
        assert torch.equal(value, other) == (value.ndim != 4), name


def test_weight_noise_goes_on_and_repeats_for_a_seed():
    def states(seed):
        _, weights = weights_of(noise=1.0, generator=seeded(seed))
        made = []
        for _ in range(3):
            before = weights.master.clone()
            weights.step()
            made.append(weights.master - before)
        return made

    first, again, other = states(1), states(1), states(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])


def test_a_step_passes_learning_rate_decay_and_noise_on():
    step = step_of(learning_rate=0.003, weight_decay=0.25, weight_noise=2.0, burn_in=0)
    settings = step.weights._settings
    assert (settings["lr"], settings["weight_decay"]) == (0.003, 0.25)
    assert step.weights._noise_sd == 0.006


def test_a_network_with_nothing_to_learn_is_refused():
    with pytest.raises(UsageError, match="nothing to learn"):
        Weights(nn.Identity(), "float32", learning_rate=0.01)
