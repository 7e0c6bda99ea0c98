"""Figures: their fits, what is kept of them, and the files."""

import time

import pytest
import torch
from fits import GENOME, picture
from PIL import Image
from torch.nn.functional import avg_pool2d

from dipsearch.cli import main
from dipsearch.error import Diverged, Paused, UsageError
from dipsearch.fitting.engine import fit
from dipsearch.fitting.recipe import Recipe
from dipsearch.frames import frame, iterations, read_strip, write_strip
from dipsearch.image import read
from dipsearch.network.build import build
from dipsearch.operator import Downsample, Mask
from dipsearch.reproduce.comparison import traces
from dipsearch.reproduce.figures import FIGURES, RATES, Scene, progress, scene
from dipsearch.reproduce.trace import Trace, watch
from dipsearch.run import read_run
from dipsearch.search.evaluation import Protocol
from dipsearch.search.rerun import Candidate
from dipsearch.seed import seed_of
from dipsearch.task import load_task

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


def test_the_mean_of_several_fits_is_watched_as_one(tmp_path):
    several = trace(recipe={"ensemble": 2})
    watched = watch(several, tmp_path, device="cpu")
    expected = fit(GENOME, Y, recipe=several.recipe, device="cpu").x
    assert len(watched.losses) == 35 and torch.equal(watched.frames[35], expected)
    assert not torch.equal(expected, watch(trace(), tmp_path, device="cpu").frames[35])


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


def test_a_fit_that_fails_is_left_out_of_its_figure(tmp_path, monkeypatch, capsys):
    def failing(trace, folder, **options):
        if trace.label == "learning rate 0.1" or everything:
            raise Diverged("rolled back 20 times")
        return watch(trace, folder, **options)

    drawn, everything = [], False
    monkeypatch.setattr("dipsearch.reproduce.trace.watch", failing)
    monkeypatch.setattr("dipsearch.report.panels.draw_cells", lambda rows, path: drawn.extend(rows))
    given = ["figure", "learning-rates", "--size", "32", "--share", "0.001", "--out", str(tmp_path)]
    assert main(given) == 1
    (cells,) = drawn
    assert len(cells) == 2 + len(RATES) - 1
    assert "failed: learning rate 0.1: rolled back 20 times" in capsys.readouterr().err
    everything = True
    assert main(given) == 1
    assert len(drawn) == 1


def test_the_untrained_are_untrained():
    traces = FIGURES["samples"].traces(scene(FIGURES["samples"], size=32), 1)
    first = traces[0]
    net = build(first.genome, 3, seed=seed_of(0, "weights")).train()
    answer = fit(first.genome, first.y, recipe=first.recipe, device="cpu", precision="float32", guide=first.guide).x
    torch.testing.assert_close(answer, net(first.guide).detach(), atol=1e-4, rtol=1e-3)
    assert len(traces) == 15 and {each.seed for each in traces} == {0, 1, 2}
    assert all(torch.equal(each.guide, first.guide) for each in traces)  # of one z, as in the paper
    assert 0.09 < first.guide.max() < 0.1 and first.guide.min() >= 0


