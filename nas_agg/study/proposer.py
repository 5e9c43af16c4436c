"""From a searcher's draws to a network worth training: within the limits, and not trained before."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from nas_agg.common.errors import InputError
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space
from nas_agg.study.definition.result import ranked
from nas_agg.study.definition.trial import Labels, RecordState, TrialRecord
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.searcher import Searcher, derive_seed
from nas_agg.study.scheduling.feasible_share import FeasibleShare, check_limits, estimate_feasible_share

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from nas_agg.expansion.costs import Cost
    from nas_agg.search_space.parameters import Values
    from nas_agg.study.samplers.screening import ProxyScreener
    from nas_agg.study.tables.table_file import Row

PATIENCE = 1000
SLOW = 100  # networks in a row over a limit that is measured, or over the memory, which takes seconds
WHILE_OTHERS_RUN = 50
SMALL_SPACE = 1000
LONGEST = 20_000  # characters of a genotype that a storage is given, for whoever looks at it there
_EXHAUSTED = "the space holds no other network within the limits"


@dataclass(frozen=True)
class Candidate:
    """A network within the limits."""

    genotype: Genotype
    params: int
    macs: int
    hash: str
    activation_bytes: int | None = None


class Proposer:
    """Asks the searcher for the next trial.

    A draw over a limit, or of a network that failed or is being trained by another worker, is refused and drawn again
    from the same sampler; it leaves no trial, only a count at the trial that follows. A network that has a result is
    recorded as a repeat with that result.

    A searcher learns nothing from refusals and may draw the like for ever. After ``max_rejections`` in a row
    draws of another kind take turns: any point of the space, and a neighbour of one of the best networks.

    Args:
        space: The space.
        searcher: What proposes.
        record: The trials.
        start: The values of the first trials, which come before the searcher's.
        limits: The most that figures of :class:`~nas_agg.expansion.costs.Cost` may be; 0 is no limit.
        activations: Whether the activations' bytes are worked out, which takes a moment.
        input: The images' shape (channels, height, width); ``None`` leaves it to the space.
        classes: The number of classes; ``None`` leaves it to the space.
        cost: Counts a genotype; :func:`nas_agg.expansion.costs.cost` unless told.
        memory: Says what a network is trained with; unsaid, it is not recorded.
        screen: Picks of several new draws the one to train; what the user starts from is not screened.
        measured: Whether there are limits that are measured once a trial has begun; a network above is a draw in vain.
    """

    def __init__(
        self,
        space: Space,
        searcher: Searcher,
        record: StudyRecord,
        *,
        start: Sequence[Values] = (),
        limits: Mapping[str, int] | None = None,
        activations: bool = False,
        input: tuple[int, int, int] | None = None,
        classes: int | None = None,
        cost: Callable[[Genotype], Cost | Row] | None = None,
        memory: Callable[[Genotype], str] | None = None,
        screen: ProxyScreener | None = None,
        measured: bool = False,
    ):
        self._table = cost is not None
        if cost is None:
            from nas_agg.expansion import costs

            cost = costs.cost
        self.space, self.searcher, self.record = space, searcher, record
        record.searcher = type(searcher).__name__
        self._start = [space.labels(values) for values in start]
        self._limits, self._activations = dict(limits or {}), activations
        self._input, self._classes, self._cost = input, classes, cost
        self._memory, self._screen = memory, screen
        searcher.input, searcher.classes, searcher.limits = input, classes, self._limits
        self._in_vain = (
            {RecordState.DUPLICATE, RecordState.INFEASIBLE, RecordState.RUNNING}
            if measured
            else {RecordState.DUPLICATE}
        )
        self._judged: dict[tuple, Candidate | str] = {}
        self._asking: Generator[None, None, tuple[int, Candidate] | str] | None = None

    def genotype(self, labels: Labels) -> Genotype:
        """The genotype of a trial's values, made for the task."""
        return self.space.genotype(self.space.values(labels), input=self._input, classes=self._classes)

    def judge(self, labels: Labels) -> Candidate | str:
        """The network of a draw, or why it is refused; nothing is built."""
        key = tuple(labels[name] for name in self.space.names)  # storages keep names in an order of their own
        if key not in self._judged:
            self._judged[key] = self._judge(labels)
        return self._judged[key]

    def _judge(self, labels: Labels) -> Candidate | str:
        try:
            genotype = self.genotype(labels)
            cost = self._cost(genotype)
            if exceeded := self._exceeded(cost):
                return exceeded
            activations = cost.activation_bytes if self._activations else None
            return Candidate(genotype, cost.params, cost.macs, cost.hash, activations)
        except InputError as error:
            return str(error)

    def _exceeded(self, cost: Cost | Row) -> str:
        """The limit that a network is over, as a text; empty if there is none."""
        for name, limit in self._limits.items():
            if limit and getattr(cost, name) > limit:
                return f"more than {limit:,} {name.replace('_train', '').replace('_', ' ')}"
        return ""

    def share(self) -> FeasibleShare | None:
        """How much of the space the limits leave that arithmetic knows; None where there are no such limits."""
        if not any(self._limits.values()) or not isinstance(self.space, Space):
            return None

        def fits(genotype: Genotype) -> tuple[bool, int]:
            if self._table:
                return not self._exceeded(self._cost(genotype)), 100
            return check_limits(genotype, self._limits)

        return estimate_feasible_share(self.space, fits, self._input, self._classes)

    def propose(self, seconds: float = math.inf) -> tuple[int, Candidate] | str | None:
        """Begin the next trial.

        Args:
            seconds: After as much time in vain it comes back; the next call goes on where this one was.

        Returns:
            Its number and network; or why there is none: the search has nothing new to find (or, while other trials
            run, nothing new yet); or ``None`` when the time was too short to tell.
        """
        if self._asking is None:
            self._asking = self._ask()
        end = time.monotonic() + seconds
        while True:
            try:
                next(self._asking)
            except StopIteration as answer:
                self._asking = None
                return answer.value
            except BaseException:
                self._asking = None
                raise
            if time.monotonic() >= end:
                return None

    def _ask(self) -> Generator[None, None, tuple[int, Candidate] | str]:
        """Draw until there is an answer; pauses after each network that was worked out."""
        asked, busy, refused, checked = self._asked_in_vain(), 0, 0, False
        distributions, last = self.space.distributions, ""
        if sum(trial.state == RecordState.INFEASIBLE for trial in self._tail()) >= SLOW:
            return f"{SLOW} networks in a row were slower than the limit or did not fit the memory"
        if self._screen is not None and self.record.next_number >= len(self._start):
            return (yield from self._pick(self._screen))
        draws = self._draws()
        while asked < PATIENCE:
            lost = asked >= self.searcher.max_rejections
            labels = self._other_draw(asked) if lost else next(draws)
            network = self.judge(labels)
            asked += 1
            refused += 1
            if isinstance(network, str):
                last = network
            else:
                known = self.record.find_by_hash(network.hash)
                attrs = self._attrs(network, refused - 1)
                if known is None:
                    return self.record.create_trial(labels, distributions, attrs), network
                if known.is_final and not lost:
                    self.record.create_duplicate(labels, distributions, attrs, known.number)
                    draws, refused, checked = self._draws(), 0, False
                busy += known.state == RecordState.RUNNING
                if busy >= WHILE_OTHERS_RUN:
                    return "the searcher proposes what is being trained"
                last = f"equal to trial {known.number}, {known.state}"
            yield
            if not checked:
                checked = True
                if (yield from self._exhausted()):
                    return _EXHAUSTED
        return f"{PATIENCE:,} draws in a row were repeats or refused{f' (the last one: {last})' if last else ''}"

    def _pick(self, screen: ProxyScreener) -> Generator[None, None, tuple[int, Candidate] | str]:
        """Draw candidates, each a network of its own, and begin the one that is screened best."""
        draws, found = self._draws(), dict[str, tuple[Labels, Candidate]]()
        in_vain = 0
        for asked in range(PATIENCE):
            labels = self._other_draw(asked) if in_vain >= self.searcher.max_rejections else next(draws)
            network = self.judge(labels)
            in_vain += 1
            if (
                not isinstance(network, str)
                and network.hash not in found
                and not self.record.find_by_hash(network.hash)
            ):
                found[network.hash] = labels, network
                screen.score(network.genotype)
                in_vain = 0
            yield
            if len(found) == screen.candidates:
                break
        if not found:
            return _EXHAUSTED if (yield from self._exhausted()) else f"{PATIENCE:,} draws held no new network"
        labels, network = list(found.values())[screen.best([one.genotype for _, one in found.values()])]
        attrs = self._attrs(network, asked + 1 - len(found))
        return self.record.create_trial(labels, self.space.distributions, attrs), network

    def _draws(self) -> Iterator[Labels]:
        """What is proposed for the next trial: by the user, then by the searcher."""
        from optuna.samplers import BaseSampler

        number = self.record.next_number
        with self.record.searcher_errors(number):
            sampler = self.searcher.sampler(number)
            if not isinstance(sampler, BaseSampler):
                raise TypeError(f"its sampler() gave a {type(sampler).__name__}, not an Optuna sampler")
        return itertools.chain(self._start[number : number + 1], self.record.draws(sampler, self.space.distributions))

    def _attrs(self, network: Candidate, refused: int) -> dict[str, Any]:
        seed = derive_seed(self.searcher.seed, self.record.next_number, "train")
        memory = self._memory(network.genotype) if self._memory is not None else "plain"
        text = network.genotype.to_json() if isinstance(network.genotype, Genotype) else ""
        return {
            "hash": network.hash,
            "params": network.params,
            "macs": network.macs,
            "seed": seed,
            "rejected_draws": refused,
            **({"memory": memory} if memory != "plain" else {}),
            **({"genotype": text} if 0 < len(text) <= LONGEST else {}),
            **({"activation_bytes": network.activation_bytes} if network.activation_bytes is not None else {}),
        }

    def _other_draw(self, asked: int) -> Labels:
        """What is drawn when the searcher is at a loss; the circle of the best widens with each draw in vain."""
        import numpy as np

        number = self.record.next_number
        rng = np.random.default_rng(derive_seed(self.searcher.seed, number, f"draw {asked}"))
        best = ranked(self.record.trials)[: 2 + asked // 20]
        if best and asked % 2:
            labels = best[int(rng.integers(len(best)))].labels
            return self.space.labels(self.space.mutate(self.space.values(labels), rng))
        return self.space.labels(self.space.sample(rng))

    def _asked_in_vain(self) -> int:
        """Draws since the last new network, refused ones and repeats; what is being measured is no answer yet."""
        return sum(1 + trial.rejected_draws for trial in self._tail() if trial.state != RecordState.RUNNING)

    def _tail(self) -> Iterator[TrialRecord]:
        """The trials since the last network with a result, the last first."""
        return itertools.takewhile(lambda trial: trial.state in self._in_vain, reversed(self.record.trials))

    def _exhausted(self) -> Generator[None, None, bool]:
        """Whether every point of a small space is known or refused. Of a large space nobody can tell."""
        if self.space.size() > SMALL_SPACE:
            return False
        for labels in _all_points(dict(self.space.distributions)):
            network = self.judge(labels)
            if not isinstance(network, str) and self.record.find_by_hash(network.hash) is None:
                return False
            yield
        return True


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
