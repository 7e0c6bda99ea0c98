"""A report as one HTML page that loads nothing: templates under page/, filled with what `gather` found."""

from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dipsearch.report.gather import gather
from dipsearch.run import package_version

BLANK = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="  # until a page is visited
PICTURES = 6_000_000  # bytes


def page(
    out: Path, tasks: list[str], command: str, *, title: str = "dipsearch report", pictures: int = PICTURES
) -> str:
    """The page of the runs and studies in a folder.

    Args:
        out: with runs/ and studies/.
        tasks: only these; all where there are none.
        command: that makes it, for its foot.
        title: of the page.
        pictures: at most so many bytes of them.

    Raises:
        UsageError: there is nothing to show.
    """
    environment = Environment(
        loader=PackageLoader("dipsearch.report", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    own = {name: Markup(_source(environment, f"{name}")) for name in ("style.css", "script.js")}  # noqa: S704 # ours
    return environment.get_template("report.html.j2").render(
        made=gather(out, tasks, pictures),
        title=title,
        command=command,
        blank=BLANK,
        style=own["style.css"],
        script=own["script.js"],
        version=package_version("dipsearch"),
        made_at=datetime.now(UTC).isoformat(sep=" ", timespec="minutes"),
    )


def _source(environment: Environment, name: str) -> str:
    return environment.loader.get_source(environment, name)[0]  # type: ignore[union-attr]
