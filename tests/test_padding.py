"""Reflect padding: torch's values and gradients; with `beside`, numpy's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fits import LAYOUTS, gradients, seeded

from dipsearch.network.padding import SMALL_MAP, ReflectionPad, fold


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("size", [(5, 5), (6, 9)])
def test_the_padding_has_the_gradient_of_its_values(size, width, beside):
    x = torch.rand(1, 2, *size, generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ReflectionPad.apply(x, width, beside), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("size", [(4, 4), (7, 5), (200, 90)])
def test_the_padding_and_its_gradient_are_torchs(size, width, layout, dtype):
    x = torch.rand(1, 5, *size, generator=seeded()).to(dtype, memory_format=LAYOUTS[layout]).requires_grad_()
    ours, torchs = ReflectionPad.apply(x, width, False), F.pad(x, (width,) * 4, mode="reflect")
    assert torch.equal(ours, torchs)
    found, expected = (gradients(out, x)[0] for out in (ours, torchs))
    assert found.shape == x.shape and found.dtype == dtype
    close = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 2e-2}[dtype]
    assert torch.allclose(found, expected, rtol=close, atol=close)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("size", [(4, 4), (7, 5), (200, 90)])
def test_the_padding_that_begins_with_the_outermost_pixel_is_numpys(size, width, layout):
    x = torch.rand(1, 5, *size, generator=seeded()).contiguous(memory_format=LAYOUTS[layout])
    padded = ReflectionPad.apply(x, width, True)
    assert padded.is_contiguous(memory_format=LAYOUTS[layout])
    assert np.array_equal(padded.numpy(), np.pad(x.numpy(), ((0, 0), (0, 0), (width,) * 2, (width,) * 2), "symmetric"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("size", [(4, 4), (5, 4), (6, 11)])
def test_folding_by_slices_has_the_gradient_of_the_padding(size, width, layout, monkeypatch):
    monkeypatch.setattr("dipsearch.network.padding.SMALL_MAP", 0)
    x = torch.rand(2, 3, *size, generator=seeded(), dtype=torch.float64, requires_grad=True)
    padded = F.pad(x, (width,) * 4, mode="reflect")
    grad = torch.rand(padded.shape, generator=seeded(1), dtype=torch.float64).to(memory_format=LAYOUTS[layout])
    kept = grad.clone()
    assert torch.allclose(fold(grad, width, False), torch.autograd.grad(padded, x, grad)[0], atol=1e-14)
    assert torch.equal(grad, kept)


@pytest.mark.parametrize("beside", [False, True])
def test_a_corner_folds_to_one_pixel(monkeypatch, beside):
    for small in (0, SMALL_MAP):
        monkeypatch.setattr("dipsearch.network.padding.SMALL_MAP", small)
        grad = torch.zeros(1, 1, 6, 7)
        grad[0, 0, 0, 0] = 1
        folded = fold(grad, 1, beside)
        place = 0 if beside else 1
        assert folded[0, 0, place, place] == 1 and folded.sum() == 1
