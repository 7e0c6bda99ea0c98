"""Search spaces: the built-in ones, membership, size, and what is refused."""

import itertools
import random
from pathlib import Path

import optuna
import pytest

from dipsearch import catalog
from dipsearch.error import UsageError
from dipsearch.genome import Hourglass, Pyramid, ResNet, load_genome
from dipsearch.space import Space, load_space

SPACES = list(catalog.names("search_spaces"))
TINY = """
about: two families, of which one has levels
genes:
  depth: [1, 2]
  width: [2, 4]
  skip: {choices: [0, 2], levels: 2}
  blocks: [1, 2, 3]
templates:
  hourglass: {depth: $depth, channels_down: $width, channels_up: 4, channels_skip: $skip}
  resnet: {blocks: $blocks, channels: 4}
"""


def written(path: Path, text: str) -> Space:
    """The space of a YAML text."""
    file = path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return load_space(str(file))


def refusal(path: Path, text: str) -> str:
    """The one-line error that a YAML text meets; it names the file."""
    with pytest.raises(UsageError) as caught:
        written(path, text)
    message = str(caught.value)
    assert str(path / "mine.yaml") in message
    assert len(message.splitlines()) == 1
    return message


# The built-in spaces


@pytest.mark.parametrize("name", SPACES)
def test_built_in_space_loads_with_its_name(name: str) -> None:
    space = load_space(name)
    assert space.name == name
    assert space.about and space.source
    assert space.size() > 300


@pytest.mark.parametrize("name", SPACES)
def test_samples_repeat_differ_and_are_members(name: str) -> None:
    space, again = load_space(name), load_space(name)
    genomes = [space.sample(seed) for seed in range(60)]
    assert genomes == [again.sample(seed) for seed in range(60)]
    assert len({genome.key() for genome in genomes}) > 40
    assert {genome.family for genome in genomes} == set(space.templates)
    for genome in genomes:
        assert genome in space
        slots = space.find(genome)
        assert slots is not None
        assert list(slots) == list(space.slots)
        assert all(value in space.slots[slot] for slot, value in slots.items())
        assert space.genome(slots) == genome


@pytest.mark.parametrize("name", SPACES)
def test_genomes_that_a_search_starts_from_are_members(name: str) -> None:
    space = load_space(name)
    for start in space.start:
        assert load_genome(start) in space


def test_the_paper_space_holds_the_paper_network_and_not_all_of_them() -> None:
    space = load_space("dip")
    assert "dip-denoise" in space.start
    assert load_genome("dip-denoise") in space
    assert load_genome("dip-text") not in space  # skips of 128 channels
    assert load_genome("dip-jpeg") not in space  # widths differ from level to level
    assert load_genome("dip-vase") not in space  # coordinates in
    assert Pyramid() not in space
    for other in ({"kernel_skip": 3}, {"activation": "swish"}, {"merge": "add"}, {"padding": "zero"}):  # fixed there
        assert Hourglass(**other) not in space


def test_a_space_may_be_given_by_path(tmp_path: Path) -> None:
    assert written(tmp_path, TINY).name == "mine"
    with pytest.raises(UsageError, match="remove this key"):
        written(tmp_path, "name: own\n" + TINY)


# Slots


@pytest.mark.parametrize("name", SPACES)
def test_every_slot_is_asked_in_one_order_whatever_is_chosen(name: str) -> None:
    space = load_space(name)
    for seed in range(20):
        asked: list[str] = []
        rng = random.Random(seed)

        def suggest(slot: str, choices: list[object], asked: list[str] = asked, rng: random.Random = rng) -> object:
            asked.append(slot)
            assert choices == space.slots[slot]
            return rng.choice(choices)

        chosen = space.suggest(suggest)
        assert asked == list(space.slots) == list(chosen)


def test_optuna_can_suggest(tmp_path: Path) -> None:
    space = written(tmp_path, TINY)
    trial = optuna.trial.FixedTrial({slot: choices[-1] for slot, choices in space.slots.items()})
    assert space.genome(space.suggest(trial.suggest_categorical)) == ResNet(blocks=3, channels=4)


