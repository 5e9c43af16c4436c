"""Random search: the baseline."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler

from nas_agg.study.samplers.searcher import Searcher


class RandomSearcher(Searcher):
    """Random search: draws every search variable independently and uniformly.

    Li and Talwalkar, "Random Search and Reproducibility for Neural Architecture Search", UAI 2019.
    """

    supports_multi_objective = True
    max_rejections = 500  # stays random unless almost no network is within the limits

    def sampler(self, number: int) -> BaseSampler:
        """The sampler of one trial."""
        return RandomSampler(seed=self.seed_of(number))
