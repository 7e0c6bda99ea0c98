"""What a search wants of a genome: the quality of its pictures, and costs beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dipsearch.error import UsageError, unknown


@dataclass(frozen=True)
class Goal:
    """A number of a run that a search maximizes or minimizes; its mean over runs is what counts."""

    direction: Literal["maximize", "minimize"]
    of: Callable[[dict[str, Any]], float]
    unit: str


# Qualities, then costs: a search has one quality, which comes first.
QUALITIES: dict[str, Goal] = {
    "psnr": Goal("maximize", lambda run: run["psnr"], "dB"),
    "held-out": Goal("maximize", lambda run: run["held_out"], "dB"),
}
COSTS: dict[str, Goal] = {
    "gflop": Goal("minimize", lambda run: run["gflop"], "GFLOP/it"),
    "parameters": Goal("minimize", lambda run: run["parameters"], "parameters"),
    "seconds": Goal("minimize", lambda run: run["seconds"], "s"),
}
GOALS = QUALITIES | COSTS
# What a recipe needs for the held-out objective; DIPBench measured with this share how well it ranks.
HOLD_OUT = {"stop": "held-out", "held_out": 0.2}


def parse_goals(text: str) -> tuple[str, ...]:
    """The names in `psnr` or `psnr,gflop`: one quality, then costs; UsageError names the choices."""
    names = tuple(name.strip() for name in text.split(","))
    for place, name in enumerate(names):
        choices = COSTS if place else QUALITIES
        if name not in choices:
            raise UsageError(unknown("objective" if place == 0 else "second objective", name, choices))
    if len(set(names)) < len(names):
        raise UsageError(f"objective {text!r}: the same one twice")
    return names
