"""Networks trained per minute: nas_agg's search against a hand-written loop with Optuna and a DataLoader.

Both train the same networks of the microdense space (the same genotypes in the same order) on digits, for the same
number of epochs with the same batch size and recipe, on two cores:

    python benchmarks/search_loop.py [--networks 50] [--epochs 10] [--seed 0]

The loop: one Optuna study, `torch.utils.data.DataLoader` over a `TensorDataset`, torchvision's random crop per batch,
`torch.optim.SGD` with the same schedule, validation after each epoch, Optuna's MedianPruner with the settings of the
search, and torch's default number of threads. nas_agg's time includes the startup of workers, not the final training.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np


def networks(count: int, seed: int) -> list[dict]:
    """Values of distinct networks within the space's default limits for digits."""
    from nas_agg.expansion.costs import cost
    from nas_agg.search_space.space import open_space

    space, rng, networks, hashes = open_space("microdense"), np.random.default_rng(seed), [], set()
    while len(networks) < count:
        values = space.sample(rng)
        counted = cost(space.genotype(values, input=(1, 8, 8), classes=10))
        if counted.macs <= (space.search_defaults((1, 8, 8)).max_macs or math.inf) and counted.hash not in hashes:
            hashes.add(counted.hash)
            networks.append(values)
    return networks


def by_nas_agg(chosen: list[dict], epochs: int, seed: int) -> tuple[float, list[float]]:
    """Seconds for all networks with the search's workers, and their validation accuracies."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import BaseSampler

    from nas_agg.search_space.space import Space, open_space
    from nas_agg.study import search
    from nas_agg.study.samplers.searcher import Searcher

    warnings.simplefilter("ignore", ExperimentalWarning)

    class Listed(Searcher):
        """Proposes the given networks in order."""

        def sampler(self, number: int) -> BaseSampler:
            from optuna.samplers import PartialFixedSampler, RandomSampler

            return PartialFixedSampler(self.space.labels(chosen[number % len(chosen)]), RandomSampler(seed=number))

    space: Space = open_space("microdense")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        result = search(space, searcher=Listed, budget=len(chosen), seed=seed, epochs=epochs, out=out)
        # The search's own wall time, including the startup of workers; the final training follows it.
        seconds = json.loads((out / "run.json").read_text())["seconds"]
        return seconds, [
            trial.value for trial in result.trials if trial.state == "complete" and trial.value is not None
        ]


def by_hand(chosen: list[dict], epochs: int, seed: int) -> tuple[float, list[float]]:
    """Seconds for all networks with the hand-written loop, and their validation accuracies."""
    import optuna
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader, TensorDataset
    from torchvision.transforms import v2

    from nas_agg.compiler import compile
    from nas_agg.search_space.space import open_space
    from nas_agg.training.data import load_data
    from nas_agg.training.recipes import open_recipe

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, recipe = open_space("microdense"), open_recipe("search")

    def objective(trial: optuna.Trial) -> float:
        data = load_data("digits", seed=seed)
        mean, std = torch.tensor(data.mean).view(-1, 1, 1), torch.tensor(data.std).view(-1, 1, 1)
        parts = [TensorDataset((part.images / 255 - mean) / std, part.labels) for part in (data.train, data.validation)]
        train = DataLoader(parts[0], batch_size=recipe.batch_size, shuffle=True)
        validation = DataLoader(parts[1], batch_size=256)
        crop = v2.RandomCrop(data.input[1:], padding=data.augmentation.crop)
        model = compile(space.genotype(chosen[trial.number], input=data.input, classes=data.classes), seed=trial.number)
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": vectors, "weight_decay": recipe.weight_decay if recipe.decay_vectors else 0.0},
        ]
        optimiser = torch.optim.SGD(
            groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
        )
        steps, step, accuracy = epochs * len(train), 0, 0.0
        for epoch in range(epochs):
            model.train()
            for images, labels in train:
                step += 1
                for group in optimiser.param_groups:
                    group["lr"] = recipe.learning_rate(step, steps)
                optimiser.zero_grad()
                loss = functional.cross_entropy(model(crop(images)), labels, label_smoothing=recipe.label_smoothing)
                loss.backward()
                optimiser.step()
            model.eval()
            with torch.no_grad():
                correct = sum((model(images).argmax(1) == labels).sum().item() for images, labels in validation)
            accuracy = correct / len(parts[1])
            trial.report(accuracy, epoch + 1)
            if epoch + 1 < epochs and trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    pruner = optuna.pruners.MedianPruner(n_startup_trials=10, n_warmup_steps=epochs // 3, n_min_trials=5)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    begin = time.perf_counter()
    study.optimize(objective, n_trials=len(chosen))
    return time.perf_counter() - begin, [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = networks(options.networks, options.seed)
    rows = {}
    for name, side in (("nas_agg", by_nas_agg), ("by hand", by_hand)):
        seconds, accuracies = side(chosen, options.epochs, options.seed)
        rows[name] = 60 * len(chosen) / seconds
        print(
            f"{name:<8} {seconds:7.1f} s for {len(chosen)} networks: {rows[name]:5.1f} per minute, "
            f"{len(accuracies)} completed, median validation accuracy {100 * statistics.median(accuracies):.2f} % "
            f"({100 * min(accuracies):.2f} to {100 * max(accuracies):.2f})"
        )
    print(f"ratio {rows['nas_agg'] / rows['by hand']:.2f}")


if __name__ == "__main__":
    main()
