"""Base class of searchers that propose whole points of a space, as Optuna samplers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from nas_agg.study.definition.trial import is_paused
from nas_agg.study.samplers.extrapolation import LearningCurveExtrapolator
from nas_agg.study.samplers.searcher import Searcher

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from nas_agg.search_space.parameters import SearchVariables, Values
    from nas_agg.study.definition.objectives import Objectives


class Observation(NamedTuple):
    """A network of an earlier trial.

    Attributes:
        values: The values of its search variables.
        scores: Its value for each objective, with the sign of minimized ones changed, so that all are maximized; of a
            network that paused at a rung, an extrapolation to the end of training. None if it has no valid result.
        running: Whether it is being trained. A network that has no scores and is not running has failed, or exceeds a
            limit.
        curve: Its scores by epoch as extrapolations to the end of training, if trainings pause at rungs; of a complete
            training at infinity.
        is_paused: Whether it waits at a rung.
    """

    values: Values
    scores: tuple[float, ...] | None
    running: bool = False
    curve: Mapping[float, tuple[float, ...]] = {}
    is_paused: bool = False

    @property
    def value(self) -> float | None:
        """The score of the first objective."""
        return None if self.scores is None else self.scores[0]


class PointSearcher(Searcher):
    """A searcher that is a generator: given the observations so far, it yields points in order of preference.

    A proposal may be rejected, because it exceeds a limit or is being trained; then the next one is drawn. Random
    points follow the last proposal.
    """

    @cached_property
    def point_cache(self) -> dict[tuple, Values]:
        """The points of earlier trials by their labels; only saves time."""
        return {}

    @abstractmethod
    def proposals(self, observations: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """Yield points for one trial in order of preference.

        Args:
            observations: The networks of earlier trials in order, without duplicates.
            rng: Seeded by the seed of the search and the trial's number.
        """

    def sampler(self, number: int) -> BaseSampler:
        """The proposals for one trial, as an Optuna sampler."""
        return PointSampler(self, number)


class PointSampler(BaseSampler):
    """Optuna sampler of the proposals of a `PointSearcher` for one trial.

    Args:
        searcher: The searcher.
        number: The trial's number.
    """

    def __init__(self, searcher: PointSearcher, number: int):
        self._searcher, self._number = searcher, number
        self._proposals: Iterator[Values] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All search variables."""
        return dict(self._searcher.space.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next proposal, as labels."""
        space = self._searcher.space
        if self._proposals is None:
            rng = np.random.default_rng(self._searcher.seed_of(self._number))
            networks = observations(study, space, self._searcher.objectives, self._searcher.point_cache)
            self._proposals = _then_random(self._searcher.proposals(networks, rng), space, rng)
        return space.labels(next(self._proposals))

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Not supported: all search variables are sampled jointly."""
        raise LookupError(f"{name} is not a search variable of the space")


def _then_random(proposals: Iterator[Values], space: SearchVariables, rng: np.random.Generator) -> Iterator[Values]:
    yield from proposals
    while True:
        yield space.sample(rng)


def observations(
    study: Study, space: SearchVariables, objectives: Objectives, point_cache: dict[tuple, Values] | None = None
) -> list[Observation]:
    """The networks of a study's trials, in their order.

    Trials of equal points are one observation, with the scores of the first trial that has scores.

    Args:
        study: The study.
        space: The search space.
        objectives: The objectives of the search.
        point_cache: Points by their labels, which are not decoded again; new points are added.
    """
    point_cache = {} if point_cache is None else point_cache
    networks: dict[tuple, Observation] = {}
    trials = study.get_trials(deepcopy=False)
    extrapolator = LearningCurveExtrapolator(trials, objectives)
    for trial in trials:
        labels = trial.params
        if labels.keys() >= set(space.names):
            key = tuple(map(labels.__getitem__, space.names))
            if key not in point_cache:
                point_cache[key] = space.values(dict(zip(space.names, key, strict=True)))
            if key not in networks or networks[key].scores is None:
                running = trial.state == TrialState.RUNNING
                curve = extrapolator.curve(trial)
                scores = extrapolator.predict(trial)
                networks[key] = Observation(point_cache[key], scores, running, curve, is_paused(trial))
    return list(networks.values())
