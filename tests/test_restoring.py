"""Restoring in memory: tiles, choices, noise levels, and `dipsearch.restore` on arrays and tensors."""

import dataclasses
import gc
import itertools
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import GENOME, TINY, picture, seeded, tiny
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from studies import write
from torch import nn

import dipsearch
from dipsearch.catalog import names
from dipsearch.error import UsageError
from dipsearch.fitting.engine import fit, start
from dipsearch.fitting.recipe import Recipe
from dipsearch.image import read
from dipsearch.operator import Downsample, Identity, Mask
from dipsearch.reproduce.table import load_table, plan
from dipsearch.restoring.auto import genome_for
from dipsearch.restoring.choice import Choice, choices, choose
from dipsearch.restoring.noise import estimate_sigma
from dipsearch.restoring.tiles import OVERLAP, SMALLEST_TILE, Tile, grid, join, largest_side, part
from dipsearch.restoring.work import Work
from dipsearch.run import RunStore
from dipsearch.search.study import Search
from dipsearch.space import load_space
from dipsearch.task import RestoreEffort, load_task

# Tiles


@given(st.integers(16, 700), st.integers(16, 700), st.integers(SMALLEST_TILE, 300), st.sampled_from([1, 2, 4, 8]))
def test_tiles_cover_a_picture_and_share_what_is_said(height, width, side, multiple):
    height, width = (max(16, value // multiple * multiple) for value in (height, width))
    tiles = grid(height, width, side, multiple)
    covered = np.zeros((height, width), dtype=int)
    for tile in tiles:
        assert tile.height <= side and tile.width <= side
        assert tile.top % multiple == tile.left % multiple == tile.height % multiple == tile.width % multiple == 0
        assert tile.top + tile.height <= height and tile.left + tile.width <= width
        covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert covered.min() == 1 or len(tiles) > 1
    assert covered.min() >= 1
    for starts, length in (({t.top for t in tiles}, tiles[0].height), ({t.left for t in tiles}, tiles[0].width)):
        ordered = sorted(starts)
        assert all(a + length - b >= OVERLAP for a, b in itertools.pairwise(ordered))


def test_a_picture_no_larger_than_a_tile_is_one():
    assert grid(100, 90, 100) == [Tile(0, 0, 100, 90)]


@pytest.mark.parametrize("length", [513, 600, 720, 992, 993])
def test_a_picture_just_above_a_tile_costs_little_more(length):
    tiles = grid(length, length, 512)
    assert len(tiles) == (4 if length <= 992 else 9)
    assert sum(tile.height * tile.width for tile in tiles) < 1.15 * length**2


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_of_a_picture_make_it_again(channels):
    x = torch.rand(1, channels, 150, 210, generator=seeded())
    tiles = grid(150, 210, 96)
    assert len(tiles) == 6
    assert torch.allclose(join(tiles, [tile.of(x) for tile in tiles], 150, 210), x, atol=1e-6)


def test_neighbours_fade_into_each_other():
    tiles = grid(64, 160, 96)
    assert [tile.left for tile in tiles] == [0, 64]
    made = join(tiles, [torch.zeros(1, 1, 64, 96), torch.ones(1, 1, 64, 96)], 64, 160)[0, 0, 30]
    assert (made[:64] == 0).all() and (made[96:] == 1).all()
    shared = made[64:96]
    expected = torch.sin((torch.arange(32) + 0.5) / 32 * math.pi / 2) ** 2  # the other's share is its cosine
    assert torch.allclose(shared, expected, atol=2e-3)
    assert (shared.diff() > 0).all()


def test_the_largest_tile_that_fits_is_taken():
    assert largest_side(300, 500, lambda height, width: True, 1000) == 500
    assert largest_side(300, 500, lambda height, width: True, 400) == 400
    side = largest_side(3000, 4000, lambda height, width: height * width <= 1e6, 4000)
    assert 700 <= side <= 1000
    with pytest.raises(UsageError, match="64x64"):
        largest_side(3000, 4000, lambda height, width: False, 4000)


def test_an_operator_is_cut_with_its_picture():
    known = (torch.rand(1, 1, 64, 64, generator=seeded()) > 0.5).float()
    tile, x = Tile(8, 16, 32, 40), torch.rand(1, 3, 64, 64, generator=seeded(1))
    for operator in (Identity(), Mask(known), Downsample(4)):
        y = operator(x)
        cut, cut_operator = part(operator, tile, y)
        inside = cut_operator(tile.of(x))
        assert inside.shape == cut.shape
        margin = 2 if isinstance(operator, Downsample) else 0  # its kernel reaches beyond the tile
        rows, columns = (slice(margin, side - margin) for side in cut.shape[-2:])
        assert torch.allclose(inside[..., rows, columns], cut[..., rows, columns], atol=1e-6)
    with pytest.raises(UsageError, match="cannot be cut"):
        part(nn.Conv2d(3, 3, 1), tile, x)


def work(tmp_path, y, operator=None, side=None, **settings):
    recipe = Recipe(**({"iterations": 10, "precision": "float32"} | settings))
    choice = Choice("tiny", GENOME, recipe, tile=512)
    return Work(y, operator or Identity(), choice, tmp_path, device="cpu", side=side)


def test_the_fit_of_a_whole_picture_is_the_plain_one(tmp_path):
    y = picture(40, 48)
    (made,) = work(tmp_path, y).run()
    plain = fit(GENOME, y, recipe=Recipe(iterations=10, precision="float32"), device="cpu")
    assert torch.equal(made.x, plain.x) and made.stop_reason == "budget"


def test_the_fit_of_a_tile_does_not_outlive_it(tmp_path, monkeypatch):
    """Nothing refers to it in a circle, which would keep its memory until the collector comes by."""
    begun, alive = [], []

    def noted(*args, **settings):
        fitting = start(*args, **settings)
        begun.append(weakref.ref(fitting))
        return fitting

    monkeypatch.setattr("dipsearch.restoring.work.start", noted)
    gc.disable()
    try:
        work(tmp_path, picture(70, 150), side=80).run(lambda *_: alive.append(sum(one() is not None for one in begun)))
    finally:
        gc.enable()
    assert len(begun) == 3 and alive == [1, 1, 1]


def test_fits_that_are_kept_are_not_repeated(tmp_path):
    y, seen = picture(70, 150), []
    first = work(tmp_path, y, side=80)
    assert len(first.tiles) == 3

    def stop(tile, iteration, x):
        if tile == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(stop)
    made = work(tmp_path, y, side=80).run(lambda tile, iteration, x: seen.append((tile, iteration)))
    assert seen == [(0, 10), (1, 10), (2, 10)]  # the second was at its last iteration, and is told, not repeated
    undisturbed = work(tmp_path / "other", y, side=80).run()
    assert all(torch.equal(a.x, b.x) for a, b in zip(made, undisturbed, strict=True))


@pytest.mark.filterwarnings("ignore::dipsearch.error.BegunAnew")
@pytest.mark.parametrize("change", ["tiles", "network", "torn", "version"])
def test_fits_of_other_tiles_or_networks_are_not_taken(tmp_path, change):
    y = picture(70, 150)
    made = work(tmp_path, y, side=80)
    made.run()
    for path in tmp_path.glob("*.pt"):
        if change == "torn":
            path.write_bytes(path.read_bytes()[:100])
        if change == "version":
            torch.save({"x": y}, path)
    other = work(tmp_path, y, side=None if change == "tiles" else 80)
    if change == "network":
        other.choice = dataclasses.replace(other.choice, genome=tiny(channels_up=6))
    undisturbed = dataclasses.replace(other, folder=tmp_path / "other").run()
    assert all(torch.equal(a.x, b.x) for a, b in zip(other.run(), undisturbed, strict=True))


def test_known_pixels_stay_and_a_missing_tile_is_the_observation(tmp_path):
    known = (torch.rand(1, 1, 70, 150, generator=seeded()) > 0.5).float()
    y = picture(70, 150) * known
    masked = work(tmp_path, y, Mask(known), side=80)
    x = masked.picture(torch.full((1, 3, 70, 150), 0.25))
    assert torch.equal(x * known, y) and (x[(known == 0).expand_as(x)] == 0.25).all()
    first = masked.tiles[0]
    part_done = masked.answer({0: torch.full((1, 3, first.height, first.width), 0.25)})
    assert (part_done[..., :30] == 0.25).all() and torch.allclose(part_done[..., 120:], y[..., 120:])


def test_only_tiles_that_lack_something_are_fitted(tmp_path):
    known = torch.ones(1, 1, 70, 150)
    known[..., 10:14, 10:14] = 0
    y = picture(70, 150) * known
    masked = work(tmp_path, y, Mask(known), side=80, time_limit=30)
    assert masked.fitted == [0] and masked.recipe.time_limit == 30
    (made,) = masked.run()
    answer = masked.answer({0: made.x})
    assert torch.equal(masked.picture(answer) * known, y)
    tile = masked.tiles[0]
    own = (tile.of(known) * tile.of(answer) - tile.of(y)).square().mean()
    assert masked.agreement(answer) == pytest.approx(-10 * math.log10(float(own)), abs=1e-3)


def test_a_tile_that_holds_nothing_is_told_before_the_work(tmp_path):
    known = torch.ones(1, 1, 128, 128)
    known[..., 60:, 60:] = 0
    with pytest.raises(UsageError, match=r"no pixel known in a tile of 64x64 at \(64, 64\)"):
        work(tmp_path, torch.zeros(1, 3, 128, 128), Mask(known), side=64)


def test_the_time_limit_is_shared_by_the_tiles(tmp_path):
    assert work(tmp_path, picture(70, 150), side=80, time_limit=30).recipe.time_limit == 10


def test_a_low_resolution_picture_is_enlarged_once(tmp_path, monkeypatch):
    from dipsearch.restoring.work import Work

    enlarged, plain = [], Work.observed.fget
    monkeypatch.setattr(Work, "observed", property(lambda self: enlarged.append(1) or plain(self)))
    tiled = work(tmp_path, picture(70, 150), Downsample(4), side=160)
    answers = {number: torch.zeros(1, 3, tile.height, tile.width) for number, tile in enumerate(tiled.tiles)}
    assert len(answers) > 4
    tiled.answer(answers)
    assert not enlarged
    tiled.answer({0: answers[0]})
    assert len(enlarged) == 1


def test_tiles_are_as_large_as_the_memory_allows(tmp_path, monkeypatch):
    y = torch.zeros(1, 3, 512, 512)
    assert len(work(tmp_path, y).tiles) == 1
    monkeypatch.setattr("dipsearch.restoring.work.memory_of", lambda device: 44 * 2**20)
    small = work(tmp_path, y)
    assert len(small.tiles) > 1 and small._fits(small.tiles[0].height, small.tiles[0].width)


def test_tiles_are_no_larger_than_the_preset_says(tmp_path):
    y = torch.zeros(1, 3, 600, 400)
    assert [(tile.height, tile.width) for tile in work(tmp_path, y).tiles] == [(316, 400)] * 2
    assert len(work(tmp_path, y, side=600).tiles) == 1


def test_a_hole_as_large_as_a_tile_makes_tiles_larger(tmp_path):
    y, known = torch.zeros(1, 3, 600, 400), torch.zeros(1, 1, 600, 400)
    known[..., 0, 0] = 1
    assert len(work(tmp_path, y, Mask(known)).tiles) == 1
    known[..., -1, 0] = 1
    assert len(work(tmp_path, y, Mask(known)).tiles) == 2


# What is chosen

TASKS = [name for name in names("tasks") if load_task(name).restore]
SIZE = (64, 64)


def test_people_have_their_tasks():
    assert {"denoise", "inpaint", "sr", "jpeg"} <= set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_every_preset_is_a_choice_and_a_better_one_costs_more(name):
    task = load_task(name)
    assert set(task.restore) == {"fast", "balanced", "best"}
    made = [choices(task, preset) for preset in ("fast", "balanced", "best")]
    for suited in zip(*made, strict=True):
        costs = [choice.recipe.iterations * choice.recipe.ensemble for choice in suited]
        assert costs == sorted(set(costs))


@pytest.mark.parametrize("name", TASKS)
def test_a_larger_picture_has_a_genome_that_can_hold_more(name):
    task = load_task(name)
    names = [choose(task, size=(side, side)).name for side in (16, 191, 192, 4000)]
    assert names == [names[0], names[0], "pyramid", "pyramid"] and names[0] != "pyramid"
    assert choose(task, size=(96, 384)).name == "pyramid"  # as many pixels
    assert choose(task, genome=names[0], size=(4000, 4000)).name == names[0]


@pytest.mark.parametrize("name", [name for name in names("tables") if name.startswith("rules-")])
def test_how_far_the_default_ends_from_the_oracle_is_measured(name):
    """A table of rules has the balanced preset among its rows."""
    made = plan(load_table(name))
    default = choose(load_task(made.table.task), size=(made.table.size, made.table.size))
    rows = [
        (row.genome.key(), Recipe.model_validate(made.task.recipe.model_dump() | row.changes))
        for row in made.candidates.values()
    ]
    assert (default.genome.key(), default.recipe.model_copy(update={"precision": "float32"})) in rows


def test_the_smallest_pictures_need_a_genome():
    with pytest.raises(ValidationError, match="from 0 pixels on"):
        RestoreEffort(genome={192: "pyramid"})


def test_the_default_for_photographs_is_a_row_beside_the_papers_network():
    made = plan(load_table("set9-25"), rows=["restore"])
    default = choose(load_task("denoise"), size=(512, 512))
    (row,) = made.candidates.values()
    assert row.genome.key() == default.genome.key()
    assert Recipe.model_validate(made.task.recipe.model_dump() | row.changes) == default.recipe


def test_a_size_has_settings_of_its_own():
    """They are those of the preset's genome there: another genome has the preset's, and what is given wins."""
    task = load_task("denoise")
    effort = RestoreEffort.model_validate(
        {"genome": {0: "denoise-small", 192: {"genome": "pyramid", "recipe": {"patience": 7}}}, "recipe": {"window": 9}}
    )
    own = task.model_copy(update={"restore": {"balanced": effort}})
    small, large = (choose(own, size=(side, side)) for side in (64, 192))
    usual = task.recipe.patience
    assert [(made.name, made.recipe.patience) for made in (small, large)] == [("denoise-small", usual), ("pyramid", 7)]
    assert small.recipe.window == large.recipe.window == 9
    assert choose(own, genome="pyramid", size=(192, 192)).recipe.patience == usual
    assert choose(own, size=(192, 192), patience=8).recipe.patience == 8
    assert [made.recipe for made in choices(own)] == [small.recipe, large.recipe]


def test_what_is_given_wins_over_the_preset():
    task = load_task("denoise")
    assert choose(task, size=SIZE).name == "denoise-small"
    chosen = choose(task, genome="dip-library-unet", size=SIZE, iterations=7, sigma=None)
    assert (chosen.name, chosen.recipe.iterations) == ("dip-library-unet", 7)
    assert chosen.recipe.learning_rate == 0.001  # which the genome brings
    told = choose(task, size=SIZE, sigma=12.0).recipe
    assert (told.stop, told.sigma) == ("discrepancy", 12.0)
    with pytest.raises(UsageError, match="sigma: only the rule discrepancy is told the noise level, not fixed"):
        choose(task, size=SIZE, sigma=12.0, stop="fixed")


def test_a_task_without_presets_has_its_published_network(tmp_path):
    task = load_task("denoise").model_copy(update={"restore": {}})
    chosen = choose(task, size=SIZE)
    assert chosen.name == "dip-denoise" and chosen.recipe == task.recipe
    with pytest.raises(UsageError, match="unknown preset 'best'"):
        choose(task, "best", size=SIZE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "bets"}, "unknown preset 'bets'; choose from: balanced, best, fast"),
        ({"genome": "nobody"}, "unknown genome 'nobody'"),
        ({"iterations": 0}, "iterations"),
        ({"stop": "soon"}, "unknown stopping rule 'soon'"),
    ],
)
def test_what_cannot_be_chosen_is_said(given, message):
    with pytest.raises(UsageError) as error:
        choose(load_task("denoise"), size=SIZE, **given)
    assert message in str(error.value) and "\n" not in str(error.value)


