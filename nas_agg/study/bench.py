"""Trains every network of a small space, for a table of results that searchers are compared on.

Each training is a line of a file of its own part, so that a table may be made in pieces, on several machines, and goes
on where it was stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.costs import cost
from nas_agg.errors import InputError, NasAggError
from nas_agg.genotype import Genotype
from nas_agg.open_names import Values
from nas_agg.space import Space

if TYPE_CHECKING:
    from nas_agg.training.data import Data

MOST_POINTS = 20_000
VALIDATION_SHARE = 0.6  # more images to tell networks apart by, fewer to learn from: the task is harder
RECIPE = "bench"


@dataclass(frozen=True)
class Entry:
    """A network of a space.

    Attributes:
        values: The first of its points.
        hash: Equal for equal networks.
        params: Of the network.
        macs: Of an image.
    """

    values: Values
    hash: str
    params: int
    macs: int


def points(space: Space) -> Iterator[Values]:
    """Every point of a space, the last open name's values fastest.

    Raises:
        InputError: They are too many for a table.
    """
    if space.size() > MOST_POINTS:
        raise InputError(f"{space.name}: {space.size():,} points; a table takes up to {MOST_POINTS:,}")
    sizes = [space.domains[name].size for name in space.names]
    for number in range(space.size()):
        found = {}
        for name, size in zip(reversed(space.names), reversed(sizes), strict=True):
            number, place = divmod(number, size)
            found[name] = space.domains[name].at(place)
        yield {name: found[name] for name in space.names}


def entries(space: Space, input: tuple[int, int, int], classes: int) -> list[Entry]:
    """What each point of a space is, in their order; equal networks have equal hashes."""
    found = []
    for values in points(space):
        counted = cost(space.genotype(values, input, classes))
        assert counted.hash is not None
        found.append(Entry(values, counted.hash, counted.params, counted.macs))
    return found


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

    def run(self, out: Path, workers: int = 1, part: tuple[int, int] = (1, 1), say: Any = print) -> int:
        """Do the trainings of a part that are not done yet; gives how many were.

        Args:
            out: Folder of the parts' files.
            workers: Processes, of one thread each.
            part: Which part of how many.
            say: Told how it goes.

        Raises:
            NasAggError: A training failed for a reason that is not its network's.
        """
        from nas_agg.training.data import load_data

        data = load_data(self.dataset)
        networks = {entry.hash: entry for entry in reversed(entries(self.space, data.input, data.classes))}
        out.mkdir(parents=True, exist_ok=True)
        known = {(line["hash"], line["seed"]) for line in lines(out)}
        jobs = [(hash, seed) for seed in range(self.seeds) for hash in sorted(networks)]
        jobs = jobs[part[0] - 1 :: part[1]]
        todo = [job for job in jobs if job not in known]
        random.Random(0).shuffle(todo)
        todo.sort(key=lambda job: job[1])
        say(f"{len(networks):,} networks, {len(jobs):,} trainings in this part, {len(todo):,} to do")
        context = multiprocessing.get_context("spawn")
        os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
        done, running = 0, set[Future]()
        with ProcessPoolExecutor(workers, context) as pool, (out / f"part-{part[0]}.jsonl").open("a") as file:
            for hash, seed in todo:
                genotype = self.space.genotype(networks[hash].values, data.input, data.classes)
                job = (hash, seed, genotype.to_json(), self.dataset, self.epochs)
                running.add(pool.submit(train_one, *job))
                while len(running) >= workers * 2:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        file.write(json.dumps(future.result()) + "\n")
                        file.flush()
                        done += 1
                        if done % 100 == 0:
                            say(f"{done:,} of {len(todo):,}")
            for future in running:
                file.write(json.dumps(future.result()) + "\n")
                done += 1
        return done


def lines(out: Path) -> list[dict[str, Any]]:
    """The trainings that are done; half a last line, which a kill may leave, is none."""
    found = []
    for path in sorted(out.glob("part-*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                found.append(json.loads(line))
            except ValueError:
                if number < len(path.read_text().splitlines()):
                    raise NasAggError(f"{path}: line {number} is spoilt; take it out") from None
    return found


@lru_cache
def _data(dataset: str, seed: int) -> Data:
    from nas_agg.training.data import load_data

    return load_data(dataset, seed, validation_share=VALIDATION_SHARE)


def train_one(hash: str, seed: int, text: str, dataset: str, epochs: int) -> dict[str, Any]:
    """One training; what it counted after each epoch, or why it came to nothing."""
    import torch

    from nas_agg.compiler import compile
    from nas_agg.training.loop import TrainingFailed, evaluate, train
    from nas_agg.training.recipes import get_recipe

    torch.set_num_threads(1)
    data = _data(dataset, seed)
    model = compile(Genotype.model_validate(json.loads(text)), seed)
    line: dict[str, Any] = {"hash": hash, "seed": seed}
    try:
        result = train(model, data, get_recipe(RECIPE), seed=seed, epochs=epochs)
    except TrainingFailed as error:
        return line | {"failed": error.reason}
    images = len(data.validation)
    test = evaluate(model, data.test, data)
    return line | {
        "right": [round(epoch["validation_accuracy"] * images) for epoch in result.history],
        "images": images,
        "loss": [round(epoch["validation_loss"], 4) for epoch in result.history],
        "test": test["correct"],
        "test_images": test["images"],
        "seconds": round(result.seconds, 3),
    }
