"""Tests of the papers' claims on CIFAR: equal parameters, equal training, paired seeds.

    python benchmarks/claims.py plan                 # arms: parameters, MACs, finished seeds
    python benchmarks/claims.py run --minutes 30     # missing trainings; resumable, also in parallel processes
    python benchmarks/claims.py report               # contrasts with their intervals
    python benchmarks/claims.py export cifar.npz     # the study's training images, as the data set of a search

claims.yaml contains the protocol, the arms and the planned contrasts; raw results are in results/claims/ (one line of
JSON per training). `--data cifar10=npz:FILE` replaces torchvision's files.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from claims_report import Family, markdown

import nas_agg
from nas_agg.common.files import parse_document
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.references import open_genotype
from nas_agg.training.data import Data, Split, load_data
from nas_agg.training.loop import TrainingFailed, evaluate, train
from nas_agg.training.recipes import Recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "claims"
DOCUMENT = HERE.parent / "docs" / "claims.md"
TOLERANCE = 0.02  # relative deviation of an arm's parameters from its family's


class Arm(NamedTuple):
    """One network of a family.

    Attributes:
        family: Name of the family that trains it.
        name: Its name in that family.
        dataset: ``cifar10`` or ``cifar100``.
        genotype: Its genotype, with the data set's input and classes.
    """

    family: str
    name: str
    dataset: str
    genotype: Genotype


class Run(NamedTuple):
    """One training of the study."""

    arm: Arm
    seed: int


@lru_cache(maxsize=1)
def plan() -> dict[str, Any]:
    """The content of claims.yaml."""
    return parse_document((HERE / "claims.yaml").read_text(), "claims.yaml")


def arms(family: str) -> list[Arm]:
    """The arms of a family, in the order of claims.yaml."""
    spec = plan()["families"][family]
    classes = {"cifar10": 10, "cifar100": 100}[spec["dataset"]]
    result = []
    for name, arm in spec["arms"].items():
        if "like" in arm:
            other, name = arm["like"].split("/")
            result += [one for one in arms(other) if one.name == name]
            continue
        own = "point" in arm
        changes = ({} if own else spec.get("with", {})) | arm.get("with", {})
        genotype = _changed(arm["point"] if own else spec["point"], changes).with_task((3, 32, 32), classes)
        result.append(Arm(family, name, spec["dataset"], genotype))
    return result


def _changed(point: str, changes: dict[str, Any]) -> Genotype:
    """The genotype of a point, or of a file beside claims.yaml, with changed values for some of its names."""
    file = HERE / point
    text = dict(open_genotype(str(file) if file.is_file() else point).to_dict())
    let = dict(text.get("let") or {})
    if unknown := set(changes) - set(let):
        raise SystemExit(f"claims.yaml: {point} has no name {', '.join(sorted(unknown))}")
    return Genotype.from_dict(text | {"let": let | changes})


def runs() -> list[Run]:
    """All trainings in order: seeds 0 to 2 of every family, then the remaining seeds."""
    seeds = plan()["protocol"]["seeds"]
    families = [arms(family) for family in plan()["families"]]
    return [Run(arm, seed) for part in (seeds[:3], seeds[3:]) for family in families for seed in part for arm in family]


def recipe() -> Recipe:
    """The recipe of all arms."""
    return Recipe(name="claims", about="equal training of all arms", **plan()["protocol"]["recipe"])


def study_data(name: str, spec: str) -> Data:
    """The images of the study: equal numbers per class, the same for every seed.

    Args:
        name: ``cifar10`` or ``cifar100``.
        spec: The data set as accepted by `nas_agg.training.data.load_data`.
    """
    protocol = plan()["protocol"]
    data = load_data(spec, seed=0)
    return dataclasses.replace(
        data,
        name=name,
        train=_first_per_class(data.train, protocol["training_images"] // data.classes),
        validation=_first_per_class(data.validation, protocol["validation_images"] // data.classes),
    )


def _first_per_class(split: Split, count: int) -> Split:
    places = torch.cat([torch.where(split.labels == label)[0][:count] for label in split.labels.unique()])
    order = places.sort().values
    return Split(split.images[order], split.labels[order])


def results(family: str) -> list[dict[str, Any]]:
    """The finished trainings of a family."""
    path = RESULTS / f"{family}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finished() -> set[tuple[str, str, int]]:
    """Family, arm and seed of each finished training."""
    return {(line["family"], line["arm"], line["seed"]) for family in plan()["families"] for line in results(family)}


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Lock a folder for this process; yields whether it was free. A lock ends with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def run_all(work: Path, minutes: float, specs: dict[str, str]) -> None:
    """Run missing trainings within a time limit; interrupted ones resume from their last epoch.

    Args:
        work: Folder of checkpoints.
        minutes: Time limit; the training in progress stops after its current epoch.
        specs: The data sets' specifications by name.
    """
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * minutes
    loaded: dict[str, Data] = {}
    for run in runs():
        arm, seed = run
        if time.monotonic() >= end:
            return
        with _claimed(work / f"{arm.family}-{arm.name}-{seed}") as mine:
            if not mine or (arm.family, arm.name, seed) in finished():
                continue
            if arm.dataset not in loaded:
                loaded[arm.dataset] = study_data(arm.dataset, specs[arm.dataset])
            line = train_run(run, loaded[arm.dataset], work / f"{arm.family}-{arm.name}-{seed}", end)
            if line is not None:
                _append(arm.family, line)
                print(
                    f"{arm.family} {arm.name} seed {seed}: {line.get('test_accuracy', line.get('failed'))}", flush=True
                )


def train_run(run: Run, data: Data, out: Path, end: float) -> dict[str, Any] | None:
    """Run one training epoch by epoch; returns its results, or None if the time limit was reached first."""
    (arm, seed), how = run, recipe()
    model = nas_agg.compile(arm.genotype, seed)
    cost = nas_agg.cost(arm.genotype)
    line: dict[str, Any] = {
        "family": arm.family,
        "arm": arm.name,
        "seed": seed,
        "hash": str(cost.hash),
        "params": cost.params,
        "macs": cost.macs,
    }
    for epoch in range(1, how.epochs + 1):
        if time.monotonic() >= end:
            return None
        try:
            result = train(model, data, how, seed=seed, out=out, resume=True, pause_after=epoch, checkpoint_seconds=0)
        except TrainingFailed as error:
            return line | {"failed": error.reason}
    test = evaluate(model, data.test, data)
    return line | {
        "test_accuracy": test["accuracy"],
        "test_loss": round(test["loss"], 5),
        "test_images": test["images"],
        "train_loss": [round(metrics["train_loss"], 4) for metrics in result.history],
        "validation_accuracy": [round(metrics["validation_accuracy"], 4) for metrics in result.history],
        "seconds": round(result.seconds, 1),
        "data": data.digest,
        "code": _commit(),
        "torch": torch.__version__,
    }


def _append(family: str, line: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    handle = os.open(RESULTS / f"{family}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, (json.dumps(line) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def _commit() -> str:
    result = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return result.stdout.strip()


def export(out: Path, name: str, spec: str) -> None:
    """Write the study's training images as an .npz data set, for a search; its test split is the study's validation.

    The official test images are not in it: a search cannot have seen them.
    """
    data = study_data(name, spec)
    arrays = {}
    for part, split in (("train", data.train), ("test", data.validation)):
        arrays[f"x_{part}"] = split.images.permute(0, 2, 3, 1).numpy()
        arrays[f"y_{part}"] = split.labels.numpy()
    np.savez(out, **arrays)
    print(f"{out}: {len(data.train)} training images, {len(data.validation)} others as its test split")


def show_plan() -> None:
    """Print every arm with parameters, their deviation from the family's, MACs and finished seeds."""
    done = finished()
    for family, spec in plan()["families"].items():
        print(f"{family}, {spec['dataset']}, {spec['params']:,} parameters: {spec['about']}")
        for arm in arms(family):
            cost = nas_agg.cost(arm.genotype)
            deviation = cost.params / spec["params"] - 1
            seeds = [seed for seed in plan()["protocol"]["seeds"] if (arm.family, arm.name, seed) in done]
            warning = "" if abs(deviation) <= TOLERANCE else "  DEVIATES"
            print(
                f"  {arm.name:24s} {cost.params:8,} ({100 * deviation:+.1f} %) {cost.macs / 1e6:6.1f}M MACs  "
                f"depth {cost.depth:3d}  finished seeds: {', '.join(map(str, seeds)) or 'none'}{warning}"
            )


