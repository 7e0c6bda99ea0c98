"""Published tables: their protocols, the numbers beside them, and running one."""

from dataclasses import replace

import pandas as pd
import pytest
import yaml
from fits import TINY
from studies import write

from dipsearch import catalog, kept
from dipsearch.baseline import BASELINES, EXTRAS
from dipsearch.cli import main
from dipsearch.dataset import VARIABLE, data_folder, load_dataset, missing
from dipsearch.error import DipsearchError, Paused, UsageError
from dipsearch.genome import load_genome
from dipsearch.image import read
from dipsearch.metric import psnr
from dipsearch.network.build import cost
from dipsearch.operator import NOISES, OPERATORS, NoiseOptions
from dipsearch.report.reproduction import FORMATS, cells
from dipsearch.reproduce import outcome as outcomes
from dipsearch.reproduce.outcome import outcome
from dipsearch.reproduce.published import STOPS, Published, numbers, published
from dipsearch.reproduce.table import SCALES, SIDES, load_table, plan
from dipsearch.run import RunStore, key_of
from dipsearch.search.evaluation import Protocol
from dipsearch.search.rerun import Rerun
from dipsearch.task import load_task

load_yaml = catalog.read_yaml
TABLES = list(catalog.names("tables"))


def has(*names):
    return all(not missing(load_dataset(name), data_folder()) for name in names)


# Protocols


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_planned(name, scale):
    table = load_table(name)
    for side in SIDES:
        planned = plan(table, scale, sides=dict.fromkeys(table.differences, side))
        assert set(planned.shows) >= set(table.rows)
        assert {fit for fit, _ in planned.shows.values()} == set(planned.candidates)
        recipe = planned.task.recipe
        assert recipe.stop == "fixed" or recipe.patience == recipe.iterations  # else the budget's number is missing


def recipe_of(name, **sides):
    return plan(load_table(name), sides=sides).task.recipe


def test_the_protocols_are_those_of_papers_and_code():
    denoise = recipe_of("set9-25")
    assert (denoise.iterations, denoise.learning_rate, denoise.averaging) == (1800, 0.01, 0.99)
    assert denoise.input_noise == pytest.approx(1 / 30)
    assert recipe_of("set9-25", iterations="code").iterations == 3000
    assert recipe_of("set9-50").input_noise == pytest.approx(1 / 20)
    inpaint = recipe_of("bernoulli11")
    assert (inpaint.iterations, inpaint.learning_rate, inpaint.averaging) == (11000, 1e-3, 0)
    assert denoise.rollback == inpaint.rollback == 5
    for name in ("text", "region-vase", "region-library", "set5-x4", "prior-effect"):
        assert recipe_of(name).rollback == 5
        assert recipe_of(name, rollback="code").rollback >= 100  # the notebooks that never go back
    for name in ("set5-x4", "set14-x2", "text", "region-vase", "bernoulli11"):
        assert recipe_of(name).input_noise == pytest.approx(1 / 30)
        assert recipe_of(name, **{"input-noise": "code"}).input_noise == 0.03
    assert [recipe_of(f"set14-x{factor}").iterations for factor in (2, 4, 8)] == [2000, 2000, 4000]
    sgld = plan(load_table("set9-25")).candidates["SGLD"].changes
    assert "patience" not in sgld  # its own rule: fixed
    for name, expected in {"set9-25": (3000, 1 / 30), "set5-x4": (2000, 0.03), "set14-x8": (2000, 0.03)}.items():
        planned = plan(load_table(name))
        nas = planned.task.recipe.model_copy(update=planned.candidates["NAS-DIP"].changes)
        assert (nas.iterations, nas.input_noise) == pytest.approx(expected) and nas.patience == nas.iterations
    assert (sgld["iterations"], sgld["burn_in"], sgld["thinning"], sgld["weight_noise"]) == (20000, 7000, 50, 2)


