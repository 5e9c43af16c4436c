"""Measures data sets of many files: memory and time of a first and a second start, and the speed of training.

    python benchmarks/data.py --images 60000 --side 256 --image-size 224        # photos
    python benchmarks/data.py --images 300000 --side 20 --image-size 32         # files of one kilobyte

Each start is a process of its own, so its peak memory is its own. Files are made under ``--folder`` and kept, as is the
cache; the first start is one only if the cache there is new. Training is measured on the same images mapped from the
cache and held in memory, in turns within one process, so that the ratio does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

DISTINCT = 500  # images that are made; files are these with a comment of their own
FILES_PER_FOLDER = 1000
NETWORK = {
    "input": [3, 32, 32],
    "classes": 10,
    "net": [
        {"conv": 3, "out": 16, "stride": "4 if h > 64 else 1"},
        "bn",
        "relu",
        {"conv": 3, "out": 32, "stride": 2},
        "bn",
        "relu",
        "gap",
        {"linear": "classes"},
    ],
}


def make_files(folder: Path, images: int, side: int, classes: int) -> None:
    """Make JPEG files, of random smooth pictures of about a side, each with other bytes."""
    import numpy as np
    from PIL import Image

    if (folder / "made").exists() and (folder / "made").read_text() == f"{images} {side} {classes}":
        return
    draw = np.random.default_rng(0)
    pictures = []
    for _ in range(min(images, DISTINCT)):
        coarse = draw.integers(0, 256, (max(4, side // 8), max(4, side // 8), 3), dtype=np.uint8)
        size = (side + int(draw.integers(side // 4 + 1)), side)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        pictures.append(buffer.getvalue())
    for number in range(images):
        place = folder / "set" / f"class{number % classes}" / str(number // FILES_PER_FOLDER)
        if number % FILES_PER_FOLDER < classes:
            place.mkdir(parents=True, exist_ok=True)
        picture = pictures[number % len(pictures)]
        comment = b"\xff\xfe" + (10).to_bytes(2, "big") + number.to_bytes(8, "big")
        (place / f"{number}.jpg").write_bytes(picture[:2] + comment + picture[2:])
    (folder / "made").write_text(f"{images} {side} {classes}")


def start(options: argparse.Namespace) -> dict[str, Any]:
    """Load the data set in this process."""
    import torch

    from nas_agg.training.data import load_data

    base = _peak()
    begin, cpu = time.perf_counter(), time.process_time()
    data = load_data(f"folder:{options.folder / 'set'}", image_size=options.image_size)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    row = {
        "images": sum(len(split) for split in data.splits.values()),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mib": _peak(),
        "peak_mib_before": base,
    }
    if options.digest:
        begin = time.perf_counter()
        row |= {"digest": data.digest, "digest_seconds": round(time.perf_counter() - begin, 2)}
    if options.read_all:  # every image once, in random order
        begin = time.perf_counter()
        for positions in torch.randperm(len(data.train)).split(256):
            data.train.rows(positions)
        row |= {"gathered_per_second": round(len(data.train) / (time.perf_counter() - begin)), "peak_mib": _peak()}
    return row


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train on mapped images and on the same images in memory, in turns."""
    import torch

    import nas_agg
    from nas_agg.training.data import Split, load_data
    from nas_agg.training.loop import train
    from nas_agg.training.recipes import open_recipe

    torch.set_num_threads(1)
    data = load_data(
        f"folder:{options.folder / 'set'}",
        image_size=options.image_size,
        train_images=options.train_images,
        validation_images=64,
    )
    in_memory = {name: Split(split.images, split.labels) for name, split in data.splits.items() if name != "test"}
    variants = {"mapped": data, "memory": replace(data, keys=None, **in_memory)}
    genotype = nas_agg.load(NETWORK).with_task(data.input, data.classes)
    recipe = open_recipe("search")
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    weights = {}
    for turn in range(options.turns + 1):
        for name in sorted(variants, reverse=bool(turn % 2)):
            model = nas_agg.compile(genotype, seed=0)
            result = train(model, variants[name], recipe, seed=0, epochs=1)
            weights[name] = torch.cat([p.detach().flatten() for p in model.parameters()])
            if turn:  # the first one warms up
                speeds[name].append(result.metrics["images_per_second"])
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "train_images": len(data.train),
        "images_per_second": medians,
        "ratio": round(medians["mapped"] / medians["memory"], 3),
        "equal_weights": bool(torch.equal(weights["mapped"], weights["memory"])),
        "peak_mib": _peak(),
    }


def _peak() -> int:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def in_process(step: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Make the files, and measure starts and training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--side", type=int, default=256, help="about the side of the files' images")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--train-images", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nas_agg-data"))
    parser.add_argument("--step", choices=("start", "train"), help=argparse.SUPPRESS)
    parser.add_argument("--read-all", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--digest", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["NAS_AGG_DATA"] = str(options.folder / "root")
    if options.step:
        print(json.dumps({"start": start, "train": train}[options.step](options)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    make_files(options.folder, options.images, options.side, options.classes)
    words = ["--folder", str(options.folder), "--image-size", str(options.image_size)]
    words += ["--train-images", str(options.train_images), "--turns", str(options.turns)]
    for name, step, more in (
        ("first start", "start", []),
        ("second start", "start", ["--digest"]),
        ("every image read once", "start", ["--read-all"]),
        ("training", "train", []),
    ):
        print(f"{name}: {json.dumps(in_process(step, [*words, *more]))}", flush=True)


if __name__ == "__main__":
    main()
