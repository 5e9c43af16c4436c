"""Conformance checks for authors of searchers, spaces and backends, which raise an `AssertionError` in one line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import canonical_json
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.encoding import Encoding
from nas_agg.search_space.space import Space, open_space
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.proposals import Candidate, NoProposal, Proposal
from nas_agg.study.proposer import Proposer
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.searcher import Searcher, derive_seed, make_searcher
from nas_agg.testing.backends import check_backend

if TYPE_CHECKING:
    from nas_agg.graph.graph import Graph
    from nas_agg.search_space.parameters import Values

__all__ = ["EXAMPLE_SPACE", "check_backend", "check_searcher", "check_space"]

OBJECTIVE_SETS = (("accuracy",), ("accuracy", "macs"), ("accuracy", "macs", "latency"))
EXAMPLE_SPACE = {
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
_MAX_COUNTED = 2  # samples whose counts are compared with those of the compiled network, and whose code is emitted
_MAX_OPERATIONS = 500  # of these samples


# ---- search spaces


def check_space(
    space: Space | str | os.PathLike[str], samples: int = 8, seed: int = 0, points: Collection[str] | None = None
) -> None:
    """Check that a search of a space can rely on it.

    Every named point makes a valid network, whose parameters and multiply-adds, counted by arithmetic, are those of the
    compiled network (on the meta device, without memory); it can be recovered from its genotype. The same holds for
    random samples, and their mutants and children are valid networks as well, on images of the space's own size and of
    the smallest size that it supports. Points survive all encodings: labels of Optuna, rows of integers, JSON. The code
    emitted for a sample has the parameters of the compiled network.

    Args:
        space: The space, the name of an installed space, or a space file.
        samples: The number of random points, 2 or more.
        seed: The seed of the random points.
        points: The named points to check; None: all.

    Raises:
        AssertionError: With the problem, in one line.
    """
    if samples < 2:
        raise ValueError(f"samples: must be 2 or more, not {samples}")
    try:
        opened = space if isinstance(space, Space) else open_space(space)
        for name in opened.points if points is None else points:
            _check_point(opened, name)
        _check_samples(opened, samples, np.random.default_rng(seed))
    except NasAggError as error:
        raise AssertionError(str(error)) from error


def _check_point(space: Space, name: str) -> None:
    where = f"{space.name}: point '{name}'"
    genotype, values = space.point(name), space.points[name].values
    _expect(_equal(space.values_of(genotype), values), f"{where}: its genotype has other values")
    _check_counts(_expand(genotype, where), where)


def _check_samples(space: Space, samples: int, rng: np.random.Generator) -> None:
    channels, height, width = space.template.input
    side = min(height, width) if space.min_input is None else space.min_input
    inputs = {(channels, side, side): None, (channels, height, width): None}  # the smallest first
    encoding, vectors = Encoding(space), dict[str, bytes]()
    counted, last = 0, space.sample(rng)
    for values in (space.sample(rng) for _ in range(samples)):
        where = f"{space.name}: sample {canonical_json(values)}"
        _check_values(space, encoding, values, where)
        vectors[canonical_json(values)] = space.encode(values).tobytes()
        for kind, other in _variants(space, encoding, last, values, rng, where):
            for input in inputs:
                graph = _expand(space.genotype(other, input=input), f"{space.name}: {kind} {canonical_json(other)}")
                if other is values and counted < _MAX_COUNTED and len(graph) <= _MAX_OPERATIONS:
                    _check_counts(graph, where)
                    _check_code(space.genotype(values, input=input), graph, where)
                    counted += 1
        last = values
    _expect(len(set(vectors.values())) == len(vectors), f"{space.name}: different points have equal vectors")


def _variants(
    space: Space, encoding: Encoding, last: Values, values: Values, rng: np.random.Generator, where: str
) -> Iterator[tuple[str, Values]]:
    """A sample, a mutant of it and a child of it and the sample before it."""
    yield "sample", values
    mutable = sum(domain.size > 1 for domain in space.domains.values())
    mutant = space.mutate(values, rng, changes=2)
    changes = _changes(values, mutant)
    _expect(changes == min(2, mutable), f"{where}: a mutant of 2 changes differs in {changes} variables")
    yield "mutant", mutant
    child = space.crossover(last, values, rng)
    inherited = all(any(_equal(child[name], parent[name]) for parent in (last, values)) for name in space.names)
    _expect(inherited, f"{where}: a child has a value of neither parent")
    yield "child", child
    row = encoding.encode(values)
    for name, rows in (("mutant", encoding.mutate(row[None], 1, rng)), ("neighbour", encoding.neighbours(row, rng))):
        wrong = (rows != row).sum(1) != min(1, mutable)
        _expect(not wrong.any(), f"{where}: an encoded {name} does not differ in one variable")


def _check_values(space: Space, encoding: Encoding, values: Values, where: str) -> None:
    """Check that a point is valid and survives every encoding."""
    _expect(_equal(space.validate(values), values), f"{where}: validation changes its values")
    labels = space.labels(values)
    _expect(_equal(space.values(json.loads(json.dumps(labels))), values), f"{where}: its labels stand for other values")
    try:
        optuna.trial.create_trial(params=dict(labels), distributions=space.distributions, value=0.0)
    except ValueError as error:
        raise AssertionError(f"{where}: Optuna rejects its labels: {error}") from error
    _expect(_equal(encoding.decode(encoding.encode(values)), values), f"{where}: its row stands for other values")
    vector = space.encode(values)
    _expect(bool(((vector >= 0) & (vector <= 1)).all()), f"{where}: its vector has entries outside 0 to 1")
    genotype = space.genotype(values)
    _expect(_equal(space.values_of(genotype), values), f"{where}: its genotype has other values")
    _expect(Genotype.from_dict(json.loads(genotype.to_json())) == genotype, f"{where}: its genotype changes as JSON")


def _expand(genotype: Genotype, where: str) -> Graph:
    try:
        return expand(genotype)
    except InputError as error:
        size = "x".join(map(str, genotype.input))
        raise AssertionError(f"{where}: no valid network on images of {size}: {error}") from error


def _check_counts(graph: Graph, where: str) -> None:
    """Compare the costs of a graph with those of the compiled network, on tensors without memory."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from nas_agg.compiler.network import Network

    cost = Cost(graph)
    with torch.device("meta"):
        network = Network(graph).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # counts no FLOPs, and is slow on the meta device
            module.forward = lambda x: x  # type: ignore[method-assign, assignment]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = network(torch.empty(1, *graph.shapes[0], device="meta"))
    params = sum(tensor.numel() for tensor in network.parameters())
    _expect(params == cost.params, f"{where}: {cost.params:,} params by arithmetic, {params:,} in the compiled network")
    flops = counter.get_total_flops()
    _expect(flops == cost.flops, f"{where}: {cost.flops:,} FLOPs by arithmetic, {flops:,} in the compiled network")
    classes = graph.shapes[graph.output][0]
    _expect(tuple(output.shape) == (1, classes), f"{where}: the output is {tuple(output.shape)}, not (1, {classes})")


