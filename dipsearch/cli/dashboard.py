"""`dipsearch dashboard`."""

from pathlib import Path

import click

from dipsearch.cli import options


@click.command()
@click.argument("study")
@click.option("--host", default="127.0.0.1", show_default=True, help="Others than this machine can look at 0.0.0.0.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@options.out
def dashboard(study: str, host: str, port: int, out: Path) -> None:
    """Look at a study in optuna-dashboard, with its restored pictures as artifacts.

    STUDY is a study's name, or a folder with a study.db. A copy is shown, as of now: a search at work is not disturbed,
    and the same command shows what came since.
    """
    from dipsearch.error import DipsearchError
    from dipsearch.report.dashboard import prepare
    from dipsearch.run import RunStore
    from dipsearch.search.evidence import find_study

    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise DipsearchError("the dashboard needs its package: pip install 'dipsearch[dashboard]'") from None
    url, artifacts, added = prepare(find_study(out / "studies", study), RunStore(out / "runs"))
    click.echo(f"{added} pictures; http://{host}:{port} shows the study until Ctrl-C")
    try:
        run_server(url, host=host, port=port, artifact_store=artifacts)
    except OSError as error:
        raise DipsearchError(f"{host}:{port}: {error.strerror or error}; --port takes another") from None