def test_slots_of_a_tiny_space(tmp_path: Path) -> None:
    assert written(tmp_path, TINY).slots == {
        "family": ["hourglass", "resnet"],
        "depth": [1, 2],
        "width": [2, 4],
        "skip.0": [0, 2],
        "skip.1": [0, 2],
        "blocks": [1, 2, 3],
    }


def test_one_family_needs_no_slot(tmp_path: Path) -> None:
    space = written(tmp_path, "about: one\ngenes: {width: [2, 4]}\ntemplates: {resnet: {channels: $width}}\n")
    assert space.slots == {"width": [2, 4]}
    assert space.genome({"width": 4}) == ResNet(channels=4)
    assert space.find(ResNet(channels=2)) == {"width": 2}
    assert space.find(ResNet(channels=3)) is None


def test_slots_become_the_genes_of_the_template(tmp_path: Path) -> None:
    chosen = {"family": "hourglass", "depth": 2, "width": 4, "skip.0": 0, "skip.1": 2, "blocks": 3}
    genome = written(tmp_path, TINY).genome(chosen)
    assert genome == Hourglass(depth=2, channels_down=4, channels_up=4, channels_skip=[0, 2])


def test_levels_below_the_depth_are_ignored(tmp_path: Path) -> None:
    space = written(tmp_path, TINY)
    chosen = {"family": "hourglass", "depth": 1, "width": 4, "skip.0": 2, "skip.1": 0, "blocks": 1}
    assert space.genome(chosen) == space.genome(chosen | {"skip.1": 2, "blocks": 3})


def test_a_gene_used_twice_has_one_value(tmp_path: Path) -> None:
    text = "about: x\ngenes: {w: [2, 4]}\ntemplates: {hourglass: {depth: 1, channels_down: $w, channels_up: $w}}\n"
    space = written(tmp_path, text)
    assert Hourglass(depth=1, channels_down=4, channels_up=4) in space
    assert Hourglass(depth=1, channels_down=2, channels_up=4) not in space


def test_a_gene_inside_a_list_is_filled(tmp_path: Path) -> None:
    text = "about: x\ngenes: {a: [2, 4], b: [8]}\ntemplates: {hourglass: {depth: 2, channels_down: [$a, $b]}}\n"
    space = written(tmp_path, text)
    assert space.genome({"a": 4, "b": 8}) == Hourglass(depth=2, channels_down=[4, 8])
    assert space.find(Hourglass(depth=2, channels_down=[2, 8])) == {"a": 2, "b": 8}


DEEPEST = """
about: skips at the deepest levels only
genes: {depth: [2, 3, 4], levels: [0, 1, 3], skip: [4, 8]}
templates:
  hourglass:
    depth: $depth
    channels_down: 4
    channels_up: 4
    channels_skip: {deepest: $levels, channels: $skip}
"""


def test_skips_at_the_deepest_levels_are_filled_and_found(tmp_path: Path) -> None:
    space = written(tmp_path, DEEPEST)
    genomes = {}
    for values in itertools.product(*space.slots.values()):
        chosen = dict(zip(space.slots, values, strict=True))
        genome = space.genome(chosen)
        above = chosen["depth"] - min(chosen["levels"], chosen["depth"])
        assert genome.channels_skip == (0,) * above + (chosen["skip"],) * (chosen["depth"] - above)
        found = space.find(genome)
        assert found is not None and space.genome(found) == genome
        genomes[genome.key()] = genome
    assert len(genomes) == 3 * (1 + 2 * 2)  # without skips, their width says nothing
    for skip in ([4, 0, 0], [0, 4, 0], [0, 4, 8], [0, 4, 4], [0, 0, 16]):
        assert Hourglass(depth=3, channels_down=4, channels_up=4, channels_skip=skip) not in space


def test_membership_is_by_the_canonical_form() -> None:
    space = load_space("wide")
    member = Hourglass(depth=1, channels_down=8, channels_up=8, channels_skip=0, kernel_skip=1)
    twin = Hourglass(depth=1, channels_down=8, channels_up=8, channels_skip=0, kernel_skip=7)
    assert member.key() == twin.key()
    assert member in space
    assert twin in space


# Slots that matter


