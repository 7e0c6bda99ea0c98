"""Tasks load or say what is wrong; observations depend on study seed, picture and repeat, and on nothing else."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from dipsearch import catalog
from dipsearch.baseline import BASELINES
from dipsearch.error import UsageError
from dipsearch.fitting.stopping import STOPPERS
from dipsearch.genome import load_genome
from dipsearch.image import SMALLEST, digest, read, to_uint8, write_png
from dipsearch.metric import PROTOCOLS
from dipsearch.operator import NOISES, OPERATORS
from dipsearch.seed import seed_of
from dipsearch.task import Effort, Observation, Task, choose_effort, load_task, observe, read_truth

TASKS = list(catalog.names("tasks"))
SMALL = Effort(shrink=2, size=48)
CHELSEA = "skimage:chelsea"
each_task = pytest.mark.parametrize("name", TASKS)


def data_of(name: str = "denoise") -> dict[str, Any]:
    return yaml.safe_load(catalog.names("tasks")[name].read_text(encoding="utf-8"))


def write(folder: Path, data: Any, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    return str(path)


def variant(folder: Path, base: str = "denoise", **changes: Any) -> Task:
    """A built-in task with other values at its top level."""
    return load_task(write(folder, data_of(base) | changes))


def observed(task: Task, image: str = CHELSEA, *, seed: int = 0, repeat: int = 0) -> Observation:
    return observe(task, SMALL, image, seed=seed, repeat=repeat)


# the built-in tasks


def test_there_are_tasks() -> None:
    assert {"denoise", "inpaint", "sr"} <= set(TASKS)


@each_task
def test_a_built_in_task_loads(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert task.about
    assert task.source
    assert task.metric in PROTOCOLS
    assert task.image_channels == (1 if PROTOCOLS[task.metric].grey else 3)
    assert load_genome(task.genome).key()


@each_task
def test_the_presets_recipes(name: str) -> None:
    task = load_task(name)
    for effort in [*task.search.values(), *task.rerun.values()]:
        recipe = task.recipe_for(effort)
        given = recipe.model_dump()
        assert {key: given[key] for key in effort.recipe} == effort.recipe
        kept = set(given) - set(effort.recipe)
        assert {key: given[key] for key in kept} == task.recipe.model_dump(include=kept)
    assert task.recipe_for(Effort()) == task.recipe
    assert {"quick", "standard"} <= set(task.search)
    assert task.recipe_for(task.rerun["paper"]) == task.recipe


@each_task
def test_the_images_are_readable_and_no_evaluation_image_is_searched_on(name: str) -> None:
    task = load_task(name)
    seen = {image: digest(read(image, grey=True)) for image in task.images.search + task.images.evaluation}
    assert len(set(seen.values())) == len(task.images.search) + len(task.images.evaluation)


@each_task
def test_every_preset_makes_an_observation_and_every_baseline_restores_it(name: str) -> None:
    task = load_task(name)
    for images, efforts in ((task.images.search, task.search), (task.images.evaluation, task.rerun)):
        for effort in efforts.values():
            assert effort.images is None or effort.images <= len(images)
            truth = read_truth(task, effort, images[0])
            assert truth.shape[1] == task.image_channels
            assert min(truth.shape[-2:]) >= SMALLEST
            for side in truth.shape[-2:]:
                assert side % effort.multiple_of == 0
                assert side % task.operator_for(effort).options.multiple_of == 0
                assert effort.size is None or side <= effort.size
    instance = observed(task)
    for baseline in task.baselines:
        assert BASELINES[baseline](instance.y, instance.operator, task.noise.sigma).shape == instance.truth.shape


# observations


@each_task
def test_an_observation_is_determined_by_its_arguments(name: str) -> None:
    task = load_task(name)
    first, again = observed(task, seed=3, repeat=1), observed(task, seed=3, repeat=1)
    assert torch.equal(first.y, again.y)
    assert torch.equal(first.truth, again.truth)
    assert torch.equal(first.operator(first.truth), again.operator(again.truth))
    assert (first.image, first.digest, first.repeat, first.seed) == (CHELSEA, again.digest, 1, again.seed)
    assert first.digest == digest(first.truth)


@pytest.mark.parametrize("name", ["denoise", "inpaint"])
def test_repeats_study_seeds_and_pictures_have_their_own_corruption(name: str) -> None:
    task = load_task(name)
    corruptions, seeds = [], set()
    for image, seed, repeat in [(CHELSEA, 0, 0), (CHELSEA, 0, 1), (CHELSEA, 1, 0), ("skimage:coffee", 0, 0)]:
        instance = observed(task, image, seed=seed, repeat=repeat)
        lost = (instance.y - instance.truth).abs() > 0
        corruptions.append((instance.y - instance.truth) if name == "denoise" else lost.float())
        seeds.add(instance.seed)
    assert len(seeds) == 4
    for index, first in enumerate(corruptions):
        for second in corruptions[index + 1 :]:
            assert not torch.equal(first, second)


def test_what_is_drawn_does_not_touch_the_truth() -> None:
    task = load_task("denoise")
    first, second = observed(task, repeat=0), observed(task, repeat=1)
    assert torch.equal(first.truth, second.truth)
    assert first.digest == second.digest


def test_torchs_own_generator_is_neither_used_nor_moved() -> None:
    task = load_task("inpaint")
    torch.manual_seed(1)
    first, state = observed(task), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(observed(task).y, first.y)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_picture_under_another_path_is_the_same_instance(tmp_path: Path) -> None:
    picture = Image.fromarray(to_uint8(read(CHELSEA)))
    task = load_task("denoise")
    first = observed(task, CHELSEA)
    for name in ("a.png", "other.bmp"):
        picture.save(tmp_path / name)
        second = observed(task, str(tmp_path / name))
        assert (second.digest, second.seed) == (first.digest, first.seed)
        assert torch.equal(second.y, first.y)
        assert second.image == str(tmp_path / name)


def test_no_noise_and_the_identity_observe_the_truth(tmp_path: Path) -> None:
    instance = observed(variant(tmp_path, noise={"name": "none"}))
    assert torch.equal(instance.y, instance.truth)


def test_denoise_clips_as_told(tmp_path: Path) -> None:
    clipped = observed(load_task("denoise"), "skimage:astronaut")
    noise = {"name": "gaussian", "sigma": 25, "clip": False}
    free = observed(variant(tmp_path, noise=noise), "skimage:astronaut")
    assert float(free.y.max()) > 1
    assert torch.equal(free.y.clamp(0, 1), clipped.y)


def test_inpaint_loses_half_of_the_pixels() -> None:
    instance = observed(load_task("inpaint"))
    assert instance.y.shape == instance.truth.shape == (1, 1, 48, 48)
    lost = instance.y != instance.truth
    assert float(lost.double().mean()) == pytest.approx(0.5, abs=0.06)
    assert not instance.y[lost].any()


@pytest.mark.parametrize("low_resolution", ["operator", "bicubic", "lanczos"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_super_resolution_observes_a_smaller_picture(tmp_path: Path, factor: int, low_resolution: str) -> None:
    operator = {"name": "downsample", "factor": factor, "low_resolution": low_resolution}
    instance = observed(variant(tmp_path, "sr", operator=operator))
    assert instance.truth.shape == (1, 3, 48, 48)
    assert instance.y.shape == instance.operator(instance.truth).shape == (1, 3, 48 // factor, 48 // factor)
    exact = torch.equal(instance.y, instance.operator(instance.truth))
    assert exact == (low_resolution == "operator")


def test_what_damaged_a_picture_is_no_matter_of_presets(tmp_path: Path) -> None:
    """Region's quick preset has smaller holes, but a mask of the picture's own says which it has."""
    torn, mask = str(tmp_path / "torn.png"), str(tmp_path / "mask.png")
    write_png(torch.rand(1, 3, 64, 64), Path(torn))
    write_png(torch.zeros(1, 1, 64, 64), Path(mask))
    for name in ("region", "inpaint"):
        task = load_task(name).with_images("search", [torn]).without_truth(mask)
        for effort in task.search.values():
            assert task.operator_for(effort).options.file == mask


def test_a_preset_changes_the_operator() -> None:
    task = load_task("sr")
    assert task.operator_for(Effort()) == task.operator
    changed = Effort(size=64, operator={"factor": 8, "low_resolution": "lanczos"})
    instance = observe(task, changed, CHELSEA, seed=0, repeat=0)
    assert instance.truth.shape == (1, 3, 64, 64)
    assert instance.y.shape == (1, 3, 8, 8)
    assert torch.equal((instance.y * 255).round() / 255, instance.y)
    assert read_truth(task, Effort(size=100, operator={"factor": 8}), CHELSEA).shape == (1, 3, 96, 96)


def test_sr_is_a_quarter() -> None:
    instance = observe(load_task("sr"), Effort(), CHELSEA, seed=0, repeat=0)  # 451x300
    assert instance.truth.shape == (1, 3, 300, 448)
    assert instance.y.shape == (1, 3, 75, 112)


# the truth


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize(
    "effort",
    [
        Effort(),
        Effort(multiple_of=32),
        Effort(multiple_of=12),
        Effort(multiple_of=7),
        Effort(shrink=3),
        Effort(shrink=2, size=100),
        Effort(size=130, multiple_of=20),
    ],
    ids=repr,
)
def test_sides_are_multiples_of_both(tmp_path: Path, factor: int, effort: Effort) -> None:
    task = variant(tmp_path, "sr", operator={"name": "downsample", "factor": factor})
    for side in read_truth(task, effort, CHELSEA).shape[-2:]:
        assert side % effort.multiple_of == 0
        assert side % factor == 0


def test_whole_pictures_are_left_as_they_are() -> None:
    assert torch.equal(read_truth(load_task("denoise"), Effort(), CHELSEA), read(CHELSEA))


def test_a_picture_is_padded_by_name() -> None:
    whole = read(CHELSEA)
    padded = read_truth(load_task("denoise"), Effort(padding={CHELSEA: 2}), CHELSEA)
    assert padded.shape[-2:] == (whole.shape[-2] + 4, whole.shape[-1] + 4)
    assert torch.equal(padded[..., 2:-2, 2:-2], whole) and torch.equal(padded[..., 1, 2:-2], whole[..., 1, :])
    assert torch.equal(read_truth(load_task("denoise"), Effort(padding={"skimage:coffee": 2}), CHELSEA), whole)


@pytest.mark.parametrize(
    ("effort", "height", "width"),
    [
        (Effort(size=64), 64, 64),
        (Effort(size=400), 300, 400),
        (Effort(shrink=2), 150, 225),
        (Effort(shrink=3, size=128), 100, 128),
        (Effort(multiple_of=32), 288, 448),
        (Effort(shrink=2, size=96, multiple_of=32), 96, 96),
    ],
)
def test_size_and_shrink(effort: Effort, height: int, width: int) -> None:
    assert read_truth(load_task("denoise"), effort, CHELSEA).shape == (1, 3, height, width)


def test_pictures_are_cut_around_the_centre() -> None:
    truth = read_truth(load_task("denoise"), Effort(size=100), CHELSEA)
    assert torch.equal(truth, read(CHELSEA)[..., 100:200, 175:275])


def test_pictures_are_shrunk_by_area() -> None:
    truth = read_truth(load_task("denoise"), Effort(shrink=2), CHELSEA)
    x = read(CHELSEA)[..., :300, :450]
    area = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    torch.testing.assert_close(truth, area)


def test_grey_metrics_read_grey_pictures() -> None:
    assert torch.equal(read_truth(load_task("inpaint"), Effort(), CHELSEA), read(CHELSEA, grey=True))


@pytest.mark.parametrize(
    ("size", "effort"), [((40, 40), Effort(shrink=3)), ((40, 90), Effort(multiple_of=64)), ((31, 90), Effort(shrink=2))]
)
def test_too_little_of_a_picture_is_an_error(tmp_path: Path, size: tuple[int, int], effort: Effort) -> None:
    path = str(tmp_path / "small.png")
    Image.new("RGB", size, (9, 9, 9)).save(path)
    with pytest.raises(UsageError) as error:
        read_truth(load_task("denoise"), effort, path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "too small" in message
    assert str(SMALLEST) in message
    assert "\n" not in message


# what is wrong with a file


def put(*keys: str) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    """Where a value goes: put("search", "quick", "size")(8) is the change of that one key."""

    def to(value: Any) -> Callable[[dict[str, Any]], None]:
        def change(data: dict[str, Any]) -> None:
            for key in keys[:-1]:
                data = data[key]
            data[keys[-1]] = value

        return change

    return to


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        del data[key]

    return change


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], list[str]]] = {
    "operator": (put("operator", "name")("dwnsample"), ["operator", "'dwnsample'", *OPERATORS]),
    "operator-option": (put("operator", "missing")(0.5), ["operator", "missing"]),
    "operator-value": (put("operator")({"name": "downsample", "factor": 3}), ["operator", "factor", "2, 4 or 8", "3"]),
    "operator-range": (put("operator")({"name": "mask", "missing": 1.5}), ["operator", "missing", "1.5"]),
    "operator-form": (put("operator")("mask"), ["operator"]),
    "noise": (put("noise", "name")("gausian"), ["noise", "'gausian'", *NOISES]),
    "noise-option": (put("noise", "sgima")(25), ["noise.sgima"]),
    "noise-sigma": (put("noise", "sigma")(-1), ["noise.sigma", "-1"]),
    "metric": (put("metric")("lab"), ["metric", "'lab'", *PROTOCOLS]),
    "baseline": (put("baselines")(["observation", "nlm"]), ["baselines.1", "'nlm'", *BASELINES]),
    "key": (put("metrics")("rgb"), ["metrics", "Extra inputs"]),
    "missing-key": (drop("metric"), ["metric", "required"]),
    "stop": (put("recipe", "stop")("never"), ["recipe.stop", "'never'", *STOPPERS]),
    "recipe-key": (put("recipe", "iteration")(5), ["recipe.iteration"]),
    "recipe-value": (put("recipe", "iterations")(0), ["recipe.iterations", "0"]),
    "preset-key": (put("search", "quick", "shrnik")(2), ["search.quick.shrnik"]),
    "preset-size": (put("search", "quick", "size")(8), ["search.quick.size", "8", str(SMALLEST)]),
    "preset-trials": (put("search", "quick", "trials")(0), ["search.quick.trials"]),
    "preset-recipe-key": (put("search", "quick", "recipe")({"iteration": 5}), ["search.quick.recipe.iteration"]),
    "preset-recipe-value": (put("rerun", "paper", "recipe")({"averaging": 1}), ["rerun.paper.recipe.averaging"]),
    "preset-recipe-stop": (
        put("rerun", "quick", "recipe")({"stop": "never"}),
        ["rerun.quick.recipe.stop", "'never'", *STOPPERS],
    ),
    "preset-operator-key": (put("rerun", "quick", "operator")({"missing": 0.5}), ["rerun.quick.operator", "missing"]),
    "preset-operator-name": (
        put("rerun", "quick", "operator")({"name": "dwnsample"}),
        ["rerun.quick.operator", *OPERATORS],
    ),
    "no-preset": (put("search")({}), ["search"]),
    "no-search-image": (put("images", "search")([]), ["images.search"]),
    "overlap": (
        put("images", "search")(["skimage:coffee", "skimage:rocket", "skimage:chelsea"]),
        ["images", "skimage:chelsea, skimage:rocket"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_task_is_an_error(tmp_path: Path, case: str) -> None:
    change, words = WRONG[case]
    data = data_of()
    change(data)
    path = write(tmp_path, data)
    with pytest.raises(UsageError) as error:
        load_task(path)
    message = str(error.value)
    assert re.match(re.escape(path) + r", line \d+: ", message)
    for word in words:
        assert word in message.removeprefix(path)
    assert "\n" not in message


@pytest.mark.parametrize(
    "text", ["", "- a\n- b\n", "just words", "about: [", "about: a\nabout: b\n", "a: &x 1\nb: *x\n", "about: \x00\n"]
)
def test_a_file_that_is_no_task_is_an_error(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as error:
        load_task(path)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


def test_the_unchanged_text_of_a_task_is_a_task(tmp_path: Path) -> None:
    for name, file in catalog.names("tasks").items():
        copy = load_task(write(tmp_path, file.read_text(encoding="utf-8"), f"{name}.yaml"))
        assert copy == load_task(name)


def test_a_task_is_called_as_its_file_is(tmp_path: Path) -> None:
    assert load_task(write(tmp_path, data_of(), "my-task.yaml")).name == "my-task"
    with pytest.raises(UsageError, match="remove this key"):
        load_task(write(tmp_path, data_of() | {"name": "given"}, "my-task.yaml"))


def test_an_unknown_task_is_an_error() -> None:
    with pytest.raises(UsageError) as error:
        load_task("denoize")
    assert "'denoize'" in str(error.value)
    assert ", ".join(TASKS) in str(error.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        load_task(str(tmp_path / "nowhere.yaml"))


def test_a_missing_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.png"):
        observed(load_task("denoise"), str(tmp_path / "nowhere.png"))


@pytest.mark.parametrize("verb", ["search", "rerun"])
def test_presets_by_name(verb: str) -> None:
    presets = getattr(load_task("denoise"), verb)
    assert choose_effort(presets, "quick") is presets["quick"]
    with pytest.raises(UsageError) as error:
        choose_effort(presets, "quik")
    assert "'quik'" in str(error.value)
    assert all(preset in str(error.value) for preset in presets)


def test_a_task_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_task("denoise").metric = "gray"


# other images than the task's


@pytest.mark.parametrize(("which", "verb"), [("search", "search"), ("evaluation", "rerun")])
def test_with_images(tmp_path: Path, which: str, verb: str) -> None:
    for name in ("b.png", "a.png"):
        (tmp_path / name).touch()
    task = load_task("denoise")
    other = task.with_images(which, [str(tmp_path), "skimage:moon"])
    assert getattr(other.images, which) == (str(tmp_path / "a.png"), str(tmp_path / "b.png"), "skimage:moon")
    assert all(effort.images is None for effort in getattr(other, verb).values())
    assert other.model_dump(exclude={"images", verb}) == task.model_dump(exclude={"images", verb})
    assert task == load_task("denoise")
    assert task.with_images(which, []) is task


# seeds


def test_seeds_are_the_same_on_every_machine() -> None:
    assert seed_of() == 8203414616412130826
    assert seed_of("a", 1) == 4742018630964328543
    assert seed_of(0, "corruption") == 7584973744885163189


def test_seeds_differ_by_parts_and_by_their_order() -> None:
    numbers = [(), (0,), (1,), (0, 1), (1, 0), (0, 0), (0, 1, 0)]
    parts = [*numbers, ("01",), ("a", "b"), ("b", "a"), ("ab",), ("a", "b", "")]
    assert len({seed_of(*each) for each in parts}) == len(parts)


def test_seeds_fit_torchs_generator_and_fill_their_range() -> None:
    seeds = [seed_of("picture", repeat) for repeat in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 0.99 * 2**63
    torch.Generator().manual_seed(max(seeds))