# The level of noise


@pytest.mark.parametrize("sigma", [5, 15, 25, 50])
@pytest.mark.parametrize("shape", [(1, 1, 256, 256), (1, 3, 255, 301)])
def test_white_noise_is_measured(sigma, shape):
    flat = torch.linspace(0.2, 0.8, shape[-1]).expand(shape)
    noisy = flat + torch.randn(shape, generator=seeded(sigma)) * sigma / 255
    assert estimate_sigma(noisy) * 255 == pytest.approx(sigma, rel=0.05)


def test_holes_are_no_noise():
    known = (torch.rand(1, 1, 90, 110, generator=seeded()) > 0.4).float()
    noisy = 0.5 + torch.randn(1, 3, 90, 110, generator=seeded(1)) * 20 / 255
    assert estimate_sigma(noisy * known, known) * 255 == pytest.approx(20, rel=0.1)
    apart = torch.zeros(1, 1, 90, 110)
    apart[..., ::2, ::2] = 1
    with pytest.raises(UsageError, match="no two by two neighbours are known"):
        estimate_sigma(noisy * apart, apart)


def test_a_smooth_picture_has_no_noise():
    assert estimate_sigma(picture(128, 128)) * 255 < 0.5


# In memory


@pytest.fixture
def quick(tmp_path):
    return {"genome": str(write(tmp_path / "tiny.yaml", TINY)), "iterations": 4, "device": "cpu"}


