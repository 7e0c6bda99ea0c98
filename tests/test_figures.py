"""Figures: their fits, what is kept of them, and the files."""

import time

import pytest
import torch
from fits import GENOME, picture
from PIL import Image

from dipsearch.cli import main
from dipsearch.error import Paused, UsageError
from dipsearch.fitting.engine import fit
from dipsearch.fitting.recipe import Recipe
from dipsearch.network.build import build
from dipsearch.network.inputs import network_input
from dipsearch.operator import Mask
from dipsearch.reproduce.figures import FIGURES, RATES, clean, figure_named
from dipsearch.reproduce.trace import Trace, watch
from dipsearch.seed import seed_of

Y = picture(seed=3)


def trace(**changes):
    recipe = Recipe(iterations=35, averaging=0.9, **changes.pop("recipe", {}))
    return Trace("toy", GENOME, Y, recipe, at=(20, 35), **changes)


# What is kept of a fit


def test_every_loss_and_the_chosen_pictures_are_kept(tmp_path):
    looked = []
    watched = watch(trace(), tmp_path, tell=looked.append, device="cpu")
    pictures = {}
    alone = fit(GENOME, Y, recipe=trace().recipe, device="cpu", callback=lambda at, x: pictures.update({at: x.clone()}))
    assert looked == [10, 20, 30, 35] and len(watched.losses) == 35
    assert [watched.losses[at - 1] for at in looked] == alone.curve["loss"]
    assert set(watched.frames) == {20, 35}
    assert all(torch.equal(watched.frames[at], pictures[at]) for at in watched.frames)


def test_what_was_watched_is_looked_up(tmp_path):
    first = watch(trace(), tmp_path, device="cpu")
    again = watch(trace(), tmp_path, device="cpu", tell=lambda at: pytest.fail("fitted again"))
    assert again.losses == first.losses and torch.equal(again.frames[35], first.frames[35])
    others = [trace(seed=1), trace(recipe={"learning_rate": 0.1}), trace(operator=Mask(torch.ones(1, 1, *Y.shape[2:])))]
    assert len({each.key for each in [trace(), *others]}) == 4


def test_a_slice_of_time_goes_on_where_it_ended(tmp_path):
    whole = watch(trace(), tmp_path / "whole", device="cpu")
    for at in (10, 20, 30):
        with pytest.raises(Paused, match=f"kept at iteration {at}"):
            watch(trace(), tmp_path / "sliced", until=0, device="cpu")
    sliced = watch(trace(), tmp_path / "sliced", until=time.monotonic() + 600, device="cpu")
    assert sliced.losses == whole.losses
    assert all(torch.equal(sliced.frames[at], whole.frames[at]) for at in whole.frames)


# Figures


@pytest.mark.parametrize(
    "name", [name if name == "jpeg" else pytest.param(name, marks=pytest.mark.slow) for name in FIGURES]
)
def test_a_figure_is_drawn(name, tmp_path, capsys):
    out = ["--size", "32", "--share", "0.001", "--out", str(tmp_path)]
    assert main(["figure", name, *out]) == 0
    made = tmp_path / "figures" / f"{name}.png"
    assert f"written: {made}" in capsys.readouterr().out
    with Image.open(made) as drawn:
        assert min(drawn.size) > 200 and len(drawn.convert("RGB").getcolors(2**24)) > 50
    assert main(["figure", name, *out, "-o", str(tmp_path / "again.svg")]) == 0
    assert "<svg" in (tmp_path / "again.svg").read_text()


def test_the_untrained_are_untrained():
    x = clean(FIGURES["samples"], size=32)
    traces = FIGURES["samples"].traces(x, 1)
    first = traces[0]
    net = build(first.genome, 3, seed=seed_of(0, "weights")).train()
    z = network_input(first.genome, *net.size_rule.padded(32, 32), torch.Generator().manual_seed(seed_of(0, "z")))
    expected = net(z)[..., :32, :32]
    answer = fit(first.genome, first.y, recipe=first.recipe, device="cpu", precision="float32").x
    torch.testing.assert_close(answer, expected.detach(), atol=1e-4, rtol=1e-3)
    assert len(traces) == 15 and {each.seed for each in traces} == {0, 1, 2}


def test_the_published_budgets():
    x = clean(FIGURES["inputs"], size=32)
    budgets = {name: {each.recipe.iterations for each in figure.traces(x, 1)} for name, figure in FIGURES.items()}
    assert budgets == {
        "noise-impedance": {2400}, "samples": {1}, "architectures": {3000}, "inputs": {5000}, "learning-rates": {5000},
        "jpeg": {2400}, "enhancement": {7000},
    }  # fmt: skip
    assert FIGURES["enhancement"].traces(x, 1)[0].at == (250, 500, 2500, 7000)
    assert [each.recipe.learning_rate for each in FIGURES["learning-rates"].traces(x, 1)] == list(RATES)
    targets = FIGURES["noise-impedance"].traces(x, 1)
    assert torch.equal(targets[2].y.flatten().sort().values, x.flatten().sort().values)  # the same pixels
    assert len({each.key for each in targets}) == 4


def test_unkind_input(tmp_path, capsys):
    for wrong, message in (
        (["figure"], "which figure"),
        (["figure", "monalisa"], "unknown figure 'monalisa'; choose from: architectures"),
        (["figure", "jpeg", "-o", str(tmp_path / "x.gif")], "a picture ends in"),
        (["figure", "jpeg", "--share", "0"], "share"),
        (["figure", "jpeg", "--picture", str(tmp_path / "none.png")], "none.png"),
    ):
        assert main([*wrong, *(["--out", str(tmp_path)] if len(wrong) > 1 else [])]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UsageError, match="unknown figure"):
        figure_named("x")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    assert main(["figure", "jpeg", "--picture", str(tmp_path / "small.png"), "--out", str(tmp_path)]) == 2
    assert "too small for a figure" in capsys.readouterr().err


def test_a_slice_of_time_says_how_to_go_on(tmp_path, capsys):
    given = ["figure", "jpeg", "--size", "32", "--share", "0.01", "--out", str(tmp_path)]
    assert main([*given, "--budget", "0.000001s"]) == 0
    assert "go on with" in capsys.readouterr().err
    assert not (tmp_path / "figures" / "jpeg.png").exists()
    assert main(given) == 0
    assert (tmp_path / "figures" / "jpeg.png").exists()
