"""Rank correlation of early-epoch scores with final accuracy, with running and with recomputed batch-norm statistics.

    python benchmarks/early_scores.py run --out benchmarks/results/early-scores-digits.jsonl
    python benchmarks/early_scores.py run --out FILE --data npz:cifar10.npz --side 16 --images 6000 --batch-size 64 \
        --networks 24
    python benchmarks/early_scores.py report FILE ...

`run` trains networks of agg-bench and writes one line per network: accuracy and loss after each epoch as used by a
search (score), with running averages (running), and with recomputed statistics (fresh), also in late epochs, where a
search uses running averages. The same command resumes an interrupted run. `report` prints Kendall's tau with 95 %
bootstrap intervals over networks: on agg-bench's own data set the correlation with the mean of the table's three seeds,
which do not include the seed of the training; elsewhere with the accuracy at the end of the same training.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 2000
KINDS = ("score", "running", "fresh", "plain")


def run(options: argparse.Namespace) -> None:
    """Train the networks that the output file lacks."""
    import torch

    from nas_agg.search_space.encoding import Encoding
    from nas_agg.search_space.space import open_space
    from nas_agg.study.tables.results_table import TabularSpace
    from nas_agg.training.recipes import open_recipe

    torch.set_num_threads(1)
    space, recipe, data = TabularSpace(open_space("agg-bench")), open_recipe("bench"), _data(options)
    if options.batch_size:
        recipe = recipe.model_copy(update={"batch_size": options.batch_size})
    encoding = Encoding(space)
    rows = {row.hash: (encoding.decode(np.frombuffer(key, np.int64)), row) for key, row in space.rows.items()}
    drawn = np.random.default_rng(options.draw).permutation(sorted(rows))[options.skip :][: options.networks]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = {line["hash"] for line in _lines(options.out)} if options.out.exists() else set()
    with options.out.open("a") as file:
        for hash in drawn:
            if hash not in done:
                point, row = rows[hash]
                genotype = space.genotype(point, data.input, data.classes)
                line = {"hash": hash, "seed": options.seed, "params": row.params}
                line |= {"truth": row.value} if options.data == "digits" else {}
                line |= _train(genotype, data, recipe, options)
                file.write(json.dumps(line) + "\n")
                file.flush()
                print(hash, line["seconds"], "seconds", flush=True)


def _data(options: argparse.Namespace) -> Any:
    """The data set, split as for the table; or some of its images, scaled down by averaging blocks of pixels."""
    import torch
    from torch.nn import functional

    from nas_agg.search_space.table_settings import VALIDATION_SHARE
    from nas_agg.training.data import Split, load_data

    if not options.side:
        return load_data(options.data, options.seed, validation_share=VALIDATION_SHARE)
    data = load_data(options.data, options.seed)
    factor = data.input[1] // options.side

    def smaller(split: Split, count: int) -> Split:
        chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count]
        images = functional.avg_pool2d(split.images[chosen].float(), factor).round_().to(torch.uint8)
        return Split(images, split.labels[chosen])

    train = smaller(data.train, options.images * 4 // 5)
    pixels = train.images.double() / 255
    return dataclasses.replace(
        data,
        input=(data.input[0], options.side, options.side),
        train=train,
        validation=smaller(data.validation, options.images // 5),
        test=smaller(data.test, 100),
        mean=tuple(pixels.mean((0, 2, 3)).tolist()),
        std=tuple(pixels.std((0, 2, 3)).tolist()),
        augmentation=data.augmentation.model_copy(update={"crop": data.augmentation.crop // factor}),
    )


def _train(genotype: Any, data: Any, recipe: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Train a network; returns accuracies and losses after each epoch with each kind of statistics."""
    import torch

    from nas_agg.compiler import compile
    from nas_agg.training.augment import Augmentation
    from nas_agg.training.batch_norm_statistics import StatisticsImages, fresh_statistics
    from nas_agg.training.evaluation import batch_size, evaluate
    from nas_agg.training.loop import train

    model = compile(genotype, options.seed)
    size, augmented = batch_size(data, "cpu"), recipe.augmentation(data.augmentation)
    images = {
        name: StatisticsImages(data.train, torch.device("cpu"), size, augmentation, data.mean, data.std, seed=1)
        for name, augmentation in (("fresh", augmented), ("plain", Augmentation()))
    }
    few = [f"images-{count}" for count in options.counts]
    for kind, count in zip(few, options.counts, strict=True):
        images[kind] = StatisticsImages(
            data.train, torch.device("cpu"), size, augmented, data.mean, data.std, seed=1, count=count
        )
    line: dict[str, Any] = {f"{kind}{what}": [] for kind in (*KINDS, *few) for what in ("", "_loss")}
    shares = []

    def add(kind: str, accuracy: float, loss: float) -> None:
        line[kind].append(round(accuracy, 5))
        line[f"{kind}_loss"].append(round(loss, 4))

    def evaluate_with(kind: str) -> None:
        with fresh_statistics(model, images[kind]):
            metrics = evaluate(model, data.validation, data)
        add(kind, metrics["accuracy"], metrics["loss"])

    def report(epoch: int, metrics: dict[str, Any]) -> bool:
        names = ("validation_accuracy", "validation_loss")
        score, running = ([metrics[f"{name}{more}"] for name in names] for more in ("", "_running_statistics"))
        add("score", *score)
        add("running", *running)
        if score == running:  # the search uses running averages from here on
            start = time.perf_counter()
            evaluate_with("fresh")
            shares.append((time.perf_counter() - start) / metrics["seconds"])
        else:
            add("fresh", *score)
        for kind in ["plain"] * options.plain + few:
            evaluate_with(kind)
        return False

    start = time.perf_counter()
    train(model, data, recipe, seed=options.seed, report=report, pause_after=options.until)
    line["seconds"] = round(time.perf_counter() - start, 1)
    line["share"] = round(float(np.mean(shares)), 3) if shares else None
    return {name: value for name, value in line.items() if value != []}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def report(options: argparse.Namespace) -> None:
    """Print the tables of result files."""
    for path in options.files:
        lines = _lines(path)[options.first : options.last]
        last = max(len(line["score"]) for line in lines)
        complete = [line for line in lines if len(line["score"]) == last]
        if "truth" in lines[0]:
            truth, name = [line["truth"] for line in lines], "the mean of the table's three seeds"
        else:
            lines, truth, name = complete, [line["score"][-1] for line in complete], "the end of the same training"
        print(f"{path}: {len(lines)} networks; Kendall's tau with {name}")
        for epoch in options.epochs:
            _print_epoch(epoch, lines, np.array(truth))
        if last > 1:
            _print_end(complete)
        print(flush=True)


