"""What a study says about its genes: known effects, what must not count, what is refused, and how it is shown."""

import csv
import io
import itertools
import json
import math
import random
import sqlite3
from pathlib import Path

import filelock
import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image
from test_cli import PUBLISHED, TINY_SPACE, TINY_TASK, arguments, refused

from dipsearch.cli import cli, main
from dipsearch.error import DipsearchError, UsageError
from dipsearch.report.explanation import FORMATS, caption
from dipsearch.report.figure import draw
from dipsearch.run import RunStore
from dipsearch.search import explain as explaining
from dipsearch.search.evidence import Judged, find_study, read_evidence
from dipsearch.search.explain import Explanation, explain
from dipsearch.space import Space

FAMILIES = {
    "name": "families",
    "about": "two families, of which one has levels",
    "genes": {"depth": [1, 2], "width": [2, 4], "skip": {"choices": [0, 2], "levels": 2}, "blocks": [1, 2, 3]},
    "templates": {
        "hourglass": {"depth": "$depth", "channels_down": "$width", "channels_up": 4, "channels_skip": "$skip"},
        "resnet": {"blocks": "$blocks", "channels": 4},
    },
}
FREE = {
    "name": "free",
    "about": "five genes that always matter",
    "genes": {
        "depth": [1, 2, 3],
        "width": [2, 4, 8],
        "kernel": [1, 3, 5],
        "activation": ["relu", "swish", "elu"],
        "upsample": ["nearest", "bilinear", "transposed"],
    },
    "templates": {
        "hourglass": {
            "depth": "$depth",
            "channels_down": "$width",
            "channels_up": 4,
            "channels_skip": 0,
            "kernel_down": "$kernel",
            "activation": "$activation",
            "upsample": "$upsample",
        }
    },
}
WIDTH = {
    "name": "width",
    "about": "one gene that counts",
    "genes": {"width": [1, 2, 3, 4, 5, 6]},
    "templates": {"resnet": {"channels": "$width"}},
}
Done = tuple[dict[str, object], float | list[float] | None]  # what is chosen, the score or None: pruned


def study(folder: Path, done: list[Done], space: dict[str, object] = WIDTH, **config: object) -> Path:
    """A study made by hand; slots that are not named have their first choice."""
    folder.mkdir(parents=True)
    slots = Space.model_validate(space).slots
    (folder / "config.yaml").write_text(yaml.safe_dump({"space": space, "goals": ["psnr"]} | config))
    goals = config.get("goals", ["psnr"])
    made = optuna.create_study(
        study_name=folder.name,
        storage=f"sqlite:///{folder / 'study.db'}",
        directions=["maximize", *["minimize"] * (len(goals) - 1)],
    )
    for chosen, values in done:
        chosen = dict(chosen)
        attributes = {name: chosen.pop(name) for name in ("subject", "whole") if name in chosen}
        made.add_trial(
            create_trial(
                state=chosen.pop("state", TrialState.PRUNED if values is None else TrialState.COMPLETE),
                values=values if isinstance(values, list) or values is None else [values],
                params={slot: choices[0] for slot, choices in slots.items()} | chosen,
                distributions={slot: CategoricalDistribution(choices) for slot, choices in slots.items()},
                user_attrs=attributes,
            )
        )
    return folder


def row(told: Explanation, gene: str, choice: object) -> pd.Series:
    """What is said of one choice."""
    rows = told.effects[(told.effects["gene"] == gene) & (told.effects["choice"] == choice)]
    assert len(rows) == 1
    return rows.iloc[0]


def gene(told: Explanation, name: str) -> pd.Series:
    """What is said of one gene."""
    return told.genes.set_index("gene").loc[name]


def scores(*pairs: tuple[int, float | None]) -> list[Done]:
    return [({"width": width}, score) for width, score in pairs]