HOURGLASS = {"family": "hourglass", "depth": 2, "width": 4, "skip.0": 0, "skip.1": 2, "blocks": 3}


@pytest.mark.parametrize(
    ("change", "active"),
    [
        ({}, ["family", "depth", "width", "skip.0", "skip.1"]),
        ({"depth": 1}, ["family", "depth", "width", "skip.0"]),  # a level below the depth
        ({"family": "resnet"}, ["family", "blocks"]),  # another family
    ],
)
def test_only_slots_of_the_chosen_family_and_depth_matter(
    change: dict[str, object], active: list[str], tmp_path: Path
) -> None:
    assert written(tmp_path, TINY).active(HOURGLASS | change) == active


def test_a_slot_that_changes_nothing_in_the_network_does_not_matter(tmp_path: Path) -> None:
    """The kernel of a skip that is not there is read from the template, and makes no difference."""
    genes = "genes: {skip: [0, 2], kernel: [1, 3], only: [4]}\n"
    template = "{depth: 1, channels_down: $only, channels_skip: $skip, kernel_skip: $kernel}"
    space = written(tmp_path, f"about: x\n{genes}templates:\n  hourglass: {template}\n")
    assert space.active({"skip": 2, "kernel": 3, "only": 4}) == ["skip", "kernel"]
    assert space.active({"skip": 0, "kernel": 3, "only": 4}) == ["skip"]


def test_in_an_impossible_network_what_makes_it_impossible_matters(tmp_path: Path) -> None:
    text = "about: x\ngenes: {k: [3, 4], w: [2, 4]}\ntemplates: {hourglass: {depth: 1, kernel_up: $k, channels_up: $w}}"
    space = written(tmp_path, text)
    assert space.active({"k": 4, "w": 2}) == ["k"]
    assert space.active({"k": 3, "w": 2}) == ["k", "w"]


@pytest.mark.parametrize("name", SPACES)
def test_slots_that_do_not_matter_may_be_anything(name: str) -> None:
    space, rng = load_space(name), random.Random(0)
    for _ in range(5):
        chosen = space.find(space.sample(rng.randrange(1000)))
        assert chosen is not None
        active = space.active(chosen)
        assert active
        kept = space.draw(rng) | {slot: chosen[slot] for slot in active}
        assert space.genome(kept).key() == space.genome(chosen).key()


# Size


def test_size_is_what_enumeration_counts(tmp_path: Path) -> None:
    space = written(tmp_path, TINY)
    every = [dict(zip(space.slots, values, strict=True)) for values in itertools.product(*space.slots.values())]
    keys = {space.genome(chosen).key() for chosen in every}
    assert space.size() == len(keys) == 2 * 2 + 2 * 4 + 3
    assert all(space.genome(chosen) in space for chosen in every)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("genes: {w: [2, 4, 8]}\ntemplates: {resnet: {channels: $w}}", 3),
        ("genes: {w: {choices: [2, 4], levels: 3}}\ntemplates: {hourglass: {depth: 3, channels_up: $w}}", 2**3),
        ("genes: {w: {choices: [2, 4], levels: 6}}\ntemplates: {hourglass: {channels_up: $w}}", 2**5),
        ("genes: {c: [1, 2], k: [noise]}\ntemplates: {resnet: {input: {kind: $k, channels: $c}}}", 2),
    ],
)
def test_size_of_spaces_counted_by_hand(text: str, size: int, tmp_path: Path) -> None:
    space = written(tmp_path, "about: x\n" + text + "\n")
    assert space.size() == size
    assert len({space.sample(seed).key() for seed in range(40 * size)}) == size


# What is refused