def _print_epoch(epoch: int, lines: list[dict[str, Any]], truth: np.ndarray) -> None:
    """Rank correlation of the scores after an epoch, for the networks trained that long."""
    reached = np.array([len(line["score"]) >= epoch for line in lines])
    lines, truth = [line for line, keep in zip(lines, reached, strict=True) if keep], truth[reached]
    if len(lines) < 3:
        return
    params = np.array([line["params"] for line in lines])
    bins, one = _bins(params), np.zeros(len(lines), int)
    print(f"after epoch {epoch} ({len(lines)} networks, {bins.max() + 1} bins of params)")
    print(f"| scored by | mean | tau | within bins of params |\n|{'---|' * 4}")
    few = [kind for kind in lines[0] if kind.startswith("images-") and not kind.endswith("_loss")]
    for kind in ("score", "running", "plain", *few):
        for what, sign in (("", 1), ("_loss", -1)):
            if f"{kind}{what}" in lines[0]:
                scores = np.array([line[f"{kind}{what}"][epoch - 1] for line in lines])
                taus = [_interval(sign * scores, truth, where) for where in (one, bins)]
                print(f"| {kind}{what} | {scores.mean():.3f} | {' | '.join(taus)} |")
    print(f"| params | {params.mean():,.0f} | {_interval(params, truth, one)} | {_interval(params, truth, bins)} |")


