"""Parameters and MACs by arithmetic, against building on the meta device and counting with FlopCounterMode.

Both count the same networks in one process and one thread, by its CPU time:

    python benchmarks/cost.py [--spaces microdense,densenet] [--networks 20] [--seed 0]

"mutants": one search variable of a network that was counted before is changed; what earlier networks left in memory is
kept, as in a search. "never seen": random points, before each of which everything that was counted is forgotten; the
space has been opened. The other side starts from an expanded graph.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas_agg.common.errors import GenotypeError
from nas_agg.compiler import Network
from nas_agg.expansion import block_expansion
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.search_space.encoding import Encoding
from nas_agg.search_space.point_costs import PointCounter
from nas_agg.search_space.space import Space, open_space

SPACES = ("microdense", "densenet", "residual", "aggregation", "efficientnet")


def count(counter: PointCounter, row: list[int]) -> tuple[int, int]:
    """Parameters and MACs by arithmetic."""
    cost = counter.cost(row)
    return cost.params, cost.macs


def trace(graph: Graph) -> tuple[int, int]:
    """Parameters and MACs by building and running on the meta device."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = Network(graph)
        network(torch.empty(1, *graph.shapes[0]))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    begin = time.thread_time()
    result = work(*arguments)
    return result, time.thread_time() - begin


def valid_pairs(space: Space, networks: int, rng: np.random.Generator) -> list[tuple[list[int], list[int], Graph]]:
    """Random points, each with a mutant and the mutant's graph."""
    encoding = Encoding(space)
    pairs: list[tuple[list[int], list[int], Graph]] = []
    while len(pairs) < networks:
        row = encoding.sample(1, rng)
        mutant = encoding.mutate(row, 1, rng)
        try:
            expand(space.genotype(encoding.decode(row[0])))
            graph = expand(space.genotype(encoding.decode(mutant[0])))
        except GenotypeError:
            continue
        pairs.append((row[0].tolist(), mutant[0].tolist(), graph))
    return pairs


def compare(name: str, networks: int, seed: int) -> None:
    """Print the medians and ratios of one space."""
    space = open_space(name)
    pairs = valid_pairs(space, networks, np.random.default_rng(seed))
    traced = [timed(trace, graph) for _, _, graph in pairs]
    counter = PointCounter(space)
    mutants = []
    for row, mutant, _ in pairs:
        count(counter, row)
        mutants.append(timed(count, counter, mutant))
    unseen = []
    for _, mutant, _ in pairs:
        block_expansion.clear_caches()
        unseen.append(timed(count, PointCounter(space), mutant))
    for title, counted in (("mutants", mutants), ("never seen", unseen)):
        assert [result for result, _ in counted] == [result for result, _ in traced]
        ratios = [b / a for (_, a), (_, b) in zip(counted, traced, strict=True)]
        ours, theirs = (1e3 * statistics.median(seconds for _, seconds in side) for side in (counted, traced))
        print(
            f"{name:<14} {title:<11} {networks:>3} networks   {ours:7.3f} ms   {theirs:7.1f} ms   "
            f"{statistics.median(ratios):5.0f} x   (least {min(ratios):.0f} x)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--spaces", type=lambda text: text.split(","), default=SPACES)
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trace(expand(open_space("densenet").point("40-k12")))  # warm-up: torch imports modules lazily
    print(f"{'':<40} {'arithmetic':>12}   {'meta device':>10}   median ratio")
    for name in options.spaces:
        compare(name, options.networks, options.seed)


if __name__ == "__main__":
    main()
