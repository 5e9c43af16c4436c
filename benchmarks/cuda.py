"""Every check and figure that needs a GPU, in one script of at most eight minutes; it prints one JSON object.

    python benchmarks/cuda.py [--minutes 8] [--sections tests,networks,small,evaluation,search] [--out FILE] [--dry]

- ``tests``: the tests that need a GPU (``pytest -m cuda``).
- ``networks``: median milliseconds and peak MiB of a training step in bf16, batches of 64 images 224x224, of our
  networks in modes plain and lean, and of torchvision's where it has them.
- ``small``: trainings per hour (10 epochs of 45,000 images 32x32) of a network of 50,000 parameters: by a plain loop,
  by ours, and by ours with ``cuda_graphs``.
- ``evaluation``: accuracy of a network trained on digits, evaluated in float32, with TF32 and in bf16.
- ``search``: a search of 50 networks on CIFAR-10, four at a time on the GPU; random images where it is not on the disk.

Each section is a process of its own, which is ended when its share of the time is up. ``--dry`` runs all of them on a
CPU with tiny settings, to test this script; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Sections in their order, with their shares of the time.
SECTIONS = {"tests": 0.3, "networks": 0.3, "small": 0.12, "evaluation": 0.05, "search": 0.23}
NETWORKS = ("densenet/121", "residual/resnet50", "efficientnet/b0", "sparsenet/121-k32", "dsnet/dsnet50")
TORCHVISION = {"densenet/121": "densenet121", "residual/resnet50": "resnet50", "efficientnet/b0": "efficientnet_b0"}
EPOCHS, IMAGES = 10, 45_000  # of a training on CIFAR-10


# ---------------------------------------------------------------------- sections


def run_tests(dry: bool) -> dict[str, Any]:
    """Run the tests that need a GPU; dry, list them."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "cuda", "-p", "no:cacheprovider", *files]
    done = subprocess.run([*command, *(["--collect-only"] if dry else [])], capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"status": done.returncode, "summary": lines[-1] if lines else done.stderr[-500:], "failed": failed}


def measure_networks(dry: bool) -> dict[str, Any]:
    """Step times and peaks of networks for ImageNet."""
    import torch
    from torchvision import models

    import nas_agg

    batch, side, steps = (2, 32, 1) if dry else (64, 224, 20)
    rows: dict[str, Any] = {}
    for point in ("efficientnet/b0",) if dry else NETWORKS:
        genotype = nas_agg.load(point)
        variants: dict[str, Callable[[], torch.nn.Module]] = {
            memory: lambda memory=memory, genotype=genotype: nas_agg.compile(genotype, seed=0, memory=memory)
            for memory in ("plain", "lean")
        }
        if point in TORCHVISION:
            variants["torchvision"] = getattr(models, TORCHVISION[point])
        for name, make in variants.items():
            try:
                rows[f"{point} {name}"] = _measure_steps(make(), batch, side, steps)
            except RuntimeError as error:
                rows[f"{point} {name}"] = {"failed": str(error).splitlines()[0][:200]}
            print(f"{point} {name}: {rows[f'{point} {name}']}", file=sys.stderr, flush=True)
    return {"batch": batch, "side": side, "networks": rows}


def _measure_steps(model: Any, batch: int, side: int, steps: int) -> dict[str, float | None]:
    """Median milliseconds and peak MiB of a step under bf16 autocast."""
    import torch

    device = _device()
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(images)
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = [_seconds(step) for _ in range(steps + min(5, steps))][min(5, steps) :]
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    return {"ms": round(1000 * statistics.median(seconds), 2), "peak_mib": None if peak is None else round(peak)}


def measure_small(dry: bool) -> dict[str, Any]:
    """Trainings per hour of a small network."""
    from nas_agg.training.recipes import open_recipe

    data, genotype = _images(200 if dry else 20_000), _small_network()
    epochs = 1 if dry else 2
    recipe = open_recipe("search", {"batch_size": 50 if dry else 128, "epochs": EPOCHS, "crop": 4, "flip": True})
    graphed = recipe.model_copy(update={"cuda_graphs": True})
    ways: dict[str, Callable[[], None]] = {
        "plain loop": lambda: _plain_loop(genotype, data, recipe.batch_size, epochs),
        "nas_agg": lambda: _our_loop(genotype, data, recipe, epochs),
        "nas_agg, cuda_graphs": lambda: _our_loop(genotype, data, graphed, epochs),
    }
    per_image = {}
    for name, way in ways.items():
        if not dry:
            way()  # libraries are loaded, algorithms chosen
        per_image[name] = _seconds(way) / (epochs * len(data.train))
    import nas_agg

    hourly = {name: round(3600 / (seconds * EPOCHS * IMAGES), 2) for name, seconds in per_image.items()}
    return {"params": nas_agg.cost(genotype).params, "batch": recipe.batch_size, "trainings_per_hour": hourly}


def _our_loop(genotype: Any, data: Any, recipe: Any, epochs: int) -> None:
    import nas_agg
    from nas_agg.training.loop import train

    train(nas_agg.compile(genotype, seed=0), data, recipe, seed=0, device=_device(), epochs=epochs)


