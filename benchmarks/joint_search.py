"""Network and hyperparameters searched together, beside the network alone at an equal budget.

    python benchmarks/joint_search.py made --seeds 30          # a made function, minutes
    python benchmarks/joint_search.py digits --seeds 3         # trainings on scikit-learn's digits

The made function has a best learning rate that depends on the network: wider networks need lower rates, as with weights
that are initialised regardless of the width. The recipe's own rate suits a part of the networks only. On digits trials
have 5 epochs; beside the best validation accuracy of a search, which is the highest of many noisy ones, its network is
trained again with 5 other seeds, with the hyperparameters that were found and the same epochs, and tested.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import nas_agg

SPACE = {
    "input": [1, 8, 8],
    "classes": 10,
    "open": {"width": {"from": 4, "to": 32, "step": 4}, "deep": {"from": 1, "to": 4}, "kernel": [1, 3, 5]},
    "net": [
        {"conv": 3, "out": "width"},
        {"nodes": "deep", "growth": "width", "unit": [{"conv": "kernel"}, "bn", "relu"]},
        "gap",
        {"linear": "classes"},
    ],
}
TUNED = "lr=0.0125:0.4:log,weight_decay"


def made_score(genotype: Any, trial: Any) -> float:
    """A score of network and hyperparameters, in 0 to 1; without these, of the recipe's own."""
    values = genotype.let
    rate = float(json.loads(trial.params.get("recipe.lr", "0.1")))
    decay = float(json.loads(trial.params.get("recipe.weight_decay", "5e-4")))
    quality = 1 - math.exp(-values["width"] / 12) * (0.6 + 0.1 * abs(values["kernel"] - 3)) / values["deep"] ** 0.5
    best_rate = 0.4 / (values["width"] / 4) / values["deep"] ** 0.5
    off = math.log(rate / best_rate) / 2
    return quality - 0.1 * off**2 - 0.01 * math.log10(decay / 1e-4) ** 2


EPOCHS = 5
RETRAININGS = 5  # trainings of the network that a search on digits finds


def run(kind: str, seed: int, budget: int, tune: str | None, workers: int) -> tuple[float, float]:
    """The best value that a search finds, and on digits the mean test accuracy of further trainings of its network."""
    settings: dict[str, Any] = {"seed": seed, "budget": budget} | ({"tune": tune} if tune else {})
    if kind == "made":
        value = nas_agg.search(SPACE, made_score, **settings).value
        return value, value
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        settings |= {"dataset": "digits", "epochs": EPOCHS, "max_params": "60k", "final": 0, "workers": workers}
        result = nas_agg.search("microdense", out=out, **settings)
    found = {name[7:]: value for name, value in result.values.items() if name.startswith("recipe.")}
    recipe = {"like": "search", "epochs": EPOCHS, **found}
    seeds = range(1000 * (seed + 1), 1000 * (seed + 1) + RETRAININGS)
    tests = [nas_agg.train(result.best, "digits", recipe, seed=s).metrics["test_accuracy"] for s in seeds]
    return result.value, sum(tests) / len(tests)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["made", "digits"])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--budget", type=int, default=30)
    parser.add_argument("--tune", default=TUNED)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    better = 0
    totals = [0.0] * 4
    for seed in range(options.seeds):
        alone, joint = (run(options.kind, seed, options.budget, tune, options.workers) for tune in (None, options.tune))
        better += joint[1] > alone[1]
        totals = [total + value for total, value in zip(totals, (*alone, *joint), strict=True)]
        print(f"seed {seed}: network alone {alone[0]:.4f} ({alone[1]:.4f} trained again), "
              f"joint {joint[0]:.4f} ({joint[1]:.4f})", flush=True)  # fmt: skip
    means = [total / options.seeds for total in totals]
    print(f"mean: network alone {means[0]:.4f} ({means[1]:.4f} trained again), joint {means[2]:.4f} ({means[3]:.4f}); "
          f"joint better in {better} of {options.seeds} seeds")  # fmt: skip


if __name__ == "__main__":
    main()