def _print_end(complete: list[dict[str, Any]]) -> None:
    """Differences between kinds of statistics after the last epoch, and the cost of recomputed ones."""
    for kind in ("score", "fresh", "plain"):
        if kind in complete[0] and len(complete) > 1:
            differences = 100 * np.array([line[kind][-1] - line["running"][-1] for line in complete])
            error = differences.std(ddof=1) / len(differences) ** 0.5
            difference = f"{differences.mean():+.2f} ± {error:.2f} points"
            print(f"last epoch, {len(complete)} networks: {kind} - running = {difference}")
    shares = [line["share"] for line in complete if line["share"] is not None]
    if shares:
        share = f"{100 * np.mean(shares):.0f} % of the time of an epoch without them"
        print(f"recomputed statistics and their evaluation take {share}")


def _bins(params: np.ndarray) -> np.ndarray:
    """Each network's bin by number of parameters: deciles, or fewer bins of at least ten networks."""
    count = max(1, min(10, len(params) // 10))
    order = np.argsort(np.argsort(params, kind="stable"))
    return order * count // len(params)


def _interval(scores: np.ndarray, truth: np.ndarray, bins: np.ndarray) -> str:
    """Kendall's tau-b, averaged over bins, with its 95 % bootstrap interval over networks."""
    draws = np.random.default_rng(0).integers(len(scores), size=(RESAMPLES, len(scores)))
    taus = [value for draw in draws if np.isfinite(value := _tau(scores[draw], truth[draw], bins[draw]))]
    low, high = np.percentile(taus, (2.5, 97.5))
    return f"{_tau(scores, truth, bins):.3f} ({low:.3f} to {high:.3f})"


def _tau(scores: np.ndarray, truth: np.ndarray, bins: np.ndarray) -> float:
    """Kendall's tau-b per bin, averaged with the number of pairs without ties in the truth as weights."""
    total = weight = 0.0
    for bin in np.unique(bins):
        x, y = scores[bins == bin], truth[bins == bin]
        upper = np.triu_indices(len(x), 1)
        dx, dy = (np.sign(of[:, None] - of[None, :])[upper] for of in (x, y))
        norm = np.sqrt(np.abs(dx).sum() * np.abs(dy).sum())
        if norm:
            pairs = np.abs(dy).sum()
            total += pairs * (dx * dy).sum() / norm
            weight += pairs
    return total / weight if weight else np.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    training = modes.add_parser("run", help="train networks and write their scores after each epoch")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--data", default="digits")
    training.add_argument("--side", type=int, help="scale images down to this many pixels per side")
    training.add_argument(
        "--images", type=int, default=6000, help="with --side: number of images, four in five of them for training"
    )
    training.add_argument("--batch-size", type=int)
    training.add_argument("--networks", type=int, default=200)
    training.add_argument("--draw", type=int, default=0, help="seed of the selection of networks")
    training.add_argument("--skip", type=int, default=0, help="skip this many selected networks")
    training.add_argument("--seed", type=int, default=3, help="seed of the trainings; the table used 0, 1 and 2")
    training.add_argument("--until", type=int, help="stop each training after this epoch")
    training.add_argument("--plain", action="store_true", help="also use statistics of images without augmentation")
    training.add_argument(
        "--counts", type=int, nargs="+", default=[], help="also recompute statistics from this many training images"
    )
    printing = modes.add_parser("report", help="print the tables of result files")
    printing.add_argument("files", type=Path, nargs="+")
    printing.add_argument("--epochs", type=int, nargs="+", default=[1, 2, 3, 4, 6])
    printing.add_argument("--first", type=int, default=0, help="skip this many lines of each file")
    printing.add_argument("--last", type=int, help="use only the lines before this one")
    options = parser.parse_args()
    sys.exit(run(options) if options.mode == "run" else report(options))


if __name__ == "__main__":
    main()
