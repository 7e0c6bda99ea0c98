"""What several files of tests share: tiny genomes, pictures, fits and steps."""

import torch

from dipsearch.fitting.engine import fit
from dipsearch.fitting.loop import Fitting
from dipsearch.fitting.recipe import Recipe
from dipsearch.fitting.step import Step
from dipsearch.genome import parse_genome
from dipsearch.network.build import build
from dipsearch.operator import Identity

INPUT = {"kind": "noise", "channels": 4}
TINY = {
    "family": "hourglass",
    "depth": 1,
    "channels_down": 4,
    "channels_up": 4,
    "channels_skip": 0,
    "input": INPUT,
}


def tiny(**genes):
    return parse_genome(TINY | genes)


GENOME = tiny()
EVERY_FAMILY = {
    "hourglass": tiny(depth=2, channels_skip=2),
    "linked": parse_genome({"family": "linked", "depth": 2, "channels": 4, "links": ["11", "10"], "input": INPUT}),
    "unet": parse_genome({"family": "unet", "depth": 1, "width": 4, "input": INPUT}),
    "resnet": parse_genome({"family": "resnet", "blocks": 2, "channels": 4, "input": INPUT}),
    "pyramid": parse_genome({"family": "pyramid", "scales": 2, "channels": 4, "input": INPUT}),
    "decoder": parse_genome({"family": "decoder", "depth": 2, "channels": 4, "kernel": 3, "input": INPUT}),
}


LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(out, *tensors):
    """Of a sum of the output with random weights."""
    weight = torch.rand(out.shape, generator=seeded(1), dtype=out.dtype)
    return torch.autograd.grad((out * weight).sum(), tensors)


def picture(height=16, width=16, channels=3, seed=0):
    coarse = torch.rand(1, channels, 4, 4, generator=seeded(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def run(y=None, operator=None, **settings):
    settings = {"iterations": 30, "input_noise": 0.01, "precision": "float32", "device": "cpu"} | settings
    return fit(settings.pop("genome", GENOME), picture() if y is None else y, operator, **settings)


def fitting_of(operator=None, callback=None, truth=None, genome=GENOME, kind=Fitting, seed=0, **settings):
    recipe = Recipe(**({"iterations": 40, "input_noise": 0.01, "precision": "float32"} | settings))
    return kind(
        genome,
        picture(),
        operator or Identity(),
        recipe,
        seed=seed,
        device="cpu",
        truth=truth,
        callback=callback,
    )


def step_of(genome=GENOME, y=None, operator=None, precision="float32", recompute=False, seeds=(7, 8, 9), **settings):
    recipe = Recipe(**({"input_noise": 0, "averaging": 0} | settings))
    y = picture() if y is None else y
    return Step(
        build(genome, y.shape[1], seed=1),
        torch.rand(1, 4, 16, 16, generator=seeded(2)) * 0.1,
        y,
        operator or Identity(),
        size=(16, 16),
        recipe=recipe,
        precision=precision,
        recompute=recompute,
        seeds=seeds,
    )


def failing_at(*calls, value=3.0):
    """The identity, but for the calls counted from 1, in which it is far off."""
    count = 0

    def operator(x):
        nonlocal count
        count += 1
        return x + value if count in calls else x

    return operator


def same(a, b):
    """Two fits, bit for bit, but for the clock. (NaN stands for "no truth" in a curve.)"""
    assert torch.equal(a.x, b.x)
    assert repr(a.curve) == repr(b.curve)
    for name in ("chosen", "iterations", "stop_reason", "psnr", "oracle", "rollbacks", "non_finite", "precision"):
        assert getattr(a, name) == getattr(b, name), name


def copies(values):
    return {name: value.clone() for name, value in values.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
