"""What earlier runs tell about the networks of a search: first networks, and a feature for models of their scores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_agg.common.errors import InputError
from nas_agg.search_space.encoding import Encoding, Rows, row_key
from nas_agg.study.definition.pareto import nondominated_sort
from nas_agg.study.samplers.gaussian_process import GaussianProcess, SumKernel
from nas_agg.study.samplers.surrogate import log_gap_transform, semi_rank_transform, standardize_features

if TYPE_CHECKING:
    from nas_agg.search_space.parameters import SearchVariables, Values
    from nas_agg.study.definition.objectives import Objectives
    from nas_agg.study.samplers.features import FeatureExtractor

Array = np.ndarray

FIRST_NETWORKS = 5
MIN_NETWORKS = 3  # of a run; fewer say nothing about others


class EarlierRun:
    """The results of an earlier run, for networks of another search.

    The runs may be of different spaces: networks are compared by the search variables that both have. A network is left
    out if it has a value that the new space does not have.

    Args:
        space: The space of the new search.
        objectives: Its objectives.
        run: The earlier run: its name in ``run``, its ``networks`` with their ``values`` and ``metrics``.

    Attributes:
        name: The earlier run's name.
        variables: The indices of the search variables that both spaces have.
        rows: The networks, ``(networks, variables)``; 0 for variables that the earlier space does not have.
        scores: For each objective that is not known before training the networks' scores, ``(networks, objectives)``.

    Raises:
        InputError: The run does not have the objectives, or less than three networks of the space.
    """

    def __init__(self, space: SearchVariables, objectives: Objectives, run: Mapping[str, Any]):
        self.name = str(run["run"])
        learnt = [objective for objective in objectives if not objective.known_a_priori]
        networks = list(run["networks"])
        for objective in learnt:
            if not any(objective.attribute in network["metrics"] for network in networks):
                raise InputError(f"learn: {self.name}: no network has the objective {objective.name}")
        known = {name for network in networks for name in network["values"]}
        self.variables = [place for place, name in enumerate(space.names) if name in known]
        rows, scores = [], []
        for network in networks:
            row = _encode(space, self.variables, network["values"])
            if row is not None and all(objective.attribute in network["metrics"] for objective in learnt):
                rows.append(row)
                scores.append([objective.score(network["metrics"][objective.attribute]) for objective in learnt])
        if not self.variables:
            raise InputError(f"learn: {self.name}: no network has a search variable of this space")
        if len(rows) < MIN_NETWORKS:
            raise InputError(
                f"learn: {self.name}: {len(rows)} networks have values of the search variables that this space has as "
                f"well; {MIN_NETWORKS} or more are required"
            )
        self.rows, self.scores = np.array(rows), np.array(scores, float)

    def best(self) -> Rows:
        """The encoded values of its variables, ``(networks, variables of both)``, of the best network first."""
        return self.rows[nondominated_sort(self.scores)][:, self.variables]


class EarlierRuns:
    """Several earlier runs.

    Args:
        space: The space of the new search.
        objectives: Its objectives.
        runs: The earlier runs, see `EarlierRun`.

    Raises:
        InputError: One of them says nothing about the new search.
    """

    def __init__(self, space: SearchVariables, objectives: Objectives, runs: Sequence[Mapping[str, Any]]):
        self._encoding, self._is_multi_objective = Encoding(space), objectives.is_multi_objective
        self.runs = [EarlierRun(space, objectives, run) for run in runs]
        self._models: list[_Model] | None = None

    def first_points(self, rng: np.random.Generator) -> list[Values]:
        """The best networks of the runs, taken in turn; variables that a run does not have are drawn at random.

        Args:
            rng: Draws the missing values.
        """
        points: dict[bytes, Values] = {}
        for networks in itertools.zip_longest(*(run.best() for run in self.runs)):
            for run, network in zip(self.runs, networks, strict=True):
                if network is None or len(points) == FIRST_NETWORKS:
                    continue
                row = self._encoding.sample(1, rng)[0]
                row[run.variables] = network
                points.setdefault(row_key(row), self._encoding.decode(row))
        return list(points.values())

    def posterior_means(self, extractor: FeatureExtractor, rows: Rows, is_exact: bool = True) -> Array:
        """The scores that the runs predict for points: a column for each run and objective, ``(points, columns)``.

        Args:
            extractor: Computes the features of networks that the models of the runs use.
            rows: The points.
            is_exact: Use features even where they take time to compute.
        """
        if self._models is None:
            transform = semi_rank_transform if self._is_multi_objective else log_gap_transform
            self._models = [
                _Model(run, transform(scores), self._encoding, extractor)
                for run in self.runs
                for scores in run.scores.T
            ]
        return np.stack([model.posterior_mean(rows, extractor, is_exact) for model in self._models], 1)


class _Model:
    """A Gaussian process of one score of an earlier run.

    Features of networks are used if the earlier space has all search variables.
    """

    def __init__(self, run: EarlierRun, target: Array, encoding: Encoding, extractor: FeatureExtractor):
        self._variables, self._encoding = run.variables, encoding
        self._has_features = len(run.variables) == len(encoding.sizes)
        self._features = extractor.network_features(run.rows) if self._has_features else []
        tables = [encoding.distance_tables[j] for j in run.variables]
        kernel = SumKernel(tables, [group.shape[1] for group in self._features])
        features = standardize_features(self._features, self._features)
        self._process = GaussianProcess(kernel, self._codes(run.rows), features, target)

    def _codes(self, rows: Rows) -> Rows:
        return self._encoding.bucketize(rows)[:, self._variables]

    def posterior_mean(self, rows: Rows, extractor: FeatureExtractor, is_exact: bool) -> Array:
        features = extractor.network_features(rows) if self._has_features and is_exact else []
        return self._process.predict(self._codes(rows), standardize_features(features, self._features))[0]


def _encode(space: SearchVariables, variables: Sequence[int], values: Mapping[str, Any]) -> list[int] | None:
    """Encode the values of some variables; None if one of them is missing or not in its domain."""
    row = [0] * len(space.names)
    try:
        for place in variables:
            name = space.names[place]
            row[place] = space.domains[name].index(values[name])
    except (InputError, KeyError):
        return None
    return row
