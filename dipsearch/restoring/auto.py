"""`--genome auto`: a search on the damaged picture itself, before it is restored."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from dipsearch.atomic import write_atomically
from dipsearch.catalog import dump_yaml
from dipsearch.error import DipsearchError, TooLittle, UsageError
from dipsearch.genome import parse_genome
from dipsearch.image import is_utf8, write_png
from dipsearch.leaderboard import search_ranking
from dipsearch.photo import blank, save_photo
from dipsearch.restoring.choice import Choice
from dipsearch.run import RunStore
from dipsearch.search.goals import HOLD_OUT
from dipsearch.search.settings import Settings
from dipsearch.search.study import Event, Search
from dipsearch.space import load_space
from dipsearch.task import Task, choose_effort

PRESET = "quick"
SPACE = "small"
TILE = 160  # pixels a side: what is found on small pieces of a picture cannot hold a large one


def genome_for(
    task: Task,
    y: Tensor,
    known: Tensor | None,
    usual: Choice,
    folder: Path,
    *,
    about: str,
    seed: int,
    device: str,
    timeout: float | None = None,
    watch: Callable[[Event], None] = lambda event: None,
) -> Path | None:
    """Search for the genome that predicts known pixels of this picture best, and write it to a file in `folder`.

    The same arguments go on with a search that was interrupted, and look up one that has ended.

    Args:
        task: what is to be undone.
        y: the observation, (1, C, H, W) in [0, 1]; the search sees it with 16 bits.
        known: 1 where a pixel is known, (1, 1, H, W), if some are missing.
        usual: what would be taken without a search; it is tried first, if the space has it.
        folder: of the study; the same one, however it is spelled.
        about: what the picture is called.
        seed: of the study.
        device: where fits run.
        timeout: seconds, after which no trial starts; one may be predicted to take a third of them. None: as the
            preset says. Fits that were made before an interruption count.
        watch: told every Event of the search.

    Returns:
        The file; None: no genome could be fitted in that time, or a search cannot see enough of the picture.

    Raises:
        DipsearchError: no genome could be fitted.
        UsageError: a path that is no UTF-8.
    """
    folder = folder.resolve()  # the study is that of a path, and is gone on with from any folder
    if not is_utf8(folder):
        raise UsageError("--genome auto keeps runs by their names, and this one is no UTF-8; rename it")
    file, none = folder / "genome.yaml", folder / "none-found"  # the latter: so that going on gives the same picture
    if file.exists():
        return file
    if none.exists():
        return None
    picture, mask = folder / "picture.tif", folder / "mask.png"
    save_photo(y, picture, blank(y))
    if known is not None:
        write_png(1 - known, mask)
    damaged = task.with_images("search", [str(picture)]).without_truth(None if known is None else str(mask))
    effort = choose_effort(damaged.search, PRESET)
    iterations = min(task.recipe_for(effort).iterations, usual.recipe.iterations)
    space, store = load_space(SPACE), RunStore(folder / "runs")
    spent = sum(run["seconds"] or 0.0 for run in store.load(task.name)[0])
    effort = effort.changed(
        HOLD_OUT | {"iterations": iterations},
        timeout=max((effort.timeout if timeout is None else timeout) - spent, 1e-3),
        max_seconds=None if timeout is None else max(timeout / 3, 1e-3),
    )
    settings = Settings(damaged, space, PRESET, effort, seed, device=device, goals=("held-out",), start=(usual.genome,))
    study = folder / "study"
    try:
        work = Search(settings, study, store, resume=(study / "study.db").exists(), watch=watch)
    except TooLittle:  # in the part that a search sees
        none.touch()
        return None
    with work.opened():
        work.run()
    ranking = search_ranking(store, task.name, work.protocol.scope(work.instances))
    if ranking.empty and timeout is not None:
        none.touch()
        return None
    if ranking.empty:
        raise DipsearchError(f"{about}: no genome of the space {SPACE} could be fitted to it")
    best = ranking.iloc[0]
    data = {
        "about": f"found by dipsearch for {about} ({best['name']} of {len(ranking)})",
        **({"recipe": best["recipe_changes"]} if best["recipe_changes"] else {}),
        "genome": parse_genome(best["genome"]).data(),
    }
    write_atomically(file, lambda temporary: temporary.write_text(dump_yaml(data), encoding="utf-8"))
    return file
