"""From a searcher's draws to a network worth training: within the limits, and not trained before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from nas_agg.errors import InputError
from nas_agg.study.record import Labels, Record, TrialRecord
from nas_agg.study.searcher import Searcher, derive_seed

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from nas_agg.costs import Cost
    from nas_agg.genotype import Genotype
    from nas_agg.space import Space

PATIENCE = 1000
WHILE_OTHERS_RUN = 50
SMALL_SPACE = 1000


@dataclass(frozen=True)
class Network:
    """A network within the limits."""

    genotype: Genotype
    params: int
    macs: int
    hash: str


class Proposer:
    """Asks the searcher for the next trial.

    A draw over a limit, or of a network that failed or is being trained by another worker, is refused and drawn again
    from the same sampler; it leaves no trial, only a count at the trial that follows. A network that has a result is
    recorded as a repeat with that result.

    Args:
        space: The space.
        searcher: What proposes.
        record: The trials.
        max_params, max_macs: Limits; 0 is none.
        input: The images' shape (channels, height, width); ``None`` leaves it to the space.
        classes: The number of classes; ``None`` leaves it to the space.
        cost: Counts a genotype; :func:`nas_agg.costs.cost` unless told.
    """

    def __init__(
        self,
        space: Space,
        searcher: Searcher,
        record: Record,
        *,
        max_params: int = 0,
        max_macs: int = 0,
        input: tuple[int, int, int] | None = None,
        classes: int | None = None,
        cost: Callable[[Genotype], Cost] | None = None,
    ):
        if cost is None:
            from nas_agg import costs

            cost = costs.cost
        self.space, self.searcher, self.record = space, searcher, record
        self._limits = {"params": max_params, "macs": max_macs}
        self._input, self._classes, self._cost = input, classes, cost
        self._judged: dict[tuple, Network | str] = {}

    def genotype(self, labels: Labels) -> Genotype:
        """The genotype of a trial's values, made for the task."""
        return self.space.genotype(self.space.values(labels), input=self._input, classes=self._classes)

    def judge(self, labels: Labels) -> Network | str:
        """The network of a draw, or why it is refused; nothing is built."""
        key = tuple(labels.values())
        if key not in self._judged:
            self._judged[key] = self._judge(labels)
        return self._judged[key]

    def _judge(self, labels: Labels) -> Network | str:
        try:
            genotype = self.genotype(labels)
            cost = self._cost(genotype)
            for name, limit in self._limits.items():
                if limit and getattr(cost, name) > limit:
                    return f"more than {limit:,} {name}"
            return Network(genotype, cost.params, cost.macs, cost.hash)
        except InputError as error:
            return str(error)

    def propose(self) -> tuple[int, Network] | str:
        """Begin the next trial.

        Returns:
            Its number and network; or why there is none: the search has nothing new to find (or, while other trials
            run, nothing new yet).
        """
        asked, busy = self._asked_in_vain(), 0
        while asked < PATIENCE:
            number, refused = self.record.next_number, 0
            distributions = self.space.distributions
            for labels in self.record.draws(self.searcher.sampler(number), distributions):
                network = self.judge(labels)
                known = None if isinstance(network, str) else self.record.known(network.hash)
                if isinstance(network, str) or (known is not None and not known.counts):
                    refused += 1
                    asked += 1
                    busy += known is not None and known.state == "running"
                    if busy >= WHILE_OTHERS_RUN:
                        return "the searcher proposes what is being trained"
                    if asked >= PATIENCE or (refused == 1 and self._exhausted()):
                        return self._why(network, known)
                    continue
                attrs = {"hash": network.hash, "params": network.params, "macs": network.macs}
                attrs |= {"seed": derive_seed(self.searcher.seed, number, "train"), "refused": refused}
                if known is None:
                    return self.record.begin(labels, distributions, attrs), network
                self.record.repeat(labels, distributions, attrs, known.number)
                asked += 1
                break
            if self._exhausted():
                break
        return self._why("", None)

    def _asked_in_vain(self) -> int:
        """Draws since the last new network, refused ones and repeats."""
        tail = itertools.takewhile(lambda trial: trial.state == "repeat", reversed(self.record.trials))
        return sum(1 + trial.refused for trial in tail)

    def _exhausted(self) -> bool:
        """Whether every point of a small space is known or refused. Of a large space nobody can tell."""
        if self.space.size() > SMALL_SPACE:
            return False
        return not any(self._new(labels) for labels in _all_points(dict(self.space.distributions)))

    def _new(self, labels: Labels) -> bool:
        network = self.judge(labels)
        return not isinstance(network, str) and self.record.known(network.hash) is None

    def _why(self, last: Network | str, known: TrialRecord | None) -> str:
        if self._exhausted():
            return "the space holds no other network within the limits"
        said = f" (the last one: {last})" if isinstance(last, str) and last else ""
        if known is not None:
            said = f" (the last one: equal to trial {known.number}, {known.state})"
        return f"{PATIENCE:,} draws in a row were repeats or refused{said}"


def _all_points(distributions: dict[str, BaseDistribution]) -> Iterator[Labels]:
    values: list[list[Any]] = []
    for distribution in distributions.values():
        if isinstance(distribution, CategoricalDistribution):
            values.append(list(distribution.choices))
        elif isinstance(distribution, IntDistribution):
            values.append(list(range(distribution.low, distribution.high + 1, distribution.step)))
        else:
            raise TypeError(f"a space's names are integers or choices, not {distribution}")
    for point in itertools.product(*values):
        yield dict(zip(distributions, point, strict=True))
