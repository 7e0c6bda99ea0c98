"""The model of what a search has seen: known answers, and what it proposes, orders and gives up by them."""

import numpy as np
import optuna
import pytest

from dipsearch.search.cokriging import SEEN, Cokriging, Posterior, Promising, Seen, Sight, telling

SIZES = {"a": 4, "b": 4, "c": 4}
EARLY, LATE = 10, 40


def truth(choices):
    """A score that rises with every choice, and that of instance 1 early on; instance 0 says nothing early."""
    return 20.0 + choices[0] + 0.5 * choices[1] + 0.25 * choices[2]


def whole(choices):
    rng = np.random.default_rng(choices)
    return {
        (0, EARLY): 15 + rng.normal(),
        (1, EARLY): truth(choices) - 3,
        (0, LATE): truth(choices) - 1,
        (1, LATE): truth(choices) + 1,
    }


def every(step=1):
    return [(a, b, c) for a in range(0, 4, step) for b in range(4) for c in range(4)]


def told(study, choices, values):
    """A trial that was pruned after it had seen these values; None: that nothing was seen of."""
    distributions = {name: optuna.distributions.CategoricalDistribution(range(size)) for name, size in SIZES.items()}
    seen = [(*fidelity, value) for fidelity, value in values.items()]
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.PRUNED,
            params=dict(zip(SIZES, choices, strict=True)),
            distributions=distributions,
            user_attrs={SEEN: seen} if seen else {},
        )
    )


def all_of(values, dead=()):
    return Seen(values, dead, ((0, LATE), (1, LATE)))


def proposed(study):
    trial = study.ask()
    return tuple(trial.suggest_categorical(name, range(size)) for name, size in SIZES.items())


def test_what_was_seen_whole_is_known_and_the_rest_lies_between():
    seen = {choices: whole(choices) for choices in every(2)}
    mean, deviation = Posterior(all_of(seen)).predict(np.array([(2, 3, 3), (0, 0, 0), (3, 3, 3), (1, 0, 0)]))
    assert mean[:2] == pytest.approx([truth((2, 3, 3)), truth((0, 0, 0))], abs=0.25)
    assert (deviation[:2] < deviation[2:]).all()
    assert mean[2] > mean[3] + 1  # both unseen; the other slots tell them apart


def test_a_cheap_look_at_a_telling_instance_moves_the_score():
    seen = {choices: whole(choices) for choices in every(2)}
    good, bad = 23.0, 17.0
    means = []
    for early in (good, bad):
        looked = seen | {(3, 1, 1): {(1, EARLY): early - 3}}
        means.append(Posterior(all_of(looked)).predict(np.array([(3, 1, 1)]))[0][0])
    assert means[0] > means[1] + 2
    means = []
    for early in (good, bad):  # instance 0 says nothing early, as the whole ones have shown
        looked = seen | {(3, 1, 1): {(0, EARLY): early - 3}}
        means.append(Posterior(all_of(looked)).predict(np.array([(3, 1, 1)]))[0][0])
    assert abs(means[0] - means[1]) < 0.7


def test_units_and_offsets_do_not_matter():
    seen = {choices: whole(choices) for choices in every(2)}
    moved = {choices: {key: 7 + 3 * value for key, value in values.items()} for choices, values in seen.items()}
    at = np.array([(3, 1, 1), (0, 2, 2)])
    mean, deviation = Posterior(all_of(seen)).predict(at)
    other, wider = Posterior(all_of(moved)).predict(at)
    assert other == pytest.approx(7 + 3 * mean, rel=1e-4) and wider == pytest.approx(3 * deviation, rel=1e-3)


def test_genomes_like_those_that_could_not_be_fitted_are_expected_to_be_bad():
    seen = {choices: whole(choices) for choices in every(2)}
    near = np.array([(3, 3, 3)])
    before = Posterior(all_of(seen)).predict(near)[0][0]
    after = Posterior(all_of(seen, dead=[(3, 3, 2), (3, 2, 3), (1, 3, 3)])).predict(near)[0][0]
    assert after < before - 0.2


def test_the_telling_instance_comes_first():
    seen = {choices: whole(choices) for choices in every(2)}
    assert telling(all_of(seen), 2, EARLY) == [1, 0]
    assert telling(all_of({}), 2, EARLY) == [0, 1]  # nothing known
    assert telling(all_of(seen), 2, 7) == [0, 1]  # nothing known of 7 iterations
    same = {key: {(i, t): truth(key) + t for i in (0, 1) for t in (EARLY, LATE)} for key in every(2)}
    assert telling(all_of(same), 2, EARLY) == [0, 1]  # where both tell the same, the order stands


def test_scores_are_those_of_what_was_seen_whole():
    study = optuna.create_study()
    told(study, (0, 0, 0), whole((0, 0, 0)))
    told(study, (1, 1, 1), {(0, EARLY): 17.0})
    told(study, (1, 1, 1), {(0, LATE): 18.0, (1, LATE): float("nan")})
    told(study, (2, 2, 2), {})
    told(study, (3, 3, 3), {(0, EARLY): 17.0})
    told(study, (3, 3, 3), {})  # its fit failed later
    distributions = study.trials[0].distributions
    found = Seen.of(study.trials, distributions)
    assert found.scores == {(0, 0, 0): pytest.approx(20.0)}
    assert found.values[1, 1, 1] == {(0, EARLY): 17.0, (0, LATE): 18.0}
    assert found.dead == {(2, 2, 2), (3, 3, 3)} and (3, 3, 3) not in found.values
    assert found.wanted == ((0, LATE), (1, LATE))