SIX = scores((1, 20.0), (1, 22.0), (2, 25.0), (2, 27.0), (3, 20.0), (3, None), (3, None), (3, None), (4, None))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 networks at random, whose width adds 0, 1 or 3 dB to 20; noise of 0.3 dB."""
    rng, noise = random.Random(2), np.random.default_rng(2)
    every = list(itertools.product(*FREE["genes"].values()))
    chosen = [dict(zip(FREE["genes"], values, strict=True)) for values in rng.sample(every, 60)]
    added = {2: 0, 4: 1, 8: 3}
    done = [(it, 20 + added[it["width"]] + 0.3 * noise.standard_normal()) for it in chosen]
    return study(tmp_path_factory.mktemp("planted") / "planted", done, FREE)


# Numbers


def test_a_planted_effect_is_found(planted: Path) -> None:
    told = explain(planted)
    assert told.genes["gene"][0] == "width"
    assert gene(told, "width")["importance"] > 0.5 and gene(told, "width")["chance"] < 0.02
    assert told.genes["importance"].sum() == pytest.approx(1)
    others = told.genes[told.genes["gene"] != "width"]
    assert len(others) == 4 and (others["chance"] > 0.05).all()
    for choice, added in ((2, 0), (4, 1), (8, 3)):  # of choices alike in number: less the mean, 4/3
        found = row(told, "width", choice)
        assert found["low"] < added - 4 / 3 < found["high"]
        assert found["high"] - found["low"] < 1.2
    assert row(told, "width", 8)["low"] > 1 > -0.5 > row(told, "width", 2)["high"]


def test_what_is_drawn_is_drawn_from_the_seed(planted: Path) -> None:
    first, again, other = explain(planted), explain(planted), explain(planted, seed=1)
    pd.testing.assert_frame_equal(first.effects, again.effects)
    pd.testing.assert_frame_equal(first.genes, again.genes)
    assert (first.effects["effect"].to_numpy() == other.effects["effect"].to_numpy()).all()
    assert (first.effects["low"] != other.effects["low"]).any()
    assert (first.genes["chance"] != other.genes["chance"]).any()


def test_effects_and_pruned_shares_are_those_counted_by_hand(tmp_path: Path) -> None:
    told = explain(study(tmp_path / "mine", SIX))
    assert (told.complete, told.pruned, told.best) == (5, 4, 1)
    mean = (20 + 22 + 25 + 27 + 20) / 5
    expected = {1: (21, 2, 0, 0), 2: (26, 2, 0, 0), 3: (20, 1, 3, 0.75), 4: (math.nan, 0, 1, 1)}
    for choice, (with_it, complete, pruned, share) in expected.items():
        found = row(told, "width", choice)
        assert found["mean"] == pytest.approx(with_it, nan_ok=True)
        assert found["effect"] == pytest.approx(with_it - mean, nan_ok=True)
        assert (found["complete"], found["pruned"], found["pruned_share"]) == (complete, pruned, share)
        assert math.isnan(found["low"]) and math.isnan(found["high"])  # too few for an interval
    never = row(told, "width", 5)
    assert (never["complete"], never["pruned"]) == (0, 0) and math.isnan(never["pruned_share"])


def test_there_is_an_interval_from_five_scores_on(tmp_path: Path) -> None:
    done = scores(*((1, 20 + number) for number in range(5)), *((2, 30 + number) for number in range(4)))
    told = explain(study(tmp_path / "mine", done))
    assert row(told, "width", 1)["low"] < row(told, "width", 1)["effect"] < row(told, "width", 1)["high"]
    assert math.isnan(row(told, "width", 2)["low"])


@pytest.mark.parametrize("some", [explaining.ENOUGH, 20])
def test_the_interval_covers_the_truth_as_often_as_it_says(some: int) -> None:
    """Two choices, 1 dB apart, of some and of 20 scores: the effect of one is its share of that."""
    rng, covered, truth = np.random.default_rng(0), [], -20 / (20 + some)
    for seed in range(150):
        networks = [Judged(20 + (number >= some) + rng.standard_normal(), {"a": int(number >= some)})
                    for number in range(20 + some)]  # fmt: skip
        table = explaining._effects(networks, "a", ["a"], [0, 1], seed)
        covered += [(table["low"][0] < truth < table["high"][0])]
    assert 0.91 < np.mean(covered) <= 1


def test_genes_without_an_effect_look_important_as_rarely_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "SHUFFLES", 40)
    rng = np.random.default_rng(0)
    slots = {name: [0, 1, 2] for name in "abcdef"}
    chances = []
    for seed in range(12):
        networks = [Judged(rng.standard_normal(), {slot: int(rng.integers(3)) for slot in slots}) for _ in range(30)]
        genes = explaining._importance(networks, slots, {slot: [slot] for slot in slots}, seed)
        chances += list(genes["chance"])
    assert 0.4 < np.mean(chances) < 0.6
    assert np.mean(np.array(chances) <= 0.1) < 0.2


def test_the_first_of_several_objectives_counts(tmp_path: Path) -> None:
    done = [({"width": width}, [score, 100.0 - score]) for width, score in ((1, 20.0), (1, 21.0), (2, 30.0), (2, 31.0))]
    told = explain(study(tmp_path / "mine", done, goals=["held-out", "gflop"]))
    assert row(told, "width", 2)["effect"] == pytest.approx(5)
    assert told.evidence.objective == "held-out"


# What does not count


def hourglass(score: float | None, depth: int, width: int, *skips: int, blocks: int = 1) -> Done:
    levels = {f"skip.{level}": skip for level, skip in enumerate(skips)}
    return {"family": "hourglass", "depth": depth, "width": width, "blocks": blocks, **levels}, score


def resnet(score: float | None, blocks: int, **idle: int) -> Done:
    idle = {name.replace("_", "."): value for name, value in idle.items()}
    return {"family": "resnet", "blocks": blocks, **idle}, score


MIXED = [
    hourglass(20.0, 1, 2, 0, 2, blocks=3),
    hourglass(22.0, 1, 4, 2, 2, blocks=3),
    hourglass(24.0, 2, 2, 2, 2, blocks=2),
    hourglass(28.0, 2, 4, 2, 0),
    hourglass(None, 2, 4, 0, 0),
    resnet(30.0, 1, width=2, depth=1, skip_0=2),
    resnet(32.0, 2, width=2, depth=2, skip_1=2),
    resnet(None, 2, width=4),
]


def test_a_slot_that_a_network_does_not_use_does_not_count_for_it(tmp_path: Path) -> None:
    told = explain(study(tmp_path / "mine", MIXED, FAMILIES))
    wide, narrow = row(told, "width", 4), row(told, "width", 2)
    assert (wide["effect"], narrow["effect"]) == (25 - 23.5, 22 - 23.5)  # of hourglasses only
    assert (wide["complete"], wide["pruned"], narrow["complete"], narrow["pruned"]) == (2, 1, 2, 0)
    assert [row(told, "blocks", blocks)["complete"] for blocks in (1, 2, 3)] == [1, 1, 0]
    assert row(told, "blocks", 2)["pruned_share"] == 0.5
    assert gene(told, "width")["complete"] == 4 and gene(told, "family")["complete"] == 6
    assert row(told, "family", "resnet")["effect"] == 31 - 26


def test_what_idle_slots_hold_changes_nothing(tmp_path: Path) -> None:
    space = Space.model_validate(FAMILIES)
    first = {slot: choices[0] for slot, choices in space.slots.items()}
    rng, others = random.Random(0), []
    for chosen, score in MIXED:
        whole = first | chosen
        active = space.active(whole)
        others.append((space.draw(rng) | {slot: whole[slot] for slot in active}, score))
    assert [chosen for chosen, _ in others] != [first | chosen for chosen, _ in MIXED]
    one, other = (explain(study(tmp_path / name, done, FAMILIES)) for name, done in (("one", MIXED), ("other", others)))
    pd.testing.assert_frame_equal(one.genes, other.genes)
    pd.testing.assert_frame_equal(one.effects, other.effects)


def test_levels_are_pooled_or_listed(tmp_path: Path) -> None:
    folder = study(tmp_path / "mine", MIXED, FAMILIES)
    pooled, listed = explain(folder), explain(folder, by_level=True)
    assert {"skip"} == set(pooled.genes["gene"]) - set(listed.genes["gene"])
    assert {"skip.0", "skip.1"} == set(listed.genes["gene"]) - set(pooled.genes["gene"])
    # level 0 of all hourglasses, level 1 of those with two
    zeros, twos = [20, 28], [22, 24, 24, 28]
    mean = np.mean([*zeros, *twos])
    assert row(pooled, "skip", 0)["effect"] == pytest.approx(np.mean(zeros) - mean)
    assert row(pooled, "skip", 2)["effect"] == pytest.approx(np.mean(twos) - mean)
    assert [row(pooled, "skip", skip)["complete"] for skip in (0, 2)] == [2, 3]  # networks, not levels
    assert [row(pooled, "skip", skip)["pruned"] for skip in (0, 2)] == [1, 0]
    assert row(listed, "skip.1", 2)["mean"] == 24 and row(listed, "skip.1", 0)["mean"] == 28
    together = gene(listed, "skip.0")["importance"] + gene(listed, "skip.1")["importance"]
    assert gene(pooled, "skip")["importance"] == pytest.approx(together)


def test_a_network_counts_once_and_with_its_last_score(tmp_path: Path) -> None:
    key = {"subject": "a"}
    done = [({"width": 1, **key, "whole": False}, 20.0), *scores((2, 21.0), (3, 22.0), (4, 25.0)), ({"width": 1}, None)]
    done += [({"width": 1, **key, "whole": True}, 24.0), ({"width": 5, "subject": "b", "whole": False}, 23.0)]
    told = explain(study(tmp_path / "mine", done))
    assert row(told, "width", 1)["mean"] == 24 and row(told, "width", 1)["complete"] == 1
    assert (told.complete, told.pruned) == (5, 1)
    assert (told.evidence.repeats, told.evidence.imputed) == (1, 1)
    assert "estimates" in caption(told) and "repeat a network" in caption(told)


def test_trials_without_an_end_and_scores_that_are_no_numbers_do_not_count(tmp_path: Path) -> None:
    done = [*SIX, ({"width": 6}, math.inf), *(({"width": 6, "state": state}, None) for state in UNENDED)]
    told = explain(study(tmp_path / "mine", done))
    assert (told.complete, told.pruned, told.evidence.unfinished) == (5, 4, 4)
    assert row(told, "width", 6)["complete"] == row(told, "width", 6)["pruned"] == 0
    assert caption(explain(study(tmp_path / "other", SIX))).count("\n") < caption(told).count("\n")


UNENDED = (TrialState.RUNNING, TrialState.FAIL, TrialState.WAITING)


def test_impossible_networks_are_pruned_ones_of_what_makes_them_impossible(tmp_path: Path) -> None:
    space = WIDTH | {
        "genes": {"kernel": [3, 4], "width": [2, 4]},
        "templates": {"hourglass": {"depth": 1, "kernel_up": "$kernel", "channels_up": "$width"}},
    }
    good = [({"width": width}, score) for width, score in ((2, 20.0), (2, 21.0), (4, 23.0), (4, 24.0))]
    told = explain(study(tmp_path / "mine", [*good, ({"kernel": 4}, None), ({"kernel": 4, "width": 4}, None)], space))
    assert row(told, "kernel", 4)["pruned_share"] == 1 and row(told, "kernel", 4)["pruned"] == 2
    assert row(told, "width", 2)["pruned"] == row(told, "width", 4)["pruned"] == 0
    # of one choice only there are scores: it tells nothing
    assert math.isnan(row(told, "kernel", 3)["effect"]) and gene(told, "kernel")["importance"] == 0
    assert "nothing beside it" in FORMATS["table"](told) and "no score" in FORMATS["table"](told)


def test_a_gene_with_one_choice_is_left_out(tmp_path: Path) -> None:
    space = WIDTH | {
        "genes": {"width": [1, 2], "blocks": [2]},
        "templates": {"resnet": {"channels": "$width", "blocks": "$blocks"}},
    }
    done = scores((1, 20.0), (1, 21.0), (2, 22.0), (2, 23.0))
    assert list(explain(study(tmp_path / "mine", done, space)).genes["gene"]) == ["width"]


# What is refused


ONE = WIDTH | {"genes": {"width": [4]}}
POOR = {
    "empty": ([], WIDTH, "at least 4 different networks with a score; there are 0, and 0 pruned"),
    "three": (scores((1, 20.0), (2, 21.0), (3, 22.0), (4, None)), WIDTH, "there are 3, and 1 pruned"),
    "one network": ([({"subject": "a"}, 20.0 + number) for number in range(9)], WIDTH, "there are 1,"),
    "all pruned": (scores(*((1, None) for _ in range(6))), WIDTH, "there are 0, and 6 pruned"),
    "constant": (scores(*((1 + number, 24.5) for number in range(5))), WIDTH, "all 5 scores are 24.50 dB"),
    "one choice": (
        [({"width": 4}, 20.0 + number) for number in range(9)],
        ONE,
        "every gene of the space has one choice",
    ),
}


@pytest.mark.parametrize(("done", "space", "message"), POOR.values(), ids=POOR)
def test_too_little_to_compare_is_said_in_one_line(
    done: list[Done], space: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study(tmp_path / "mine", done, space)
    with pytest.raises(DipsearchError, match=message):
        explain(folder)
    assert refused(capsys, ["explain", str(folder), "-o", str(tmp_path / "x.png")], code=1).startswith("error: ")
    assert not (tmp_path / "x.png").exists()


def test_four_scores_are_enough(tmp_path: Path) -> None:
    told = explain(study(tmp_path / "mine", scores((1, 20.0), (2, 20.0), (3, 20.0), (4, 21.0))))
    assert row(told, "width", 4)["effect"] == 0.75
    assert all(FORMATS[form](told) for form in FORMATS)


def broken_database(folder: Path) -> None:
    (folder / "study.db").write_text("not a database, but long enough to have a header of one\n" * 20)


def empty_database(folder: Path) -> None:
    (folder / "study.db").write_bytes(b"")


def second_study(folder: Path) -> None:
    optuna.create_study(study_name="second", storage=f"sqlite:///{folder / 'study.db'}")


def other_space(folder: Path) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({"space": FREE}))


BROKEN = {
    "no config": (lambda folder: (folder / "config.yaml").unlink(), "config.yaml"),
    "config of nothing": (lambda folder: (folder / "config.yaml").write_text("[]"), "with which space"),
    "config of no space": (lambda folder: (folder / "config.yaml").write_text("space: {genes: 3}"), "space"),
    "objective": (lambda folder: (folder / "config.yaml").write_text("space: 1\ngoals: [x]"), "unknown objective"),
    "no database": (broken_database, "file is not a database"),
    "empty database": (empty_database, "study.db: cannot be read"),
    "two studies": (second_study, "study.db: cannot be read"),
    "another space": (other_space, "trial 0 does not fit the space in config.yaml: "),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_a_study_that_cannot_be_read_is_said_in_one_line(
    spoil: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study(tmp_path / "mine", SIX)
    spoil(folder)  # type: ignore[operator]
    assert message in refused(capsys, ["explain", str(folder)])


def test_an_unknown_study_is_answered_with_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["explain", "thrid", "--out", str(tmp_path)]
    assert "none under" in refused(capsys, given)
    for name in ("first", "third"):
        study(tmp_path / "studies" / name, SIX)
    assert "unknown study 'thrid'; choose from: first, third" in refused(capsys, given)
    assert find_study(tmp_path / "studies", "third") == tmp_path / "studies" / "third"
    with pytest.raises(UsageError, match="unknown study"):
        find_study(tmp_path / "studies", str(tmp_path))


def test_a_study_is_read_without_a_trace_while_a_search_has_it(tmp_path: Path) -> None:
    folder = study(tmp_path / "mine", SIX).rename(tmp_path / "a study, 100 %?#")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    writer = sqlite3.connect(folder / "study.db")
    writer.execute("begin immediate")
    with filelock.FileLock(folder / "study.lock"):
        assert explain(folder).complete == 5
    writer.close()
    (folder / "study.lock").unlink(missing_ok=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# How it is shown


def test_the_command_takes_every_format_there_is() -> None:
    option = next(option for option in cli.commands["explain"].params if option.name == "form")
    assert set(option.type.choices) == set(FORMATS)


def test_the_table_says_what_the_numbers_are(tmp_path: Path) -> None:
    told = explain(study(tmp_path / "mine", MIXED, FAMILIES))
    lines = FORMATS["table"](told).splitlines()
    assert "networks with a score: 6, pruned: 2" in lines[0]
    assert "The best are 1 here. Of fewer than 5, it is a hint at most." in lines[1]
    assert any("survivors" in line for line in lines)
    named = [line.split()[0] for line in lines[lines.index("") + 2 :] if not line.startswith(" ")]
    assert named == list(told.genes["gene"])
    assert any(line.startswith("skip (all levels)") for line in lines)
    blocks = next(line for line in lines if line.startswith("blocks"))
    chance = f"{100 * gene(told, 'blocks')['chance']:.0f}"
    assert blocks.split()[2:] == [chance, "%", "1", "-1.00", "too", "few", "1", "0", "(0", "%)"]
    assert any(line.split() == ["3", "never", "tried", "0"] for line in lines)


@pytest.mark.slow
def test_formats_hold_the_same_numbers(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for form in FORMATS:
        assert main(["explain", str(planted), "--format", form]) == 0
        said[form] = capsys.readouterr().out
    told = explain(planted)
    whole = json.loads(said["json"])
    assert (whole["study"], whole["complete"], whole["pruned"], whole["best"]) == ("planted", 60, 0, 6)
    assert (whole["objective"], whole["unit"], whole["space"]) == ("psnr", "dB", "free")
    assert [entry["gene"] for entry in whole["genes"]] == list(told.genes["gene"])
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    assert len(rows) == len(whole["effects"]) == len(told.effects) == 15
    for line, entry, (_, known) in zip(rows, whole["effects"], told.effects.iterrows(), strict=True):
        assert float(line["effect"]) == known["effect"] == pytest.approx(entry["effect"], rel=1e-12)
        assert line["choice"] == str(entry["choice"]) and entry["choice"] == known["choice"]
        assert float(line["importance"]) == pytest.approx(gene(told, line["gene"])["importance"])
    wide = row(told, "width", 8)
    words = f"{wide['low']:+.2f} to {wide['high']:+.2f}"
    assert words in said["table"] and f"| {words} |" in said["md"]
    assert "a hint at most" not in said["table"]  # six of the best
    assert "< 1 %" in said["table"] and whole["genes"][0]["chance"] < 0.01


def test_what_there_is_no_number_for_is_null(tmp_path: Path) -> None:
    told = explain(study(tmp_path / "mine", SIX))
    entries = {entry["choice"]: entry for entry in json.loads(FORMATS["json"](told))["effects"]}
    assert entries[5]["effect"] is None and entries[5]["pruned_share"] is None
    assert entries[3]["pruned_share"] == 0.75 and entries[3]["low"] is None


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_a_picture_is_drawn(suffix: str, start: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, picture = study(tmp_path / "mine", MIXED, FAMILIES), tmp_path / "new" / f"genes{suffix}"
    assert main(["explain", str(folder), "-o", str(picture)]) == 0
    captured = capsys.readouterr()
    assert f"written: {picture}" in captured.err and "skip (all levels)" in captured.out
    assert picture.read_bytes().startswith(start)
    if suffix == ".png":
        with Image.open(picture) as image:
            assert image.width > 1000 and np.asarray(image.convert("L")).std() > 10
    if suffix == ".svg":
        words = picture.read_text(encoding="utf-8")
        assert all(f">{word}<" in words for word in ("skip (all levels)", "width", "resnet", "never tried"))
        assert ">n = 2, 33 % pruned<" in words  # a width of 4
    assert [path.name for path in picture.parent.iterdir()] == [picture.name]


def test_a_picture_of_another_kind_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, ["explain", "nothing", "-o", "genes.jpg"])
    assert message == "error: genes.jpg: a picture ends in .png, .svg or .pdf"


def test_a_picture_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    given = ["explain", str(study(tmp_path / "mine", SIX)), "-o", str(tmp_path / "file" / "genes.png")]
    assert "cannot be written" in refused(capsys, given, code=1)


def test_the_figure_says_the_same_as_the_table_in_long_studies(planted: Path, tmp_path: Path) -> None:
    told = explain(planted)
    draw(told, tmp_path / "genes.svg")
    words = (tmp_path / "genes.svg").read_text(encoding="utf-8")
    places = [words.index(f">{name}<") for name in told.genes["gene"]]
    assert places == sorted(places)  # most important first


# A real search


@pytest.mark.slow
def test_a_search_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "published.yaml").write_text(PUBLISHED)
    (tmp_path / "tiny-space.yaml").write_text(TINY_SPACE)
    (tmp_path / "tiny.yaml").write_text(TINY_TASK.format(folder=tmp_path))
    assert main(arguments(tmp_path, "search", "--trials", "9", "--pruner", "none")) == 0
    capsys.readouterr()
    assert main(["explain", "tiny-tiny-space-quick", "--out", f"{tmp_path}/out", "--format", "json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    runs, _ = RunStore(tmp_path / "out" / "runs").load("tiny")
    fits = pd.DataFrame([run for run in runs if run["genome_key"]])
    by_network = fits.groupby("genome_key").agg(psnr=("psnr", "mean"), parameters=("parameters", "first"))
    assert whole["complete"] == len(by_network) >= 4
    assert whole["complete"] + whole["repeats"] == 9 and whole["pruned"] == 0
    assert {entry["gene"] for entry in whole["genes"]} == {"width", "depth"}
    genomes = {run["genome_key"]: run["genome"] for run in runs if run["genome_key"]}
    deep = [row.psnr for row in by_network.itertuples() if genomes[row.Index]["depth"] == 2]
    found = next(entry for entry in whole["effects"] if entry["gene"] == "depth" and entry["choice"] == 2)
    assert found["complete"] == len(deep)
    assert found["effect"] == pytest.approx(np.mean(deep) - by_network["psnr"].mean(), abs=1e-9)
    evidence = read_evidence(tmp_path / "out" / "studies" / "tiny-tiny-space-quick")
    assert len(evidence.networks) == len(by_network)
