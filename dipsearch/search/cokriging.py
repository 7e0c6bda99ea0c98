"""What a search has seen of genomes, and what it expects of the others: one Gaussian process over all fidelities.

A trial sees a genome at fidelities: after so many iterations, on one of the instances. Cheap ones tell about
dear ones, and about genomes that share choices. The covariance of fidelity a of genome g and b of h is

    B[a, b] · (exp(−RATE · number of slots in which g and h differ) + OWN · [g = h])

that is co-kriging (Kennedy & O'Hagan, Biometrika 2000) with an intrinsic coregionalization (Bonilla et al.,
NeurIPS 2007), B estimated from the trials that saw everything. What is wanted is the mean over all instances
at the last iteration; a proposal maximizes the improvement of it that is expected (Jones et al., 1998).
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from scipy.linalg import cho_solve, solve_triangular
from scipy.stats import norm

from dipsearch.search.trial import DONE

SEEN = "seen"  # the user attribute of a trial: a list of (instance, iterations, value)
# Chosen on DIPBench: RATE has the greatest marginal likelihood of the scores, the others hardly matter.
RATE, OWN, NOISE = 0.2, 0.1, 0.02
KEPT = 1.1
LOWEST = -2.0  # standard deviations: bad networks differ far more than good ones do, and say nothing of those
MOST = 300  # values that the process is fitted to, whose cost is cubic: beyond, those of the best and the latest
REMEMBERED = 100_000  # choices whose genome is known by its key: a long search asks for a hundred new ones a trial
ALIKE, LATER, FAITH = 0.6, 0.85, 6.0  # assumed correlation of instances, and of iterations ×4; counts as so many trials

Fidelity = tuple[int, int]  # instance, iterations
Choices = tuple[int, ...]  # the place of each slot's choice
Read = tuple[Choices, dict[Fidelity, float], bool]  # of a trial: what it saw, and whether it was pruned


def note(values: dict[Fidelity, float]) -> list[tuple[int, int, float]]:
    """What was seen, as the attribute `SEEN` of a trial holds it."""
    return [(*fidelity, value) for fidelity, value in values.items()]


def noted(trial: optuna.Trial | FrozenTrial) -> dict[Fidelity, float]:
    """What a trial noted so."""
    return {(instance, iterations): value for instance, iterations, value in trial.user_attrs.get(SEEN, ())}


@dataclass(frozen=True)
class Seen:
    """What the trials of a study have seen: values (dB) by fidelity, of each genome.

    `wanted` are the fidelities whose mean is the score; `dead` the genomes that nothing was seen of: they could
    not be fitted, or were not allowed.
    """

    values: dict[Choices, dict[Fidelity, float]]
    dead: Collection[Choices]
    wanted: tuple[Fidelity, ...]

    @classmethod
    def of(cls, trials: Iterable[FrozenTrial], slots: dict[str, Any]) -> Self:
        """What trials saw that hold all these slots (name -> categorical distribution)."""
        return cls.among(_read(trial, slots) for trial in trials)

    @classmethod
    def among(cls, read: Iterable["Read | None"]) -> Self:
        """What was read of trials, in the order of the trials; None of those that hold other slots."""
        seen, dead = dict[Choices, dict[Fidelity, float]](), dict[Choices, None]()
        for choices, values, pruned in filter(None, read):
            if values:
                seen.setdefault(choices, {}).update(values)
            elif pruned:
                dead[choices] = None
        for choices in dead:  # a fit that failed after a look at it, too
            seen.pop(choices, None)
        fidelities = {fidelity for values in seen.values() for fidelity in values}
        last = max((iterations for _, iterations in fidelities), default=0)
        wanted = tuple(sorted(fidelity for fidelity in fidelities if fidelity[1] == last))
        return cls(seen, dead.keys(), wanted)

    @cached_property
    def scores(self) -> dict[Choices, float]:
        """Of the genomes that were seen at every fidelity that is wanted."""
        return {
            choices: sum(values[fidelity] for fidelity in self.wanted) / len(self.wanted)
            for choices, values in self.values.items()
            if self.wanted and all(fidelity in values for fidelity in self.wanted)
        }

    @cached_property
    def posterior(self) -> "Posterior":
        """Of the part of this that the process is fitted to."""
        return Posterior(self.within(MOST))

    def within(self, most: int, *also: Choices) -> "Seen":
        """The part with so many values at most: of the best genomes and, by turns, of the latest; some `also`."""
        size = sum(map(len, self.values.values())) + len(self.dead) * len(self.wanted)
        if size <= most:
            return self
        best = sorted(self.scores, key=self.scores.__getitem__, reverse=True)
        latest = reversed(self.values)
        kept, left = set(also), most - most // 5
        for choices in filter(None, chain.from_iterable(zip_longest(best, latest))):
            if choices not in kept and (left := left - len(self.values[choices])) >= 0:
                kept.add(choices)
            if left <= 0:
                break
        dead = list(self.dead)[-max(1, most // 5 // max(1, len(self.wanted))) :]
        return Seen({key: values for key, values in self.values.items() if key in kept}, dead, self.wanted)


def _read(trial: FrozenTrial, slots: dict[str, Any]) -> Read | None:
    if slots.keys() - trial.params.keys():
        return None
    choices = tuple(int(slot.to_internal_repr(trial.params[name])) for name, slot in slots.items())
    values = {fidelity: value for fidelity, value in noted(trial).items() if math.isfinite(value)}
    return choices, values, trial.state == TrialState.PRUNED


class Sight:
    """What a study's trials that have ended saw: each is read once, whoever asks."""

    def __init__(self, slots: dict[str, Any]) -> None:
        self.slots = slots
        self.same = dict[Choices, Hashable]()  # what `by`, a `Cokriging.same`, has said
        self.by: Any = None
        self._read, self._seen = dict[int, Read | None](), Seen({}, (), ())

    @classmethod
    def of(cls, study: optuna.Study, slots: dict[str, Any]) -> "Sight":
        """That of a study whose trials have these slots, with all that has ended by now."""
        sight = _SIGHTS.get(study)
        if sight is None or sight.slots != slots:
            sight = _SIGHTS[study] = cls(slots)
        trials = study.get_trials(deepcopy=False, states=DONE)
        fresh = [trial for trial in trials if trial.number not in sight._read]
        sight._read |= {trial.number: _read(trial, slots) for trial in fresh}
        if fresh:  # a trial may end before one that began earlier
            sight._read = {number: sight._read[number] for number in sorted(sight._read)}
            sight._seen = Seen.among(sight._read.values())
        return sight

    def __len__(self) -> int:
        return len(self._read)

    @property
    def seen(self) -> Seen:
        """What they saw."""
        return self._seen

    def beside(self, trial: FrozenTrial) -> tuple[Seen, Choices]:
        """What they and another trial saw, and what that one has chosen."""
        if (read := _read(trial, self.slots)) is None:
            raise ValueError(f"trial {trial.number} has other slots")
        return Seen.among([*self._read.values(), read]), read[0]