def test_the_published_budgets():
    seen = scene(FIGURES["inputs"], size=32)
    budgets = {name: {each.recipe.iterations for each in figure.traces(seen, 1)} for name, figure in FIGURES.items()}
    assert budgets == {
        "noise-impedance": {2400}, "samples": {1}, "architectures": {3000}, "inputs": {5000}, "learning-rates": {5000},
        "jpeg": {2400}, "flash": {600}, "enhancement": {7000},
    }  # fmt: skip
    assert FIGURES["enhancement"].traces(seen, 1)[0].at == (250, 500, 2500, 7000)
    assert [each.recipe.learning_rate for each in FIGURES["learning-rates"].traces(seen, 1)] == list(RATES)
    targets = FIGURES["noise-impedance"].traces(seen, 1)
    assert torch.equal(targets[2].y.flatten().sort().values, seen.x.flatten().sort().values)  # the same pixels
    assert len({each.key for each in targets}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_only_denoising_goes_back_where_its_loss_rises(name):
    """Of the released code; where nothing is noise, fits come so near that their loss jumps by more than that."""
    made = FIGURES[name].traces(Scene(Y, Y), 0.01)
    kept = {"noise-impedance", "jpeg", "samples"}  # the last of one iteration
    assert {trace.recipe.rollback for trace in made} == {5.0 if name in kept else 100.0}


def test_losses_are_printed_beside_their_curves(tmp_path, capsys):
    assert main(["figure", "noise-impedance", "--size", "32", "--share", "0.01", "--out", str(tmp_path)]) == 0
    head, *rows, _ = capsys.readouterr().out.splitlines()
    assert head.split() == ["fitted", "to", "loss", "at", "2", "loss", "at", "10", "loss", "at", "20"]
    assert [row.split("  ")[0] for row in rows] == ["picture", "picture + noise", "pixels shuffled", "white noise"]
    losses = [[float(word) for word in row.split()[-3:]] for row in rows]
    assert losses[0][2] < losses[3][2] and all(first > last for first, _, last in losses)  # noise is fitted last


def test_the_flash_picture_is_the_input_and_the_dark_one_is_fitted():
    dark, bright = picture(seed=1, channels=3), picture(seed=2, channels=3)
    (made,) = FIGURES["flash"].traces(Scene(dark, bright), 1)
    assert torch.equal(made.y, dark) and torch.equal(made.guide, bright)
    assert made.genome.input.kind == "guide" and made.recipe.learning_rate == 0.1 and made.recipe.input_noise == 0
    (simulated,) = FIGURES["flash"].traces(Scene(bright), 1)
    assert simulated.y.mean() < 0.6 * bright.mean() and simulated.key != made.key
    assert Trace("", made.genome, dark, made.recipe, guide=dark).key != Trace("", made.genome, dark, made.recipe).key


def test_a_pair_is_cut_alike_and_has_to_be_of_one_size(tmp_path):
    one, other, small = (tmp_path / name for name in ("one.png", "other.png", "small.png"))
    for path, size in ((one, (70, 40)), (other, (70, 40)), (small, (40, 40))):
        Image.effect_noise(size, 50).convert("RGB").save(path)
    pair = scene(FIGURES["flash"], str(one), guide=str(other))
    assert pair.x.shape == pair.guide.shape == (1, 3, 32, 64)
    assert torch.equal(pair.guide, scene(FIGURES["flash"], str(other)).x)
    with pytest.raises(UsageError, match="in the same size, not 70x40 and 40x40"):
        scene(FIGURES["flash"], str(one), guide=str(small))


def test_a_figures_own_picture_is_shrunk_and_whole():
    figure, whole = FIGURES["jpeg"], read("skimage:astronaut")
    assert torch.equal(scene(figure).x, avg_pool2d(whole, 2))
    assert torch.equal(scene(figure, shrink=4).x, avg_pool2d(whole, 4))
    assert torch.equal(scene(figure, "skimage:astronaut").x, whole[..., 128:384, 128:384])
    with pytest.raises(UsageError, match="coffee: shrunk by 16, too small for a figure: at least 32 pixels") as error:
        scene(figure, "skimage:coffee", shrink=16)
    assert "\n" not in str(error.value)


# Progress of a run


def test_the_progress_of_a_run_is_drawn(tmp_path, capsys):
    table = ["reproduce", "jpeg", "--scale", "smoke", "--out", str(tmp_path)]
    assert main(table) == 0
    record = next(path for path in (tmp_path / "runs" / "jpeg").glob("*.json") if read_run(path)["genome_key"])
    made = tmp_path / "progress.png"
    capsys.readouterr()
    assert main(["figure", "progress", "--run", str(record), "-o", str(made)]) == 0
    assert f"written: {made}" in capsys.readouterr().out and made.stat().st_size > 1000
    ((cell,),) = progress(record)
    run = read_run(record)
    assert cell.label == f"3 iterations\n{run['final_psnr']:.2f} dB" and cell.x.shape == (1, 3, 32, 32)
    record.with_suffix(".frames.png").unlink()
    assert main(["figure", "progress", "--run", str(record), "-o", str(made)]) == 2
    assert "has no progress frames" in capsys.readouterr().err


def test_frames_are_those_of_the_iterations(tmp_path):
    assert iterations(5) == [5] and iterations(30) == [10, 30] and iterations(301) == [10, 30, 100, 300, 301]
    seen = [frame(picture(seed=seed, height=20, width=30)) for seed in range(2)]
    write_strip(seen, tmp_path / "run.frames.png")
    read = read_strip(tmp_path / "run.json", {"iterations": 30})
    assert list(read) == [10, 30]
    for one, other in zip(seen, read.values(), strict=True):
        assert torch.equal((other[0].movedim(0, 2) * 255).round().to(torch.uint8), one)
    assert frame(torch.zeros(1, 1, 300, 200)).shape == (128, 85, 1)
    with pytest.raises(UsageError, match="not the frames of a run of 3001"):
        read_strip(tmp_path / "run.json", {"iterations": 3001})
    (tmp_path / "run.frames.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="not a readable picture"):
        read_strip(tmp_path / "run.json", {"iterations": 30})


def test_unkind_input(tmp_path, capsys):
    for wrong, message in (
        (["figure"], "which figure"),
        (["figure", "monalisa"], "unknown figure 'monalisa'; choose from: architectures, enhancement, flash"),
        (["figure", "jpeg", "-o", str(tmp_path / "x.gif")], "a picture ends in"),
        (["figure", "jpeg", "--share", "0"], "share"),
        (["figure", "jpeg", "--guide", "skimage:rocket"], "--guide is for the figure flash"),
        (["figure", "jpeg", "--run", "x.json"], "--run is for the figure progress"),
        (["figure", "progress"], "progress of which run?"),
        (["figure", "progress", "--run", "x.json", "--share", "0.5"], "--share: not for the figure progress"),
        (["figure", "progress", "--run", "x.json", "--picture", "y.png"], "--picture: not for the figure progress"),
        (["figure", "progress", "--run", str(tmp_path / "none.json")], "not the record of a run"),
        (["figure", "jpeg", "--picture", str(tmp_path / "none.png")], "none.png"),
    ):
        assert main([*wrong, *(["--out", str(tmp_path)] if len(wrong) > 1 else [])]) == 2
        assert message in capsys.readouterr().err
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


# Genomes side by side


@pytest.mark.slow
def test_genomes_are_drawn_side_by_side(tmp_path, capsys):
    given = [
        "compare",
        "denoise-small",
        "deep-decoder",
        "--task",
        "denoise",
        "--iterations",
        "3",
        "--out",
        str(tmp_path),
    ]
    assert main(given) == 0
    made = tmp_path / "figures" / "compare-denoise.png"
    assert f"written: {made}" in capsys.readouterr().out
    with Image.open(made) as drawn:
        assert drawn.width > 1.5 * drawn.height  # two pictures by original, observation and two genomes
    before = sorted((tmp_path / "figures" / "fits").glob("*.pt"))
    assert len(before) == 4
    assert main([*given, "-o", str(tmp_path / "x.pdf")]) == 0  # of the same fits
    assert sorted((tmp_path / "figures" / "fits").glob("*.pt")) == before and (tmp_path / "x.pdf").stat().st_size > 1000


def test_a_genome_that_cannot_be_fitted_is_grey_and_the_others_are_drawn(tmp_path, monkeypatch, capsys):
    def failing(trace, folder, **options):
        if trace.label == "deep-decoder":
            raise Diverged("the loss is not a finite number")
        return watch(trace, folder, **options)

    drawn = []
    monkeypatch.setattr("dipsearch.reproduce.trace.watch", failing)
    monkeypatch.setattr("dipsearch.report.panels.draw_cells", lambda rows, path: drawn.extend(rows))
    given = ["compare", "deep-decoder", "denoise-small", "--task", "denoise", "--picture", "skimage:chelsea"]
    assert main([*given, "--size", "32", "--iterations", "1", "--out", str(tmp_path)]) == 1
    ((original, _, failed, fitted),) = drawn
    assert failed.label == "deep-decoder\nfailed" and (failed.x == 0.5).all() and failed.x.shape == original.x.shape
    assert fitted.label.startswith("denoise-small\n") and fitted.x.std() > 0
    assert "failed: deep-decoder on skimage:chelsea: the loss" in capsys.readouterr().err


@pytest.mark.slow
def test_a_table_is_compared_at_another_size_and_by_the_other_side(tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text(
        "{about: a, source: s, task: region, images: ['skimage:chelsea'], multiple_of: 16, found: false,"
        " recipe: {iterations: 3}, baselines: [], rows: {depth 2: {genome: dip-library-2}}, differences: {network: "
        " {about: d, code: {genomes: {dip-library-2: dip-library-paper-2}}}}}"
    )
    given = ["compare", "--table", str(table), "--shrink", "4", "--size", "60", "--out", str(tmp_path)]
    assert main(given) == 0
    fits = tmp_path / "figures" / "fits"
    (before,) = fits.glob("*.pt")
    assert torch.load(before, weights_only=True)["frames"][3].shape == (1, 3, 48, 48)
    assert main([*given, "--follow", "network=code"]) == 0
    assert len(list(fits.glob("*.pt"))) == 2  # of another network


def test_a_comparison_is_that_of_its_task():
    task = load_task("denoise")
    protocol = Protocol(task, task.rerun["quick"], "quick", "compare", Recipe(iterations=20))
    (instance,) = protocol.observe(["skimage:astronaut"], seed=0, repeats=1)
    (made,) = traces(protocol, {"tiny": Candidate(GENOME, {"learning_rate": 0.02})}, instance)
    assert torch.equal(made.y, instance.y) and torch.equal(made.truth, instance.truth) and made.seed == instance.seed
    assert (made.recipe.learning_rate, made.recipe.iterations, made.recipe.stop) == (0.02, 20, "fixed")
    own = {"stop": "discrepancy", "sigma": 25, "time_limit": 0.1}  # it runs to the end of its budget all the same
    (made,) = traces(protocol, {"tiny": Candidate(GENOME, own)}, instance)
    assert (made.recipe.stop, made.recipe.sigma, made.recipe.time_limit) == ("fixed", None, None)


def test_fits_to_two_sizes_are_two():
    traces = [Trace("", GENOME, Y, Recipe(), Downsample(factor)) for factor in (2, 4)]
    assert traces[0].key != traces[1].key


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--task", "denoise"], "which genomes?"),
        (["--task", "denoise", "nobody"], "nobody"),
        (["--task", "nothing", "dip-denoise"], "nothing"),
        (["--task", "denoise", "dip-denoise", "-o", "x.gif"], "a picture ends in"),
        (["--task", "denoise", "dip-denoise", "--follow", "network=code"], "for a published table"),
        (["dip-denoise"], "which pictures?"),
        (["--table", "region-library", "--task", "denoise"], "--task and --table: the pictures of one of them"),
        (["--table", "region-library", "--preset", "quick"], "--preset: of a task"),
        (["--task", "denoise", "dip-denoise", "--preset", "sgld", "--iterations", "20"], "burn"),
        (["--table", "region-library", "--follow", "network"], "NAME=paper"),
        (["--table", "region-library", "--follow", "network=book"], "book"),
    ],
)
def test_a_comparison_of_nothing_is_an_error(tmp_path, capsys, given, message):
    assert main(["compare", *given, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
