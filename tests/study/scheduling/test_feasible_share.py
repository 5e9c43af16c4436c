"""The share of a space within the limits, and the line that a search prints about it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from optuna.pruners import NopPruner

import nas_agg
from nas_agg.expansion.costs import cost
from nas_agg.search_space.domains import IntRange
from nas_agg.search_space.parameters import SearchVariables
from nas_agg.search_space.space import Space, open_space
from nas_agg.study import proposer as proposer_module
from nas_agg.study.definition.proposals import NoProposal, Proposal
from nas_agg.study.proposer import Proposer
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.searcher import find_searcher
from nas_agg.study.scheduling.feasible_share import (
    MAX_NETWORKS,
    MAX_OPERATIONS,
    FeasibleShare,
    check_limits,
    estimate_feasible_share,
    repair_point,
)
from nas_agg.testing import EXAMPLE_SPACE


@pytest.mark.parametrize(
    ("share", "start", "end"),
    [
        (FeasibleShare(400, 36, 11, 0), "about 9 % of the space (36 of 400 ", "L; none of its 11 named points is"),
        (FeasibleShare(60, 0, 3, 1), "at most 5 % of the space (0 of 60 ", "L; 1 of its 3 named points is"),
        (FeasibleShare(400, 1, 3, 2), "about 0.2 % of the space (1 of 400 ", "L; 2 of its 3 named points are"),
        (FeasibleShare(9, 9, 3, 3), "about 100 % of the space (9 of 9 ", "L; each of its 3 named points is"),
        (FeasibleShare(10, 5, 1, 0), "about 50 % of the space (5 of 10 ", "L; its named point is not"),
        (FeasibleShare(10, 5, 0, 0), "about 50 % of the space (5 of 10 ", "L"),
    ],
)
def test_the_line(share: FeasibleShare, start: str, end: str) -> None:
    assert share.line("L") == f"limits: {start}random networks) is within {end}"


@pytest.mark.parametrize("limits", [{"macs": 250_000}, {"params": 20_000, "macs": 0}, {"activation_bytes": 40_000}])
def test_limits_are_checked_against_the_cost(limits: dict[str, int]) -> None:
    space, rng = open_space("aggregation"), np.random.default_rng(3)
    results = set()
    for _ in range(40):
        genotype = space.genotype(space.sample(rng), (1, 8, 8), 10)
        within, operations = check_limits(genotype, limits)
        counted = cost(genotype)
        assert within == all(getattr(counted, name) <= limit for name, limit in limits.items() if limit)
        assert operations <= 2 * len(counted.graph)
        results.add(within)
    assert results == {True, False}


def test_a_large_network_is_not_fully_expanded() -> None:
    genotype = open_space("residual").point("preact-1001")
    assert check_limits(genotype, {"macs": 10_000_000})[1] < len(cost(genotype).graph) / 20


def test_the_share_is_estimated_from_a_uniform_sample(tiny: Space) -> None:
    limits = {"params": 300}
    share = estimate_feasible_share(tiny, lambda genotype: check_limits(genotype, limits))
    assert share is not None and (share.networks, share.points) == (MAX_NETWORKS, 0)
    all_ = [tiny.genotype(dict(zip(tiny.names, row, strict=True))) for row in _rows(tiny)]
    true = sum(cost(genotype).params <= 300 for genotype in all_) / len(all_)
    assert 0.1 < true < 0.9
    assert abs(share.feasible / share.networks - true) < 4 * (true * (1 - true) / MAX_NETWORKS) ** 0.5
    assert share == estimate_feasible_share(tiny, lambda genotype: check_limits(genotype, limits))


def test_operations_limit_the_size_of_the_sample() -> None:
    sizes = []

    def fits(genotype: object) -> tuple[bool, int]:
        sizes.append(MAX_OPERATIONS // 10)
        return True, sizes[-1]

    space = open_space("densenet-imagenet")
    share = estimate_feasible_share(space, fits)
    assert share == FeasibleShare(11, 11, 4, 4)
    assert len(sizes) == 15


def test_a_search_prints_and_stores_the_share(tiny: Space, tmp_path, capsys) -> None:
    def score(genotype: object, trial: object) -> float:
        return 1.0

    settings = {"searcher": "random", "budget": 2, "max_params": 300}
    results = nas_agg.search(tiny, score, out=tmp_path / "run", show=True, **settings)
    lines = capsys.readouterr().out.splitlines()
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["share"]
    line = FeasibleShare(**stored).line("300 params")
    assert lines[1] == line
    assert line in (tmp_path / "run" / "log.txt").read_text()
    silent = nas_agg.search(tiny, score, **settings)  # nobody reads it, and it draws nothing of the search's
    assert [trial.labels for trial in silent.trials] == [trial.labels for trial in results.trials]


def test_without_limits_nothing_is_printed(tiny: Space, capsys) -> None:
    nas_agg.search(tiny, lambda genotype, trial: 1.0, searcher="random", budget=1, show=True)
    assert "limits:" not in capsys.readouterr().out


def _rows(space: Space) -> list[tuple]:
    import itertools

    return list(itertools.product(*([d.at(k) for k in range(d.size)] for d in space.domains.values())))


def test_random_points_are_repaired_where_limits_reject_nearly_all(monkeypatch) -> None:
    names = {name: {"from": 1, "to": 60} for name in ("wa", "wb", "wc", "wd")}
    net = [{"conv": 3, "out": "wa + wb + wc + wd"}, "gap", {"linear": 4}]
    text = {**EXAMPLE_SPACE, "open": names, "let": {}, "net": net}
    space = Space(text, "widths")
    limit = cost(space.genotype(dict.fromkeys(names, 3))).params  # of 1 in 26,000 points

    def proposals(count: int) -> list[Proposal | NoProposal | None]:
        record = StudyRecord(NopPruner())
        proposer = Proposer(space, find_searcher("random")(space, 0), record, limits={"params": limit, "macs": 0})
        found = []
        for _ in range(count):
            found.append(proposal := proposer.propose())
            if isinstance(proposal, Proposal):
                record.complete(proposal.number, float(proposal.candidate.params))
        return found

    repaired = proposals(3)
    assert all(isinstance(found, Proposal) and found.candidate.params <= limit for found in repaired)
    assert proposals(1) == repaired[:1]
    monkeypatch.setattr(proposer_module, "REPAIR_AFTER", proposer_module.MAX_REJECTIONS)
    assert isinstance(proposals(1)[0], NoProposal)


def test_a_repair_ends_with_the_best_point_that_it_found() -> None:
    space = SearchVariables({name: IntRange(0, 9) for name in "abc"})
    rng = np.random.default_rng(0)
    values = {"a": 9, "b": 9, "c": 9}
    assert repair_point(space, values, lambda point: float(sum(point.values()) - 6), rng)["a"] <= 6
    assert sum(repair_point(space, values, lambda point: 1.0 + sum(point.values()), rng).values()) == 0
    assert repair_point(space, values, lambda point: 0.0, rng) == values
