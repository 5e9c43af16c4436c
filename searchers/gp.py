"""Gaussian process over the search variables: Optuna's `GPSampler`."""

from __future__ import annotations

from optuna.samplers import BaseSampler, GPSampler

from nas_agg.study.samplers.paused_trials import PausedTrialsSampler
from nas_agg.study.samplers.searcher import Searcher


class GPSearcher(Searcher):
    """Optuna's `GPSampler`: a Gaussian process over the search variables, with expected improvement.

    The acquisition function is log EI, or log EHVI for several objectives. The first ten networks are random.
    """

    supports_multi_objective = True
    max_rejections = 3  # once certain of its optimum it repeats that proposal, and each takes long

    def sampler(self, number: int) -> BaseSampler:
        """The sampler of one trial."""
        sampler = GPSampler(n_startup_trials=10, deterministic_objective=False, seed=self.seed_of(number))
        return PausedTrialsSampler(sampler, self.objectives)
