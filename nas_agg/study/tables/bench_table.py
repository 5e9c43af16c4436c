"""The table of a bench: its header, and a row for each point whose network is trained."""

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
from nas_agg.study.tables.bench_lines import Line, lines

_COLUMNS = ("hash", "params", "macs", "activation_bytes", "latency_ms", "seconds")
_SUMMARY = ("accuracy", "loss", "test_accuracy", "curve")


@dataclass(frozen=True)
class Entry:
    """A point of a space and its network.

    Attributes:
        values: The point.
        hash: Equal for equal networks.
        params: Of the network.
        macs: Of an image.
        activation_bytes: What an image leaves for the backward pass.
    """

    values: Values
    hash: str
    params: int
    macs: int
    activation_bytes: int


class BenchResults:
    """The results in a bench's folder.

    Args:
        out: The folder.

    Attributes:
        trained: For each network's hash the line of each seed.
        times: For each network's hash its latency and seconds: as `nas_agg bench --times` measured them or, where it
            was not run, the lowest latency and the mean seconds of the trainings.
        apart: Whether the times were measured apart from the trainings.

    Raises:
        NasAggError: A line is spoilt.
    """

    def __init__(self, out: Path):
        self.trained: dict[str, dict[int, Line]] = {}
        for line in lines(out, "part"):
            self.trained.setdefault(line["hash"], {})[line["seed"]] = line
        self.times = {line["hash"]: line for line in lines(out, "times")}
        self.apart = bool(self.times)
        if not self.apart:
            own = {hash: [line for line in of.values() if "latency_ms" in line] for hash, of in self.trained.items()}
            self.times = {hash: _times(of) for hash, of in own.items() if of}

    def best(self, count: int) -> list[str]:
        """The networks of the highest accuracies in trainings of the first seed, the best first."""
        first = {hash: of[0]["right"][-1] for hash, of in self.trained.items() if "right" in of.get(0, {})}
        return sorted(first, key=lambda hash: (-first[hash], hash))[:count]

    def done(self, entries: Sequence[Entry]) -> list[Entry]:
        """The points whose network is trained and timed."""
        return [entry for entry in entries if entry.hash in self.trained and entry.hash in self.times]


def _times(trained: Sequence[Line]) -> Line:
    return {
        "latency_ms": min(line["latency_ms"] for line in trained),
        "seconds": round(statistics.fmean(line["seconds"] for line in trained), 3),
    }


def table_of(space: Space, settings: TableSettings, entries: Sequence[Entry], results: BenchResults) -> bytes:
    """The table of what is done, as a gzipped file of CSV; equal results, equal bytes.

    Args:
        space: The space.
        settings: Of its trainings.
        entries: All of its points.
        results: What there is.

    Raises:
        InputError: No network is done.
    """
    done = results.done(entries)
    if not done:
        raise InputError("no network is trained and timed; first nas_agg bench without --table")
    of_networks = {entry.hash: results.trained[entry.hash] for entry in done}
    seeds = max(max(of) for of in of_networks.values()) + 1
    running = any("right_running" in line for of in of_networks.values() for line in of.values())
    text = io.StringIO()
    for name, words in _header(space, settings, entries, results, of_networks, running).items():
        text.write(f"# {name}: {words}\n")
    kinds = ("right", "right_running") if running else ("right",)
    counts = [f"{kind}{seed}" for kind in kinds for seed in range(seeds)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*space.names, *_COLUMNS, *_SUMMARY, *counts])
    for entry in done:
        mine, timed = of_networks[entry.hash], results.times[entry.hash]
        costs = (entry.hash, entry.params, entry.macs, entry.activation_bytes, timed["latency_ms"], timed["seconds"])
        trained = _summary([mine[seed] for seed in sorted(mine)], settings.epochs)
        texts = [_counts(mine.get(seed), kind, settings.epochs) for kind in kinds for seed in range(seeds)]
        writer.writerow([*space.labels(entry.values).values(), *costs, *trained, *texts])
    return gzip.compress(text.getvalue().encode(), mtime=0)


def _header(
    space: Space,
    settings: TableSettings,
    entries: Sequence[Entry],
    results: BenchResults,
    of_networks: Mapping[str, Mapping[int, Line]],
    running: bool,
) -> dict[str, str]:
    size = f" at {settings.image_size}x{settings.image_size}" if settings.image_size else ""
    batch = f" with batches of {settings.batch_size}" if settings.batch_size else ""
    networks = len({entry.hash for entry in entries})
    partial = len(of_networks) < networks
    order = f"in an order drawn by seed {settings.order_seed}" if settings.order_seed is not None else ""
    parts = [
        f"{space.name} on {settings.dataset}{size}",
        f"recipe {settings.recipe}{batch}",
        f"{settings.epochs} epochs",
        *([f"{len(of_networks):,} of {networks:,} networks"] if partial else []),
        *([f"trained {order}"] if order else []),
        _seeds(of_networks),
        _split(settings),
        "right: how many after each epoch",
        *(["right_running: the same by running statistics of batch norm"] if running else []),
        "accuracy and loss: means of the seeds after the last",
        "curve: of accuracy",
        "seconds: of a training, from its second epoch, on one thread"
        if results.apart
        else "latency_ms: the fastest pass after the training, on one thread; seconds: of the processor, of a training",
    ]
    names = {"genes": ", ".join(space.names), "value": "accuracy", "costs": "params, macs"}
    return {"recipe": "; ".join(parts), **names, "equal": "hash", "curve": "curve"}


def _seeds(of_networks: Mapping[str, Mapping[int, Line]]) -> str:
    """How many networks were trained by which seeds."""
    each = [tuple(sorted(of)) for of in of_networks.values()]
    kinds = sorted(set(each))
    texts = [f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}" for seeds in kinds]
    if len(kinds) == 1:
        return f"seeds {texts[0]}"
    counts = [each.count(seeds) for seeds in kinds]
    of = [f"{text} ({n:,} network{'s' * (n > 1)})" for text, n in zip(texts, counts, strict=True)]
    return f"seeds {', '.join(of)}"


def _split(settings: TableSettings) -> str:
    count = settings.validation_images
    share = f"{VALIDATION_SHARE:.0%} of the images that are not the test's" if count is None else f"{count:,} images"
    others = f", {settings.train_images:,} others train" if settings.train_images else ""
    drawn = "by the seed" if settings.split_seed is None else f"once, by seed {settings.split_seed}"
    return f"{share} validate{others}, drawn {drawn}"


def _summary(trained: Sequence[Line], epochs: int) -> list[Any]:
    """Means over the seeds; a training that failed has nothing right."""
    right = [line.get("right", [0] * epochs) for line in trained]
    shares = [[count / line["images"] for count in counts] for counts, line in zip(right, trained, strict=True)]
    curve = [sum(column) / len(trained) for column in zip(*shares, strict=True)]
    losses = [line["loss"][-1] for line in trained if "loss" in line]
    loss = round(sum(losses) / len(losses), 4) if len(losses) == len(trained) else None
    test = sum(line.get("test", 0) / line["test_images"] for line in trained) / len(trained)
    return [round(curve[-1], 6), loss, round(test, 6), " ".join(f"{value:.4f}" for value in curve)]


def _counts(line: Line | None, kind: str, epochs: int) -> str:
    """How many a training had right after each epoch; nothing of a training that there is not."""
    return "" if line is None else " ".join(map(str, line.get(kind, [0] * epochs)))
