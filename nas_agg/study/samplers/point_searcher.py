"""Searchers that propose whole points of a space, as samplers of Optuna."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from nas_agg.study.samplers.extrapolation import LearningCurveExtrapolator
from nas_agg.study.samplers.searcher import Searcher

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from nas_agg.search_space.parameters import Values
    from nas_agg.search_space.space import Space
    from nas_agg.study.definition.objectives import Objectives


class Observation(NamedTuple):
    """A network of an earlier trial.

    Attributes:
        values: Its values of the open names.
        scores: For each objective its value, so turned that more is better; None where it has none that holds. Of a
            network that paused at a rung, what it may be expected to have at the end.
        running: Whether it is being trained; with neither it failed, or is over a limit.
    """

    values: Values
    scores: tuple[float, ...] | None
    running: bool = False

    @property
    def value(self) -> float | None:
        """The first of its scores."""
        return None if self.scores is None else self.scores[0]


class PointSearcher(Searcher):
    """A searcher that is one generator: given what was seen, it proposes points, its first choice first.

    What it proposes may be refused (over a limit, or in training elsewhere); then it is asked for the next. Behind its
    last proposal come random points.
    """

    @cached_property
    def points(self) -> dict[tuple, Values]:
        """The points of trials, by their labels; kept only to save time."""
        return {}

    @abstractmethod
    def proposals(self, seen: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """Proposes points for one trial, the first choice first.

        Args:
            seen: The networks of the trials before, in their order, each once.
            rng: Seeded by the search's seed and the trial's number.
        """

    def sampler(self, number: int) -> BaseSampler:
        """Its proposals for one trial, as an Optuna sampler."""
        return PointSampler(self, number)


class PointSampler(BaseSampler):
    """The proposals of a `PointSearcher` for one trial."""

    def __init__(self, searcher: PointSearcher, number: int):
        self._searcher, self._number = searcher, number
        self._proposals: Iterator[Values] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All open names."""
        return dict(self._searcher.space.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next proposal, as labels."""
        space = self._searcher.space
        if self._proposals is None:
            rng = np.random.default_rng(self._searcher.seed_of(self._number))
            trials = seen(study, space, self._searcher.objectives, self._searcher.points)
            self._proposals = _then_any(self._searcher.proposals(trials, rng), space, rng)
        return space.labels(next(self._proposals))

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Never asked: every open name is drawn with the others."""
        raise LookupError(f"{name} is no open name of the space")


def _then_any(proposals: Iterator[Values], space: Space, rng: np.random.Generator) -> Iterator[Values]:
    yield from proposals
    while True:
        yield space.sample(rng)


def seen(
    study: Study, space: Space, objectives: Objectives, points: dict[tuple, Values] | None = None
) -> list[Observation]:
    """The networks of a study's trials, in their order.

    A point of several trials comes once, with the scores of the first that has some.

    Args:
        study: The trials.
        space: The space.
        objectives: What the search aims at.
        points: Points by their labels, as found out before; more are added.
    """
    points = {} if points is None else points
    found: dict[tuple, Observation] = {}
    trials = study.get_trials(deepcopy=False)
    prospects = LearningCurveExtrapolator(trials, objectives)
    for trial in trials:
        labels = trial.params
        if labels.keys() >= set(space.names):
            name = tuple(map(labels.__getitem__, space.names))
            if name not in points:
                points[name] = space.values(dict(zip(space.names, name, strict=True)))
            if name not in found or found[name].scores is None:
                found[name] = Observation(points[name], prospects.of(trial), trial.state == TrialState.RUNNING)
    return list(found.values())
