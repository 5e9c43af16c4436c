"""Every searcher conforms, and does what its method prescribes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler

from nas_agg.search_space.space import Space
from nas_agg.searchers.evolution import CrossoverEvolutionSearcher, EvolutionSearcher
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.samplers.point_searcher import Observation, PointSearcher, observations
from nas_agg.study.samplers.searcher import Searcher, find_searcher, installed_searchers, make_searcher
from nas_agg.testing import EXAMPLE_SPACE, check_searcher

SLOW_ASKS = {"gp": 12, "predictor": 24}  # trials in the place of 40


@pytest.fixture(scope="module")
def space() -> Space:
    return Space(EXAMPLE_SPACE, "testing")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(installed_searchers()))
def test_searchers_conform(name, space):
    check_searcher(find_searcher(name), space, trials=SLOW_ASKS.get(name, 40))


def test_the_check_rejects_searchers_with_one_fault(space):
    class Unseeded(Searcher):
        def sampler(self, number: int) -> BaseSampler:
            return RandomSampler()

    class OneSeed(Searcher):
        def sampler(self, number: int) -> BaseSampler:
            return RandomSampler(seed=number)

    class Remembers(PointSearcher):
        def __init__(self, *args):
            super().__init__(*args)
            self.calls = 0

        def proposals(self, observations: Sequence[Observation], rng: np.random.Generator) -> Iterator[dict]:
            self.calls += 1
            rng.random(self.calls)
            yield self.space.sample(rng)

    class Odd(Searcher):
        def sampler(self, number: int) -> BaseSampler:
            return None

    for kind in ("tpe", None, int):
        with pytest.raises(AssertionError, match="is not a subclass"):
            check_searcher(kind, space)
    with pytest.raises(AssertionError, match="not an Optuna sampler"):
        check_searcher(Odd, space)
    for kind, message in (
        (Unseeded, "with one seed differ"),
        (OneSeed, "are equal"),
        (Remembers, "continues differently"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_searcher(kind, space, trials=12)


def test_the_check_rejects_searchers_with_one_fault_for_several_objectives(space):
    class OfOne(Searcher):
        supports_multi_objective = True

        def sampler(self, number: int) -> BaseSampler:
            class Best(RandomSampler):
                def before_trial(self, study, trial):
                    assert number < 5 or study.best_value

            return Best(seed=self.seed_of(number))

    class Remembers(PointSearcher):
        supports_multi_objective = True
        calls = 0

        def proposals(self, observations: Sequence[Observation], rng: np.random.Generator) -> Iterator[dict]:
            self.calls += self.objectives.is_multi_objective
            rng.random(self.calls)
            yield self.space.sample(rng)

    class Trusting(PointSearcher):
        supports_multi_objective = True

        def proposals(self, observations: Sequence[Observation], rng: np.random.Generator) -> Iterator[dict]:
            assert all(len(other.scores) == len(self.objectives) for other in observations)
            yield self.space.sample(rng)

    for kind, message in (
        (OfOne, "failed at trial 5: RuntimeError"),
        (Remembers, "accuracy and macs that is interrupted at trial 4 continues differently"),
        (Trusting, "failed at trial"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_searcher(kind, space, trials=12)
        kind.supports_multi_objective = False
        if kind is not Trusting:
            check_searcher(kind, space, trials=12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_pruned_trials_of_several_objectives_count_with_their_last_values(name, space):
    """As if they were complete."""
    rng, proposed = np.random.default_rng(0), []
    points = [space.labels(space.sample(rng)) for _ in range(20)]
    values = rng.normal(size=(20, 2)).tolist()
    for stopped in (False, True):
        study = optuna.create_study(directions=["maximize", "minimize"])
        for number, (labels, own) in enumerate(zip(points, values, strict=True)):
            message = {"state": optuna.trial.TrialState.COMPLETE, "values": own}
            if stopped and number % 2:
                message = {"state": optuna.trial.TrialState.PRUNED, "user_attrs": {"nas_agg:values": own}}
                message["intermediate_values"] = {1: own[0]}
            study.add_trial(optuna.trial.create_trial(params=labels, distributions=space.distributions, **message))
        objectives = Objectives([METRICS["accuracy"], METRICS["macs"]])
        study.sampler = make_searcher(find_searcher(name), space, 0, objectives).sampler(20)
        proposed.append(study.ask(space.distributions).params)
    assert proposed[0] == proposed[1]


def test_nsga2_breeds_non_dominated_and_least_crowded_networks(space):
    searcher, rng = find_searcher("nsga2")(space, 0), np.random.default_rng(0)
    points = [space.sample(rng) for _ in range(60)]
    scores = [(float(i), float(-i)) if i < 20 else (-1.0 - i, -60.0) for i in range(60)]  # of the first none is beaten
    observations = [Observation(point, own) for point, own in zip(points, scores, strict=True)]
    assert list(searcher.proposals(observations[:19], rng)) == []
    failed = [Observation(space.sample(rng), None) for _ in range(5)]
    children = searcher.proposals([*failed, *observations], rng)
    for child in (next(children) for _ in range(100)):
        parents = [point for point in points[:20] if sum(point[name] == child[name] for name in child) >= 2]
        assert any(sum(child[name] not in (a[name], b[name]) for name in child) <= 1 for a in parents for b in parents)
    one = [Observation(point, (own[0],)) for point, own in zip(points, scores, strict=True)]
    assert space.validate(next(searcher.proposals(one, rng)))


def history(space: Space, values: list[dict], scores: list[float]) -> list[Observation]:
    return [Observation(space.validate(point), (score,)) for point, score in zip(values, scores, strict=True)]


def test_evolution_mutates_young_networks_with_high_scores(space):
    searcher = EvolutionSearcher(space, 0)
    rng = np.random.default_rng(0)
    points = [space.sample(rng) for _ in range(25)]
    assert list(searcher.proposals(history(space, points[:19], [0.0] * 19), rng)) == []
    scores = [9.0] * 5 + [float(i) for i in range(20)]  # the five best are too old
    proposals = searcher.proposals(history(space, points, scores), rng)
    parents = []
    for _ in range(200):
        child = next(proposals)
        near = [i for i, point in enumerate(points) if sum(point[name] != child[name] for name in child) == 1]
        assert near
        parents.append(max(near))
    assert min(parents) >= 5
    assert np.mean(parents) > 18  # of a tournament of 5 among 5 to 24 the best is 20.8 on average


def test_evolution_with_crossover_combines_two_winners(space):
    searcher, rng = CrossoverEvolutionSearcher(space, 0), np.random.default_rng(0)
    a = {"kind": "plain", "rate": 4, "count": 2, "how": "sum", "wires": "previous"}
    b = {"kind": "deep", "rate": 8, "count": 3, "how": "concat", "wires": "dense"}
    observations = history(space, [a, b] * 10, [1.0, 1.0] * 10)
    children = searcher.proposals(observations, rng)
    distances = [
        min(sum(parent[name] != child[name] for name in child) for parent in (a, b))
        for child in (next(children) for _ in range(300))
    ]
    assert 0.2 < np.mean(np.array(distances) > 1) < 0.6  # of half of the children both parents may be the same
    one = [next(EvolutionSearcher(space, 0).proposals(observations, rng)) for _ in range(50)]
    assert all(min(sum(parent[name] != child[name] for name in child) for parent in (a, b)) == 1 for child in one)


def test_local_search_climbs_from_the_best_of_ten_random_networks(space):
    searcher = find_searcher("local")(space, 0)
    rng = np.random.default_rng(0)
    points = [space.sample(rng) for _ in range(10)]
    incumbent = points[4]
    first, scores = points, [0.1] * 4 + [1.0] + [0.1] * 5
    assert list(searcher.proposals(history(space, first[:9], scores[:9]), rng)) == []  # random networks are due
    neighbours = [other for other in space.neighbours(incumbent) if other not in points]
    tried = history(space, [*first, *neighbours[:3]], [*scores, 0.5, 0.2, 1.0])
    proposed = list(searcher.proposals(tried, rng))
    assert len(proposed) == len(neighbours) - 3
    assert all(point in neighbours[3:] for point in proposed)
    better = history(space, [*first, *neighbours[:4]], [*scores, 0.5, 0.2, 0.1, 2.0])
    assert all(sum(p[n] != neighbours[3][n] for n in p) == 1 for p in searcher.proposals(better, rng))
    all_tried = history(space, [*first, *neighbours], [*scores] + [0.5] * len(neighbours))
    assert list(searcher.proposals(all_tried, rng)) == []  # ten random networks follow
    far = [p for p in (space.sample(rng) for _ in range(200)) if min(_distance(p, q) for q in points) > 1][:10]
    again = [Observation(point, (0.01 * place,)) for place, point in enumerate(far)]
    assert list(searcher.proposals([*all_tried, *again[:9]], rng)) == []
    assert _distance(next(searcher.proposals([*all_tried, *again], rng)), far[9]) == 1
    running = [Observation(point, None, True) for point in points[5:]]
    ahead = next(searcher.proposals([*history(space, first[:5], scores[:5]), *running], rng))
    assert _distance(ahead, incumbent) == 1  # as many have begun
    late = history(space, [*first, ahead], [*scores[:9], 3.0, 0.5])
    assert _distance(next(searcher.proposals(late, rng)), points[9]) == 1  # the last was the best after all


def _distance(a: dict, b: dict) -> int:
    return sum(a[name] != b[name] for name in a)


def test_parallel_local_search_is_as_good_as_sequential():
    """Neighbours of an earlier incumbent are no restarts."""
    names = {f"n{i}": {"from": 1, "to": 12} for i in range(4)}
    text = EXAMPLE_SPACE | {
        "open": names,
        "net": [{"conv": 3, "out": " + ".join(names)}, "gap", {"linear": 4}],
        "let": {},
    }
    space = Space(text, "four")
    searcher = find_searcher("local")(space, 0)
    best = {}
    for workers in (1, 4):
        results = []
        for seed in range(5):
            observations, open_ = [], []
            while len(observations) < 80:
                rng = np.random.default_rng([seed, len(observations), len(open_)])
                pending = [Observation(point, None, True) for point in open_]
                open_.append(next(searcher.proposals([*observations, *pending], rng), None) or space.sample(rng))
                if len(open_) == workers:
                    point = open_.pop(0)
                    observations.append(Observation(point, (-sum(abs(value - 7) for value in point.values()),)))
            results.append(max(other.value for other in observations))
        best[workers] = np.mean(results)
    assert best[1] > -3
    assert best[4] > -4


@pytest.mark.parametrize(
    ("name", "objectives"),
    [
        ("local", 1),
        pytest.param("predictor", 1, marks=pytest.mark.slow),
        ("predictor", 2),
        ("evolution", 1),
        ("nsga2", 1),
        ("nsga2", 2),
    ],
)
def test_ranges_of_any_width_and_scores_of_any_magnitude(name, objectives):
    names = {"a": {"from": 1, "to": 10**9}, "b": [1, 2, 3], "only": ["this"]}
    text = EXAMPLE_SPACE | {"open": names, "net": [{"conv": 3, "out": "min(a, 9) + b"}, "only", "gap", {"linear": 4}]}
    space = Space({**text, "let": {"this": ["relu"]}}, "wide")
    objective_set = Objectives([METRICS[name] for name in ("accuracy", "loss")[:objectives]])
    searcher = make_searcher(find_searcher(name), space, 0, objective_set)
    observations = []
    for number in range(30):
        rng = np.random.default_rng(number)
        asked = number in (0, 12, 19, 29)  # a fit takes seconds where numbers are this extreme
        point = next(searcher.proposals(observations, rng), None) if asked else None
        point = point or space.sample(rng)
        assert space.validate(point) == point
        value = (-1.7e308, 1.0, None, 1.7e308)[number % 4] if number < 20 else float(number)
        observations.append(Observation(point, None if value is None else (value, -value)[:objectives]))


def test_observations_of_a_study(space):
    study = optuna.create_study(direction="maximize")
    rng = np.random.default_rng(0)
    points = [space.sample(rng) for _ in range(4)]
    for point, state, value in (
        (points[0], optuna.trial.TrialState.COMPLETE, 0.5),
        (points[1], optuna.trial.TrialState.FAIL, None),
        (points[0], optuna.trial.TrialState.COMPLETE, 0.5),
        (points[2], optuna.trial.TrialState.RUNNING, None),
        (points[1], optuna.trial.TrialState.COMPLETE, 0.6),
        (points[3], optuna.trial.TrialState.COMPLETE, 0.7),
    ):
        trial = optuna.trial.create_trial(
            state=state, value=value, params=space.labels(point), distributions=space.distributions
        )
        study.add_trial(trial)
    assert [other.value for other in observations(study, space, Objectives())] == [0.5, 0.6, None, 0.7]
    assert [other.running for other in observations(study, space, Objectives())] == [False, False, True, False]
    assert [other.values for other in observations(study, space, Objectives())] == points
