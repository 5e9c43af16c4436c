"""A custom search space and objective in Python: the best connection pattern on digits, in under a minute.

    python examples/own_space.py [--budget 12] [--epochs 2]

The search variables are pattern, operator, growth rate and number of layers of two blocks. The objective is the
validation accuracy after a short training minus one percentage point per 100,000 multiply-adds.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from optuna.trial import Trial

import nas_agg
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space
from nas_agg.training.data import load_data
from nas_agg.training.loop import train
from nas_agg.training.recipes import open_recipe

SPACE: dict[str, Any] = {
    "about": "dense blocks, chains and patterns between them",
    "input": [1, 8, 8],
    "classes": 10,
    "open": {
        "wires": ["dense", "previous", {"window": 2}, {"exponential": 2}],
        "how": ["concat", "sum", "weighted"],
        "rate": {"from": 8, "to": 24, "step": 8},
        "layers": {"from": 2, "to": 4},
    },
    "let": {
        "block": {
            "nodes": "layers",
            "growth": "rate",
            "reads": {"pattern": "wires", "operator": "how", "match": [{"conv": 1}]},
            "unit": ["bn", "relu", {"conv": 3}],
        },
        "down": ["bn", "relu", {"conv": 1, "out": "c"}, {"avgpool": 2}],
    },
    "net": [{"conv": 3, "out": 16}, "block", "down", "block", "bn", "relu", "gap", {"linear": "classes"}],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--budget", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, recipe = load_data("digits"), open_recipe("search")

    def evaluate(genotype: Genotype, trial: Trial) -> float:
        network = nas_agg.compile(genotype, seed=trial.number)
        result = train(network, data, recipe, seed=trial.number, epochs=options.epochs)
        return result.metrics["validation_accuracy"] - nas_agg.cost(genotype).macs / 1e7

    result = nas_agg.search(Space(SPACE, "own"), evaluate, searcher="tpe", budget=options.budget, seed=0, show=True)
    print(f"best value {result.value:.4f} with {result.values}")


if __name__ == "__main__":
    main()
