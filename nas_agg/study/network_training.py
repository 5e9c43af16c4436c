"""Training and evaluation of one network from Python: `nas_agg.train` and `nas_agg.evaluate`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from nas_agg.common.chained_lines import DIGEST
from nas_agg.common.errors import InputError
from nas_agg.compiler import Network, compile
from nas_agg.compiler.torchvision_weights import Weights
from nas_agg.graph.rematerialization import RequestedMemoryMode
from nas_agg.language.genotype import Genotype
from nas_agg.study.definition.notations import parse_image_size
from nas_agg.study.records.run_folder import GENOTYPE_FILE, WEIGHTS_FILE
from nas_agg.study.standalone_training import train_genotype
from nas_agg.study.workers.final_jobs import EpochCallback
from nas_agg.training import loop
from nas_agg.training.data import Data, load_data
from nas_agg.training.data.load import own_image_size
from nas_agg.training.evaluation import EvaluationPrecision
from nas_agg.training.recipes import RecipeSource
from nas_agg.training.steps.processes import started_processes

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class TrainingResult:
    """A network that was trained and tested.

    Attributes:
        network: The network with its trained weights, on the CPU, in evaluation mode.
        genotype: Its genotype, for the images and classes of the data set.
        metrics: Its test metrics and what belongs to them, the contents of ``best/metrics.json``.
        history: The metrics of each epoch.
        path: The run folder, if one was specified.
    """

    network: Network = field(repr=False)
    genotype: Genotype = field(repr=False)
    metrics: dict[str, Any]
    history: tuple[dict[str, Any], ...] = field(repr=False)
    path: Path | None = None


def train(
    genotype: Genotype,
    data: str | Data = "digits",
    recipe: RecipeSource = "final",
    *,
    epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    image_size: int | str | None = None,
    metric: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    download: bool = False,
    memory: RequestedMemoryMode = "auto",
    compile_steps: bool = False,
    sync_bn: bool = False,
    callback: EpochCallback | None = None,
    show: bool = False,
) -> TrainingResult:
    """Train and test a network; see `nas_agg.train`."""
    if not isinstance(data, str | Data):
        raise InputError(f"data: expected the name of a data set or a Data, not a {type(data).__name__}")
    if image_size is not None:
        if not isinstance(data, str):
            raise InputError("image_size: a Data has its size; omit it, or specify the data set by its name")
        try:
            image_size = parse_image_size(image_size)
        except ValueError as error:
            raise InputError(f"image_size: {error}") from None
    if out is None and started_processes().count > 1:
        raise InputError("out: specify a folder, which all processes must see")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "run" if out is None else Path(out)
        metrics = train_genotype(
            genotype,
            dataset=data,
            recipe=recipe,
            epochs=epochs,
            device=device,
            seed=seed,
            out=path,
            image_size=image_size,
            metric=metric,
            weights=weights,
            download=download,
            memory=memory,
            compile=compile_steps,
            sync_bn=sync_bn,
            callback=callback,
            show=show,
        )
        best = path / "best"
        trained = Genotype.from_dict(json.loads((best / GENOTYPE_FILE).read_text()))
        network = compile(trained, weights=best / WEIGHTS_FILE).eval()
        lines = (json.loads(line) for line in (best / loop.METRICS).read_text().splitlines())
        history = tuple({name: value for name, value in line.items() if name != DIGEST} for line in lines)
    return TrainingResult(network, trained, metrics, history, None if out is None else path)


def evaluate(
    network: nn.Module | Genotype,
    data: str | Data,
    *,
    weights: Weights | None = None,
    split: SplitName = "test",
    metrics: Sequence[str] = (),
    report: bool = False,
    device: str = "auto",
    download: bool = False,
    precision: EvaluationPrecision = "float32",
) -> dict[str, Any]:
    """Evaluate a network on a split of a data set; see `nas_agg.evaluate`."""
    if isinstance(data, str):
        size = own_image_size(data, network.input) if isinstance(network, Genotype) else None
        data = load_data(data, image_size=size)
    elif not isinstance(data, Data):
        raise InputError(f"data: expected the name of a data set or a Data, not a {type(data).__name__}")
    if split not in data.splits:
        raise InputError(f"split: must be one of {', '.join(data.splits)}, not {split!r}")
    if isinstance(network, Genotype):
        if weights is None:
            raise InputError("weights: a genotype has none; specify them, or evaluate a trained network")
        network = compile(network.with_task(data.input, data.classes), weights=weights, download=download)
    elif weights is not None:
        raise InputError("weights: a network has its own; omit them")
    place = loop.pick_device(device)
    return loop.evaluate(network, data.splits[split], data, place, metrics=metrics, report=report, precision=precision)
