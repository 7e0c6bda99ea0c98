"""Which gene of a study matters: its importance, and what each of its choices goes with."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from scipy.stats import norm
from scipy.stats import t as student

from dipsearch.error import DipsearchError
from dipsearch.search.evidence import Evidence, Judged, read_evidence
from dipsearch.search.goals import GOALS
from dipsearch.template import Choice

FEWEST = 4  # scores, below which nothing is compared
ENOUGH = 5  # scores of a choice, below which a bootstrap shows little more than their range
RESAMPLES = 2000
ROUNDING = 1e-12
SHUFFLES = 200
BEST = 0.1  # the share of networks that PED-ANOVA holds against all, as Optuna has it
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Explanation:
    """What the evidence of a study says about its genes.

    `genes` has a row for each gene, the most important first: `gene`; `importance`, its share of 1 in the
    PED-ANOVA importances; `chance`, how often the gene is at least as important where the scores are shuffled among
    the networks; `complete`, how many networks that it matters to have a score.

    `effects` has a row for each choice, in the same order: `gene`, `choice`; `mean` of the scores with it; `effect`,
    that mean less the mean of the scores of all networks that the gene matters to, NaN where only one choice has
    any; `low`, `high`, the middle 95 % by bootstrap of the effect, NaN below `ENOUGH` scores; `complete`, `pruned`:
    how many networks have it; `pruned_share` of both.
    """

    evidence: Evidence
    genes: pd.DataFrame
    effects: pd.DataFrame

    @property
    def unit(self) -> str:
        """Of the scores."""
        return GOALS[self.evidence.objective].unit

    @property
    def complete(self) -> int:
        """How many networks have a score."""
        return len(self.evidence.scored)

    @property
    def pruned(self) -> int:
        """How many networks have none."""
        return len(self.evidence.networks) - self.complete

    @property
    def best(self) -> int:
        """How many networks PED-ANOVA holds against all."""
        return math.ceil(BEST * self.complete)


def explain(folder: Path, *, by_level: bool = False, seed: int = 0) -> Explanation:
    """What the study in a folder says about its genes.

    Args:
        folder: of the study (study.db, config.yaml).
        by_level: a per-level gene is one gene for each level; otherwise it is one gene, whose levels are pooled.
        seed: of the bootstrap and the shuffles.

    Raises:
        UsageError: the folder holds no study that can be read.
        DipsearchError: there is too little in it to compare.
    """
    evidence = read_evidence(folder)
    slots = {slot: choices for slot, choices in evidence.space.slots.items() if len(set(choices)) > 1}
    _check(folder, evidence, slots)
    groups: dict[str, list[str]] = {}
    for slot in slots:
        gene, _, level = slot.rpartition(".")
        groups.setdefault(gene if level.isdecimal() and not by_level else slot, []).append(slot)
    genes = _importance(evidence.scored, slots, groups, seed)
    tables = [_effects(evidence.networks, gene, groups[gene], slots[groups[gene][0]], seed) for gene in genes["gene"]]
    return Explanation(evidence, genes, pd.concat(tables, ignore_index=True))


def _check(folder: Path, evidence: Evidence, slots: dict[str, list[Choice]]) -> None:
    """DipsearchError where there is nothing to compare."""
    scores = [network.score for network in evidence.scored]
    if not slots:
        raise DipsearchError(f"{folder}: every gene of the space has one choice: there is nothing to compare")
    if len(scores) < FEWEST:
        pruned = len(evidence.networks) - len(scores)
        raise DipsearchError(
            f"{folder}: to compare choices it takes at least {FEWEST} different networks with a score; "
            f"there are {len(scores)}, and {pruned} pruned"
        )
    if len(set(scores)) == 1:
        unit = GOALS[evidence.objective].unit
        raise DipsearchError(f"{folder}: all {len(scores)} scores are {scores[0]:.2f} {unit}: there is no difference")


def _importance(
    scored: list[Judged], slots: dict[str, list[Choice]], groups: dict[str, list[str]], seed: int
) -> pd.DataFrame:
    """How much each gene tells the best from the rest (PED-ANOVA, IJCAI 2023), and what chance gives it.

    A slot that does not matter to a network is no parameter of its trial: the evaluator is made for conditional
    ones, too (condPED-ANOVA, KDD 2026). The importance of several levels is the sum of theirs.
    """
    differ: dict[str, BaseDistribution] = {
        slot: CategoricalDistribution(choices)
        for slot, choices in slots.items()
        if len({network.chosen[slot] for network in scored if slot in network.chosen}) > 1  # or it tells nothing apart
    }
    study = optuna.create_study()
    for network in scored:
        spreads = {slot: differ[slot] for slot in network.chosen if slot in differ}
        params = {slot: network.chosen[slot] for slot in spreads}
        study.add_trial(optuna.trial.create_trial(value=network.score, params=params, distributions=spreads))
    scores = np.array([network.score for network in scored], dtype=float)
    rng = np.random.default_rng(seed)
    found = _divergences(study, scores, groups)
    by_chance = pd.DataFrame([_divergences(study, rng.permutation(scores), groups) for _ in range(SHUFFLES)])
    total = sum(found.values()) or 1
    genes = pd.DataFrame({"gene": list(groups), "importance": [found[gene] / total for gene in groups]})
    as_high = [int((by_chance[gene] >= found[gene] - ROUNDING).sum()) for gene in groups]
    genes["chance"] = [(1 + count) / (1 + SHUFFLES) for count in as_high]  # what was found is one of the orders, too
    genes["complete"] = [
        sum(not network.chosen.keys().isdisjoint(those) for network in scored) for those in groups.values()
    ]
    return genes.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def _divergences(study: optuna.Study, scores: Floats, groups: dict[str, list[str]]) -> dict[str, float]:
    """PED-ANOVA's importance of each gene where the trials have these scores: how far the choices of the best lie
    from those of all (Pearson's divergence)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a low target is good, and that a slot mattered once only
        found = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST),
            target=lambda trial: -float(scores[trial.number]),
            normalize=False,  # it would share 1 among genes without any, and hide how small those by chance are
        )
    return {gene: sum(found.get(slot, 0.0) for slot in slots) for gene, slots in groups.items()}


