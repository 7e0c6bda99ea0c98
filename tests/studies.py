"""What several files of tests share: a small task and space, searches of them, and their runs."""

import yaml

from dipsearch.run import RunStore
from dipsearch.search.settings import Settings
from dipsearch.search.study import Search
from dipsearch.space import load_space
from dipsearch.task import choose_effort, load_task

GENES = {
    "depth": [1, 2],
    "kernel": [1, 3],
    "upsample": ["nearest", "bilinear"],
    "activation": ["leaky-relu", "relu", "swish", "elu"],
    "channels": [2, 4],
}
PLAIN = {"sampler": "random", "pruner": "none"}  # a search whose trials do not depend on one another
TEMPLATE = {
    "depth": "$depth",
    "channels_down": 4,
    "channels_up": 4,
    "channels_skip": 0,
    "kernel_down": "$kernel",
    "upsample": "$upsample",
    "activation": "$activation",
    "input": {"kind": "noise", "channels": "$channels"},
}


def write(path, data):
    path.write_text(yaml.safe_dump(data))
    return path


def write_task(room, name="task", *, search=2, effort=None, recipe=None, bench=None, **fields):
    task = {
        "about": "a test",
        "operator": {"name": "identity"},
        "noise": {"name": "gaussian", "sigma": 25},
        "metric": "rgb",
        "genome": str(room / "published.yaml"),
        "baselines": ["observation", "total-variation"],
        "images": {
            "search": [str(room / f"{number}.png") for number in range(search)],
            "evaluation": [str(room / "6.png"), str(room / "7.png")],
        },
        "recipe": {"iterations": 16, "input_noise": 0.01} | (recipe or {}),
        "search": {"quick": {"trials": 4, "timeout": 600, "size": 16, "start_up": 100} | (effort or {})},
        "rerun": {"quick": {"size": 16, "seeds": 2}},
    }
    if bench is not None:
        task["search"]["bench"] = bench
    return write(room / f"{name}.yaml", task | fields)


def write_space(room, name="space", genes=None, template=None, start=(), recipe=None):
    genes = GENES if genes is None else genes
    template = TEMPLATE if template is None else template
    data = {"about": "a test", "genes": genes, "templates": {"hourglass": template}, "start": [str(s) for s in start]}
    return write(room / f"{name}.yaml", data | ({"recipe": recipe} if recipe else {}))


def search_in(room, *, task="task", space="space", study="study", out="out", trials=None, seed=0, **settings):
    loaded = load_task(str(room / f"{task}.yaml"))
    effort = choose_effort(loaded.search, "quick").changed(trials=trials)
    named = ("sampler", "pruner", "goals", "screen", "start", "around")
    wanted = {name: settings.pop(name) for name in named if name in settings}
    space = load_space(str(room / f"{space}.yaml"))
    chosen = Settings(loaded, space, "quick", effort, seed, device="cpu", **wanted)
    return Search(chosen, room / out / "studies" / study, RunStore(room / out / "runs"), **settings)


def searched(room, **settings):
    """Run a search to its end, and give it with its trials."""
    work = search_in(room, **settings)
    with work.opened():
        assert work.run() == "done"
        trials = work._study.get_trials()
        work.pruned = work.standing.given_up()
    return work, trials


def runs_in(room, out="out", task="task"):
    runs, broken = RunStore(room / out / "runs").load(task)
    assert broken == []
    return runs


def values_of(trials):
    return [(trial.state.name, trial.params, trial.value) for trial in trials]