NUMPY = [np.uint8, np.uint16, np.float32, np.float64]


@pytest.mark.parametrize("kind", NUMPY)
@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 1), (20, 24, 3)])
def test_an_array_comes_back_as_it_was(quick, kind, shape):
    y = np.random.default_rng(0).random(shape)
    whole = np.issubdtype(kind, np.integer)
    top = np.iinfo(kind).max if whole else 1
    x = dipsearch.restore((y * top).astype(kind), **quick)
    assert (x.dtype, x.shape) == (kind, shape)
    assert x.max() <= top and x.std() > 0
    floats = dipsearch.restore(((y * top).astype(kind) / top).astype(np.float32), **quick)
    assert np.allclose(x / top, floats, atol=1 / top if whole else 1e-6)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(20, 24), (1, 20, 24), (3, 20, 24), (1, 3, 20, 24)])
def test_a_tensor_comes_back_as_it_was(quick, kind, shape):
    y = torch.rand(shape, generator=seeded())
    x = dipsearch.restore((y * 255).to(kind) if kind == torch.uint8 else y.to(kind), **quick)
    assert isinstance(x, torch.Tensor) and (x.dtype, x.shape) == (kind, shape)


def test_the_answer_is_that_of_the_fit(quick):
    y = picture(20, 24)
    known = (torch.rand(1, 1, 20, 24, generator=seeded()) > 0.3).float()
    chosen = choose(load_task("inpaint"), genome=quick["genome"], size=SIZE, iterations=4)
    plain = fit(chosen.genome, y * known, Mask(known), recipe=chosen.recipe, device="cpu", seed=5)
    made = dipsearch.restore(y * known, Mask(known), seed=5, **quick)
    assert torch.equal(made, torch.where(known.bool(), y, plain.x))  # what is known stays as it was