@pytest.mark.parametrize(
    "name", ["set9-25", "set9-50", "bernoulli11", *(f"set{n}-x{f}" for n in (5, 14) for f in (2, 4, 8))]
)
def test_the_torch_of_the_time_can_be_followed(name):
    for side, genes in (("paper", ("batch", "bilinear")), ("code", ("batch-uniform", "bilinear-corners"))):
        genome = plan(load_table(name), sides={"torch": side}).candidates["DIP"].genome
        assert (genome.norm, *set(genome.upsample)) == genes
        assert (
            genome.model_copy(update={"norm": "batch", "upsample": ("bilinear",) * 5}).key()
            == plan(load_table(name)).candidates["DIP"].genome.key()
        )


def test_several_tables_are_made_one_after_the_other(tmp_path, capsys):
    given = ["--scale", "smoke", "--budget", "0", "--out", str(tmp_path)]
    assert main(["reproduce", "set9-25", "jpeg", *given]) == 0
    both = capsys.readouterr().out
    alone = ""
    for name in ("set9-25", "jpeg"):
        assert main(["reproduce", name, *given]) == 0
        alone += capsys.readouterr().out
    assert both == alone
    assert main(["reproduce", "set9-25", "jpeg", *given, "-o", str(tmp_path / "one.md")]) == 2
    assert "there are several" in capsys.readouterr().err
    assert main(["reproduce", "set9-25", "jpg", *given]) == 2


def test_only_the_code_pads_barbara():
    assert plan(load_table("bernoulli11")).effort.padding == {}
    assert plan(load_table("bernoulli11"), sides={"padding": "code"}).effort.padding == {"bernoulli11:barbara": 1}


def parameters(name, row, **sides):
    planned = plan(load_table(name), sides=sides)
    channels = planned.task.image_channels
    return cost(planned.candidates[row].genome, 64, 64, channels).parameters


@pytest.mark.slow
def test_the_networks_are_those_of_papers_and_code():
    assert parameters("set9-25", "DIP") == 2_217_831
    assert parameters("set9-25", "NAS-DIP") == 3_924_867
    assert parameters("bernoulli11", "DIP") == 2_217_573
    assert parameters("bernoulli11", "NAS-DIP") == 10_710_273
    assert parameters("set5-x4", "NAS-DIP") == 3_512_835
    assert parameters("text", "DIP") == 2_217_831
    assert parameters("text", "DIP", network="code") == 3_002_627
    assert parameters("region-library", "depth 6") == 2_446_387
    assert parameters("region-library", "depth 6", network="code") == 2_996_467
    assert parameters("jpeg", "DIP") == 572_827
    assert parameters("prior-effect", "DIP") == 2_184_307
    planned = plan(load_table("region-vase"))
    assert planned.candidates["DIP"].genome.upsample != load_genome("dip-vase").upsample


def test_rows_of_one_fit_share_it():
    planned = plan(load_table("set9-25"))
    assert planned.shows["DIP"] == ("DIP", "answer") and planned.shows["DIP, last output"] == ("DIP", "raw")
    assert "DIP, last output" not in planned.candidates
    assert {"denoise-quick", "denoise-small"} <= planned.shows.keys()  # found, of this task
    assert "inpaint-small" not in planned.shows


def test_what_is_not_known_is_refused():
    table = load_table("set9-25")
    for wrong, message in (
        ({"scale": "tiny"}, "unknown scale"),
        ({"sides": {"depth": "code"}}, "unknown difference of set9-25 'depth'; choose from: iterations"),
        ({"sides": {"iterations": "book"}}, "unknown side 'book'; choose from: code, paper"),
        ({"pictures": ["mona"]}, "unknown picture of set9-25 'mona'; choose from: baboon, f16"),
        ({"rows": ["CNN"]}, "unknown row of set9-25 'CNN'"),
    ):
        with pytest.raises(UsageError, match=message):
            plan(table, **wrong)
    with pytest.raises(UsageError, match="unknown picture of set9-25 at smoke scale 'f16'; choose from: astronaut"):
        plan(table, "smoke", pictures=["f16"])
    assert plan(table, pictures=["house", "set9:f16"]).task.images.evaluation == ("set9:house", "set9:f16")