def _check_code(genotype: Genotype, graph: Graph, where: str) -> None:
    """Run the emitted code of a network on tensors without memory."""
    import torch

    from nas_agg.compiler.codegen import emit
    from nas_agg.compiler.network import Network

    module: dict[str, Any] = {"__name__": "model"}
    with torch.device("meta"), torch.no_grad():
        exec(compile(emit(genotype), "model.py", "exec"), module)  # emitted by this process
        network, expected = module["build"]().eval(), Network(graph)
        output = network(torch.empty(2, *graph.shapes[0]))
    shapes, expected_shapes = (
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} for model in (network, expected)
    )
    _expect(shapes == expected_shapes, f"{where}: the emitted code has other parameters than the compiled network")
    _expect(len(output) == 2, f"{where}: the emitted code has no output per image")


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    return sum(not _equal(a[name], b[name]) for name in a)


def _equal(a: Any, b: Any) -> bool:
    """Whether two JSON values are written alike; 1 and True differ."""
    return canonical_json(a) == canonical_json(b)


# ---- searchers


def check_searcher(kind: type[Searcher], space: Space | None = None, trials: int = 40) -> None:
    """Run a searcher as a search does, with synthetic scores, and check what a search relies on.

    Its proposals are points of the space. They follow from the earlier trials, the search's seed and the trial's number
    alone, so that a resumed search continues as an uninterrupted one. It handles trials that failed, were stopped,
    exceed a limit or are still running, and repeated draws for one trial. A searcher that supports several objectives
    is run with two and with three as well.

    Args:
        kind: The searcher's class.
        space: The search space; None: a small built-in one.
        trials: The number of trials, 5 or more.

    Raises:
        AssertionError: With the problem, in one line.
    """
    if not (isinstance(kind, type) and issubclass(kind, Searcher)):
        raise AssertionError(f"{kind!r} is not a subclass of nas_agg.study.samplers.searcher.Searcher")
    if trials < 5:
        raise ValueError(f"trials: must be 5 or more, not {trials}")
    space = Space(EXAMPLE_SPACE, "testing") if space is None else space
    try:
        for names in OBJECTIVE_SETS if kind.supports_multi_objective else OBJECTIVE_SETS[:1]:
            _check_reproducible(kind, space, trials, Objectives([METRICS[name] for name in names]))
        _check_repeated_draws(kind, space)
    except NasAggError as error:
        raise AssertionError(str(error)) from error