_SIGHTS = WeakKeyDictionary[optuna.Study, Sight]()


class Posterior:
    """The scores of any genomes, given what was seen, at least one score among it."""

    def __init__(self, seen: Seen) -> None:
        rows = dict(seen.values) | {choices: {} for choices in seen.dead}
        self._fidelities = sorted({fidelity for values in rows.values() for fidelity in values})
        place = {fidelity: index for index, fidelity in enumerate(self._fidelities)}
        table = np.full((len(rows), len(place)), np.nan)
        for row, values in enumerate(rows.values()):
            for fidelity, value in values.items():
                table[row, place[fidelity]] = value
        centre = np.nanmedian(table, 0)
        spread = self._spread(table - centre)
        scaled = np.maximum((table - centre) / spread, LOWEST)
        dead = [row for row, values in enumerate(rows.values()) if not values]
        scaled[np.ix_(dead, [place[fidelity] for fidelity in seen.wanted])] = LOWEST

        fitted = scaled[: len(seen.values)]
        whole = fitted[np.isfinite(fitted).all(1)]
        self._between = self._correlation(whole) * np.outer(spread, spread)
        self._genomes = np.array(list(rows), dtype=int)
        self._row, self._column = np.nonzero(np.isfinite(scaled))
        covariance = self._covariance(self._genomes)[np.ix_(self._row, self._row)]
        covariance = covariance * self._between[np.ix_(self._column, self._column)]
        covariance[np.diag_indices_from(covariance)] += NOISE * spread[self._column] ** 2
        self._root = np.linalg.cholesky(covariance)
        values = (scaled * spread)[self._row, self._column]
        self._weights = cho_solve((self._root, True), values)
        wanted = np.array([place[fidelity] for fidelity in seen.wanted])
        self._mean = float(centre[wanted].mean())
        self._score = self._between[wanted].mean(0)  # covariance of the score with each fidelity
        self._own = float(self._score[wanted].mean()) * (1 + OWN)

    @staticmethod
    def _spread(deviations: np.ndarray) -> np.ndarray:
        """Standard deviation of each fidelity; those that few trials saw lean on all the others."""
        squares = deviations**2
        pooled = np.nanmean(squares) + 1e-6
        spread: np.ndarray = np.sqrt((np.nansum(squares, 0) + 4 * pooled) / (np.isfinite(squares).sum(0) + 4))
        return spread

    def _correlation(self, whole: np.ndarray) -> np.ndarray:
        instance, iterations = np.array(self._fidelities).T
        octaves = np.abs(np.subtract.outer(np.log2(iterations), np.log2(iterations)))
        assumed = np.where(np.equal.outer(instance, instance), LATER ** (octaves / 2), ALIKE)
        np.fill_diagonal(assumed, 1.0)
        joint = FAITH * assumed
        if len(whole):
            centred = whole - whole.mean(0)
            joint = joint + centred.T @ centred
        scale = np.sqrt(np.diag(joint))
        return joint / np.outer(scale, scale)  # type: ignore[no-any-return]

    def _covariance(self, genomes: np.ndarray) -> np.ndarray:
        """Between genomes (M, slots) and those that were seen: (M, N)."""
        places = max(genomes.max(initial=0), self._genomes.max(initial=0)) + 1
        alike = (
            np.eye(places)[genomes].reshape(len(genomes), -1)
            @ np.eye(places)[self._genomes].reshape(len(self._genomes), -1).T
        )
        differ = genomes.shape[1] - alike
        return np.exp(-RATE * differ) + OWN * (differ == 0)  # type: ignore[no-any-return]

    def told(self) -> dict[Fidelity, float]:
        """How far the score (dB) is expected to move for a value one standard deviation above the mean, by fidelity."""
        deviation = np.sqrt(np.diag(self._between) * (1 + NOISE))
        return dict(zip(self._fidelities, (self._score / deviation).tolist(), strict=True))

    def predict(self, genomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (dB) of the scores of genomes (M, slots), each (M,)."""
        covariance = self._covariance(genomes)[:, self._row] * self._score[self._column]
        explained = (solve_triangular(self._root, covariance.T, lower=True) ** 2).sum(0)
        return self._mean + covariance @ self._weights, np.sqrt(np.maximum(self._own - explained, 1e-9))


def telling(seen: Seen, instances: int, iterations: int) -> list[int]:
    """The instances, in the order of how much each tells about the score after so many iterations.

    The first comes first as long as no other tells a tenth more: a task's author may know. Before anything is
    known, the instances in their order.
    """
    as_they_are = list(range(instances))
    if not seen.scores:
        return as_they_are
    told = seen.posterior.told()
    if any((instance, iterations) not in told for instance in as_they_are):
        return as_they_are
    worth = {instance: told[instance, iterations] * (1.0 if instance else KEPT) for instance in as_they_are}
    return sorted(as_they_are, key=worth.__getitem__, reverse=True)


def order_of(study: optuna.Study, trial: optuna.Trial, stages: list[tuple[int, int]]) -> list[int]:
    """The instances in the order in which a trial tries them, by what the trials that have ended saw.

    `stages` are (instances, iterations), of a ladder.
    """
    return telling(Sight.of(study, trial.distributions).seen, stages[-1][0], stages[0][1])


class Cokriging(optuna.samplers.BaseSampler):
    """Proposes the genome whose expected improvement on the best score is greatest; the first at random.

    Slots are categorical, the same in all trials. `again`: what was given up may be proposed again, to go on.
    `same` says which choices give the same genome: of another family's slots, any would do.
    """

    drawn, around = 1000, 5  # candidates: so many at random, and those that differ in one slot from so many of the best

    def __init__(self, seed: int, start_up: int) -> None:
        self._start_up, self._rng = start_up, np.random.default_rng(seed)
        self._independent = optuna.samplers.RandomSampler(seed=seed)
        self.again = True
        self.same: Callable[[dict[str, Any]], Hashable] = lambda params: tuple(params.values())

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """The slots of the first trial that has ended."""
        trials = study.get_trials(deepcopy=False, states=DONE)
        return next((trial.distributions for trial in trials if trial.distributions), {})

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """A choice for each slot; nothing where there is no score yet, or all candidates are known."""
        if not search_space:
            return {}
        sight = Sight.of(study, search_space)
        seen = sight.seen
        if len(sight) < self._start_up or not (scores := seen.scores):
            return {}
        known = (scores.keys() if self.again else seen.values.keys()) | seen.dead
        candidates = [each for each in self._candidates(seen, search_space) if each not in known]
        if not candidates:
            return {}
        mean, deviation = seen.posterior.predict(np.array(candidates))
        ahead = (mean - max(scores.values())) / deviation
        improvement = deviation * (ahead * norm.cdf(ahead) + norm.pdf(ahead))

        def params(choices: Choices) -> dict[str, Any]:
            return {
                name: slot.choices[place] for (name, slot), place in zip(search_space.items(), choices, strict=True)
            }

        if sight.by != self.same or len(sight.same) >= REMEMBERED:
            sight.same.clear()
            sight.by = self.same

        def same(choices: Choices) -> Hashable:
            if choices not in sight.same:
                sight.same[choices] = self.same(params(choices))
            return sight.same[choices]

        taken = {same(choices) for choices in known}
        under_way = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        taken |= {self.same(each.params) for each in under_way if each.number != trial.number and each.params}
        best = (candidates[index] for index in np.argsort(-improvement))
        return next((params(each) for each in best if same(each) not in taken), {})

    def _candidates(self, seen: Seen, slots: dict[str, Any]) -> list[Choices]:
        sizes = [len(slot.choices) for slot in slots.values()]
        drawn = self._rng.integers(0, sizes, (self.drawn, len(sizes)))
        found = dict.fromkeys(tuple(row) for row in drawn.tolist())
        scores = seen.scores
        for best in sorted(scores, key=scores.__getitem__, reverse=True)[: self.around]:
            for slot, size in enumerate(sizes):
                found |= dict.fromkeys((*best[:slot], place, *best[slot + 1 :]) for place in range(size))
        return list(found | dict.fromkeys(seen.within(MOST).values))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """At random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


class Promising(optuna.pruners.BasePruner):
    """Gives a trial up where what it has shown leaves it less than `chance` to beat the best."""

    chance = 0.4

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to give it up; never before there is a score to beat."""
        seen, choices = Sight.of(study, trial.distributions).beside(trial)
        if not (scores := seen.scores):
            return False
        mean, deviation = Posterior(seen.within(MOST, choices)).predict(np.array([choices], dtype=int))
        return bool(norm.sf((max(scores.values()) - mean[0]) / deviation[0]) < self.chance)