# Published numbers


def test_published_numbers_belong_to_tables_and_say_how_they_came():
    for number in published():
        assert number.table in TABLES and number.stop in STOPS and number.source and 15 < number.psnr < 45
    rows = {(number.table, number.row) for number in published()}
    for name in TABLES:
        table = load_table(name)
        known = {*table.rows, *(plan(table).task.baselines)}
        others = {row for of, row in rows if of == name} - known
        assert others <= {"Papyan et al.", "SelfExSR"}, name
    assert all(number.stop == "oracle" for number in published() if number.row == "NAS-DIP")


def test_published_means_are_those_of_their_pictures():
    checked = 0
    for table, row in {(number.table, number.row) for number in published() if number.picture}:
        said = {picture: number.psnr for picture, number in numbers(table, row).items()}
        mean = said.pop("")
        assert set(said) == set(load_dataset(table.split("-")[0]).pictures)
        assert sum(said.values()) / len(said) == pytest.approx(mean, abs=0.011)
        checked += len(said)
    assert checked == 11 + 4 * 2 * (5 + 14)  # of super-resolution, four methods at two factors


# Running one


@pytest.fixture
def toy(room):
    """A table of two pictures, a genome with two rows, and one with a recipe of its own."""
    write(room / "tiny.yaml", TINY)
    data = {
        "about": "a toy",
        "source": "made here",
        "task": str(room / "task.yaml"),
        "images": [str(room / "4.png"), str(room / "5.png")],
        "seeds": 2,
        "recipe": {"iterations": 30, "averaging": 0.9, "window": 5},
        "rows": {
            "last": {"genome": str(room / "tiny.yaml"), "shows": "raw"},
            "tiny": {"genome": str(room / "tiny.yaml")},
            "two": {"genome": str(room / "tiny.yaml"), "recipe": {"ensemble": 2}},
        },
        "found": False,
        "bands": {100: 60, 50: 5, 10: 0},
    }
    return write(room / "toy.yaml", data)


def work_of(toy, folder, part=(0, 1), **settings):
    planned = plan(load_table(str(toy)), **settings)
    protocol = Protocol(planned.task, planned.effort, "full", "reproduce", planned.task.recipe, "cpu")
    return planned, Rerun(protocol, planned.candidates, RunStore(folder), 0, planned.effort.seeds, part)


def quietly(*arguments):
    pass


def test_rows_say_what_their_fits_were(toy, tmp_path):
    planned, work = work_of(toy, tmp_path / "runs")
    runs = list(work.run(quietly))
    rows = outcome(planned, work).rows.set_index("row")
    assert list(rows.index) == ["last", "tiny", "two", *planned.task.baselines]
    assert (rows["fits"] == 4).all() and (rows["of"] == 4).all()
    tiny = [run for run in runs if run["name"] == "tiny"]
    mean = lambda field: sum(run[field] for run in tiny) / 4  # noqa: E731
    assert rows.loc["tiny", "stopped"] == pytest.approx(mean("psnr"))
    assert rows.loc["tiny", "fixed"] == pytest.approx(mean("final_psnr"))
    assert rows.loc["tiny", "oracle"] == pytest.approx(mean("oracle_psnr"))
    assert rows.loc["last", "fixed"] == pytest.approx(mean("raw_psnr"))
    assert rows.loc["last", "fixed"] != rows.loc["tiny", "fixed"]
    assert (rows.loc["tiny", ["stopped_sd", "fixed_sd", "oracle_sd"]] > 0).all() and rows.loc[
        "two", "seconds"
    ] > rows.loc["tiny", "seconds"]
    assert work.missing == []
    text = FORMATS["md"](outcome(planned, work))
    assert "Mark of tiny: 50 %." in text or "Mark of tiny: 100 %." in text