def report() -> str:
    """The contrasts of all trained families as Markdown."""
    families = []
    for name, spec in plan()["families"].items():
        lines: dict[str, dict[int, Any]] = {}
        for label, arm in zip(spec["arms"], arms(name), strict=True):
            lines[label] = {line["seed"]: line for line in results(arm.family) if line["arm"] == arm.name}
        families.append(Family(name, spec, lines))
    return "\n".join(markdown(families, plan()["protocol"])) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("plan", help="print the arms with their costs and finished seeds")
    run = commands.add_parser("run", help="run missing trainings")
    run.add_argument("--minutes", type=float, default=30.0, help="time limit")
    run.add_argument("--work", type=Path, default=Path("runs/claims"), help="folder of checkpoints")
    run.add_argument("--data", action="append", default=[], help="NAME=DATASET, for example cifar10=npz:cifar10.npz")
    exporting = commands.add_parser("export", help="write the study's training images as a data set for a search")
    exporting.add_argument("out", type=Path)
    exporting.add_argument("--dataset", choices=("cifar10", "cifar100"), default="cifar10")
    exporting.add_argument("--data", action="append", default=[], help="as for run")
    show = commands.add_parser("report", help="print the contrasts with their intervals")
    show.add_argument("--write", action="store_true", help="write docs/claims.md instead of printing")
    options = parser.parse_args()
    if options.command == "plan":
        show_plan()
    elif options.command == "report":
        if options.write:
            DOCUMENT.write_text(report())
        else:
            print(report(), end="")
    else:
        specs = {"cifar10": "cifar10", "cifar100": "cifar100"}
        for place in options.data:
            name, _, spec = place.partition("=")
            if name not in specs or not spec:
                parser.error(
                    f"--data {place!r}: expected cifar10=DATASET or cifar100=DATASET, e.g. cifar10=npz:cifar10.npz"
                )
            specs[name] = spec
        if options.command == "export":
            export(options.out, options.dataset, specs[options.dataset])
        else:
            run_all(options.work, options.minutes, specs)


if __name__ == "__main__":
    sys.exit(main())
