"""What a search found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.study.trial import TrialRecord

if TYPE_CHECKING:
    from nas_agg.genotype import Genotype


@dataclass(frozen=True)
class SearchResult:
    """The end of a search.

    Attributes:
        best: The best network.
        values: The values of the space's open names that make it.
        value: Its score: validation accuracy (0 to 1), that weighed by latency if there is a target, or what
            ``evaluate`` gave.
        trials: Every trial, by number.
        reason: Why the search ended.
        path: The run folder, if there is one.
        test: ``metrics.json`` of the final network, if one was trained.
    """

    best: Genotype
    values: dict[str, Any]
    value: float
    trials: tuple[TrialRecord, ...]
    reason: str
    path: Path | None = None
    test: dict[str, Any] | None = None

    @property
    def top(self) -> list[TrialRecord]:
        """The five best trials."""
        return ranked(self.trials)[:5]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for ``--format json``."""
        return {
            "path": None if self.path is None else str(self.path),
            "reason": self.reason,
            "value": self.value,
            "values": self.values,
            "test": self.test,
            "trials": [asdict(trial) for trial in self.trials],
            "top": [trial.number for trial in self.top],
        }


def ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Networks with a result, best first: by value, then fewer parameters, then number.

    Networks whose training was stopped early stand behind those that were trained in full.
    """
    scored = [trial for trial in trials if trial.counts and trial.value is not None]
    return sorted(scored, key=lambda t: (t.state != "complete", -(t.value or 0.0), t.params, t.number))