LEVELS = "genes: {w: {choices: [4], levels: 2}}\ntemplates: {hourglass: {channels_down: $w, depth: %s}}"
BAD = {
    "misspelt family beside a good one": (
        "genes: {w: [4]}\ntemplates: {resnett: {channels: $w}, resnet: {channels: $w}}",
        ["templates.resnett: no valid genome", "resnett"],
    ),
    "misspelt key beside a good family": (
        "genes: {w: [4]}\ntemplates: {resnet: {channels: $w}, unet: {widht: $w}}",
        ["templates.unet: no valid genome", "widht"],
    ),
    "fewer levels than the depth": (
        "genes: {d: [2, 3], w: {choices: [4], levels: 2}}\ntemplates: {hourglass: {depth: $d, channels_up: $w}}",
        ["no valid genome among those drawn with d 3", "channels_up"],
    ),
    "depth below 1": ("genes: {d: [2, -1]}\ntemplates: {hourglass: {depth: $d}}", ["from 1 to 8, got -1"]),
    "depth of thousands": ("genes: {d: [2, 20000]}\ntemplates: {hourglass: {depth: $d}}", ["from 1 to 8, got 20000"]),
    "family within": (
        "genes: {w: [4]}\ntemplates: {resnet: {family: decoder, channels: $w}}",
        ["templates.resnet.family: a template is called as its family is"],
    ),
    "the same choice twice": ("genes: {w: [4, 8, 4]}\ntemplates: {resnet: {channels: $w}}", ["4 is there twice"]),
    "the same number twice": ("genes: {w: [4, 4.0]}\ntemplates: {resnet: {channels: $w}}", ["4.0 is there twice"]),
    "unknown gene": ("genes: {a: [4]}\ntemplates: {resnet: {channels: $b}}", ["gene", "'b'", "choose from: a"]),
    "unknown gene, nested": (
        "genes: {a: [4]}\ntemplates: {resnet: {channels: $a, input: {kind: noise, channels: $deep}}}",
        ["gene", "'deep'"],
    ),
    "unused gene": ("genes: {a: [4], b: [1]}\ntemplates: {resnet: {channels: $a}}", ["genes.b"]),
    "no valid genome": ("genes: {a: [2, 4]}\ntemplates: {hourglass: {kernel_up: $a}}", ["no valid", "kernel_up"]),
    "unknown family": ("genes: {a: [4]}\ntemplates: {hourgless: {depth: $a}}", ["hourgless", "hourglass", "resnet"]),
    "unknown name": ("genes: {a: [batsch]}\ntemplates: {resnet: {norm: $a}}", ["norm", "batsch", "instance"]),
    "empty choices": ("genes: {a: []}\ntemplates: {resnet: {channels: $a}}", ["genes.a.choices"]),
    "choices missing": ("genes: {a: {levels: 2}}\ntemplates: {resnet: {channels: $a}}", ["genes.a.choices"]),
    "choice is a list": ("genes: {a: [[4]]}\ntemplates: {resnet: {channels: $a}}", ["genes.a.choices"]),
    "unknown key": ("genes: {a: [4]}\ntemplates: {resnet: {channels: $a}}\ncolour: 3", ["colour"]),
    "unknown key of a gene": ("genes: {a: {choices: [4], lvls: 2}}\ntemplates: {resnet: {channels: $a}}", ["lvls"]),
    "no templates": ("genes: {a: [4]}\ntemplates: {}", ["templates"]),
    "templates missing": ("genes: {a: [4]}", ["templates"]),
    "template is no mapping": ("genes: {a: [4]}\ntemplates: {resnet: 3}", ["templates.resnet"]),
    "genes missing": ("templates: {resnet: {channels: 4}}", ["genes"]),
    "too many levels": ("genes: {a: {choices: [4], levels: 9}}\ntemplates: {resnet: {channels: $a}}", ["genes.a"]),
    "depth is a word": (LEVELS % "'2'", ["depth"]),
    "depth is empty": (LEVELS % "null", ["depth"]),
    "depth is a list": (LEVELS % "[2]", ["depth"]),
    "depth is a fraction": (LEVELS % "1.5", ["depth"]),
    "depth chosen among words": ("genes: {d: [two]}\ntemplates: {hourglass: {depth: $d}}", ["depth"]),
    "depth with levels": (
        "genes: {depth: {choices: [1, 2], levels: 2}}\ntemplates: {hourglass: {depth: $depth}}",
        ["depth"],
    ),
    "gene named as the slot of the family": (
        "genes: {family: [4, 8]}\ntemplates: {hourglass: {channels_up: $family}, resnet: {channels: $family}}",
        ["family"],
    ),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD)
