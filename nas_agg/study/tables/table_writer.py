"""Writes the table of a bench: its header, and one row for each point whose network is trained."""

from __future__ import annotations

import csv
import gzip
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_agg.common.errors import InputError
from nas_agg.search_space.parameters import Values
from nas_agg.search_space.space import Space
from nas_agg.search_space.table_settings import VALIDATION_SHARE, TableSettings
from nas_agg.study.tables.bench_results import Result, read_results

_COLUMNS = ("hash", "params", "macs", "activation_bytes", "latency_ms", "seconds")
_MEANS = ("accuracy", "loss", "test_accuracy", "curve")

#: The results of a network's trainings, by seed.
BySeed = Mapping[int, Result]


@dataclass(frozen=True)
class Point:
    """A point of a space, with the costs of its network.

    Attributes:
        values: The point.
        hash: Canonical hash of the network; equal for equal networks.
        params: Number of parameters.
        macs: Multiply-accumulate operations per image.
        activation_bytes: Bytes per image that are kept for backward.
    """

    values: Values
    hash: str
    params: int
    macs: int
    activation_bytes: int


class BenchResults:
    """The results in the folder of a bench.

    Args:
        out: The folder.

    Attributes:
        trained: By hash and seed, the results of trainings.
        times: By hash, latency and seconds: as measured by `nas_agg bench --times` or, if that was not run, the lowest
            latency and the mean seconds of the trainings.
        has_separate_times: Whether `nas_agg bench --times` was run.

    Raises:
        NasAggError: A line of a file is damaged.
    """

    def __init__(self, out: Path):
        self.trained: dict[str, dict[int, Result]] = {}
        for result in read_results(out, "part"):
            self.trained.setdefault(result["hash"], {})[result["seed"]] = result
        self.times = {result["hash"]: result for result in read_results(out, "times")}
        self.has_separate_times = bool(self.times)
        if not self.has_separate_times:
            for hash, by_seed in self.trained.items():
                if timed := [result for result in by_seed.values() if "latency_ms" in result]:
                    self.times[hash] = _summarize_times(timed)

    def best_hashes(self, count: int) -> list[str]:
        """The hashes of the networks with the highest accuracies in trainings with the first seed, best first."""
        correct = {
            hash: results[0]["right"][-1] for hash, results in self.trained.items() if "right" in results.get(0, {})
        }
        return sorted(correct, key=lambda hash: (-correct[hash], hash))[:count]

    def finished(self, points: Sequence[Point]) -> list[Point]:
        """The points whose networks are trained and timed."""
        return [point for point in points if point.hash in self.trained and point.hash in self.times]


def _summarize_times(results: Sequence[Result]) -> Result:
    return {
        "latency_ms": min(result["latency_ms"] for result in results),
        "seconds": round(statistics.fmean(result["seconds"] for result in results), 3),
    }


def write_table(space: Space, settings: TableSettings, points: Sequence[Point], results: BenchResults) -> bytes:
    """The table of all finished networks, as a gzipped CSV file; equal results give equal bytes.

    Args:
        space: The space.
        settings: Settings of the trainings.
        points: All points of the space.
        results: The results.

    Raises:
        InputError: No network is finished.
    """
    finished = results.finished(points)
    if not finished:
        raise InputError("no network is trained and timed yet; run nas_agg bench without --table first")
    by_hash = {point.hash: results.trained[point.hash] for point in finished}
    seeds = max(max(by_seed) for by_seed in by_hash.values()) + 1
    has_running = any("right_running" in result for by_seed in by_hash.values() for result in by_seed.values())
    text = io.StringIO()
    for name, words in _header(space, settings, points, results, by_hash, has_running).items():
        text.write(f"# {name}: {words}\n")
    kinds = ("right", "right_running") if has_running else ("right",)
    count_columns = [f"{kind}{seed}" for kind in kinds for seed in range(seeds)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*space.names, *_COLUMNS, *_MEANS, *count_columns])
    for point in finished:
        by_seed, times = by_hash[point.hash], results.times[point.hash]
        costs = (point.hash, point.params, point.macs, point.activation_bytes, times["latency_ms"], times["seconds"])
        means = _means([by_seed[seed] for seed in sorted(by_seed)], settings.epochs)
        counts = [_counts(by_seed.get(seed), kind, settings.epochs) for kind in kinds for seed in range(seeds)]
        writer.writerow([*space.labels(point.values).values(), *costs, *means, *counts])
    return gzip.compress(text.getvalue().encode(), mtime=0)


