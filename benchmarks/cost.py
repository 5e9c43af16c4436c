"""Static cost against what one would do without it: build on the meta device and count with FlopCounterMode.

Both sides give params and MACs of the same networks, side by side in one process and one thread:

    python benchmarks/cost.py [--genotypes 20] [--seed 0]

"never seen": every cache of nas_agg is emptied before each network. "mutant": one value of a network that was counted
before is changed, in a warm process. The other side builds modules from a graph that is given to it.
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


def counted(text: dict) -> tuple[int, int]:
    """Params and MACs by arithmetic, from the genotype's text."""
    cost = Cost(expansion.expand(Genotype.read(text)))
    return cost.params, cost.macs


def traced(graph: Graph) -> tuple[int, int]:
    """Params and MACs by building and running on the meta device."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = Network(graph)
        network(torch.empty(1, *graph.shapes[0]))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(title: str, texts: list[dict], before: Callable[[], None] = lambda: None) -> None:
    """Prints both sides' median time and the median of the ratios; a network is counted before it is expanded."""
    ours, theirs = [], []
    for text in texts:
        found: list[tuple[int, int]] = []
        before()
        ours.append(seconds(lambda text=text, found=found: found.append(counted(text))))
        graph = expansion.expand(Genotype.read(text))
        theirs.append(seconds(lambda graph=graph, found=found: found.append(traced(graph))))
        assert found[0] == found[1], (title, found)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(
        f"{title:<42} {len(texts):>3} networks   {1e3 * statistics.median(ours):7.2f} ms   "
        f"{1e3 * statistics.median(theirs):7.1f} ms   {statistics.median(ratios):5.0f} x   (least {min(ratios):.0f} x)"
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
    traced(expansion.expand(paper))  # imports and warms up what torch loads late

    print(f"{'':<42} {'':>12}   {'static':>10}   {'meta':>10}   ratio (medians)")
    compare("30a64, never seen", [paper.text()] * 5, expansion.forget)
    task = {"input": (3, 32, 32), "classes": 10}
    parents = [space.sample(rng) for _ in range(options.genotypes)]
    compare("random of microdense, never seen", [space.genotype(v, **task).text() for v in parents], expansion.forget)
    expansion.forget()
    mutants = []
    for values in parents:
        counted(space.genotype(values, **task).text())
        mutants.append(space.genotype(space.mutate(values, rng), **task).text())
    compare("mutant of a counted one, warm process", mutants)


if __name__ == "__main__":
    main()
