"""A file of proxy scores, so that each is computed once."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

from nas_agg.common.errors import NasAggError
from nas_agg.common.files import write_atomic
from nas_agg.common.sealed_json import read_sealed, sealed
from nas_agg.study.samplers.proxy_scorer import PROXIES

WRITE_INTERVAL = 5.0  # seconds

#: By the digest of a genotype and the name of a proxy: one score for each initialisation.
Scores = dict[str, dict[str, list[float]]]


class ScoreCache:
    """Proxy scores in a file; a damaged file counts as missing.

    Args:
        path: The file.
        key: All that the scores depend on besides the genotype, as a text.

    Attributes:
        scores: The known scores, to be added to. NaN stands for a score that could not be computed; it is not written.
        write_error: Why the scores could not be written, else empty.
    """

    def __init__(self, path: Path, key: str):
        self.write_error = ""
        self._path, self._last_write = path, -math.inf
        self._scores_by_key = _read(path)
        self.scores: Scores = self._scores_by_key.setdefault(key, {})
        self._written_count = self._count()

    def _count(self) -> int:
        return sum(len(scores) for by_proxy in self.scores.values() for scores in by_proxy.values())

    def write_if_due(self) -> None:
        """Write the scores unless they were written within the last ``WRITE_INTERVAL`` seconds."""
        if time.monotonic() - self._last_write >= WRITE_INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the scores, if there are new ones."""
        self._last_write = time.monotonic()
        if (count := self._count()) == self._written_count:
            return
        content = {
            key: {
                network: {proxy: _writable(scores) for proxy, scores in by_proxy.items()}
                for network, by_proxy in networks.items()
            }
            for key, networks in self._scores_by_key.items()
        }
        try:
            write_atomic(self._path, sealed(content, indent=None), durable=False)
            self._written_count = count
        except NasAggError as error:  # the run belongs to another user: its scores are computed each time
            self.write_error = str(error)


def _writable(scores: list[float]) -> list[float | str]:
    """Scores up to the first that could not be computed; JSON has no infinity, which becomes a string."""
    computed = itertools.takewhile(lambda score: not math.isnan(score), scores)
    return [score if math.isfinite(score) else str(score) for score in computed]


def _read(path: Path) -> dict[str, Scores]:
    """The contents of a file; nothing if it is missing or damaged."""
    try:
        content = read_sealed(path)
        return {
            key: {
                network: {proxy: [float(score) for score in by_proxy[proxy]] for proxy in by_proxy if proxy in PROXIES}
                for network, by_proxy in networks.items()
            }
            for key, networks in content.items()
        }
    except (ValueError, TypeError, AttributeError, LookupError):
        return {}
