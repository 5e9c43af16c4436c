"""Tree-structured Parzen estimator: draws near what did well, away from what did not."""

from __future__ import annotations

from optuna.samplers import BaseSampler, TPESampler

from nas_agg.study.samplers.paused_trials import PausedTrialsSampler
from nas_agg.study.samplers.searcher import Searcher


class TPESearcher(Searcher):
    """Optuna's TPE over all open names at once; the first ten networks are drawn at random.

    A network that another worker is training counts as a bad one meanwhile, so that workers spread out.
    """

    supports_multi_objective = True

    def sampler(self, number: int) -> BaseSampler:
        """A TPE sampler for one trial."""
        return PausedTrialsSampler(
            TPESampler(n_startup_trials=10, multivariate=True, constant_liar=True, seed=self.seed_of(number)),
            self.objectives,
        )
