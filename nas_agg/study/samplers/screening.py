"""Screens candidate networks by a proxy, so that a search trains the best of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.study.samplers.proxy_scorer import BATCH, COST_PROXIES, ProxyScorer, check_proxies, genotype_digest

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype


class ProxyScreener:
    """Selects the network to train among candidates.

    A score depends on the genotype, the seed and the data set alone, so a resumed search selects as before. The data
    set is read, and torch imported, when a network is first scored; params and MACs need neither.

    Args:
        proxy: A name of `nas_agg.study.samplers.proxy_scorer.PROXIES`.
        candidates: The number of candidates that the proposer draws.
        data: The arguments of `nas_agg.training.data.load_data`; None if there is no data set.
        seed: The seed of the search.
        batch: The number of images that networks are scored on.

    Raises:
        InputError: The proxy is unknown or needs a data set, or there are no candidates.
    """

    def __init__(self, proxy: str, candidates: int, data: Mapping[str, Any] | None, seed: int, batch: int = BATCH):
        check_proxies([proxy])
        if candidates < 1:
            raise InputError(f"candidates: must be 1 or more, not {candidates}")
        if data is None and proxy not in COST_PROXIES:
            raise InputError(f"proxy: {proxy} needs images; specify a data set, or use {' or '.join(COST_PROXIES)}")
        self.proxy, self.candidates = proxy, candidates
        self._data, self._seed, self._batch = data, seed, batch
        self._scores: dict[str, float] = {}

    def best(self, candidates: Sequence[Genotype]) -> int:
        """The index of the candidate with the highest score; of equal ones, the first.

        Args:
            candidates: One or more.
        """
        scores = [self.score(genotype) for genotype in candidates]
        return max(range(len(scores)), key=lambda index: (scores[index], -index))

    def score(self, genotype: Genotype) -> float:
        """The score of a network; minus infinity if it is not finite or cannot be computed."""
        key = genotype_digest(genotype)
        if key not in self._scores:
            score = self._score(genotype)
            self._scores[key] = score if math.isfinite(score) else -math.inf
        return self._scores[key]

    def _score(self, genotype: Genotype) -> float:
        if self.proxy in COST_PROXIES:
            from nas_agg.expansion.costs import cost

            try:
                return float(getattr(cost(genotype), self.proxy))
            except NasAggError:
                return math.nan
        return self._scorer.scores_or_nan(genotype, [self.proxy])[self.proxy]

    @cached_property
    def _scorer(self) -> ProxyScorer:
        from nas_agg.training.data import load_data

        assert self._data is not None
        return ProxyScorer(load_data(**self._data), self._seed, self._batch)
