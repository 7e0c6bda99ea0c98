"""The command line: parse, call the library, render. Only what a command needs is imported, when it runs."""

import contextlib
import errno
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import click

from dipsearch.cli.bench import bench_group
from dipsearch.cli.compare import compare
from dipsearch.cli.dashboard import dashboard
from dipsearch.cli.data import data_group
from dipsearch.cli.figure import figure
from dipsearch.cli.inspect import explain, export_group, leaderboard, list_command, show
from dipsearch.cli.options import INTERRUPTED, program
from dipsearch.cli.report import report
from dipsearch.cli.reproduce import reproduce
from dipsearch.cli.rerun import rerun
from dipsearch.cli.restore import restore
from dipsearch.cli.runs import runs_group
from dipsearch.cli.search import search
from dipsearch.cli.status import doctor, status
from dipsearch.error import BegunAnew, DipsearchError, UsageError
from dipsearch.run import package_version

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EPIPE)  # nothing can be written any more


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_version("dipsearch"))
def cli() -> None:
    """Find the network architecture that makes the best deep image prior for a restoration task.

    \b
    dipsearch search --task inpaint                     find genomes
    dipsearch rerun --task inpaint --top 3 --seeds 3    judge the best on other pictures
    dipsearch leaderboard --task inpaint                rank them beside the baselines
    dipsearch explain inpaint-dip-quick                 say which genes matter
    dipsearch restore denoise noisy.png                 restore your own pictures
    """


for command in (
    restore,
    search,
    rerun,
    reproduce,
    figure,
    report,
    compare,
    dashboard,
    leaderboard,
    status,
    explain,
    bench_group,
    data_group,
    export_group,
    runs_group,
    doctor,
    list_command,
    show,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # else one that was put there, or none
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's letters do not hold
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Where fits keep the cores busy, the threads of numpy's small factorizations wait for one another: 105 ms for 6.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with _warnings_as_lines():
            code = cli.main(given, prog_name="dipsearch", standalone_mode=False, obj=f"{program()} {shlex.join(given)}")
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except DipsearchError as error:
        click.echo(f"error: {error}", err=True)
        return 2 if isinstance(error, UsageError) else 1
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except ImportError as error:
        if not _interrupted(error):
            raise
        return INTERRUPTED
    except OSError as error:
        if error.errno not in FULL:
            raise
        _silence(sys.stdout)
        click.echo(f"error: standard output, or a file: {error.strerror}", err=True)
        return 1
    return code if isinstance(code, int) else 0


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Our own warnings without the place in the code that Python shows with them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", BegunAnew)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, BegunAnew):
                click.echo(f"warning: {message}", err=True)
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: an import that it breaks off may end in one of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _silence(stream: TextIO | None) -> None:
    """What is not written yet cannot be; Python would try again, and fail, as it ends."""
    with contextlib.suppress(OSError, AttributeError), Path(os.devnull).open("wb") as nowhere:  # there may be no file
        os.dup2(nowhere.fileno(), stream.fileno())  # type: ignore[union-attr]
