"""`dipsearch restore`."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from dipsearch.cli import options
from dipsearch.error import DipsearchError, UsageError

if TYPE_CHECKING:
    from dipsearch.cli.terminal import Reporter
    from dipsearch.restoring.batch import Job
    from dipsearch.restoring.file import Restoration, Settings
    from dipsearch.task import Task

PIPE = "-"  # standard input or output
FEW = 100  # iterations, before which a fit shows hardly more than a mean colour


class Sigma(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """A noise level on the scale of 0…255, or `auto`."""

    name = "sigma"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float | str:
        """To a number, or the word."""
        if value == "auto" or isinstance(value, float):
            return value  # type: ignore[no-any-return]
        try:
            level = float(value)
        except ValueError:
            level = -1.0
        if not 0 < level <= 255:
            self.fail(f"{value!r}: write a number up to 255, or auto", parameter, context)
        return level


@click.command()
@click.argument("task_name", metavar="TASK")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    default="restored",
    show_default=True,
    help="A folder; for one picture, it may be a file, or -: standard output, as PNG or what --ext says.",
)
@click.option("--preset", default="balanced", show_default=True, help="fast, balanced or best.")
@click.option("--genome", metavar="NAME", help="A name or a file; auto: a search on the middle of the picture first.")
@click.option("--iterations", type=click.IntRange(1), help="At most so many, in place of the preset's.")
@click.option("--time-limit", type=options.Duration(positive=True), metavar="TIME", help="Of each picture: 90, 9m, 2h.")
@click.option("--ensemble", type=click.IntRange(1, 64), help="The mean of so many fits.")
@click.option("--stop", metavar="RULE", help="When to stop, in place of the preset's rule.")
@click.option(
    "--sigma",
    type=Sigma(),
    help="Level of the noise, where the fit stops, of 255 (of floats: of their range); auto: estimated.",
)
@click.option("--mask", metavar="FILE", help="White where pixels are missing; or alpha: what is transparent.")
@click.option("--invert-mask", is_flag=True, help="Black is missing.")
@click.option("--factor", type=click.Choice(["2", "4", "8"]), help="sr: so many times larger.  [default: the task's]")
@click.option("--reference", metavar="CLEAN", help="The clean picture, only to print PSNR and SSIM.")
@click.option("--max-side", type=click.IntRange(16), help="Larger pictures are shrunk to so many pixels a side.")
@click.option("--tile", type=click.IntRange(64), help="Pixels a side of tiles.  [default: 512, or as memory allows]")
@click.option("--compare", is_flag=True, help="Write before and after, too: RESULT.compare.png.")
@click.option(
    "--preview-every",
    type=options.Duration(positive=True),
    metavar="TIME",
    help="Show how far it is: RESULT.unfinished/preview.png.",
)
@click.option("-r", "--recursive", is_flag=True, help="Folders within folders, too.")
@click.option("--suffix", default="", help="Added to the names of the results.")
@click.option("--ext", "extension", default="", metavar="EXT", help="Of the results: png, tif, …  [default: as it was]")
@click.option("--resume", is_flag=True, help="Go on: what is done with the same settings stays.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each picture on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing while it works.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Of the processor.  [default: all]")
@options.precision
@options.seed
@options.device
@click.pass_obj
def restore(
    command: str,
    task_name: str,
    inputs: tuple[str, ...],
    output: str,
    preset: str,
    genome: str | None,
    iterations: int | None,
    time_limit: float | None,
    ensemble: int | None,
    stop: str | None,
    sigma: float | str | None,
    mask: str | None,
    invert_mask: bool,
    factor: str | None,
    reference: str | None,
    max_side: int | None,
    tile: int | None,
    compare: bool,
    preview_every: float | None,
    recursive: bool,
    suffix: str,
    extension: str,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    threads: int | None,
    precision: str | None,
    seed: int,
    device: str,
) -> int:
    """Restore your own pictures: files, folders, patterns, or - for standard input.

    \b
    dipsearch restore denoise noisy.png
    dipsearch restore inpaint torn.tif --mask holes.png -o whole.tif
    dipsearch restore sr small/ --factor 4 -o large/
    dipsearch restore jpeg old.jpg --preset best --compare

    TASK is denoise, inpaint, region, sr, jpeg or a YAML file. A result has the form of its picture: size, depth,
    colours, transparency, profile. Beside it, a .json file says how it was made.
    """
    import torch

    from dipsearch.cli.terminal import reporting
    from dipsearch.fitting.device import pick_device
    from dipsearch.restoring.batch import bad_paths, ending_of, jobs
    from dipsearch.restoring.file import Settings
    from dipsearch.restoring.masks import ALPHA
    from dipsearch.search.executor import Here

    if not output:
        raise UsageError("--output: an empty name")
    if resume and overwrite:
        raise UsageError("--resume keeps what is done, --overwrite replaces it: choose one")
    read = _read({"--mask": None if mask == ALPHA else mask, "--reference": reference})
    task = _task(task_name, factor, mask, invert_mask=invert_mask)
    pick_device(device)  # an unknown one is told before all else
    if threads is not None:
        torch.set_num_threads(threads)
    recipe = {
        "iterations": iterations, "time_limit": time_limit, "ensemble": ensemble, "stop": stop,
        "precision": precision,
    }  # fmt: skip
    settings = Settings(task, preset, genome, recipe, sigma, mask, invert_mask, max_side, tile, seed, device, reference)
    settings.possible()  # a wrong name or value is told before all else
    if output == PIPE and (compare or preview_every):
        raise UsageError(
            f"--{'compare' if compare else 'preview-every'}: a file, but the result goes to standard output"
        )
    if output.endswith(("/", os.sep)) and not Path(output).exists():
        with bad_paths():
            Path(output).mkdir(parents=True)
    given = (*inputs, output)
    ending = ending_of(extension) if extension else ""
    with _piped(inputs, output, ending or ".png") as (inputs, place, result):
        ending = ending if result is None else ""  # of a file in a folder
        work = jobs(inputs, place, recursive=recursive, suffix=suffix, extension=ending, read=read, compare=compare)
        if given[0] == PIPE:
            work = [replace(job, label=PIPE) for job in work]
        if reference is not None and len(work) > 1:
            raise UsageError("--reference: the clean picture of one picture, but there are several")
        if overwrite:
            _begin(work, settings, compare=compare)
        else:
            for job in work:
                _refuse_to_replace(job, settings, resume=resume, compare=compare)
        with reporting(quiet=quiet) as reporter:
            reporter.warn_of_emulation(Here(), precision, device)
            batch = _Batch(reporter, settings, work, resume, overwrite, compare, preview_every, as_json, result)
            try:
                failures = batch.run()
            except KeyboardInterrupt:
                batch.keep_best(None if PIPE in given else command)
                failures = None
        if result is not None and result.exists():
            _print(result.read_bytes())
    if failures is None:
        return options.INTERRUPTED
    for failure in failures:
        click.echo(f"failed: {failure}", err=True)
    return 1 if failures else 0


def _read(named: dict[str, str | None]) -> list[Path]:
    """The files that options name; UsageError where there is none."""
    from dipsearch.restoring.batch import bad_paths

    files = {option: Path(path) for option, path in named.items() if path is not None}
    with bad_paths():
        for option, path in files.items():
            if not path.is_file():
                raise UsageError(f"{option}: {path}: {'not a file' if path.exists() else 'no such file'}")
    return list(files.values())


def _task(name: str, factor: str | None, mask: str | None, *, invert_mask: bool) -> "Task":
    """The task by its name; UsageError where an option is not for it, or one is missing."""
    from dipsearch.operator import DownsampleOptions, MaskOptions
    from dipsearch.task import load_task

    task = load_task(name)
    masked = isinstance(task.operator.options, MaskOptions)
    if masked and mask is None:
        raise UsageError("which pixels are missing? --mask FILE, white where they are, or --mask alpha")
    given = {"--mask": mask is not None, "--invert-mask": invert_mask}
    if not masked and any(given.values()):
        raise UsageError(f"{next(filter(given.get, given))}: the task {task.name} takes none")
    if factor is None:
        return task
    if not isinstance(task.operator.options, DownsampleOptions):
        raise UsageError(f"--factor: the task {task.name} takes none")
    return task.with_operator(factor=int(factor))


@contextmanager
def _piped(inputs: tuple[str, ...], output: str, ending: str) -> Iterator[tuple[tuple[str, ...], Path, Path | None]]:
    """Files in place of standard input and output (`-`), and the one that is to be printed, if any, with an ending that
    says its format."""
    if PIPE not in (*inputs, output):
        yield inputs, Path(output), None
        return
    if len(inputs) > 1:
        raise UsageError("-: standard input or output is one picture, but there are several inputs")
    with TemporaryDirectory() as folder:
        if inputs[0] == PIPE:
            if sys.stdin is None:
                raise UsageError("-: there is no standard input")
            given = Path(folder) / "stdin.png"  # whatever it is: the content tells
            given.write_bytes(sys.stdin.buffer.read())
            inputs = (str(given),)
        printed = Path(folder) / f"stdout{ending}"
        yield (inputs, printed, printed) if output == PIPE else (inputs, Path(output), None)


def _print(text: str | bytes) -> None:
    """On standard output; DipsearchError where it is full or closed."""
    try:
        click.echo(text, nl=False)
    except OSError as error:
        raise DipsearchError(f"standard output: {error.strerror}") from None


def _refuse_to_replace(job: "Job", settings: "Settings", *, resume: bool, compare: bool) -> None:
    """UsageError where a file exists that is not what goes on here."""
    there = job.in_the_way(settings, resume=resume, compare=compare)
    if there is not None:
        how = "was made otherwise" if resume else "--resume keeps what is done"
        raise UsageError(f"{there} exists; {how}, --overwrite replaces it")


def _begin(work: list["Job"], settings: "Settings", *, compare: bool) -> None:
    """Make the folder of each picture whose result is to be replaced, by which --resume knows that it may be."""
    for job in work:
        with suppress(DipsearchError):  # told when it is that picture's turn
            if job.in_the_way(settings, resume=True, compare=compare):
                job.prepare(settings.identity(job.source))


@dataclass
class _Batch:
    """Pictures that are restored one after the other, and what is said of it.

    `printed` is the result that goes to standard output, which has no place for words then.
    """

    reporter: "Reporter"
    settings: "Settings"
    work: list["Job"]
    resume: bool
    overwrite: bool
    compare: bool
    preview_every: float | None
    as_json: bool
    printed: Path | None
    now: "Restoration | None" = None
    seen: float = 0.0

    def run(self) -> list[str]:
        """Restore all, and give back what failed, a line each."""
        failures = []
        for number, job in enumerate(self.work):
            try:
                told = self._restore(number, job)
            except DipsearchError as error:
                failures.append(_one_line(job, error))
                with suppress(DipsearchError):  # a file that cannot be read
                    job.leave(self.settings.identity(job.source))
                if number + 1 < len(self.work):  # all are listed at the end
                    self.reporter.line(f"failed: {failures[-1]}")
                if self.as_json:
                    self._say(json.dumps({"input": job.name, "error": failures[-1]}))
                continue
            if self.as_json:
                self._say(json.dumps(told or json.loads(job.record.read_text(encoding="utf-8"))))
            elif told is not None and self.printed is None:
                self._say(str(job.target))
        return failures

    def _say(self, line: str) -> None:
        if self.printed is None:
            _print(f"{line}\n")
        else:
            click.echo(line, err=True)

    def _restore(self, number: int, job: "Job") -> dict[str, Any] | None:
        """The record of a picture; None where it is done already."""
        from dipsearch.restoring.file import Restoration

        self.now, self.seen = None, time.monotonic()
        if self.resume and job.target.exists() and job.done(self.settings.identity(job.source)):
            job.tidy()  # what a kill between the last two steps left
            lacking = ", without --compare" if self.compare and not job.strip.exists() else ""
            judged = self.settings.reference is None or "psnr" in json.loads(job.record.read_text(encoding="utf-8"))
            lacking += "" if judged else ", without --reference"
            self.reporter.line(f"{job.target}: done already{lacking}")
            return None
        if not self.overwrite:  # again: other pictures may have taken hours, in which another process made this one
            _refuse_to_replace(job, self.settings, resume=self.resume, compare=self.compare)
        self.now = Restoration(job, self.settings, self.reporter.trial, self.compare)
        with job.alone():
            told = self._placed(self.now.run(lambda now, share: self._tell(now, number, share)))
        self.reporter.line(_summary(job, told))
        return told

    def _placed(self, told: dict[str, Any]) -> dict[str, Any]:
        """A record with the place that the user named."""
        return told if self.printed is None else told | {"output": PIPE}

    def _tell(self, now: "Restoration", number: int, share: float) -> None:
        text = f"{number + 1}/{len(self.work)}  {Path(now.job.name).name}  {now.state}"
        self.reporter.update(number + share, len(self.work), text, "at most ")  # a rule may end a fit sooner
        if self.preview_every and time.monotonic() - self.seen > self.preview_every:
            with suppress(DipsearchError):  # a full disk; the picture may yet be written
                now.preview()
            self.seen = time.monotonic()

    def keep_best(self, command: str | None) -> None:
        """Write the best so far, and say how to go on, where a command does."""
        kept = "nothing of this picture is done yet"
        name = "the result" if self.printed is not None or self.now is None else str(self.now.job.target)
        if self.now is not None and self.now.complete:
            kept = f"{name} is done"
        elif self.now is not None and self.now.answers:
            told = self.now.write({"complete": False, "stop_reason": ["interrupted"]})
            if self.as_json:
                self._say(json.dumps(self._placed(told)))
            kept = f"{name} is the best so far"
        if command is None:
            self.reporter.line(f"\ninterrupted; {kept}")
            return
        again = command.replace(" --overwrite", "")
        if not self.resume:  # at the front: what follows a -- is a file
            again = again.replace(" restore ", " restore --resume ", 1)
        self.reporter.line(f"\ninterrupted; {kept}. Go on with:\n  {again}")


def _one_line(job: "Job", error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{job.name}: {text.removeprefix(f'{job.source}: ')}"


def _summary(job: "Job", told: dict[str, Any]) -> str:
    """What came of a picture. How well it explains what was given is called fit: PSNR needs the clean one."""
    judged = f"PSNR {told['psnr']:.2f} dB  SSIM {told['ssim']:.3f}" if "psnr" in told else ""
    noise = "" if told["sigma"] is None else f"sigma {told['sigma']:.1f}"
    parts = f"{told['tiles']} tiles" if told["tiles"] > 1 else ""
    done = max(told["iterations"])
    stopped = f"stopped at {done} ({', '.join(told['stop_reason'])})"
    if "time-limit" in told["stop_reason"] and done < FEW:
        stopped += ": too few to show anything; allow more time, or shrink the picture with --max-side"
    words = (told["output"], stopped, f"fit {told['fit_db']:.2f} dB", judged, noise, parts, *told["notes"])
    return "  ".join(word for word in (*words, f"{told['seconds']:.0f} s") if word)