def test_arrays_of_another_byte_order_are_pictures(quick):
    y = np.arange(20 * 24).reshape(20, 24).astype(">u2")
    made = dipsearch.restore(y, **quick)
    assert made.dtype == np.uint16 and np.array_equal(made, dipsearch.restore(y.astype(np.uint16), **quick))


def test_a_small_picture_becomes_a_large_one(quick):
    assert dipsearch.restore(np.zeros((20, 24, 3), np.uint8) + 99, Downsample(4), **quick).shape == (80, 96, 3)


def test_any_callable_is_an_operator(quick):
    y = picture(20, 24).mean(3)[:, :, None]  # a row of columns' means
    x = dipsearch.restore(y, lambda x: x.mean(3)[:, :, None], size=(20, 24), **quick)
    assert x.shape == (1, 3, 20, 24)


@pytest.mark.parametrize(
    ("operator", "settings", "message"),
    [
        (Mask(torch.zeros(1, 1, 20, 24)), {}, "leaves no pixel known"),
        (Mask(torch.full((1, 1, 20, 24), 255.0)), {}, "1 where a pixel is known"),
        (Mask(torch.ones(1, 1, 20, 25)), {}, "differ in size: 25x20 and 24x20"),
        ("blur", {}, "a callable"),
        (None, {"task": "sr"}, "task sr: which operator"),
        (None, {"task": "inpaint"}, "task inpaint: which operator"),
    ],
)
def test_an_operator_that_does_not_fit_is_an_error(quick, operator, settings, message):
    with pytest.raises(UsageError, match=message):
        dipsearch.restore(picture(20, 24), operator, **settings, **quick)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[0.5]], "not list"),
        (np.zeros((2, 20, 24, 3)), "this is (2, 20, 24, 3)"),
        (np.zeros((20, 24, 4)), "this is (20, 24, 4)"),
        (torch.zeros(2, 3, 20, 24), "this is (2, 3, 20, 24)"),
        (np.zeros((20, 24), np.int32), "torch.int32"),
        (np.full((20, 24), 200.0), "reach from 200 to 200"),
        (np.full((20, 24), np.nan), "not finite"),
        (np.zeros((1, 3, 20, 24)), "this is (1, 3, 20, 24)"),
        (np.zeros((0, 24)), "this is (0, 24)"),
        (np.zeros((20, 24), object), "not object"),
        (np.zeros((20, 24), np.longdouble), "not float128"),
    ],
)
def test_what_is_no_picture_is_an_error(quick, y, message):
    with pytest.raises(UsageError) as error:
        dipsearch.restore(y, **quick)
    assert message in str(error.value)


