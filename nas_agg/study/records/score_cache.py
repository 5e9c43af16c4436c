"""Scores of networks kept in a file, so that they are computed once."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import check_regular, write_atomic
from nas_agg.study.samplers.proxy_scorer import PROXIES

WRITE_EVERY = 5.0  # seconds

#: By the digest of a genotype and the name of a proxy: a score for each initialisation.
Scores = dict[str, dict[str, list[float]]]


class ScoreCache:
    """Scores in a file; a file that is not of its form is as if it were not there.

    Args:
        path: The file.
        of: What else the scores depend on, as a text.

    Attributes:
        scores: Those that are known, to be added to. What could not be computed is not a number, and is not kept.
        unkept: Why they could not be written, else empty.
    """

    def __init__(self, path: Path, of: str):
        self.unkept = ""
        self._path, self._written = path, -math.inf
        self._all = _read(path)
        self.scores: Scores = self._all.setdefault(of, {})
        self._count = self._counted()

    def _counted(self) -> int:
        return sum(len(of) for mine in self.scores.values() for of in mine.values())

    def write_now_and_then(self) -> None:
        """Write what is known if the last writing is a while ago."""
        if time.monotonic() - self._written >= WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Write what is known, if it is more than was."""
        self._written = time.monotonic()
        if (count := self._counted()) == self._count:
            return
        known = {
            key: {network: {name: _texts(of) for name, of in mine.items()} for network, mine in networks.items()}
            for key, networks in self._all.items()
        }
        try:
            write_atomic(self._path, json.dumps(known, allow_nan=False, separators=(",", ":")) + "\n")
            self._count = count
        except NasAggError as error:  # somebody else's run: its scores are computed each time
            self.unkept = str(error)


def _texts(scores: list[float]) -> list[float | str]:
    """Scores as JSON can say them, up to the first that could not be computed."""
    computed = itertools.takewhile(lambda score: not math.isnan(score), scores)
    return [score if math.isfinite(score) else str(score) for score in computed]


def _read(path: Path) -> dict[str, Scores]:
    """What a file holds; nothing if there is none, or if it is spoilt."""
    try:
        check_regular(path)
        value = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: {
                network: {name: [float(x) for x in mine[name]] for name in mine if name in PROXIES}
                for network, mine in networks.items()
            }
            for key, networks in value.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, InputError):
        return {}
