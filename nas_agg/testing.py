"""For authors of plug-ins: whether a searcher does what a search needs of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import optuna

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.proposer import Candidate, Proposal, Proposer
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.searcher import Searcher, derive_seed, make_searcher

if TYPE_CHECKING:
    from nas_agg.search_space.space import Space

AIMS = (("accuracy",), ("accuracy", "macs"), ("accuracy", "macs", "latency"))
TEXT = {
    "input": [3, 8, 8],
    "classes": 4,
    "open": {
        "kind": ["plain", "wide", "deep", "strided"],
        "rate": {"from": 4, "to": 32, "step": 4},
        "count": [1, 2, 3, 4, 6],
        "how": ["sum", "concat"],
        "wires": ["dense", "previous", {"window": 2}],
    },
    "let": {
        "plain": [{"conv": 3}, "bn", "relu"],
        "wide": [{"conv": 5}, "bn", "relu"],
        "deep": [{"conv": 3}, "relu", {"conv": 3}, "bn", "relu"],
        "strided": ["bn", "relu", {"conv": 1}],
        "block": {
            "nodes": "count",
            "growth": "rate",
            "reads": {"pattern": "wires", "operator": "how", "match": [{"conv": 1}]},
            "unit": "kind",
        },
    },
    "net": [{"conv": 3, "out": 8}, "block", "gap", {"linear": "classes"}],
}


def check_searcher(kind: type[Searcher], space: Space | None = None, trials: int = 40) -> None:
    """Runs a searcher as a search does, on a made-up score, and checks what a search relies on.

    Its proposals lie in the space; they follow from the earlier trials, the search's seed and the trial's number alone,
    so that a search that was killed goes on as it would have; trials that failed, were stopped, are over a limit or
    still run are no trouble; one trial may be drawn for again and again. One that trades objectives off does so with
    two and with three.

    Args:
        kind: The searcher's class.
        space: Where it searches; a small space of its own if unsaid.
        trials: How many networks are scored; 5 or more.

    Raises:
        AssertionError: With what is wrong, in one line.
    """
    if not (isinstance(kind, type) and issubclass(kind, Searcher)):
        raise AssertionError(f"{kind!r} is not a subclass of nas_agg.study.samplers.searcher.Searcher")
    if trials < 5:
        raise ValueError(f"trials: 5 or more, not {trials}")
    try:
        _check(kind, space, trials)
    except NasAggError as error:
        raise AssertionError(str(error)) from error


def _check(kind: type[Searcher], space: Space | None, trials: int) -> None:
    if space is None:
        from nas_agg.search_space.space import Space

        space = Space(TEXT, "testing")
    for names in AIMS if kind.supports_multi_objective else AIMS[:1]:
        _repeats_itself(kind, space, trials, Objectives([METRICS[name] for name in names]))
    _draws_again(kind, space)


def _repeats_itself(kind: type[Searcher], space: Space, trials: int, objectives: Objectives) -> None:
    said = f" of {' and '.join(objectives.names)}" if objectives.is_multi_objective else ""
    whole = _run(kind, space, 0, trials, objectives)
    _expect(_run(kind, space, 0, trials, objectives) == whole, f"two searches{said} of one seed differ")
    for killed in (trials // 3, trials - 2) if objectives.is_multi_objective else (0, 1, trials // 3, trials - 2):
        again = _run(kind, space, 0, trials, objectives, killed)
        _expect(again == whole, f"a search{said} killed at trial {killed} goes on otherwise")
    others = [_run(kind, space, seed, 5, objectives) for seed in (1, 2, 3)]
    _expect(any(other != whole[: len(other)] for other in others), f"searches{said} of different seeds are equal")


def _run(
    kind: type[Searcher], space: Space, seed: int, trials: int, objectives: Objectives, killed: int | None = None
) -> list[dict]:
    """The points of a search's trials; `killed`: from there on by a new searcher on trials read from a storage."""
    storage = optuna.storages.InMemoryStorage()
    record = StudyRecord(optuna.pruners.NopPruner(), storage, objectives=objectives)
    proposer = Proposer(space, make_searcher(kind, space, seed, objectives), record)
    while len(record.trials) < trials:
        if killed is not None and len(record.trials) >= killed:
            record, killed = (
                StudyRecord(optuna.pruners.NopPruner(), storage, must_exist=True, objectives=objectives),
                None,
            )
            proposer = Proposer(space, make_searcher(kind, space, seed, objectives), record)
        proposal = proposer.propose()
        _expect(isinstance(proposal, Proposal), f"it finds no network for trial {len(record.trials)}: {proposal}")
        assert isinstance(proposal, Proposal)
        _score(record, proposal.number, proposal.candidate)
    return [trial.labels for trial in record.trials]


def _score(record: StudyRecord, number: int, network: Candidate) -> None:
    """A made-up result: most networks are good by how far their MACs are from a number; others have mishaps."""
    score = -abs(math.log(network.macs / 300_000))
    known = {"accuracy": score, "macs": network.macs, "latency": network.params / 1e4 - score}
    values = [float(known[name]) for name in record.objectives.names]
    luck = np.random.default_rng(derive_seed(0, number, "luck")).random()
    held = {"latency": -0.5}  # a limit
    if luck < 0.1:
        record.fail(number, "made up")
    elif luck < 0.15:
        record.mark_infeasible(number, "made up", {"latency": 0.5})
    elif luck < 0.3:
        record.report(number, 1, score - 0.5)
        record.prune(number, [values[0] - 0.5, *values[1:]], held)
    elif luck < 0.4:
        record.complete(number, values, {"latency": 0.5})
    elif luck < 0.95:
        record.complete(number, values, held)


def _draws_again(kind: type[Searcher], space: Space) -> None:
    record = StudyRecord(optuna.pruners.NopPruner())
    searcher = make_searcher(kind, space, 0)
    for seed in range(25):
        draws = record.draws(searcher.sampler(record.next_number), space.distributions)
        points = [space.labels(space.values(next(draws))) for _ in range(50 if seed % 8 == 0 else 1)]
        attrs = {"hash": f"{seed}", "params": 1, "macs": 1 + seed, "seed": seed}
        record.complete(record.create_trial(points[-1], space.distributions, attrs), float(seed))


def _expect(truth: bool, what: str) -> None:
    if not truth:
        raise AssertionError(what)