@pytest.mark.parametrize("stands", [1.0, -9999.0, float("nan")])
def test_what_stands_in_a_hole_is_not_read(quick, stands):
    known = (torch.rand(1, 1, 20, 24, generator=seeded()) > 0.3).float()
    y = picture(20, 24)
    holes = torch.where(known.bool(), y, torch.tensor(stands))
    assert torch.equal(
        dipsearch.restore(holes, Mask(known), **quick), dipsearch.restore(y * known, Mask(known), **quick)
    )


def test_a_genome_is_given_as_one_by_name_or_by_file(quick, tmp_path):
    y, named = picture(20, 24), {name: value for name, value in quick.items() if name != "genome"}
    genome = dipsearch.load_genome("denoise-small")
    file = write(tmp_path / "mine.yaml", genome.data())
    settings = named | {"iterations": 3, "precision": "float32", "device": "cpu"}
    made = [dipsearch.restore(y, genome=each, **settings) for each in (genome, str(file), file)]
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def test_the_caller_may_have_gradients_off(quick):
    y = picture(20, 24)
    expected = dipsearch.restore(y, **quick)
    with torch.no_grad():
        assert torch.equal(dipsearch.restore(y, **quick), expected)
    with torch.inference_mode():
        assert torch.equal(dipsearch.restore(y.clone(), **quick), expected)


