"""Samplers of Optuna that a caller made, as searchers."""

from __future__ import annotations

import copy

import numpy as np
from optuna.samplers import BaseSampler

from nas_agg.study.samplers.paused_trials import PausedTrialsSampler
from nas_agg.study.samplers.searcher import Searcher


def searcher_of(sampler: BaseSampler) -> type[Searcher]:
    """A searcher that proposes every trial with a copy of a sampler.

    Each copy is seeded by the seed of the search and the trial's number, whatever seed the sampler has, so that a
    resumed search continues as an uninterrupted one. What a sampler keeps in itself from trial to trial is not carried
    over; what it keeps in the study is.

    Args:
        sampler: The sampler.
    """

    class SamplerSearcher(Searcher):
        """Copies of one sampler."""

        supports_multi_objective = True  # Optuna reports those that do not

        def sampler(self, number: int) -> BaseSampler:
            """The sampler of one trial."""
            own = copy.deepcopy(sampler)
            seed_sampler(own, self.seed_of(number))
            return PausedTrialsSampler(own, self.objectives)

    kind = type(sampler)
    SamplerSearcher.__name__ = SamplerSearcher.__qualname__ = kind.__qualname__
    SamplerSearcher.__module__ = kind.__module__
    return SamplerSearcher


def seed_sampler(sampler: BaseSampler, seed: int) -> None:
    """Seed all random states of a sampler, and those of the samplers that it contains."""
    for value in vars(sampler).values():
        state = getattr(value, "rng", value)
        if isinstance(state, np.random.RandomState):
            state.seed(seed)
        elif isinstance(value, BaseSampler):
            seed_sampler(value, seed)
