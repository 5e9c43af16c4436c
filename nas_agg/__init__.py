"""Search spaces and search algorithms for feature aggregation in deep networks.

    import nas_agg
    genotype = nas_agg.load("microdense/30a64")
    nas_agg.cost(genotype).params
    network = nas_agg.compile(genotype)
    result = nas_agg.search("microdense", evaluate, budget=50)

`load` and `cost` do not import torch; `compile` and training do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

from nas_agg.common.display import set_renderers
from nas_agg.common.errors import GenotypeError, InputError, NasAggError, truncate
from nas_agg.searching import search

if TYPE_CHECKING:
    from torch import nn

    from nas_agg.compiler import Network
    from nas_agg.compiler.backbone import Backbone
    from nas_agg.compiler.torchvision_weights import Weights
    from nas_agg.expansion.costs import Cost
    from nas_agg.graph.rematerialization import MemoryMode, RequestedMemoryMode
    from nas_agg.language.genotype import Genotype
    from nas_agg.study.definition.callbacks import Callback
    from nas_agg.study.network_training import TrainingResult
    from nas_agg.study.records.saved_run import SavedRun
    from nas_agg.training.data import Data
    from nas_agg.training.latency import Latency
    from nas_agg.training.recipes import RecipeSource

    Source = str | PathLike[str] | Mapping[str, Any]

try:
    __version__ = version("nas-agg")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"

set_renderers("nas_agg.report.html.notebook")

__all__ = [
    "Callback",
    "Data",
    "GenotypeError",
    "InputError",
    "NasAggError",
    "compile",
    "cost",
    "evaluate",
    "latency",
    "load",
    "open_run",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "Callback":
        from nas_agg.study.definition.callbacks import Callback

        return Callback
    if name == "Data":  # imported late, since it needs torch
        from nas_agg.training.data import Data

        return Data
    raise AttributeError(f"module 'nas_agg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def load(source: Genotype | Source) -> Genotype:
    """Load a genotype.

    Args:
        source: A JSON or YAML file, ``space/point``, a run folder (its best network), ``RUN:TRIAL``, or JSON values.

    Raises:
        InputError: The source does not exist, or does not describe a network.
    """
    from nas_agg.language.genotype import Genotype

    if isinstance(source, Genotype):
        return source
    if isinstance(source, Mapping):
        from nas_agg.common.values import json_values
        from nas_agg.language.resolver import Resolver

        genotype = Genotype.from_dict(json_values(source))
        if not genotype.open:
            Resolver(genotype).network()
        return genotype
    from nas_agg.search_space.references import open_genotype

    if not isinstance(source, str | PathLike):
        raise InputError(f"genotype: expected a file, a point, a run or JSON values, not {truncate(repr(source))}")
    return open_genotype(str(source))


def open_run(path: str | PathLike[str]) -> SavedRun:
    """Read a run folder, of a search that may be in progress or of a standalone training; nothing is written.

    Args:
        path: The run folder.

    Returns:
        Its settings, trials and test metrics; ``to_dataframe()`` gives its trials as a pandas DataFrame. See
        `nas_agg.study.records.saved_run.SavedRun`. `load` gives its best network.

    Raises:
        InputError: There is no such run, or a part of it is missing or damaged.
    """
    from nas_agg.study.records.saved_run import read_saved_run

    return read_saved_run(path)


def cost(genotype: Genotype | Source) -> Cost:
    """Count a network by arithmetic.

    Args:
        genotype: A genotype without search variables, or a source for `load`.

    Returns:
        Parameters, MACs, activation bytes, depth and hash: see `nas_agg.expansion.costs.Cost`.

    Raises:
        InputError: The genotype does not describe a network.
    """
    from nas_agg.expansion.costs import cost

    return cost(load(genotype))


def latency(
    genotype: Genotype | Source, *, device: str = "auto", batch: int = 1, threads: int | None = None
) -> Latency:
    """Measure the latency of a network's forward pass.

    Args:
        genotype: A genotype without search variables, or a source for `load`.
        device: auto, cpu, cuda or cuda:N.
        batch: Images per pass.
        threads: CPU threads (default: torch's own number).

    Returns:
        Median and quartiles: see `nas_agg.training.latency.Latency`.

    Raises:
        InputError: The genotype does not describe a network, or the device does not exist.
        NasAggError: Out of memory.
    """
    from nas_agg.training.latency import latency

    return latency(load(genotype), device=device, batch=batch, threads=threads)


@overload
def compile(
    genotype: Genotype | Source,
    seed: int | None = None,
    weights: Weights | None = None,
    *,
    download: bool = False,
    memory: MemoryMode = "plain",
    passes: Iterable[str] | None = None,
    fuse: bool = False,
    features: Literal[False] = False,
) -> Network: ...


@overload
def compile(
    genotype: Genotype | Source,
    seed: int | None = None,
    weights: Weights | None = None,
    *,
    download: bool = False,
    memory: MemoryMode = "plain",
    passes: Iterable[str] | None = None,
    fuse: bool = False,
    features: Literal[True],
) -> Backbone: ...


def compile(
    genotype: Genotype | Source,
    seed: int | None = None,
    weights: Weights | None = None,
    *,
    download: bool = False,
    memory: MemoryMode = "plain",
    passes: Iterable[str] | None = None,
    fuse: bool = False,
    features: bool = False,
) -> Network | Backbone:
    """Compile a genotype to a ``torch.nn.Module``.

    It maps images ``(N, channels, height, width)`` to logits ``(N, classes)``.

    Args:
        genotype: A genotype without search variables, or a source for `load`.
        seed: Seed of the initial weights; None uses torch's global random state.
        weights: Weights of this network, or of torchvision's model of the same network: a state dict, a file of one,
            or the model's name such as ``resnet50`` or ``resnet50.IMAGENET1K_V1``.
        download: Whether to download named weights that are not in torch.hub's folder.
        memory: Activations that training keeps for the backward pass: ``plain``: as eager PyTorch; ``lean``: outputs
            of convolutions only; ``leanest``: without those of bottlenecks' 1x1 convolutions. The function is the same.
        passes: Names of the graph passes to run, of `nas_agg.expansion.passes.PASSES` (default: all). The function is
            the same.
        fuse: Whether the network is for inference only: norms are folded into convolutions, average pools go first,
            concats share buffers; see `nas_agg.compiler.inference_fusion`. It has no gradients and its own parameters.
        features: Whether to return a backbone, whose outputs are the stages' features by name instead of logits; see
            `nas_agg.compiler.backbone`. Its memory mode is ``plain``, and it is not fused.

    Raises:
        InputError: The genotype does not describe a network, the weights belong to another network, or arguments
            exclude each other.
    """
    from nas_agg.compiler import compile

    if features:
        from nas_agg.compiler.backbone import backbone

        if fuse:
            raise InputError("fuse: a backbone cannot be fused; leave out fuse or features")
        return backbone(load(genotype), seed, weights, download=download, memory=memory, passes=passes)
    return compile(load(genotype), seed, weights, download=download, memory=memory, passes=passes, fuse=fuse)


def train(
    genotype: Genotype | Source,
    data: str | Data = "digits",
    recipe: RecipeSource = "final",
    *,
    epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    image_size: int | str | None = None,
    metric: str | None = None,
    weights: str | PathLike[str] | None = None,
    download: bool = False,
    memory: RequestedMemoryMode = "auto",
    compile: bool = False,
    sync_bn: bool = False,
    callback: Callable[[int, dict[str, Any]], object] | None = None,
    show: bool = False,
) -> TrainingResult:
    """Train a network on the training and validation images of a data set, and test it once.

    Processes that ``torchrun`` started train it together, if each makes this call.

    Args:
        genotype: A genotype without search variables, or a source for `load`; its input and classes are replaced by
            the data set's.
        data: A data set's specification such as ``cifar10`` or ``folder:./photos``, or a `nas_agg.Data`.
        recipe: A recipe's name, a file, or fields such as ``{"like": "final", "lr": 0.05}``.
        epochs: Replaces the recipe's epochs.
        device: auto, cpu, cuda or cuda:N.
        seed: Seed of the weights, of the order of images and of augmentation.
        out: Run folder, in which an unfinished training is resumed; by default nothing is kept on the disk. Several
            processes require it.
        image_size: Side in pixels that images are scaled to, or height and width such as ``64x48``; by default image
            files are scaled to the genotype's own input, and arrays keep their size.
        metric: A metric that the test reports beside those of the task, and that early stopping watches, for example
            ``balanced-accuracy``; see `nas_agg.training.metrics`.
        weights: What to start from: a run, a file of weights, or a torchvision name such as ``resnet50``; the
            classifier starts anew where the classes differ. A recipe's ``freeze`` and ``lr_backbone`` are for it.
        download: Whether to download named weights that are not in torch.hub's folder.
        memory: The memory mode; see `compile`. ``auto`` is the first that fits the device.
        compile: Whether steps run under ``torch.compile``, which takes minutes before the first epoch.
        sync_bn: With several processes: whether batch norms use the statistics of the whole batch.
        callback: ``callback(epoch, metrics)``, called after each epoch.
        show: Whether to print progress.

    Returns:
        The trained network, its test metrics and its history.

    Raises:
        InputError: An argument is invalid, or ``out`` holds another training.
        NasAggError: The loss diverged, or memory ran out.
    """
    from nas_agg.study.network_training import train

    return train(
        load(genotype),
        data,
        recipe,
        epochs=epochs,
        device=device,
        seed=seed,
        out=out,
        image_size=image_size,
        metric=metric,
        weights=weights,
        download=download,
        memory=memory,
        compile_steps=compile,
        sync_bn=sync_bn,
        callback=callback,
        show=show,
    )


def evaluate(
    network: nn.Module | Genotype | Source,
    data: str | Data,
    *,
    weights: Weights | None = None,
    split: Literal["train", "validation", "test"] = "test",
    metrics: Sequence[str] = (),
    report: bool = False,
    device: str = "auto",
    download: bool = False,
    precision: Literal["float32", "bf16"] = "float32",
) -> dict[str, Any]:
    """Evaluate a network on a split of a data set.

    Args:
        network: A module, for example that of `train`; or a genotype or a source for `load`, with ``weights``.
        data: A data set's specification, or a `nas_agg.Data`.
        weights: As for `compile`.
        split: The split; a search or a training reads the test images only once.
        metrics: Names of metrics beside those of the task, for example ``auroc``; see `nas_agg.training.metrics`.
        report: Whether to add precision, recall and F1 per class, and the confusion matrix.
        device: auto, cpu, cuda or cuda:N.
        download: Whether to download named weights that are not in torch.hub's folder.
        precision: Format of the forward pass; bf16 is faster on GPUs.

    Returns:
        Metrics by their attributes: with one label per image ``accuracy`` (0 to 1), ``loss``, ``correct``, ``images``
        and the like.

    Raises:
        InputError: An argument is invalid, or the network does not fit the data set.
    """
    from torch import nn

    from nas_agg.study.network_training import evaluate

    model = network if isinstance(network, nn.Module) else load(network)
    return evaluate(
        model,
        data,
        weights=weights,
        split=split,
        metrics=metrics,
        report=report,
        device=device,
        download=download,
        precision=precision,
    )
