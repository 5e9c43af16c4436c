"""Trains every network of a small space, for a table of results that searchers are compared on.

Each training is a line of a file of its own part, so that a table may be made in pieces, on several machines, and goes
on where it was stopped. Times may be taken apart from the trainings, by one process on a machine that does nothing
else.
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
from nas_agg.study.tables.bench_lines import Line, Say, append, check_settings, lines, results
from nas_agg.study.tables.bench_table import BenchResults, Entry, table_of

if TYPE_CHECKING:
    from nas_agg.training.data import Data
    from nas_agg.training.recipes import Recipe

MOST_POINTS = 20_000
LATENCY_SECONDS = 0.1  # that a latency is measured, at least


@dataclass(frozen=True)
class TableBuilder:
    """The trainings of a space's networks.

    Attributes:
        space: Whose networks.
        settings: How they are trained.
        limit: Only so many networks, the first in their order; None: all.
        best: Only so many networks, those of the highest accuracies in trainings of the first seed; None: all.
    """

    space: Space
    settings: TableSettings
    limit: int | None = None
    best: int | None = None

    def train(self, out: Path, workers: int, part: tuple[int, int], say: Say, minutes: float = math.inf) -> None:
        """Do the trainings of a part that are not done yet.

        Args:
            out: Folder of the parts' files.
            workers: Processes, of one thread each.
            part: Which part, from 1, of how many.
            say: Receives lines on how it goes.
            minutes: After as many no training is begun.

        Raises:
            InputError: The folder's trainings have other settings, or another process does the part.
            NasAggError: A process died, or a file cannot be read.
        """
        end = time.monotonic() + 60 * minutes
        check_settings(out, self.settings.training_settings())
        networks = self._chosen(out)
        jobs = [(hash, seed) for seed in range(self.settings.seeds) for hash in networks][part[0] - 1 :: part[1]]
        known = {(line["hash"], line["seed"]) for line in lines(out, "part")}
        todo = [(networks[hash], seed) for hash, seed in jobs if (hash, seed) not in known]
        say(f"{len(networks):,} networks; {len(jobs):,} trainings in this part, {len(todo):,} of them to do")
        tasks = ((entry.hash, seed, self._text(entry), self.settings) for entry, seed in todo)
        done = results(train_one, _until(end, tasks), workers)
        _say_rest(append(out / f"part-{part[0]}-of-{part[1]}.jsonl", done, len(todo), say), len(todo), say)

    def time(self, out: Path, say: Say, minutes: float = math.inf) -> None:
        """Measure each network that was not measured yet: its latency, and an epoch of its training.

        Args:
            out: Folder of the file of times.
            say: Receives lines on how it goes.
            minutes: After as many none is begun.
        """
        end = time.monotonic() + 60 * minutes
        networks = self._chosen(out)
        known = {line["hash"] for line in lines(out, "times")}
        todo = [entry for entry in networks.values() if entry.hash not in known]
        say(f"{len(networks):,} networks, {len(todo):,} of them to time")
        tasks = ((entry.hash, self._text(entry), self.settings) for entry in todo)
        done = results(time_one, _until(end, tasks), 1)
        _say_rest(append(out / "times.jsonl", done, len(todo), say), len(todo), say)

    def table(self, out: Path) -> tuple[bytes, int]:
        """The table of a folder's trainings, and how many networks it has.

        Raises:
            InputError: No network is trained and timed.
        """
        found = BenchResults(out)
        try:
            content = table_of(self.space, self.settings, self.entries, found)
        except InputError as error:
            raise InputError(f"{out}: {error}") from None
        return content, len({entry.hash for entry in found.done(self.entries)})

    @cached_property
    def entries(self) -> list[Entry]:
        """Every point of the space and its network."""
        data = self._data
        found = []
        for values in points(self.space):
            counted = cost(self.space.genotype(values, data.input, data.classes))
            bytes = counted.activation_bytes
            found.append(Entry(values, str(counted.hash), counted.params, counted.macs, bytes))
        return found

    @cached_property
    def networks(self) -> dict[str, Entry]:
        """The networks by their hashes, each with the first of its points, in the order in which they are trained."""
        first = {entry.hash: entry for entry in reversed(self.entries)}
        hashes = sorted(first)
        if self.settings.order_seed is not None:
            import numpy as np

            order = np.random.default_rng(self.settings.order_seed).permutation(len(hashes))
            hashes = [hashes[place] for place in order]
        return {hash: first[hash] for hash in hashes}

    def _chosen(self, out: Path) -> dict[str, Entry]:
        chosen = dict(itertools.islice(self.networks.items(), self.limit))
        if self.best is not None:
            chosen = {hash: chosen[hash] for hash in BenchResults(out).best(self.best) if hash in chosen}
        return chosen

    @property
    def _data(self) -> Data:
        return _load(tuple(self.settings.data_arguments(0).items()))

    def _text(self, entry: Entry) -> str:
        data = self._data
        return self.space.genotype(entry.values, data.input, data.classes).to_json()


def points(space: Space) -> Iterator[Values]:
    """Every point of a space, the last open name's values fastest.

    Raises:
        InputError: They are too many for a table.
    """
    if space.size() > MOST_POINTS:
        raise InputError(f"{space.name}: {space.size():,} points; a table takes up to {MOST_POINTS:,}")
    for number in range(space.size()):
        found = {}
        for name in reversed(space.names):
            number, place = divmod(number, space.domains[name].size)
            found[name] = space.domains[name].at(place)
        yield {name: found[name] for name in space.names}


def _until(end: float, tasks: Iterator[tuple]) -> Iterator[tuple]:
    return itertools.takewhile(lambda _: time.monotonic() < end, tasks)


def _say_rest(done: int, count: int, say: Say) -> None:
    if done < count:
        say(f"{done:,} of {count:,}; the time is up, and the same command goes on")


@lru_cache(maxsize=8)
def _load(arguments: tuple) -> Data:
    from nas_agg.training.data import load_data

    return load_data(**dict(arguments))


def _recipe(settings: TableSettings) -> Recipe:
    from nas_agg.training.recipes import get_recipe

    recipe = get_recipe(settings.recipe)
    return recipe.model_copy(update={"batch_size": settings.batch_size or recipe.batch_size})


def train_one(hash: str, seed: int, text: str, settings: TableSettings) -> Line:
    """One training: what it had right after each epoch, or why it came to nothing; and its times."""
    import torch

    from nas_agg.compiler import compile
    from nas_agg.training.latency import measure
    from nas_agg.training.loop import TrainingFailed, evaluate, train

    torch.set_num_threads(1)
    data = _load(tuple(settings.data_arguments(seed).items()))
    model = compile(Genotype.model_validate(json.loads(text)), seed)
    line: Line = {"hash": hash, "seed": seed, "images": len(data.validation), "test_images": len(data.test)}
    begun = time.process_time()  # of the processor: what else the machine does matters little
    try:
        history = train(model, data, _recipe(settings), seed=seed, epochs=settings.epochs).history
    except TrainingFailed as error:
        history, line["failed"] = (), error.reason
    seconds = time.process_time() - begun
    if history:
        line |= _scores(history, len(data.validation)) | {"test": evaluate(model, data.test, data)["correct"]}
    # The fastest pass: where other processes share the cores, most passes are interrupted.
    latency = measure(model, data.input, seconds=max(LATENCY_SECONDS, seconds / 200)).minimum_ms
    return line | {"latency_ms": latency, "seconds": round(seconds, 3)}


def _scores(history: Sequence[Mapping[str, Any]], images: int) -> Line:
    """How many images each epoch had right, by running statistics of batch norm too where it tells, and its loss."""
    kinds = {"right": "validation_accuracy", "right_running": "validation_accuracy_running_statistics"}
    counts = {
        kind: [round(epoch[metric] * images) for epoch in history]
        for kind, metric in kinds.items()
        if metric in history[0]
    }
    return counts | {"loss": [round(epoch["validation_loss"], 4) for epoch in history]}


def time_one(hash: str, text: str, settings: TableSettings) -> Line:
    """A network's latency, and the seconds of its training."""
    import torch

    from nas_agg.compiler import compile
    from nas_agg.training.latency import measure
    from nas_agg.training.loop import train

    torch.set_num_threads(1)
    data = _load(tuple(settings.data_arguments(0).items()))
    model = compile(Genotype.model_validate(json.loads(text)), 0)
    result = train(model, data, _recipe(settings), seed=0, epochs=settings.epochs, until=2)
    latency = measure(model, data.input, seconds=LATENCY_SECONDS)
    seconds = round(result.history[1]["seconds"] * settings.epochs, 3)
    return {"hash": hash, "latency_ms": latency.median_ms, "seconds": seconds}
