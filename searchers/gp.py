"""A Gaussian process over the open names: Optuna's own sampler."""

from __future__ import annotations

from optuna.samplers import BaseSampler, GPSampler

from nas_agg.study.samplers.paused_trials import PausedTrialsSampler
from nas_agg.study.samplers.searcher import Searcher


class GPSearcher(Searcher):
    """Optuna's Gaussian process with expected improvement; the first ten networks are drawn at random."""

    supports_multi_objective = True
    max_rejections = 3  # once it is sure of its best it proposes it again and again, and takes its time for each

    def sampler(self, number: int) -> BaseSampler:
        """A sampler for one trial."""
        sampler = GPSampler(n_startup_trials=10, deterministic_objective=False, seed=self.seed_of(number))
        return PausedTrialsSampler(sampler, self.objectives)