def _plain_loop(genotype: Any, data: Any, batch: int, epochs: int) -> None:
    """What one would write by hand: images on the device, a crop and a flip per batch, bf16, one update per step."""
    import torch

    import nas_agg

    device = _device()
    model = nas_agg.compile(genotype, seed=0).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    for _ in range(epochs):
        for index in torch.randperm(len(images), device=device).split(batch):
            padded = torch.nn.functional.pad(images[index], (4, 4, 4, 4))
            top, left = torch.randint(9, (2,)).tolist()
            x = padded[:, :, top : top + 32, left : left + 32].float().div_(255).sub_(0.5).div_(0.25)
            x = torch.where(torch.rand(len(x), 1, 1, 1, device=device) < 0.5, x.flip(3), x)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = torch.nn.functional.cross_entropy(
                    model(x.contiguous(memory_format=torch.channels_last)), labels[index]
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for part in data.validation.images.to(device).split(1000):
                model(part.float().div_(255).sub_(0.5).div_(0.25))
        model.train()


def measure_evaluation(dry: bool) -> dict[str, Any]:
    """Accuracy by the precision of evaluation."""
    import torch

    import nas_agg
    from nas_agg.training.data import load_data
    from nas_agg.training.loop import evaluate, train
    from nas_agg.training.recipes import open_recipe

    data, device = load_data("digits"), _device()
    model = nas_agg.compile(_small_network((1, 8, 8)), seed=0)
    train(model, data, open_recipe("search"), seed=0, device=device, epochs=1 if dry else 10)
    found = {name: evaluate(model, data.test, data, device, precision=name) for name in ("float32", "bf16")}
    torch.backends.cuda.matmul.allow_tf32 = True
    found["tf32"] = evaluate(model, data.test, data, device)
    return {name: {"correct": of["correct"], "images": of["images"], "loss": of["loss"]} for name, of in found.items()}


def measure_search(dry: bool) -> dict[str, Any]:
    """A search on CIFAR-10, or on random images of its size."""
    import nas_agg
    from nas_agg.common.errors import NasAggError
    from nas_agg.training.data import load_data

    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"budget": 1 if dry else 50, "epochs": 1, "final": 0, "workers": 1 if dry else 4}
        settings |= {"seed": 0, "searcher": "random", "set": [] if dry else ["cuda_graphs=true"], "max_macs": "20M"}
        source, about = "cifar10", "CIFAR-10"
        try:
            if dry:
                raise NasAggError("tiny images")
            load_data("cifar10")
        except NasAggError:
            source, about = _random_file(Path(folder) / "random.npz", 60 if dry else 10_000), "random images"
        start = time.perf_counter()
        result = nas_agg.search(
            "microdense", out=Path(folder) / "run", dataset=source, device=str(_device()), **settings
        )
        seconds = time.perf_counter() - start
        return {"data": about, "networks": len(result.trials), "epochs": 1, "seconds": round(seconds, 1)}


# ---------------------------------------------------------------------- what sections share


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _seconds(run: Callable[[], object]) -> float:
    """Seconds of a call, until the device is done."""
    import torch

    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _arrays(count: int) -> tuple[Any, Any]:
    """Random images of CIFAR-10's size, and labels."""
    import numpy as np

    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10


def _images(count: int) -> Any:
    import nas_agg

    return nas_agg.Data.from_arrays(*_arrays(count), name="random")


def _random_file(path: Path, count: int) -> str:
    import numpy as np

    images, labels = _arrays(count)
    np.savez(path, x_train=images, y_train=labels)
    return f"npz:{path}"


def _small_network(shape: tuple[int, int, int] = (3, 32, 32)) -> Any:
    """A dense network of about 50,000 parameters."""
    import nas_agg

    dense = {"pattern": "dense", "operator": "concat"}
    stage = {"nodes": 6, "growth": 10, "unit": ["bn", "relu", {"conv": 3}], "reads": dense, "output": dense}
    net: list[Any] = [{"conv": 3, "out": 16}, stage, "bn", "relu", {"conv": 1, "out": 40}, {"avgpool": 2}]
    net += [{**stage, "nodes": 4}, "bn", "relu", "gap", {"linear": "classes"}]
    return nas_agg.load({"input": list(shape), "classes": 10, "net": net})


# ---------------------------------------------------------------------- the script


RUN: dict[str, Callable[[bool], dict[str, Any]]] = {
    "tests": run_tests,
    "networks": measure_networks,
    "small": measure_small,
    "evaluation": measure_evaluation,
    "search": measure_search,
}


def run_section(name: str, seconds: float | None, dry: bool) -> dict[str, Any]:
    """Run a section in a process of its own; what it printed last on its output is its result."""
    command = [sys.executable, __file__, "--section", name, *(["--dry"] if dry else [])]
    environment = {**os.environ, "NAS_AGG_REPORT": "0"} | ({"CUDA_VISIBLE_DEVICES": ""} if dry else {})
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=seconds)
        result = json.loads(output.splitlines()[-1]) if process.returncode == 0 else {"failed": process.returncode}
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        result = {"failed": f"not done after {seconds:.0f} s"}
    return result | {"section_seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    """Run the sections and print their results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dry", action="store_true", help="tiny, on a CPU")
    options = parser.parse_args()
    if options.section:
        print(json.dumps(RUN[options.section](options.dry)))
        return
    import torch

    if not options.dry and not torch.cuda.is_available():
        sys.exit("cuda.py: no GPU; --dry tests this script on a CPU")
    names = options.sections.split(",")
    end = time.monotonic() + 60 * options.minutes
    result: dict[str, Any] = {
        "device": "CPU, dry" if options.dry else torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }
    for position, name in enumerate(names):
        # What earlier sections left goes to the later ones.
        left = sum(SECTIONS[later] for later in names[position:])
        seconds = (end - time.monotonic()) * SECTIONS[name] / left
        result[name] = run_section(name, None if options.dry else seconds, options.dry)
    text = json.dumps(result, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
