"""Turns a searcher's draws into networks worth training: within the limits, and not trained before."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from nas_agg.common.errors import GenotypeError, InputError
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.point_costs import PointCounter
from nas_agg.search_space.searchable import SearchableSpace
from nas_agg.search_space.space import Space
from nas_agg.study.definition.proposals import Candidate, NoProposal, Promotion, Proposal, Rejection
from nas_agg.study.definition.result import ranked
from nas_agg.study.definition.trial import Labels, RecordState, TrialRecord
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.searcher import Searcher, derive_seed
from nas_agg.study.scheduling.feasible_share import (
    FeasibleShare,
    check_limits,
    estimate_feasible_share,
    repair_point,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from nas_agg.expansion.block_figures import BlockCost
    from nas_agg.expansion.costs import Cost
    from nas_agg.search_space.parameters import Values
    from nas_agg.study.samplers.screening import ProxyScreener
    from nas_agg.study.tables.table_file import Row

MAX_REJECTIONS = 1000  # draws in a row without a new network, after which a search ends
MAX_INFEASIBLE = 100  # infeasible networks in a row, each of which took seconds to measure
REPAIR_AFTER = 100  # draws in a row, after which random points are repaired
MAX_RUNNING_DRAWS = 50  # draws of networks that are being trained, after which the searcher has to wait
SMALL_SPACE = 1000  # points of a space that is checked for networks that remain
MAX_GENOTYPE_TEXT = 20_000  # characters of a genotype that is stored with its trial, for dashboards
BUDGET_EXHAUSTED = "budget exhausted"
EXHAUSTED = "no other network of the space is within the limits"


class Proposer:
    """Asks the searcher for the next trial.

    A draw is rejected if it exceeds a limit, or if its network failed or is being trained; then the same sampler draws
    again. Rejected draws are no trials; they are counted in the trial that follows. A network that already has a result
    is recorded as a duplicate with that result.

    A searcher learns nothing from rejections and may repeat them forever. After its ``max_rejections`` in a row, other
    draws take turns: a random point, and a neighbour of one of the best networks. After `REPAIR_AFTER` in a row, random
    points are changed until they are within the limits.

    With freeze-thaw, a paused trial whose network is drawn again continues.

    Args:
        space: The space.
        searcher: Proposes points.
        record: The trials.
        start: Values of the first trials, before the searcher's.
        limits: Upper limits of a cost's attributes (:class:`~nas_agg.expansion.costs.Cost`); 0 for no limit.
        activations: Whether ``activation_bytes`` of candidates is computed, which takes a moment.
        input: Shape of the images (channels, height, width); ``None`` for the space's own.
        classes: Number of classes; ``None`` for the space's own.
        cost: Returns the cost of a genotype; by default :func:`nas_agg.expansion.costs.cost`.
        memory: Returns the memory mode to train a genotype with, which is recorded.
        screen: Selects one of several new candidates; the values to start from are not screened.
        measured: Whether there are limits on measured metrics; networks that exceed them count as rejections.
        full_epochs: With freeze-thaw, the epochs of a full training; else 0.

    Attributes:
        continues_trials: Whether the searcher decides which paused trials continue (freeze-thaw).
    """

    def __init__(
        self,
        space: SearchableSpace,
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
        full_epochs: int = 0,
    ):
        self._has_table = cost is not None
        if cost is None:
            from nas_agg.expansion import costs

            cost = costs.cost
        self.space, self.searcher, self.record = space, searcher, record
        record.searcher = type(searcher).__name__
        self._start = [space.labels(values) for values in start]
        self._limits, self._activations = dict(limits or {}), activations
        self._input, self._classes, self._cost = input, classes, cost
        self._memory, self._screen = memory, screen
        counts = isinstance(space, Space) and not self._has_table and any(self._limits.values())
        self._counter = PointCounter(space.networks, input, classes) if counts and isinstance(space, Space) else None
        searcher.input, searcher.classes, searcher.limits = input, classes, self._limits
        searcher.full_epochs, self.continues_trials, self._may_create = full_epochs, full_epochs > 0, True
        self._states_without_result = {RecordState.DUPLICATE}
        if measured:
            self._states_without_result |= {RecordState.INFEASIBLE, RecordState.RUNNING}
        self._checked: dict[tuple, Candidate | Rejection] = {}
        self._search: Generator[None, None, Proposal | Promotion | NoProposal] | None = None

    def genotype(self, labels: Labels) -> Genotype:
        """The genotype of a trial's values, for the task's images and classes."""
        return self.space.genotype(self.space.values(labels), input=self._input, classes=self._classes)

    def check(self, labels: Labels) -> Candidate | Rejection:
        """Check a draw against the limits, by arithmetic."""
        key = tuple(labels[name] for name in self.space.names)  # storages do not keep the order of names
        if key not in self._checked:
            self._checked[key] = self._check(labels)
        return self._checked[key]

    def _check(self, labels: Labels) -> Candidate | Rejection:
        try:
            if exceeded := self._exceeded_by_counting(labels):
                return Rejection(exceeded)
            genotype = self.genotype(labels)
            cost = self._cost(genotype)
            if exceeded := self._exceeded_limit(cost):
                return Rejection(exceeded)
            activation_bytes = cost.activation_bytes if self._activations else None
            hash = cost.hash
            if isinstance(self.space, Space):
                hash = self.space.trial_hash(hash, self.space.values(labels))
            return Candidate(genotype, cost.params, cost.macs, hash, activation_bytes)
        except InputError as error:
            return Rejection(str(error))

    def _exceeded_by_counting(self, labels: Labels) -> str:
        """The first limit that a draw exceeds, by counting without its graph; empty if this does not tell."""
        if self._counter is None:
            return ""
        try:
            return self._exceeded_limit(self._counter.cost_of(self.space.values(labels)))
        except GenotypeError:
            return ""  # the expansion tells why

    def _exceeded_limit(self, cost: Cost | BlockCost | Row) -> str:
        """The first limit that a cost exceeds, as a text; empty if there is none."""
        for attribute, limit in self._limits.items():
            if limit and getattr(cost, attribute) > limit:
                return f"more than {limit:,} {attribute.replace('_', ' ')}"
        return ""

    def feasible_share(self) -> FeasibleShare | None:
        """Estimate how much of the space is within the limits on cost; None without such limits."""
        if not any(self._limits.values()) or not isinstance(self.space, Space):
            return None

        def is_feasible(genotype: Genotype) -> tuple[bool, int]:
            if self._has_table:
                return not self._exceeded_limit(self._cost(genotype)), 100
            return check_limits(genotype, self._limits)

        return estimate_feasible_share(self.space, is_feasible, self._input, self._classes)

    def propose(self, seconds: float = math.inf, may_create: bool = True) -> Proposal | Promotion | NoProposal | None:
        """Create the next trial.

        Args:
            seconds: Time after which it returns without an answer; the next call continues from there.
            may_create: Whether the budget allows another trial; otherwise a paused one may continue.

        Returns:
            The trial, or why there is none; ``None`` if the time was too short.
        """
        self._may_create = may_create
        if self._search is None:
            self._search = self._next_trial()
        end = time.monotonic() + seconds
        while True:
            try:
                next(self._search)
            except StopIteration as end_of_search:
                self._search = None
                return end_of_search.value
            except BaseException:
                self._search = None
                raise
            if time.monotonic() >= end:
                return None

    def _next_trial(self) -> Generator[None, None, Proposal | Promotion | NoProposal]:
        """Draw until there is an answer; yields after each draw that is rejected."""
        rejections, running, rejected, is_space_checked = self.rejections(), 0, 0, False
        distributions, last = self.space.distributions, ""
        if sum(trial.state == RecordState.INFEASIBLE for trial in self._trials_since_last_new()) >= MAX_INFEASIBLE:
            return NoProposal(f"{MAX_INFEASIBLE} networks in a row exceeded the latency limit or the memory")
        if self._screen is not None and self.record.next_number >= len(self._start):
            return (yield from self._next_screened_trial(self._screen))
        draws = self._draws()
        while rejections < MAX_REJECTIONS:
            is_stuck = rejections >= self.searcher.max_rejections
            labels = self._other_draw(rejections) if is_stuck else next(draws)
            candidate = self.check(labels)
            rejections += 1
            rejected += 1
            if isinstance(candidate, Rejection):
                last = candidate.reason
            else:
                earlier = self.record.find_by_hash(candidate.hash)
                attrs = self._attrs(candidate, rejected - 1)
                if earlier is None:
                    if not self._may_create:
                        return NoProposal(BUDGET_EXHAUSTED)
                    return Proposal(self.record.create_trial(labels, distributions, attrs), candidate)
                if self.continues_trials and earlier.state == RecordState.PAUSED and not is_stuck:
                    return Promotion(earlier.number)
                if earlier.is_final and not is_stuck:
                    self.record.create_duplicate(labels, distributions, attrs, earlier.number)
                    draws, rejected, is_space_checked = self._draws(), 0, False
                running += earlier.state == RecordState.RUNNING
                if running >= MAX_RUNNING_DRAWS:
                    return NoProposal("the searcher proposes networks that are being trained")
                last = f"equal to trial {earlier.number}, {earlier.state}"
            yield
            if not is_space_checked:
                is_space_checked = True
                if (yield from self._is_exhausted()):
                    return NoProposal(EXHAUSTED)
        suffix = f" (the last one: {last})" if last else ""
        return NoProposal(f"{MAX_REJECTIONS:,} draws in a row were duplicates or rejected{suffix}")

    def _next_screened_trial(self, screen: ProxyScreener) -> Generator[None, None, Proposal | Promotion | NoProposal]:
        """Draw candidates with different networks, and create the trial of the one with the highest proxy score."""
        draws, candidates = self._draws(), dict[str, tuple[Labels, Candidate]]()
        rejections = 0
        for draw in range(MAX_REJECTIONS):
            labels = self._other_draw(draw) if rejections >= self.searcher.max_rejections else next(draws)
            candidate = self.check(labels)
            rejections += 1
            if (
                isinstance(candidate, Candidate)
                and candidate.hash not in candidates
                and not self.record.find_by_hash(candidate.hash)
            ):
                candidates[candidate.hash] = labels, candidate
                screen.score(candidate.genotype)
                rejections = 0
            yield
            if len(candidates) == screen.candidates:
                break
        if not candidates:
            is_exhausted = yield from self._is_exhausted()
            return NoProposal(EXHAUSTED if is_exhausted else f"{MAX_REJECTIONS:,} draws contained no new network")
        best = screen.best([candidate.genotype for _, candidate in candidates.values()])
        labels, candidate = list(candidates.values())[best]
        attrs = self._attrs(candidate, draw + 1 - len(candidates))
        return Proposal(self.record.create_trial(labels, self.space.distributions, attrs), candidate)

    def _draws(self) -> Iterator[Labels]:
        """Draws for the next trial: the values to start from, then the searcher's."""
        from optuna.samplers import BaseSampler

        number = self.record.next_number
        with self.record.searcher_errors(number):
            sampler = self.searcher.sampler(number)
            if not isinstance(sampler, BaseSampler):
                raise TypeError(f"its sampler() returned a {type(sampler).__name__}, not an Optuna sampler")
        return itertools.chain(self._start[number : number + 1], self.record.draws(sampler, self.space.distributions))

    def _attrs(self, candidate: Candidate, rejected_draws: int) -> dict[str, Any]:
        """Attributes of a new trial."""
        attrs: dict[str, Any] = {
            "hash": candidate.hash,
            "params": candidate.params,
            "macs": candidate.macs,
            "seed": derive_seed(self.searcher.seed, self.record.next_number, "train"),
            "rejected_draws": rejected_draws,
        }
        if self._memory is not None and (memory := self._memory(candidate.genotype)) != "plain":
            attrs["memory"] = memory
        if isinstance(candidate.genotype, Genotype) and len(text := candidate.genotype.to_json()) <= MAX_GENOTYPE_TEXT:
            attrs["genotype"] = text
        if candidate.activation_bytes is not None:
            attrs["activation_bytes"] = candidate.activation_bytes
        return attrs

    def _other_draw(self, draw: int) -> Labels:
        """A draw in place of a stuck searcher's: a random point, or a neighbour of one of a growing set of the best.

        Where limits reject nearly all points, random ones are repaired.
        """
        import numpy as np

        number = self.record.next_number
        rng = np.random.default_rng(derive_seed(self.searcher.seed, number, f"draw {draw}"))
        best = ranked(self.record.trials)[: 2 + draw // 20]
        if best and draw % 2:
            labels = best[int(rng.integers(len(best)))].labels
            return self.space.labels(self.space.mutate(self.space.values(labels), rng))
        values = self.space.sample(rng)
        if draw >= REPAIR_AFTER and any(self._limits.values()):
            values = repair_point(self.space, values, self._excess, rng)
        return self.space.labels(values)

    def _excess(self, values: Values) -> float:
        """The logarithm of the ratio by which a point's network exceeds the limits; infinite if it is invalid."""
        try:
            cost: BlockCost | Cost | Row
            if self._counter is not None:
                cost = self._counter.cost_of(values)
            else:
                cost = self._cost(self.space.genotype(values, input=self._input, classes=self._classes))
        except InputError:
            return math.inf
        ratios = [getattr(cost, name) / limit for name, limit in self._limits.items() if limit]
        return sum(math.log(ratio) for ratio in ratios if ratio > 1)

    def rejections(self) -> int:
        """Rejected draws and duplicates since the last new network; running trials do not count."""
        tail = self._trials_since_last_new()
        return sum(1 + trial.rejected_draws for trial in tail if trial.state != RecordState.RUNNING)

    def _trials_since_last_new(self) -> Iterator[TrialRecord]:
        """Trials after the last one with a result of its own, latest first."""
        return itertools.takewhile(
            lambda trial: trial.state in self._states_without_result, reversed(self.record.trials)
        )

    def _is_exhausted(self) -> Generator[None, None, bool]:
        """Whether every point of a small space is known or rejected; False for a large space, which is not checked."""
        if self.space.size() > SMALL_SPACE:
            return False
        for labels in _all_points(dict(self.space.distributions)):
            candidate = self.check(labels)
            if isinstance(candidate, Candidate) and self.record.find_by_hash(candidate.hash) is None:
                return False
            yield
        return True


def _all_points(distributions: dict[str, BaseDistribution]) -> Iterator[Labels]:
    """Every point of a space, as labels."""
    values: list[list[Any]] = []
    for distribution in distributions.values():
        if isinstance(distribution, CategoricalDistribution):
            values.append(list(distribution.choices))
        elif isinstance(distribution, IntDistribution):
            values.append(list(range(distribution.low, distribution.high + 1, distribution.step)))
        else:
            raise TypeError(f"search variables are integers or choices, not {distribution}")
    for point in itertools.product(*values):
        yield dict(zip(distributions, point, strict=True))
