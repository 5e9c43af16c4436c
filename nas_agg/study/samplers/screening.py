"""Candidates of a search screened by a proxy before one of them is trained."""

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
    """Picks of several networks the one to train.

    A score depends on the genotype, the seed and the data set alone, so that a search that goes on picks as before.
    The data set is read, and torch imported, when a network is first scored; the costs need neither.

    Args:
        proxy: A name of `nas_agg.study.samplers.proxy_scorer.PROXIES`.
        candidates: Networks that one is picked from, for whoever draws them.
        data: The arguments of `nas_agg.training.data.load_data`; ``None`` where there is no data set.
        seed: The search's.
        batch: Images that networks are scored on.

    Raises:
        InputError: There is no such proxy, it cannot be computed without a data set, or nothing is picked from.
    """

    def __init__(self, proxy: str, candidates: int, data: Mapping[str, Any] | None, seed: int, batch: int = BATCH):
        check_proxies([proxy])
        if candidates < 1:
            raise InputError(f"candidates: 1 or more, not {candidates}")
        if data is None and proxy not in COST_PROXIES:
            raise InputError(f"proxy: {proxy} takes images; name a data set, or one of {', '.join(COST_PROXIES)}")
        self.proxy, self.candidates = proxy, candidates
        self._data, self._seed, self._batch = data, seed, batch
        self._known: dict[str, float] = {}

    def best(self, candidates: Sequence[Genotype]) -> int:
        """The place of the network with the highest score, of equal ones the first.

        Args:
            candidates: One or more.
        """
        scores = [self.score(genotype) for genotype in candidates]
        return max(range(len(scores)), key=lambda place: (scores[place], -place))

    def score(self, genotype: Genotype) -> float:
        """A network's score; minus infinity where it is no finite number or cannot be computed."""
        key = genotype_digest(genotype)
        if key not in self._known:
            score = self._score(genotype)
            self._known[key] = score if math.isfinite(score) else -math.inf
        return self._known[key]

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