def test_the_end_of_the_budget_is_known_where_a_fit_reached_it():
    run = {"genome_key": "x", "stop_reason": "budget", "psnr": 1.0, "final_psnr": 2.0, "raw_psnr": 3.0}
    assert (outcomes._final(run, raw=False), outcomes._final(run, raw=True)) == (2, 3)
    for stopped in ("held-out", "budget, held-out"):
        assert outcomes._final(run | {"stop_reason": stopped}, raw=False) is None
    assert outcomes._final(run | {"genome_key": None, "stop_reason": ""}, raw=False) == 1


def test_a_picture_that_a_search_of_the_task_saw_is_told(toy, tmp_path, capsys):
    planned, work = work_of(toy, tmp_path / "runs")
    protocol = Protocol(
        planned.task.model_copy(update={"name": load_task(planned.table.task).name}),
        planned.effort,
        "full",
        "search",
        planned.task.recipe,
        "cpu",
    )
    protocol.evaluate(work.store, "tiny", work.genomes["tiny"].genome, work.instances[0])
    assert work.searched_on == []
    assert replace(work, task=load_task(planned.table.task).name).searched_on == [work.instances[0].image]
    assert main(["reproduce", str(toy), "--budget", "1s", "--out", str(tmp_path)]) in (0, 3)
    assert f"warning: {work.instances[0].image} was searched on, too" in capsys.readouterr().err


def found_in(folder):
    runs, _ = RunStore(folder).load("toy")
    return {(run["name"], run["digest"], run["seed"]): run["psnr"] for run in runs}


def test_slices_of_time_end_within_fits_and_give_what_one_would(toy, tmp_path):
    _, whole = work_of(toy, tmp_path / "whole")
    assert len(list(whole.run(quietly))) == 16
    for left in range(8, 0, -1):
        _, work = work_of(toy, tmp_path / "sliced")
        assert len(work.missing) == left
        with pytest.raises(Paused, match="not begun"):
            list(work.run(quietly, until=0))
        name, instance = work.missing[0]
        judged = (work.store, name, work.genomes[name].genome, instance)
        protocol, iterations = work.protocol.changed(work.genomes[name].changes), []
        with pytest.raises(Paused, match="kept at iteration 10"):
            protocol.evaluate(*judged, until=0)
        assert len(list((tmp_path / "sliced" / "toy").glob("*.unfinished"))) == 1
        protocol.evaluate(*judged, lambda iteration, score, seen=iterations: seen.append(iteration))
        assert iterations == [20, 30]
    assert len(list(work.run(quietly))) == 8  # the baselines
    assert found_in(tmp_path / "sliced") == found_in(tmp_path / "whole")
    sliced, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / kind).rglob("*.frames.png")}
        for kind in ("sliced", "whole")
    )
    assert len(sliced) == 8 and sliced == whole


def test_a_slice_of_time_is_no_longer_for_baselines(toy, tmp_path):
    _, work = work_of(toy, tmp_path / "runs")
    with pytest.raises(Paused, match=r"observation on .*: not begun"):
        next(work.run(quietly, until=0))
    assert not list((tmp_path / "runs").rglob("*.json"))


def test_a_state_that_cannot_be_written_is_not_said_to_be_kept(toy, tmp_path, monkeypatch):
    def full(path, write):
        raise DipsearchError("disk full")

    _, work = work_of(toy, tmp_path / "runs")
    monkeypatch.setattr(kept, "write_atomically", full)
    with pytest.raises(DipsearchError, match="disk full"):
        work.protocol.evaluate(work.store, "tiny", work.genomes["tiny"].genome, work.instances[0], until=0)


