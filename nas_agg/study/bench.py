"""Trains every network of a small space, for a table of results that searchers are compared on.

Each training is a line of a file of its own part, so that a table may be made in pieces, on several machines, and goes
on where it was stopped. Times are taken apart from the trainings, by one process on a machine that does nothing else.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.costs import cost
from nas_agg.errors import InputError, NasAggError
from nas_agg.genotype import Genotype
from nas_agg.open_names import Values
from nas_agg.space import Space
from nas_agg.study.folder import writing

if TYPE_CHECKING:
    from nas_agg.training.data import Data

MOST_POINTS = 20_000
VALIDATION_SHARE = 0.6  # more images to tell networks apart by, fewer to learn from: the task is harder
RECIPE = "bench"
_COLUMNS = ("hash", "params", "macs", "activation_bytes", "latency_ms", "seconds")
_SUMMARY = ("accuracy", "loss", "test_accuracy", "curve")

Line = dict[str, Any]


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


@dataclass(frozen=True)
class Bench:
    """How the networks of a space are trained.

    Attributes:
        space: Whose networks.
        dataset: What on.
        seeds: Trainings of each network; each draws its own images to validate on.
        epochs: Of each.
    """

    space: Space
    dataset: str = "digits"
    seeds: int = 3
    epochs: int = 12

    def train(self, out: Path, workers: int, part: tuple[int, int], say: Callable[[str], None]) -> None:
        """Do the trainings of a part that are not done yet.

        Args:
            out: Folder of the parts' files.
            workers: Processes, of one thread each.
            part: Which part, from 1, of how many.
            say: Told how it goes.

        Raises:
            NasAggError: A process died, or a file cannot be read.
        """
        networks = self._networks()
        jobs = [(hash, seed) for seed in range(self.seeds) for hash in networks][part[0] - 1 :: part[1]]
        known = {(line["hash"], line["seed"]) for line in lines(out, "part")}
        todo = [(networks[hash], seed) for hash, seed in jobs if (hash, seed) not in known]
        say(f"{len(networks):,} networks; {len(jobs):,} trainings in this part, {len(todo):,} of them to do")
        tasks = [(entry.hash, seed, self._text(entry), self.dataset, self.epochs) for entry, seed in todo]
        _work(train_one, tasks, out / f"part-{part[0]}-of-{part[1]}.jsonl", workers, say)

    def time(self, out: Path, say: Callable[[str], None]) -> None:
        """Measure each network that was not measured yet: its latency, and an epoch of its training.

        Args:
            out: Folder of the file of times.
            say: Told how it goes.
        """
        networks = self._networks()
        known = {line["hash"] for line in lines(out, "times")}
        todo = [entry for entry in networks.values() if entry.hash not in known]
        say(f"{len(networks):,} networks, {len(todo):,} of them to time")
        tasks = [(entry.hash, self._text(entry), self.dataset, self.epochs) for entry in todo]
        _work(time_one, tasks, out / "times.jsonl", 1, say)

    def table(self, out: Path) -> bytes:
        """The table of a folder of trainings, as a gzipped file of CSV; equal results, equal bytes.

        Raises:
            InputError: A training or a time is missing.
        """
        done: dict[str, dict[int, Line]] = {}
        for line in lines(out, "part"):
            done.setdefault(line["hash"], {})[line["seed"]] = line
        times = {line["hash"]: line for line in lines(out, "times")}
        text = io.StringIO()
        for name, words in self._header().items():
            text.write(f"# {name}: {words}\n")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self.space.names, *_COLUMNS, *_SUMMARY, *(f"right{seed}" for seed in range(self.seeds))])
        for entry in self.entries():
            mine, timed = done.get(entry.hash, {}), times.get(entry.hash)
            if set(mine) != set(range(self.seeds)) or timed is None:
                how = "first nas_agg bench without --table, with and without --times"
                raise InputError(f"{out}: a network is not trained or not timed; {how}")
            costs = (entry.hash, entry.params, entry.macs, entry.activation_bytes)
            trained = _summary([mine[seed] for seed in range(self.seeds)], self.epochs)
            labels = self.space.labels(entry.values)
            writer.writerow([*labels.values(), *costs, timed["latency_ms"], timed["seconds"], *trained])
        return gzip.compress(text.getvalue().encode(), mtime=0)

    def entries(self) -> list[Entry]:
        """Every point of the space and its network."""
        data = _data(self.dataset, 0)
        found = []
        for values in points(self.space):
            counted = cost(self.space.genotype(values, data.input, data.classes))
            bytes = counted.activation_bytes_train
            found.append(Entry(values, str(counted.hash), counted.params, counted.macs, bytes))
        return found

    def _networks(self) -> dict[str, Entry]:
        """The networks by their hashes, each with the first of its points, in the order of the hashes."""
        first = {entry.hash: entry for entry in reversed(self.entries())}
        return dict(sorted(first.items()))

    def _text(self, entry: Entry) -> str:
        data = _data(self.dataset, 0)
        return self.space.genotype(entry.values, data.input, data.classes).to_json()

    def _header(self) -> dict[str, str]:
        recipe = (
            f"{self.space.name} on {self.dataset}; recipe {RECIPE}; {self.epochs} epochs; seeds 0 to {self.seeds - 1}; "
            f"{VALIDATION_SHARE:.0%} of the images that are not the test's validate, drawn by the seed; right: how "
            "many after each epoch; accuracy and loss: means of the seeds after the last; curve: of accuracy; "
            "seconds: of a training, from its second epoch, on one thread"
        )
        names = {"genes": ", ".join(self.space.names), "value": "accuracy", "costs": "params, macs"}
        return {"recipe": recipe, **names, "equal": "hash", "curve": "curve"}


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


def lines(out: Path, kind: str) -> list[Line]:
    """What is done; half a last line, which a kill may leave, is nothing.

    Raises:
        NasAggError: A line is spoilt.
    """
    found = []
    for path in sorted(out.glob(f"{kind}*.jsonl")):
        *whole, _ = path.read_text().split("\n")
        for number, line in enumerate(whole, 1):
            try:
                found.append(json.loads(line))
            except ValueError:
                raise NasAggError(f"{path}: line {number} is spoilt; take it out") from None
    return found


def _work(
    do: Callable[..., Line], tasks: Sequence[tuple], path: Path, workers: int, say: Callable[[str], None]
) -> None:
    """Do tasks in processes of their own; what each gives is a line of a file."""
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            content = path.read_bytes()
            os.truncate(path, content.rfind(b"\n") + 1)
    running: set[Future] = set()
    done = 0
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context) as pool, writing(path), path.open("a") as file:
            for place, task in enumerate(tasks, 1):
                running.add(pool.submit(do, *task))
                while len(running) >= (2 * workers if place < len(tasks) else 1):
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    file.writelines(json.dumps(future.result()) + "\n" for future in finished)
                    file.flush()
                    if (done + len(finished)) // 100 > done // 100:
                        say(f"{done + len(finished):,} of {len(tasks):,}")
                    done += len(finished)
    except BrokenProcessPool:
        raise NasAggError("a process was killed; go on with the same command") from None


@lru_cache(maxsize=8)
def _data(dataset: str, seed: int) -> Data:
    from nas_agg.training.data import load_data

    return load_data(dataset, seed, validation_share=VALIDATION_SHARE)


def train_one(hash: str, seed: int, text: str, dataset: str, epochs: int) -> Line:
    """One training: what it had right after each epoch, or why it came to nothing."""
    import torch

    from nas_agg.compiler import compile
    from nas_agg.training.loop import TrainingFailed, evaluate, train
    from nas_agg.training.recipes import get_recipe

    torch.set_num_threads(1)
    data = _data(dataset, seed)
    model = compile(Genotype.model_validate(json.loads(text)), seed)
    line: Line = {"hash": hash, "seed": seed}
    try:
        result = train(model, data, get_recipe(RECIPE), seed=seed, epochs=epochs)
    except TrainingFailed as error:
        return line | {"failed": error.reason, "images": len(data.validation), "test_images": len(data.test)}
    test = evaluate(model, data.test, data)
    return line | {
        "right": [round(epoch["validation_accuracy"] * len(data.validation)) for epoch in result.history],
        "images": len(data.validation),
        "loss": [round(epoch["validation_loss"], 4) for epoch in result.history],
        "test": test["correct"],
        "test_images": test["images"],
    }


def time_one(hash: str, text: str, dataset: str, epochs: int) -> Line:
    """A network's latency, and the seconds of its training."""
    import torch

    from nas_agg.compiler import compile
    from nas_agg.training.latency import measure
    from nas_agg.training.loop import train
    from nas_agg.training.recipes import get_recipe

    torch.set_num_threads(1)
    data = _data(dataset, 0)
    model = compile(Genotype.model_validate(json.loads(text)), 0)
    result = train(model, data, get_recipe(RECIPE), seed=0, epochs=epochs, until=2)
    latency = measure(model, data.input, seconds=0.1)
    seconds = round(result.history[1]["seconds"] * epochs, 3)
    return {"hash": hash, "latency_ms": latency.median_ms, "seconds": seconds}


def _summary(trained: Sequence[Line], epochs: int) -> list[Any]:
    """Means over the seeds, and what each had right; a training that failed has nothing right."""
    right = [line.get("right", [0] * epochs) for line in trained]
    shares = [[count / line["images"] for count in counts] for counts, line in zip(right, trained, strict=True)]
    curve = [sum(column) / len(trained) for column in zip(*shares, strict=True)]
    losses = [line["loss"][-1] for line in trained if "loss" in line]
    loss = round(sum(losses) / len(losses), 4) if len(losses) == len(trained) else None
    test = sum(line.get("test", 0) / line["test_images"] for line in trained) / len(trained)
    texts = [" ".join(map(str, counts)) for counts in right]
    return [round(curve[-1], 6), loss, round(test, 6), " ".join(f"{value:.4f}" for value in curve), *texts]
