"""Which features of graphs help the predictor: backward elimination by held-out log likelihood.

    python benchmarks/feature_selection.py [--splits 3] [--sizes 20,40]

The tasks are the table agg-bench and, on random networks of several spaces, two graph scores that depend on wiring
alone: the damped sum of paths, ``log(sum over paths of 0.7**layers)``, and the spread of path lengths. A Gaussian
process with the predictor's kernel is fitted to a few networks of a task, and the log likelihood of up to 200 others is
averaged over numbers of networks and splits. Families of features are removed one by one, as long as a removal gains in
the mean of the tasks and costs no task more than `TOLERANCE`.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

from nas_agg.common.errors import GenotypeError
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.search_space.encoding import Encoding
from nas_agg.search_space.point_costs import PointCounter
from nas_agg.search_space.space import Space, open_space
from nas_agg.study.samplers.features import ALL_GRAPH_FEATURES, all_graph_features
from nas_agg.study.samplers.gaussian_process import GaussianProcess, SumKernel
from nas_agg.study.samplers.surrogate import log_gap_transform, standardize_features
from nas_agg.study.tables.results_table import TabularSpace

Array = np.ndarray

SPACES = ("aggregation", "dsnet", "densenet")
NETWORKS = 250  # of a space
TOLERANCE = 0.04  # of a task's log likelihood
DAMPING = 0.7


def family(name: str) -> str:
    """The family of a feature: features of one family are removed together."""
    if name.startswith("number: "):
        return "numbers of convolutions by level" if "level" in name else "numbers of operations"
    kind, _, rest = name.partition(" ")
    return "layers by map level" if "level" in rest else rest if kind in ("mean", "least", "greatest") else name


class Task(NamedTuple):
    """Networks with scores."""

    name: str
    space: Space
    rows: Array
    costs: Array
    features: Array
    scores: Array


def damped_paths(graph: Graph) -> tuple[float, float]:
    """The logarithm of the damped sum of paths, and the standard deviation of a path's number of layers."""
    logs, means, squares = [0.0], [0.0], [0.0]
    damped = [0.0]
    for op, inputs in zip(graph.ops[1:], graph.inputs[1:], strict=True):
        layer = op.word in ("conv", "linear")
        entering = np.array([logs[i] for i in inputs])
        shares = np.exp(entering - entering.max())
        logs.append(entering.max() + np.log(shares.sum()))
        shares /= shares.sum()
        mean = shares @ np.array([means[i] for i in inputs])
        square = shares @ np.array([squares[i] for i in inputs])
        means.append(mean + layer)
        squares.append(square + 2 * mean * layer + layer)
        damped.append(np.logaddexp.reduce([damped[i] for i in inputs]) + layer * np.log(DAMPING))
    last = graph.output
    return damped[last], float(np.sqrt(max(0.0, squares[last] - means[last] ** 2)))


def graph_tasks(name: str) -> list[Task]:
    """The two graph scores on random networks of a space."""
    space, rng = open_space(name), np.random.default_rng(0)
    encoding, counter = Encoding(space), PointCounter(space)
    rows, costs, features, scores = [], [], [], []
    while len(rows) < NETWORKS:
        row = encoding.sample(1, rng)[0]
        try:
            cost = counter.cost(row.tolist())
            score = damped_paths(expand(space.genotype(encoding.decode(row))))
        except GenotypeError:
            continue
        rows.append(row)
        costs.append(np.log1p([cost.params, cost.macs]))
        features.append(all_graph_features(cost))
        scores.append(score)
    columns = np.array(rows), np.array(costs), np.array(features)
    return [
        Task(f"{name}, {title}", space, *columns, np.array(scores)[:, column])
        for column, title in enumerate(("damped paths", "spread of path lengths"))
    ]


def table_task() -> Task:
    """The networks of agg-bench and their accuracies."""
    space = TabularSpace(open_space("agg-bench"))
    counter, seen = PointCounter(space), set[str]()
    rows, costs, features, scores = [], [], [], []
    for key, result in space.rows.items():
        if result.hash in seen:
            continue
        seen.add(result.hash)
        row = np.frombuffer(key, np.int64)
        cost = counter.cost(row.tolist())
        rows.append(row)
        costs.append(np.log1p(result.costs))
        features.append(all_graph_features(cost))
        scores.append(result.value)
    return Task("agg-bench", space, np.array(rows), np.array(costs), np.array(features), np.array(scores))


def log_likelihood(task: Task, columns: list[int], size: int, split: int) -> float:
    """Mean log likelihood of held-out networks, given ``size`` others.

    Args:
        task: The networks.
        columns: The features that are used; none: costs alone.
        size: The number of networks that the process is fitted to.
        split: The seed of the split.
    """
    order = np.random.default_rng(split).permutation(len(task.scores))
    fitted, held_out = order[:size], order[size : size + 200]
    targets = log_gap_transform(task.scores)
    targets = (targets - targets[fitted].mean()) / (targets[fitted].std() or 1.0)
    groups = [task.costs]
    if columns:
        groups.append(task.features[:, columns])
    known = [group[fitted] for group in groups]
    kernel = SumKernel(Encoding(task.space).distance_tables, [group.shape[1] for group in groups])
    process = GaussianProcess(kernel, task.rows[fitted], standardize_features(known, known), targets[fitted])
    mean, deviation = process.predict(
        task.rows[held_out], standardize_features([group[held_out] for group in groups], known)
    )
    variance = deviation**2 + np.exp(process.theta[-1])
    return float(np.mean(-0.5 * np.log(2 * np.pi * variance) - 0.5 * (targets[held_out] - mean) ** 2 / variance))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[20, 40])
    options = parser.parse_args()
    tasks = [table_task(), *(task for name in SPACES for task in graph_tasks(name))]

    def judge(families: list[str]) -> Array:
        """The mean log likelihood of each task."""
        columns = [place for place, name in enumerate(ALL_GRAPH_FEATURES) if family(name) in families]
        cases = [(size, split) for size in options.sizes for split in range(options.splits)]
        return np.array([np.mean([log_likelihood(task, columns, *case) for case in cases]) for task in tasks])

    print("tasks:", "; ".join(task.name for task in tasks))
    families = list(dict.fromkeys(map(family, ALL_GRAPH_FEATURES)))
    print("costs alone", judge([]).round(3), flush=True)
    best = judge(families)
    print("all families", best.round(3), f"mean {best.mean():.4f}", flush=True)
    while len(families) > 1:
        without = {name: judge([other for other in families if other != name]) for name in families}
        allowed = [name for name in families if (without[name] > best - TOLERANCE).all()]
        removed = max(allowed, key=lambda name: without[name].mean(), default="")
        if not removed or without[removed].mean() < best.mean():
            break
        families.remove(removed)
        best = without[removed]
        print(f"without {removed}:", best.round(3), f"mean {best.mean():.4f}", flush=True)
    print("kept:", "; ".join(families))


if __name__ == "__main__":
    main()