def test_it_proposes_what_is_not_known_and_goes_on_with_what_was_given_up():
    study = optuna.create_study(direction="maximize", sampler=Cokriging(0, 2))
    for choices in every(2):
        told(study, choices, whole(choices))
    told(study, (1, 3, 3), {})
    first = proposed(study)
    assert first not in {*every(2), (1, 3, 3)}
    assert truth(first) > 23.5  # the best of all is (3, 3, 3), at 25.25
    for choices in set(every()) - set(every(2)) - {(3, 3, 3), (1, 3, 3)}:
        told(study, choices, {})
    told(study, (3, 3, 3), {(1, EARLY): truth((3, 3, 3)) - 3})
    assert proposed(study) == (3, 3, 3)


def test_copies_of_what_is_known_are_not_proposed():
    """Slot c does nothing: the neighbours of the best in that slot are the best itself."""
    sampler = Cokriging(0, 2)
    sampler.same = lambda params: (params["a"], params["b"])
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for choices in every(2):
        if choices[2] == 0:
            told(study, choices, whole(choices))
    assert proposed(study)[:2] not in {choices[:2] for choices in every(2)}
    sampler.same = lambda params: 0
    assert proposed(study) in every()  # nothing is left: at random


def test_without_a_ladder_that_learns_what_was_given_up_stays_so():
    sampler = Cokriging(0, 2)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for choices in set(every()) - {(3, 3, 3), (0, 0, 1)}:
        told(study, choices, whole(choices))
    told(study, (3, 3, 3), {(1, EARLY): truth((3, 3, 3)) - 3})
    assert proposed(study) == (3, 3, 3)
    sampler.again = False
    assert proposed(study) == (0, 0, 1)


def test_values_that_are_not_finite_are_not_seen():
    study = optuna.create_study()
    told(study, (0, 0, 0), whole((0, 0, 0)) | {(1, EARLY): float("-inf")})
    found = Seen.of(study.trials, study.trials[0].distributions)
    assert (1, EARLY) not in found.values[0, 0, 0]
    assert np.isfinite(Posterior(found).predict(np.array([(1, 1, 1)]))).all()


def test_the_first_proposals_are_random_and_a_space_may_end():
    study = optuna.create_study(direction="maximize", sampler=Cokriging(0, 20))
    assert len({proposed(study) for _ in range(20)}) > 10
    known = optuna.create_study(direction="maximize", sampler=Cokriging(0, 2))
    for choices in every():
        told(known, choices, whole(choices))
    assert proposed(known) in every()


def test_hopeless_trials_are_given_up_and_promising_ones_are_not():
    study = optuna.create_study(direction="maximize", sampler=Cokriging(0, 2), pruner=Promising())
    verdicts = {}
    for early in (23.0, 15.0):
        trial = study.ask({name: optuna.distributions.CategoricalDistribution(range(4)) for name in SIZES})
        trial.set_user_attr(SEEN, [(1, EARLY, early)])
        assert not trial.should_prune() or early == 15.0  # nothing to beat yet, the first time
        for choices in every(2):
            told(study, choices, whole(choices))
        verdicts[early] = trial.should_prune()
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert verdicts == {23.0: False, 15.0: True}


def test_a_study_is_read_as_its_trials_are():
    """Trial by trial, in any order of their ends, and with a trial that is under way."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    space = {name: optuna.distributions.CategoricalDistribution(range(size)) for name, size in SIZES.items()}
    trials = [study.ask(space) for _ in range(6)]
    for trial in (trials[number] for number in (3, 0, 5, 1)):
        trial.set_user_attr(SEEN, [(1, EARLY, float(trial.number))] if trial.number else [])
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        sight = Sight.of(study, space)
        ended = [each for each in study.get_trials(deepcopy=False) if each.state.is_finished()]
        expected = Seen.of(ended, space)
        assert list(sight.seen.values.items()) == list(expected.values.items())
        assert list(sight.seen.dead) == list(expected.dead) and len(sight) == len(ended)
    trials[2].set_user_attr(SEEN, [(0, LATE, 7.0)])
    beside, choices = sight.beside(study.get_trials(deepcopy=False)[2])
    assert beside.values[choices] == {(0, LATE): 7.0} and choices not in sight.seen.values
    fewer = {"a": space["a"]}
    assert Sight.of(study, fewer).seen.values == Seen.of(ended, fewer).values


def test_of_many_values_the_best_and_the_latest_are_kept():
    known = {choices: whole(choices) for choices in every()}
    latest = {(9, number, 0): {(0, EARLY): 1.0} for number in range(40)}
    everything = all_of(known | latest, [(8, number, 0) for number in range(40)])
    assert everything.within(10_000) is everything
    part = everything.within(100, (9, 0, 0))
    assert sum(map(len, part.values.values())) + 2 * len(part.dead) <= 100 + 4
    assert {(3, 3, 3), (3, 3, 2), (9, 39, 0), (9, 38, 0), (9, 0, 0)} <= part.values.keys()
    assert (0, 0, 0) not in part.values and (9, 1, 0) not in part.values
    assert list(part.dead) == [(8, number, 0) for number in range(30, 40)]
    mean, _ = part.posterior.predict(np.array([(3, 3, 3), (0, 0, 0)]))
    assert mean[0] > mean[1]
