"""`dipsearch data`."""

import click

from dipsearch.cli import options


@click.group(name="data")
def data_group() -> None:
    """Data sets of published tables."""


@data_group.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@options.data_dir
def fetch(names: tuple[str, ...]) -> None:
    """Download data sets by name (dipsearch list datasets) and check them.

    What is there already is not asked for again, so the same command goes on after an interruption. Its pictures
    are called SET:PICTURE from then on: --images set9:house, or --images set9: for all of them.
    """
    from dipsearch.cli.terminal import reporting
    from dipsearch.dataset import data_folder, load_dataset
    from dipsearch.dataset import fetch as fetch_files

    folder = data_folder()
    with reporting() as reporter:
        for dataset in map(load_dataset, names):
            reporter.line(f"{dataset.name}: {dataset.source}\nlicence: {dataset.licence}")
            watch = lambda done, total, file: reporter.update(done, total, file)  # noqa: E731
            came = fetch_files(dataset, folder, watch)
            pictures = len(dataset.files)
            reporter.line(f"{len(came)} fetched, {pictures - len(came)} were there, all as published: {folder}")