def _effects(networks: list[Judged], gene: str, slots: list[str], choices: list[Choice], seed: int) -> pd.DataFrame:
    """What each choice of a gene goes with; the bootstrap draws networks (Efron, 1979) and takes percentiles, further
    out the fewer the scores, of which plain ones make too little (expanded percentiles: Hesterberg, What Teachers
    Should Know About the Bootstrap, The American Statistician, 2015).

    Of a gene with several levels, a network counts once for each level with the choice, and is drawn as one.
    """
    levels = np.array([[sum(each.chosen.get(slot) == it for slot in slots) for it in choices] for each in networks])
    values = np.array([math.nan if each.score is None else each.score for each in networks])
    scored = ~np.isnan(values)
    complete, pruned = (levels[scored] > 0).sum(axis=0), (levels[~scored] > 0).sum(axis=0)
    matters = scored & levels.any(axis=1)
    counts, scores = levels[matters].astype(float), values[matters]
    once = np.ones((1, len(scores)))
    means, overall = _means(once, counts, scores)
    effect, low, high = (np.full(len(choices), math.nan) for _ in range(3))
    if (complete > 0).sum() > 1:  # held against itself, a choice has no effect
        effect = (means - overall)[0]
        drawn = np.random.default_rng([seed, *gene.encode()]).multinomial(len(scores), once[0] / len(scores), RESAMPLES)
        resampled, of_all = _means(drawn.astype(float), counts, scores)
        for place in np.flatnonzero(complete >= ENOUGH):
            tail = _tail(int(complete[place]))
            low[place], high[place] = np.nanquantile(resampled[:, place] - of_all[:, 0], [tail, 1 - tail])
    with np.errstate(invalid="ignore"):  # a choice that never came
        share = pruned / (complete + pruned)
    numbers = {"mean": means[0], "effect": effect, "low": low, "high": high, "complete": complete, "pruned": pruned}
    named = {"gene": gene, "choice": pd.Series(choices, dtype=object)}
    return pd.DataFrame(named | numbers | {"pruned_share": share})


def _tail(scores: int) -> float:
    """The share beyond each end of the middle 95 %, expanded for so many scores."""
    return float(norm.cdf(-math.sqrt(scores / (scores - 1)) * student.ppf(0.975, scores - 1)))


def _means(drawn: Floats, counts: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Mean score with each choice, and of all, in each resample.

    Args:
        drawn: how often each network is in each resample (resamples x networks).
        counts: how often each network has each choice (networks x choices).
        scores: of the networks.

    Returns:
        resamples x choices, NaN where a choice was not drawn; and resamples x 1.
    """
    every = counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        means, overall = (drawn @ (some * scores[:, None]) / (drawn @ some) for some in (counts, every))
    return means, overall
