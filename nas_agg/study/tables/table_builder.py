"""Trains every network of a small space, for a table of results that searchers are compared on.

Each training is a line in the file of its part, so that a table can be built in parts, on several machines, and resumed
after an interruption. Times can be measured apart from the trainings, by one process on an otherwise idle machine.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError
from nas_agg.expansion.costs import cost
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.parameters import Values
from nas_agg.search_space.space import Space
from nas_agg.search_space.table_settings import TableSettings
from nas_agg.study.tables.bench_results import (
    Print,
    Result,
    append_results,
    check_settings,
    read_results,
    run_tasks,
)
from nas_agg.study.tables.table_writer import BenchResults, Point, write_table

if TYPE_CHECKING:
    from nas_agg.training.data import Data
    from nas_agg.training.recipes import Recipe

MAX_POINTS = 20_000
MIN_LATENCY_SECONDS = 0.1  # time to measure a latency for, at least


@dataclass(frozen=True)
class TableBuilder:
    """Trains and times the networks of a space.

    Attributes:
        space: The space.
        settings: Settings of the trainings.
        limit: The number of networks to train, the first in their order; None: all.
        best: Of these, the number of those with the highest accuracies in trainings with the first seed; None: all.
    """

    space: Space
    settings: TableSettings
    limit: int | None = None
    best: int | None = None

    def train(self, out: Path, workers: int, part: tuple[int, int], report: Print, minutes: float = math.inf) -> None:
        """Run the trainings of a part that have not been run yet.

        Args:
            out: Folder of the parts' files.
            workers: Worker processes, with one thread each.
            part: The number of the part, from 1, and the number of parts.
            report: Receives lines of progress.
            minutes: After this time no training is started.

        Raises:
            InputError: The folder has trainings with other settings, or another process trains the part.
            NasAggError: A worker process was killed, or a file cannot be read.
        """
        deadline = time.monotonic() + 60 * minutes
        check_settings(out, self.settings.training_settings())
        networks = self._selected(out)
        jobs = [(hash, seed) for seed in range(self.settings.seeds) for hash in networks][part[0] - 1 :: part[1]]
        finished = {(result["hash"], result["seed"]) for result in read_results(out, "part")}
        remaining = [(networks[hash], seed) for hash, seed in jobs if (hash, seed) not in finished]
        report(f"{len(networks):,} networks; {len(jobs):,} trainings in this part, {len(remaining):,} remaining")
        tasks = ((point.hash, seed, self._genotype_json(point), self.settings) for point, seed in remaining)
        results = run_tasks(train_network, _until(deadline, tasks), workers)
        count = append_results(out / f"part-{part[0]}-of-{part[1]}.jsonl", results, len(remaining), report)
        _report_timeout(count, len(remaining), report)

    def time(self, out: Path, report: Print, minutes: float = math.inf) -> None:
        """Measure the latency and the time per epoch of each network that has not been measured yet.

        Args:
            out: Folder of the file of times.
            report: Receives lines of progress.
            minutes: After this time no measurement is started.
        """
        deadline = time.monotonic() + 60 * minutes
        networks = self._selected(out)
        finished = {result["hash"] for result in read_results(out, "times")}
        remaining = [point for point in networks.values() if point.hash not in finished]
        report(f"{len(networks):,} networks, {len(remaining):,} remaining to time")
        tasks = ((point.hash, self._genotype_json(point), self.settings) for point in remaining)
        results = run_tasks(time_network, _until(deadline, tasks), 1)
        count = append_results(out / "times.jsonl", results, len(remaining), report)
        _report_timeout(count, len(remaining), report)

    def table(self, out: Path) -> tuple[bytes, int]:
        """The table of a folder's trainings, and the number of its networks.

        Raises:
            InputError: No network is trained and timed.
        """
        results = BenchResults(out)
        try:
            content = write_table(self.space, self.settings, self.points, results)
        except InputError as error:
            raise InputError(f"{out}: {error}") from None
        return content, len({point.hash for point in results.finished(self.points)})

    @cached_property
    def points(self) -> list[Point]:
        """Every point of the space, with the costs of its network."""
        data = self._data
        result = []
        for values in all_points(self.space):
            network = cost(self.space.genotype(values, data.input, data.classes))
            activation_bytes = network.activation_bytes
            result.append(Point(values, str(network.hash), network.params, network.macs, activation_bytes))
        return result

    @cached_property
    def networks(self) -> dict[str, Point]:
        """The first point of each network, by hash, in the order of training."""
        first = {point.hash: point for point in reversed(self.points)}
        hashes = sorted(first)
        if self.settings.order_seed is not None:
            import numpy as np

            order = np.random.default_rng(self.settings.order_seed).permutation(len(hashes))
            hashes = [hashes[index] for index in order]
        return {hash: first[hash] for hash in hashes}

    def _selected(self, out: Path) -> dict[str, Point]:
        """The networks that ``limit`` and ``best`` select."""
        selected = dict(itertools.islice(self.networks.items(), self.limit))
        if self.best is not None:
            selected = {hash: selected[hash] for hash in BenchResults(out).best_hashes(self.best) if hash in selected}
        return selected

    @property
    def _data(self) -> Data:
        data = _load_data(tuple(self.settings.data_arguments(0).items()))
        if not len(data.test):
            raise InputError(f"{data.name}: no test images, which a table needs; add images, or provide a test split")
        return data

    def _genotype_json(self, point: Point) -> str:
        data = self._data
        return self.space.genotype(point.values, data.input, data.classes).to_json()


def all_points(space: Space) -> Iterator[Values]:
    """Every point of a space; the last search variable changes fastest.

    Raises:
        InputError: The space has too many points for a table.
    """
    if space.size() > MAX_POINTS:
        raise InputError(f"{space.name}: {space.size():,} points are too many for a table of up to {MAX_POINTS:,}")
    for number in range(space.size()):
        values = {}
        for name in reversed(space.names):
            number, index = divmod(number, space.domains[name].size)
            values[name] = space.domains[name].at(index)
        yield {name: values[name] for name in space.names}


def _until(deadline: float, tasks: Iterator[tuple]) -> Iterator[tuple]:
    return itertools.takewhile(lambda _: time.monotonic() < deadline, tasks)


def _report_timeout(count: int, total: int, report: Print) -> None:
    if count < total:
        report(f"{count:,} of {total:,}; timeout reached, rerun the command to resume")


@lru_cache(maxsize=8)
def _load_data(arguments: tuple) -> Data:
    from nas_agg.training.data import load_data

    return load_data(**dict(arguments))


def _recipe(settings: TableSettings) -> Recipe:
    from nas_agg.training.recipes import open_recipe

    recipe = open_recipe(settings.recipe)
    return recipe.model_copy(update={"batch_size": settings.batch_size or recipe.batch_size})


def train_network(hash: str, seed: int, genotype_json: str, settings: TableSettings) -> Result:
    """Train a network.

    Returns:
        ``hash``, ``seed``, ``images``, ``test_images``, ``latency_ms`` and ``seconds``; after a training that succeeded
        also ``right`` (correct validation images after each epoch), ``loss`` (likewise) and ``test`` (correct test
        images), else ``failed`` (the reason).
    """
    import torch

    from nas_agg.compiler import compile
    from nas_agg.training.latency import measure
    from nas_agg.training.loop import TrainingFailed, evaluate, train

    torch.set_num_threads(1)
    data = _load_data(tuple(settings.data_arguments(seed).items()))
    model = compile(Genotype.model_validate(json.loads(genotype_json)), seed)
    result: Result = {"hash": hash, "seed": seed, "images": len(data.validation), "test_images": len(data.test)}
    start = time.process_time()  # processor time hardly depends on what else the machine does
    try:
        history = train(model, data, _recipe(settings), seed=seed, epochs=settings.epochs).history
    except TrainingFailed as error:
        history, result["failed"] = (), error.reason
    seconds = time.process_time() - start
    if history:
        result |= _metrics_by_epoch(history, len(data.validation))
        result["test"] = evaluate(model, data.test, data)["correct"]
    # The fastest pass: where other processes share the cores, most passes are interrupted.
    latency = measure(model, data.input, seconds=max(MIN_LATENCY_SECONDS, seconds / 200)).minimum_ms
    return result | {"latency_ms": latency, "seconds": round(seconds, 3)}


def _metrics_by_epoch(history: Sequence[Mapping[str, Any]], images: int) -> Result:
    """The number of correct images and the loss of each epoch.

    ``right_running`` counts by running statistics of batch norm, if they are evaluated apart.
    """
    metrics = {"right": "validation_accuracy", "right_running": "validation_accuracy_running_statistics"}
    counts = {
        kind: [round(epoch[metric] * images) for epoch in history]
        for kind, metric in metrics.items()
        if metric in history[0]
    }
    return counts | {"loss": [round(epoch["validation_loss"], 4) for epoch in history]}


def time_network(hash: str, genotype_json: str, settings: TableSettings) -> Result:
    """Measure a network's latency, and extrapolate the seconds of its training from the second epoch."""
    import torch

    from nas_agg.compiler import compile
    from nas_agg.training.latency import measure
    from nas_agg.training.loop import train

    torch.set_num_threads(1)
    data = _load_data(tuple(settings.data_arguments(0).items()))
    model = compile(Genotype.model_validate(json.loads(genotype_json)), 0)
    result = train(model, data, _recipe(settings), seed=0, epochs=settings.epochs, pause_after=2)
    latency = measure(model, data.input, seconds=MIN_LATENCY_SECONDS)
    seconds = round(result.history[1]["seconds"] * settings.epochs, 3)
    return {"hash": hash, "latency_ms": latency.median_ms, "seconds": seconds}
