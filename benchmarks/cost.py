"""Static cost against building on the meta device and counting with FlopCounterMode.

Both compute parameters and MACs of the same networks in one process and one thread:

    python benchmarks/cost.py [--genotypes 20] [--seed 0]

"cold": all caches of nas_agg are emptied before each network. "mutant, warm": one value of a network that was counted
before is changed, and caches are kept. The FlopCounterMode side starts from an expanded graph.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas_agg.compiler import Network
from nas_agg.expansion import expansion
from nas_agg.expansion.costs import Cost
from nas_agg.graph.graph import Graph
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import open_space


def count(text: dict) -> tuple[int, int]:
    """Parameters and MACs by arithmetic, from the genotype's text."""
    cost = Cost(expansion.expand(Genotype.from_dict(text)))
    return cost.params, cost.macs


def trace(graph: Graph) -> tuple[int, int]:
    """Parameters and MACs by building and running on the meta device."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = Network(graph)
        network(torch.empty(1, *graph.shapes[0]))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(title: str, texts: list[dict], before: Callable[[], None] = lambda: None) -> None:
    """Print both median times and the median ratio; a network is counted before it is expanded for the other side."""
    ours, theirs = [], []
    for text in texts:
        results: list[tuple[int, int]] = []
        before()
        ours.append(seconds(lambda text=text, results=results: results.append(count(text))))
        graph = expansion.expand(Genotype.from_dict(text))
        theirs.append(seconds(lambda graph=graph, results=results: results.append(trace(graph))))
        assert results[0] == results[1], (title, results)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(
        f"{title:<42} {len(texts):>3} networks   {1e3 * statistics.median(ours):7.2f} ms   "
        f"{1e3 * statistics.median(theirs):7.1f} ms   {statistics.median(ratios):5.0f} x   (min {min(ratios):.0f} x)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--genotypes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    space = open_space("microdense")
    paper = space.point("30a64")
    trace(expansion.expand(paper))  # warm-up: torch imports modules lazily

    print(f"{'':<42} {'':>12}   {'static':>10}   {'meta':>10}   ratio (medians)")
    compare("30a64, cold", [paper.to_dict()] * 5, expansion.clear_caches)
    task = {"input": (3, 32, 32), "classes": 10}
    parents = [space.sample(rng) for _ in range(options.genotypes)]
    compare(
        "random microdense networks, cold",
        [space.genotype(v, **task).to_dict() for v in parents],
        expansion.clear_caches,
    )
    expansion.clear_caches()
    mutants = []
    for values in parents:
        count(space.genotype(values, **task).to_dict())
        mutants.append(space.genotype(space.mutate(values, rng), **task).to_dict())
    compare("mutants of counted networks, warm", mutants)


if __name__ == "__main__":
    main()
