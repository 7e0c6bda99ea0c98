"""A physics of deepinv as the operator; skipped where deepinv is not installed, which no extra asks for."""

import pytest
import torch
from fits import picture, seeded

import dipsearch
from dipsearch.operator import Mask
from dipsearch.restoring.arrays import restore

deepinv = pytest.importorskip("deepinv")
SETTINGS = {"genome": "denoise-small", "iterations": 20, "device": "cpu", "precision": "float32"}


def test_inpainting_by_deepinv_is_that_by_a_mask():
    known = (torch.rand(1, 1, 32, 32, generator=seeded()) > 0.4).float()
    physics = deepinv.physics.Inpainting((3, 32, 32), mask=known[0].expand(3, 32, 32))
    x = picture(32, 32)
    y = physics(x)
    assert torch.equal(y, Mask(known)(x))
    settings = SETTINGS | {"task": "inpaint", "stop": "fixed"}  # held-out pixels need `known`, which a physics lacks
    assert torch.equal(restore(y, physics, **settings), restore(y, Mask(known), **settings))


@pytest.mark.parametrize("filter_name", ["bicubic", "gaussian"])
def test_super_resolution_by_deepinv(filter_name):
    physics = deepinv.physics.Downsampling((3, 32, 32), filter=filter_name, factor=2, padding="reflect")
    y = physics(picture(32, 32))
    x = dipsearch.restore(y, physics, size=(32, 32), **SETTINGS | {"iterations": 120})
    assert x.shape == (1, 3, 32, 32)
    assert float((physics(x) - y).square().mean()) < 0.1 * float((y - y.mean()).square().mean())


def test_a_blur_is_undone_more_or_less():
    kernel = torch.ones(1, 1, 3, 3) / 9
    physics = deepinv.physics.Blur(filter=kernel, padding="reflect")
    y = physics(picture(32, 32))
    x = dipsearch.restore(y, physics, **SETTINGS | {"iterations": 120})
    assert float((physics(x) - y).square().mean()) < 0.1 * float((y - y.mean()).square().mean())