def _header(
    space: Space,
    settings: TableSettings,
    points: Sequence[Point],
    results: BenchResults,
    by_hash: Mapping[str, BySeed],
    has_running: bool,
) -> dict[str, str]:
    """The fields of the leading comments. Their texts are part of published files, so do not reword them."""
    size = f" at {settings.image_size}x{settings.image_size}" if settings.image_size else ""
    batch = f" with batches of {settings.batch_size}" if settings.batch_size else ""
    networks = len({point.hash for point in points})
    partial = len(by_hash) < networks
    order = f"in an order drawn by seed {settings.order_seed}" if settings.order_seed is not None else ""
    parts = [
        f"{space.name} on {settings.dataset}{size}",
        f"recipe {settings.recipe}{batch}",
        f"{settings.epochs} epochs",
        *([f"{len(by_hash):,} of {networks:,} networks"] if partial else []),
        *([f"trained {order}"] if order else []),
        _seeds_text(by_hash),
        _split_text(settings),
        "right: how many after each epoch",
        *(["right_running: the same by running statistics of batch norm"] if has_running else []),
        "accuracy and loss: means of the seeds after the last",
        "curve: of accuracy",
        "seconds: of a training, from its second epoch, on one thread"
        if results.has_separate_times
        else "latency_ms: the fastest pass after the training, on one thread; seconds: of the processor, of a training",
    ]
    names = {"genes": ", ".join(space.names), "value": "accuracy", "costs": "params, macs"}
    return {"recipe": "; ".join(parts), **names, "equal": "hash", "curve": "curve"}


def _seeds_text(by_hash: Mapping[str, BySeed]) -> str:
    """The numbers of networks that were trained with each set of seeds."""
    seeds_of_networks = [tuple(sorted(by_seed)) for by_seed in by_hash.values()]
    distinct = sorted(set(seeds_of_networks))
    texts = [f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}" for seeds in distinct]
    if len(distinct) == 1:
        return f"seeds {texts[0]}"
    counts = [seeds_of_networks.count(seeds) for seeds in distinct]
    parts = [f"{text} ({n:,} network{'s' * (n > 1)})" for text, n in zip(texts, counts, strict=True)]
    return f"seeds {', '.join(parts)}"


def _split_text(settings: TableSettings) -> str:
    count = settings.validation_images
    share = f"{VALIDATION_SHARE:.0%} of the images that are not the test's" if count is None else f"{count:,} images"
    others = f", {settings.train_images:,} others train" if settings.train_images else ""
    drawn = "by the seed" if settings.split_seed is None else f"once, by seed {settings.split_seed}"
    return f"{share} validate{others}, drawn {drawn}"


def _means(results: Sequence[Result], epochs: int) -> list[Any]:
    """The cells of ``_MEANS`` over the seeds; a failed training has no correct image."""
    counts = [result.get("right", [0] * epochs) for result in results]
    accuracies = [
        [count / result["images"] for count in by_epoch] for by_epoch, result in zip(counts, results, strict=True)
    ]
    curve = [sum(column) / len(results) for column in zip(*accuracies, strict=True)]
    losses = [result["loss"][-1] for result in results if "loss" in result]
    loss = round(sum(losses) / len(losses), 4) if len(losses) == len(results) else None
    test = sum(result.get("test", 0) / result["test_images"] for result in results) / len(results)
    return [round(curve[-1], 6), loss, round(test, 6), " ".join(f"{value:.4f}" for value in curve)]


def _counts(result: Result | None, kind: str, epochs: int) -> str:
    """The numbers of correct images after each epoch; empty without a training."""
    return "" if result is None else " ".join(map(str, result.get(kind, [0] * epochs)))
