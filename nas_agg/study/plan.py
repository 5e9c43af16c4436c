"""The plan of a search: its components, chosen before anything is loaded or written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_agg.common.files import canonical_json
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.joint_space import JointSpace
from nas_agg.search_space.space import Space
from nas_agg.study.definition.callbacks import Callback
from nas_agg.study.definition.objectives import Objectives, objectives_of
from nas_agg.study.definition.setting_groups import PAUSING_PRUNERS
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import Task, open_task
from nas_agg.study.samplers.earlier_runs import EarlierRuns
from nas_agg.study.samplers.screening import ProxyScreener
from nas_agg.study.samplers.searcher import Searcher, derive_seed, make_searcher
from nas_agg.study.scheduling.constraints import check_freeze_thaw
from nas_agg.study.scheduling.feasible_share import format_limits
from nas_agg.study.tables.bare_parameters import ParameterSpace
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.study.workers.functions import FunctionReference, reference_to
from nas_agg.study.workers.pool import WORKER_COMMAND
from nas_agg.study.workers.process import Trainer
from nas_agg.study.workers.protocol import LeaseSettings
from nas_agg.study.workers.registry import find_backend
from nas_agg.training.recipes import Recipe, open_recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

    from nas_agg.search_space.parameters import Values
    from nas_agg.study.definition.trial import Labels

Evaluate = Callable[["Genotype | Values", "Trial"], float | Sequence[float]]


@dataclass(frozen=True)
class TrainingSetup:
    """How networks are trained.

    Attributes:
        open_task: Loads the data set and picks the devices.
        worker_command: Starts a worker process.
        lease: Timing of the leases of remote workers.
        trainer: Trains where there are no worker processes.
    """

    open_task: Callable[[Settings, Space], Task] = open_task
    worker_command: Sequence[str] = WORKER_COMMAND
    lease: LeaseSettings = field(default_factory=LeaseSettings)
    trainer: Trainer = field(default_factory=Trainer)


DEFAULT_SETUP = TrainingSetup()


@dataclass(frozen=True)
class SearchPlan:
    """The components of a search.

    Attributes:
        space: The space: networks of a `TabularSpace` are looked up, points of a `ParameterSpace` are no networks.
        settings: The settings as specified; what the space's defaults add is resolved when the search runs.
        objectives: The objectives.
        searcher: The searcher.
        evaluate: Evaluates networks, in place of training.
        function: How worker processes import that function; None if it is called in this process.
        is_named: Whether the settings alone describe the search, without any Python object.
        setup: How networks are trained.
        callbacks: Receive what happens in the search.
    """

    space: Space | ParameterSpace
    settings: Settings
    objectives: Objectives
    searcher: Searcher
    evaluate: Evaluate | None
    function: FunctionReference | None
    is_named: bool
    setup: TrainingSetup
    callbacks: tuple[Callback, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether networks are trained, rather than evaluated by a function or looked up in a table."""
        return self.evaluate is None and not isinstance(self.space, TabularSpace)

    def with_tuned_fields(self, recipe: Recipe, labels: Labels) -> Recipe:
        """A recipe with the fields that a trial tunes."""
        if not isinstance(self.space, JointSpace):
            return recipe
        return open_recipe(recipe, self.space.hyperparameters(self.space.values(labels)))

    @property
    def tests(self) -> bool:
        """Whether the best network is trained in full and tested."""
        return self.trains and self.settings.final > 0

    @property
    def needs_latency(self) -> bool:
        """Whether the latency of networks is measured."""
        settings = (self.settings.max_latency, self.settings.latency_target)
        return settings != (None, None) or "latency" in self.objectives.names

    def first_points(self) -> list[Values]:
        """The values of the first trials: those specified, then the best of earlier runs."""
        points = list(self.settings.start or ())
        if self.searcher.earlier is not None:
            rng = np.random.default_rng(derive_seed(self.settings.seed, 0, "learn"))
            points += [values for values in self.searcher.earlier.first_points(rng) if values not in points]
        return points

    def space_digest(self) -> str:
        """Digest of the space: its text, its search variables, its defaults for a search and its table."""
        from optuna.distributions import distribution_to_json

        distributions: dict[str, BaseDistribution] = dict(self.space.distributions)
        content: dict[str, Any] = {"open": {name: distribution_to_json(d) for name, d in distributions.items()}}
        if isinstance(self.space, Space):
            content |= {"template": self.space.template.to_dict(), "search": self.space.search_text}
        if isinstance(self.space, TabularSpace):
            content |= {"table": self.space.table and self.space.table[1]}  # with more rows the search would differ
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]

    def screener(self, data: dict[str, Any] | None) -> ProxyScreener | None:
        """The screener of new networks, if the settings name a proxy.

        Args:
            data: Arguments of `nas_agg.training.data.load_data`, if there is a data set.

        Raises:
            InputError: The proxy needs a data set.
        """
        if self.settings.proxy is None:
            return None
        return ProxyScreener(self.settings.proxy, self.settings.proxy_candidates, data, self.settings.seed)


def plan_search(
    space: Space | ParameterSpace,
    settings: Settings,
    searcher: type[Searcher],
    evaluate: Evaluate | None = None,
    *,
    is_named: bool = False,
    setup: TrainingSetup | None = None,
    callbacks: Sequence[Callback] = (),
) -> SearchPlan:
    """Plan a search; nothing is loaded or written.

    Args:
        space: The space.
        settings: The settings.
        searcher: Class of the searcher.
        evaluate: Evaluates networks, in place of training.
        is_named: Whether the settings alone describe the search.
        setup: How networks are trained.
        callbacks: Receive what happens in the search.

    Raises:
        InputError: The objectives, the searcher, the proxy or the table do not fit each other, there is no such
            backend, or worker processes cannot import the function.
    """
    objectives = objectives_of(settings, evaluate is not None)
    if isinstance(space, TabularSpace):
        space.check_objectives(objectives, settings.pruner in PAUSING_PRUNERS)
    instance = make_searcher(searcher, space, settings.seed, objectives)
    if settings.pruner == "freeze-thaw":
        check_freeze_thaw(instance, settings)
    if evaluate is None and not isinstance(space, TabularSpace):
        find_backend(settings.backend_name)  # now rather than after the data set is loaded
    if settings.learn:
        instance.earlier = EarlierRuns(space, objectives, settings.learn)
    function = reference_to(evaluate) if evaluate is not None and (settings.workers or 1) > 1 else None
    return SearchPlan(
        space, settings, objectives, instance, evaluate, function, is_named, setup or DEFAULT_SETUP, tuple(callbacks)
    )


def limits_text(settings: Settings, *names: str) -> str:
    """Format the upper limits of some metrics; empty if there are none."""
    return format_limits({name: getattr(settings, f"max_{name}") for name in names})