def test_bad_space_is_refused_naming_the_file_and_the_key(text: str, words: list[str], tmp_path: Path) -> None:
    message = refusal(tmp_path, "about: bad\n" + text + "\n")
    assert all(word in message for word in words), message


def test_no_valid_genome_says_why_on_one_line(tmp_path: Path) -> None:
    text = "about: x\ngenes: {a: [3]}\ntemplates: {hourglass: {depth: 2, channels_up: [$a, 4, 5]}}\n"
    assert "channels_up" in refusal(tmp_path, text)


NUMBERED = """about: x
genes:
  w: [4]
  k:
    choices: [3, 5]
    levels: %s
templates:
  hourglass:
    channels_up: $w
    kernel_up: %s
    depth: %s
recipe:
  learning_rate: [0.01, 0.001]
  stop: [%s]
  %s
"""
GOOD = ("2", "$k", "2", "fixed", "input_noise: [0.1]")


@pytest.mark.parametrize(
    ("place", "value", "line", "words"),
    [
        (0, "9", 6, ["genes.k.levels", "less than or equal to 8"]),
        (1, "$kernel", 10, ["templates.hourglass.kernel_up", "unknown gene 'kernel'; choose from: k, w"]),
        (1, "3", 4, ["genes.k", "no template uses it"]),
        (1, "[$k, 4]", 8, ["templates.hourglass", "kernel_up", "no valid genome"]),
        (2, "two", 11, ["templates.hourglass.depth", "'two'"]),
        (3, "fixed, never", 14, ["recipe.stop", "'never'", "choose from: discrepancy, es-emv, es-wmv, fixed"]),
        (4, "lerning_rate: [1]", 15, ["recipe.lerning_rate", "'lerning_rate'; choose from: averaging, burn_in"]),
        (4, "input_noise: [0.1, -1]", 15, ["recipe.input_noise", "greater than or equal to 0", "'-1'"]),
        (4, "input_noise: []", 15, ["recipe.input_noise"]),
        (4, "iterations: [100]", 15, ["recipe.iterations", "one budget", "averaging"]),
    ],
)
def test_errors_name_line_key_and_choices(place: int, value: str, line: int, words: list[str], tmp_path: Path) -> None:
    written(tmp_path, NUMBERED % GOOD)
    values = [*GOOD]
    values[place] = value
    message = refusal(tmp_path, NUMBERED % tuple(values))
    assert f"mine.yaml, line {line}: " in message
    assert all(word in message for word in words), message


# Recipes


def test_a_space_may_free_values_of_the_recipe(tmp_path: Path) -> None:
    plain, space = written(tmp_path, TINY), written(tmp_path, TINY + "recipe: {learning_rate: [0.01, 0.001]}\n")
    assert list(space.slots) == [*plain.slots, "recipe.learning_rate"]
    assert space.size() == 2 * plain.size()
    chosen = space.find(ResNet(blocks=2, channels=4))
    assert chosen is not None and space.changes(chosen) == {"learning_rate": 0.01}
    chosen["recipe.learning_rate"] = 0.001
    assert space.changes(chosen) == {"learning_rate": 0.001}
    assert space.genome(chosen) == ResNet(blocks=2, channels=4)
    assert plain.changes(chosen) == {}


def test_what_only_the_task_can_say_is_left_to_it(tmp_path: Path) -> None:
    assert written(tmp_path, TINY + "recipe: {stop: [discrepancy]}\n").recipe == {"stop": ("discrepancy",)}


def test_unknown_space_is_answered_with_the_choices() -> None:
    with pytest.raises(
        UsageError,
        match="unknown space 'dpi'; choose from: bench, decoder, dip, nas-dip, nas-dip-free, small, upsampling, wide",
    ):
        load_space("dpi")


def test_a_space_of_few_valid_genomes_still_samples_them(tmp_path: Path) -> None:
    space = written(
        tmp_path, "about: x\ngenes: {k: [2, 4, 6, 8, 3]}\ntemplates: {hourglass: {depth: 1, kernel_up: $k}}\n"
    )
    assert {space.sample(seed).kernel_up for seed in range(10)} == {(3,)}
