"""The samplers that a search offers, most of them Optuna's. All see every slot of a space in every trial."""

import random
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from dipsearch.search.cokriging import Cokriging
from dipsearch.search.trial import fitted_whole


class Around(optuna.samplers.BaseSampler):
    """Local search: the best trial so far with a few slots drawn anew; first `centre`, until one is complete.

    On average `changed` slots of those that were drawn anew differ or not: the old value may be drawn again.
    """

    changed = 2.0

    def __init__(self, centre: dict[str, Any], seed: int) -> None:
        self._centre, self._rng = centre, random.Random(seed)  # noqa: S311

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """None: every slot is drawn on its own."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """Only look up, once a trial, what it is drawn around."""
        scored = filter(fitted_whole, study.get_trials(deepcopy=False))
        best = max(scored, key=lambda each: each.values[0], default=None)
        self._from = best.params if best else self._centre
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """The centre's value, or one drawn anew."""
        if self._rng.random() < self.changed / len(self._centre):
            return self._rng.choice(param_distribution.choices)
        return self._from[param_name]


SEQUENCES = ("qmc",)  # whose trials are points of one sequence, which the study counts
# name -> sampler, made of a seed and the number of trials that are proposed before it has learned anything
SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "cokriging": Cokriging,
    "tpe": lambda seed, start_up: optuna.samplers.TPESampler(seed=seed, n_startup_trials=start_up),
    "random": lambda seed, start_up: optuna.samplers.RandomSampler(seed=seed),
    "nsga2": lambda seed, start_up: optuna.samplers.NSGAIISampler(seed=seed, population_size=max(2, start_up)),
    "gp": lambda seed, start_up: optuna.samplers.GPSampler(seed=seed, n_startup_trials=start_up),
    "qmc": lambda seed, start_up: optuna.samplers.QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False),
}
