"""Random search: every point drawn from the whole space. Plain, parallel, and the mark that others must beat."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler

from nas_agg.study.samplers.searcher import Searcher


class RandomSearcher(Searcher):
    """Each open name is drawn alone, each of its values as likely as the next."""

    supports_multi_objective = True
    max_rejections = 500  # random it shall stay, unless next to nothing is within the limits

    def sampler(self, number: int) -> BaseSampler:
        """A random sampler for one trial."""
        return RandomSampler(seed=self.seed_of(number))
