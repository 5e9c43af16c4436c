"""Tree-structured Parzen estimator: Optuna's `TPESampler`."""

from __future__ import annotations

from optuna.samplers import BaseSampler, TPESampler

from nas_agg.study.samplers.paused_trials import PausedTrialsSampler
from nas_agg.study.samplers.searcher import Searcher


class TPESearcher(Searcher):
    """Optuna's `TPESampler`: the tree-structured Parzen estimator over all search variables jointly.

    Networks that are being trained count as bad ones (constant liar), so that parallel workers explore different
    regions. The first ten networks are random.

    Bergstra, Bardenet, Bengio and Kégl, "Algorithms for Hyper-Parameter Optimization", NIPS 2011.
    """

    supports_multi_objective = True

    def sampler(self, number: int) -> BaseSampler:
        """The sampler of one trial."""
        return PausedTrialsSampler(
            TPESampler(n_startup_trials=10, multivariate=True, constant_liar=True, seed=self.seed_of(number)),
            self.objectives,
        )