def test_the_noise_of_a_physics_is_left_out(quick):
    class Physics(nn.Module):
        noise_model = staticmethod(torch.poisson)

        def A(self, x):
            return x / 2

        def forward(self, x):
            return self.noise_model(self.A(x))

    y = picture(20, 24) / 2
    assert torch.equal(dipsearch.restore(y, Physics(), **quick), dipsearch.restore(y, lambda x: x / 2, **quick))


# A search on the picture itself


def test_a_search_on_the_picture_finds_a_genome_of_its_own(room, monkeypatch):
    monkeypatch.setattr("dipsearch.restoring.auto.SPACE", str(room / "space.yaml"))
    task = load_task(str(room / "task.yaml"))
    member = load_space(str(room / "space.yaml")).sample(5)
    usual, events = choose(task, genome=str(write(room / "usual.yaml", member.data())), size=SIZE), []
    look_up = lambda: genome_for(  # noqa: E731
        task,
        read(str(room / "5.png")),
        None,
        usual,
        room / "auto",
        about="5",
        seed=0,
        device="cpu",
        watch=events.append,
    )
    file = dipsearch.load_genome(str(look_up()))
    first = next(event for event in events if event.kind == "end")
    assert first.summary == usual.genome.summary()  # what would be taken without a search is tried first
    runs, _ = RunStore(room / "auto" / "runs").load(task.name)
    whole = {run["genome_key"]: run["held_out"] for run in runs if run["status"] == "ok"}
    assert len(whole) > 1 and file.key() == max(whole, key=whole.get)
    assert all(run["psnr"] is None for run in runs)  # nobody saw a clean picture
    told = len(events)
    assert dipsearch.load_genome(str(look_up())) == file and len(events) == told


def test_a_search_on_the_picture_goes_on_from_another_folder_and_its_time_counts(room, monkeypatch):
    monkeypatch.setattr("dipsearch.restoring.auto.SPACE", str(room / "space.yaml"))
    task, y = load_task(str(room / "task.yaml")), read(str(room / "5.png"))
    usual = choose(task, genome=load_space(str(room / "space.yaml")).sample(5), size=SIZE)
    settings = {"about": "5", "seed": 0, "device": "cpu", "timeout": 60}
    monkeypatch.chdir(room)

    def stop(event):
        if event.kind == "end":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        genome_for(task, y, None, usual, Path("auto"), watch=stop, **settings)
    timeouts, plain = [], Search.run

    def run(self):
        timeouts.append(self.settings.effort.timeout)
        return plain(self)

    monkeypatch.setattr(Search, "run", run)
    (room / "elsewhere").mkdir()
    monkeypatch.chdir(room / "elsewhere")
    assert genome_for(task, y, None, usual, Path("../auto"), **settings) is not None
    runs, _ = RunStore(room / "auto/runs").load(task.name)
    assert len(runs) > 1 and 59 < timeouts[0] < 60