def test_a_baseline_whose_package_is_missing_is_left_out_and_named(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(EXTRAS, "observation", "a_package_that_nobody_has")
    planned, work = work_of(toy, tmp_path / "runs", rows=["tiny"])
    assert {run["name"] for run in work.run(quietly)} == {"tiny", "total-variation"}
    said = FORMATS["table"](outcome(planned, work))
    assert "observation lacks runs: it takes a package of its own (pip install 'dipsearch[observation]')" in said


def test_a_half_done_table_weights_pictures_alike(toy, tmp_path):
    planned, work = work_of(toy, tmp_path / "runs", rows=["tiny"])
    runs = []
    for instance in work.instances[:3]:  # both pictures, then the first with the second seed
        runs.append(work.protocol.evaluate(work.store, "tiny", work.genomes["tiny"].genome, instance))
    row = outcome(planned, work).rows.set_index("row").loc["tiny"]
    first, second, again = (run["final_psnr"] for run in runs)
    assert row["fixed"] == pytest.approx(((first + again) / 2 + second) / 2)
    assert row["fits"] == 3 and row["of"] == 4 and row["fixed_sd"] != row["fixed_sd"]  # one whole seed has none


def test_a_baseline_of_the_same_observation_is_computed_once(toy, tmp_path, monkeypatch):
    computed = []
    monkeypatch.setitem(BASELINES, "observation", lambda y, operator, sigma: computed.append(y) or y)
    data = load_yaml(toy) | {"noise": {"name": "none"}, "baselines": ["observation"]}
    quiet = write(toy.parent / "quiet.yaml", data)
    _, work = work_of(quiet, tmp_path / "runs")
    runs = [run for run in work.run(quietly) if run["genome_key"] is None]
    assert len(runs) == 4 and len(computed) == 2
    assert {run["image"]: run["psnr"] for run in runs[:2]} == {run["image"]: run["psnr"] for run in runs[2:]}


@pytest.mark.parametrize("wrong", [{"shrink": 99}, {"size": 4}, {"multiple_of": 1000}, {"rows": {}}, {"colour": 1}])
def test_a_wrong_table_is_refused_on_one_line(toy, wrong):
    path = write(toy.parent / "wrong.yaml", load_yaml(toy) | wrong)
    with pytest.raises(UsageError, match=rf"wrong\.yaml, line \d+: {next(iter(wrong))}") as error:
        load_table(str(path))
    assert "\n" not in str(error.value)


def test_a_copy_with_other_settings_has_no_published_numbers(tmp_path):
    names = {}
    for name, sigma in (("same", 25), ("other", 75)):
        data = load_yaml(catalog.locate("tables", "set9-25"))
        (tmp_path / name).mkdir()
        changes = {} if sigma == 25 else {"noise": {"name": "gaussian", "sigma": sigma}}
        names[name] = write(tmp_path / name / "set9-25.yaml", data | changes)
    shown = {}
    for name, path in names.items():
        planned = plan(load_table(str(path)))
        shown[name] = outcomes._row(planned, "DIP", [], 0)["published"]
    assert shown == {"same": 30.43, "other": None}


def test_parts_make_every_fit_once_and_share_every_row(toy, tmp_path):
    made = []
    for index in range(3):
        _, work = work_of(toy, tmp_path / "runs", part=(index, 3))
        assert len(work.missing) == work.fits
        assert {name for name, _ in work.missing} == {"tiny", "two"}
        made += [run["name"] for run in work.run(quietly)]
    _, work = work_of(toy, tmp_path / "runs")
    assert work.missing == [] and work.fits == 8
    assert sorted(made) == sorted([*["tiny", "two"] * 4, *work.protocol.task.baselines * 4])


def test_the_difference_is_of_the_same_kind_over_the_same_pictures(toy, tmp_path, monkeypatch):
    def say(*numbers):
        said = {picture: Published("toy", "tiny", picture, value, stop, "x") for picture, value, stop in numbers}
        monkeypatch.setattr(outcomes, "numbers", lambda table, row: said if row == "tiny" else {})
        monkeypatch.setattr(outcomes, "_as_published", lambda plan: True)
        planned, work = work_of(toy, tmp_path / "runs", pictures=pictures)
        return outcome(planned, work).rows.set_index("row").loc["tiny"]

    pictures = None
    _, work = work_of(toy, tmp_path / "runs")
    runs = [run for run in work.run(quietly) if run["name"] == "tiny"]
    mean = lambda field, of=runs: sum(run[field] for run in of) / len(of)  # noqa: E731
    assert say(("", 20.0, "fixed"))["difference"] == pytest.approx(mean("final_psnr") - 20)
    assert say(("", 20.0, "oracle"))["difference"] == pytest.approx(mean("oracle_psnr") - 20)
    assert say(("", 20.0, "none"))["difference"] == pytest.approx(mean("final_psnr") - 20)
    assert say(("", 20.0, "unknown"))["difference"] is None
    pictures = [str(toy.parent / "4.png")]
    of_one = [run for run in runs if run["image"].endswith("4.png")]
    row = say(("", 20.0, "fixed"))
    assert row["difference"] is None and row["of_all"]  # not of these pictures
    row = say(("", 20.0, "fixed"), ("4.png", 21.0, "fixed"), ("5.png", 19.0, "fixed"))
    assert row["published"] == 21 and row["difference"] == pytest.approx(mean("final_psnr", of_one) - 21)
    assert not row["of_all"]


def test_what_was_published_of_fewer_pictures_is_of_them_or_says_so():
    """Of rows that were not run, too."""
    planned = plan(load_table("set5-x4"), pictures=["bird", "head"])
    told = numbers("set5-x4", "DIP")
    assert outcomes._row(planned, "DIP", [], 0)["published"] == (told["bird"].psnr + told["head"].psnr) / 2
    few = plan(load_table("set9-25"), pictures=["f16"])
    row = outcomes._row(few, "NAS-DIP", [], 0)
    assert row["published"] == numbers("set9-25", "NAS-DIP")[""].psnr and row["of_all"]
    rows = pd.DataFrame([row, row | {"row": "DIP", "stop": "fixed"}, row | {"row": "all", "of_all": False}])
    words = cells(outcomes.Outcome(few, rows, []))
    assert list(words["published"]) == ["31.42 (oracle, all pictures)", "31.42 (all pictures)", "31.42 (oracle)"]


def test_tables_of_one_protocol_share_their_fits(toy, tmp_path):
    def fits(table):
        _, work = work_of(table, tmp_path / "runs")
        return {key_of(run): run | {"created": None} for run in work.run(quietly) if run["genome_key"]}

    first = fits(toy)
    again = fits(write(toy.parent / "other.yaml", yaml.safe_load(toy.read_text())))
    assert len(first) == 8 and again == {key: run | {"task": "other"} for key, run in first.items()}  # its seconds, too
    for key, run in again.items():
        path = RunStore(tmp_path / "runs").path_of("other", run["image"], key)
        assert path.with_suffix(".png").exists() and path.with_suffix(".csv").exists()


def test_two_pictures_that_are_called_alike_are_two(toy, tmp_path):
    planned, work = work_of(toy, tmp_path / "runs")
    one = next(run for run in work.run(quietly) if run["genome_key"])
    told = (("a/x.png", 20.0), ("b/x.png", 20.0), ("c/y.png", 32.0))
    runs = [one | {"image": image, "digest": image, "psnr": psnr} for image, psnr in told]
    assert outcomes._row(planned, "tiny", runs, 3)["stopped"] == 24.0


def test_the_command_line_runs_pauses_and_writes(toy, tmp_path, capsys):
    out = ["--out", str(tmp_path / "results")]
    assert main(["reproduce", str(toy), "--budget", "0", *out]) == 0
    assert "0/4" in capsys.readouterr().out
    assert main(["reproduce", str(toy), "--budget", "1e-9s", *out]) == 0
    assert "the time is over" in capsys.readouterr().err
    assert main(["reproduce", str(toy), "--format", "md", "-o", str(tmp_path / "toy.md"), *out]) == 0
    written = (tmp_path / "toy.md").read_text()
    assert written.startswith("# toy\n") and f"Made by `dipsearch reproduce {toy}`" in written and "4/4" in written
    capsys.readouterr()
    assert main(["reproduce", str(toy), "--format", "csv", *out]) == 0
    captured = capsys.readouterr()
    assert "0 fits to do, 8 are stored" in captured.err and captured.out.startswith("row,")
    for wrong, message in (
        (["--budget", "soon"], "such as 9m"),
        (["--part", "2/2"], "write K/N"),
        (["--follow", "network"], "NAME=paper"),
    ):
        assert main(["reproduce", str(toy), *wrong, *out]) == 2
        assert message in capsys.readouterr().err
    assert main(["reproduce"]) == 2


def test_the_list_names_every_table(capsys):
    assert main(["reproduce", "--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == TABLES


@pytest.mark.parametrize("name", ["jpeg"])  # the others: .ci/run
def test_a_built_in_table_runs_from_end_to_end(name, tmp_path, capsys):
    assert main(["reproduce", name, "--scale", "smoke", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "no number means anything" in out and "1/1" in out


# Anchors of the protocols, where the pictures are at hand

needs = lambda *names: pytest.mark.skipif(not has(*names), reason=f"{VARIABLE} does not hold {', '.join(names)}")  # noqa: E731


@needs("dip-figures")
@pytest.mark.parametrize(
    "sigma, clip, expected", [(25, True, 20.36), (25, False, 20.17), (15, True, 24.63), (50, True, 15.11)]
)
def test_noise_levels(sigma, clip, expected):
    import torch

    truth = read("dip-figures:f16")
    noisy = NOISES["gaussian"](truth, torch.Generator().manual_seed(0), NoiseOptions(sigma=sigma, clip=clip))
    assert psnr(noisy, truth, "rgb") == pytest.approx(expected, abs=0.02)


@needs("dip-figures")
@pytest.mark.parametrize("factor, metric, expected", [(4, "rgb", 23.10), (4, "y-border", 24.33), (8, "rgb", 18.55)])
def test_bicubic(factor, metric, expected):
    planned = plan(load_table("lab2-sr"))
    protocol = Protocol(
        planned.task.model_copy(update={"metric": metric}), planned.effort, "full", "reproduce", planned.task.recipe
    )
    (instance,) = protocol.observe(["dip-figures:zebra"], seed=0, repeats=1)
    options = OPERATORS["downsample"](factor=factor, low_resolution="lanczos")
    operator = options.draw(instance.truth, None)
    from dipsearch.baseline import bicubic

    x = bicubic(options.observe(operator, instance.truth), operator, 0)
    assert instance.truth.shape[-2:] == (384, 576)
    assert psnr(x, instance.truth, metric) == pytest.approx(expected, abs=0.02)


@needs("set5", "set14")
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("name", ["set5", "set14"])
def test_bicubic_of_a_published_table(name, factor):
    """The mean of its own row, from the low-resolution pictures that its numbers come from."""
    table = f"{name}-x{factor}"
    planned = plan(load_table(table))
    protocol = Protocol(planned.task, planned.effort, "full", "reproduce", planned.task.recipe)
    instances = protocol.observe(list(planned.task.images.evaluation), seed=0, repeats=1)
    found = [psnr(BASELINES["bicubic"](each.y, each.operator, 0), each.truth, "y-border") for each in instances]
    assert sum(found) / len(found) == pytest.approx(numbers(table, "bicubic")[""].psnr, abs=0.05)


@needs("dip-figures")
@pytest.mark.parametrize("factor, expected", [(4, 39.4), (8, 38.7)])
def test_operator_mismatch(factor, expected):
    planned = plan(load_table("lab2-sr"))
    protocol = Protocol(planned.task, planned.effort, "full", "reproduce", planned.task.recipe)
    (instance,) = protocol.observe(["dip-figures:zebra"], seed=0, repeats=1)
    options = OPERATORS["downsample"](factor=factor, low_resolution="lanczos")
    operator = options.draw(instance.truth, None)
    observed = options.observe(operator, instance.truth)
    assert psnr(operator(instance.truth), observed, "rgb") == pytest.approx(expected, abs=0.1)


@needs("set9", "bernoulli11", "set5", "set14", "dip-figures")
@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_its_pictures(name):
    planned = plan(load_table(name))
    protocol = Protocol(planned.task, planned.effort, "full", "reproduce", planned.task.recipe)
    for instance in protocol.observe(list(planned.task.images.evaluation), seed=0, repeats=1):
        assert min(instance.shape[1:]) >= 64