def _check_reproducible(kind: type[Searcher], space: Space, trials: int, objectives: Objectives) -> None:
    suffix = f" for {' and '.join(objectives.names)}" if objectives.is_multi_objective else ""
    uninterrupted = _run(kind, space, 0, trials, objectives)
    _expect(_run(kind, space, 0, trials, objectives) == uninterrupted, f"two searches{suffix} with one seed differ")
    interruptions = (trials // 3, trials - 2) if objectives.is_multi_objective else (0, 1, trials // 3, trials - 2)
    for interrupted_at in interruptions:
        resumed = _run(kind, space, 0, trials, objectives, interrupted_at)
        message = f"a search{suffix} that is interrupted at trial {interrupted_at} continues differently"
        _expect(resumed == uninterrupted, message)
    others = [_run(kind, space, seed, 5, objectives) for seed in (1, 2, 3)]
    differ = any(other != uninterrupted[: len(other)] for other in others)
    _expect(differ, f"searches{suffix} with different seeds are equal")


def _run(
    kind: type[Searcher],
    space: Space,
    seed: int,
    trials: int,
    objectives: Objectives,
    interrupted_at: int | None = None,
) -> list[dict]:
    """The labels of a search's trials; from an interruption on by a new searcher, on trials read from a storage."""
    storage = optuna.storages.InMemoryStorage()
    record = StudyRecord(optuna.pruners.NopPruner(), storage, objectives=objectives)
    proposer = Proposer(space, make_searcher(kind, space, seed, objectives), record)
    while len(record.trials) < trials:
        if interrupted_at is not None and len(record.trials) >= interrupted_at:
            interrupted_at = None
            record = StudyRecord(optuna.pruners.NopPruner(), storage, must_exist=True, objectives=objectives)
            proposer = Proposer(space, make_searcher(kind, space, seed, objectives), record)
        proposal = proposer.propose()
        if not isinstance(proposal, Proposal):
            reason = proposal.reason if isinstance(proposal, NoProposal) else "timeout"
            raise AssertionError(f"no network is proposed for trial {len(record.trials)}: {reason}")
        _complete(record, proposal.number, proposal.candidate)
    return [trial.labels for trial in record.trials]


def _complete(record: StudyRecord, number: int, network: Candidate) -> None:
    """Record a synthetic result, which depends on MACs and params, or a failure, or none."""
    score = -abs(math.log(network.macs / 300_000))
    metrics = {"accuracy": score, "macs": network.macs, "latency": network.params / 1e4 - score}
    values = [float(metrics[name]) for name in record.objectives.names]
    outcome = np.random.default_rng(derive_seed(0, number, "luck")).random()
    violation, no_violation = {"latency": 0.5}, {"latency": -0.5}
    if outcome < 0.1:
        record.fail(number, "synthetic")
    elif outcome < 0.15:
        record.mark_infeasible(number, "synthetic", violation)
    elif outcome < 0.3:
        record.report(number, 1, score - 0.5)
        record.prune(number, [values[0] - 0.5, *values[1:]], no_violation)
    elif outcome < 0.4:
        record.complete(number, values, violation)
    elif outcome < 0.95:
        record.complete(number, values, no_violation)


def _check_repeated_draws(kind: type[Searcher], space: Space) -> None:
    """Draw one point, or fifty, for each of some trials."""
    record = StudyRecord(optuna.pruners.NopPruner())
    searcher = make_searcher(kind, space, 0)
    for seed in range(25):
        draws = record.draws(searcher.sampler(record.next_number), space.distributions)
        points = [space.labels(space.values(next(draws))) for _ in range(50 if seed % 8 == 0 else 1)]
        attrs = {"hash": f"{seed}", "params": 1, "macs": 1 + seed, "seed": seed}
        record.complete(record.create_trial(points[-1], space.distributions, attrs), float(seed))


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
