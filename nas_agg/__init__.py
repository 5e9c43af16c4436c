"""Search spaces and search for how deep networks aggregate features.

    import nas_agg
    genotype = nas_agg.load("microdense/30a64")
    nas_agg.cost(genotype).params
    network = nas_agg.compile(genotype)
    result = nas_agg.search("microdense", evaluate, budget=50)

Counting imports no torch; `compile` and training do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal, overload

from nas_agg.common.errors import GenotypeError, InputError, NasAggError

if TYPE_CHECKING:
    import os

    from optuna.trial import Trial

    from nas_agg.compiler import Network
    from nas_agg.compiler.backbone import Backbone
    from nas_agg.compiler.torchvision_weights import Weights
    from nas_agg.expansion.costs import Cost
    from nas_agg.graph.rematerialization import MemoryMode
    from nas_agg.language.genotype import Genotype
    from nas_agg.search_space.space import Space
    from nas_agg.study import SearchResult
    from nas_agg.study.samplers.searcher import Searcher
    from nas_agg.training.latency import Latency

    Source = str | os.PathLike[str] | Mapping[str, Any]

try:
    __version__ = version("nas-agg")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"

__all__ = ["GenotypeError", "InputError", "NasAggError", "compile", "cost", "latency", "load", "search"]


def load(source: Source) -> Genotype:
    """A genotype.

    Args:
        source: A JSON or YAML file, ``space/point``, a run folder (its best network), ``RUN:TRIAL``, or JSON values.

    Raises:
        InputError: If there is none, or it is not a network.
    """
    if isinstance(source, Mapping):
        from nas_agg.language.genotype import Genotype
        from nas_agg.language.resolver import Resolver

        genotype = Genotype.read(source)
        if not genotype.open:
            Resolver(genotype).network()
        return genotype
    from nas_agg.search_space.references import open_genotype

    return open_genotype(str(source))


def _loaded(genotype: Genotype | Source) -> Genotype:
    from nas_agg.language.genotype import Genotype

    return genotype if isinstance(genotype, Genotype) else load(genotype)


def cost(genotype: Genotype | Source) -> Cost:
    """What a genotype's network costs, by arithmetic: see `nas_agg.expansion.costs.Cost`.

    Args:
        genotype: A genotype without open names, or what `load` takes.

    Raises:
        InputError: If it is not a network.
    """
    from nas_agg.expansion.costs import cost

    return cost(_loaded(genotype))


def latency(
    genotype: Genotype | Source, *, device: str = "auto", batch: int = 1, threads: int | None = None
) -> Latency:
    """How long a genotype's network takes for a forward pass, measured: see `nas_agg.training.latency.Latency`.

    Args:
        genotype: A genotype without open names, or what `load` takes.
        device: auto, cpu, cuda or cuda:N.
        batch: Images a pass.
        threads: Of the CPU; torch's own number if unsaid.

    Raises:
        InputError: If it is not a network, or there is no such device.
        NasAggError: If memory ran out.
    """
    from nas_agg.training.latency import latency

    return latency(_loaded(genotype), device=device, batch=batch, threads=threads)


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
    """A genotype's network, a ``torch.nn.Module``: images ``(N, channels, height, width)`` to logits ``(N, classes)``.

    Args:
        genotype: A genotype without open names, or what `load` takes.
        seed: Of the initial weights; None takes torch's global random state.
        weights: This network's, or those of torchvision's model of the same network: a state dict, a file of one, or
            the model's name such as ``resnet50`` or ``resnet50.IMAGENET1K_V1``.
        download: Whether weights that are named and not in torch.hub's folder are fetched.
        memory: What training keeps for backward: ``plain`` what eager PyTorch keeps; ``lean`` convolutions' outputs;
            ``leanest`` not even those of bottlenecks' 1x1. The function is the same.
        passes: Names of the passes that run over the graph, of `nas_agg.expansion.passes.PASSES`; all if not specified.
            The function is the same.
        fuse: Whether it is for inference alone: norms are folded into convolutions, average pools go first, concats
            share buffers; see `nas_agg.compiler.inference_fusion`. It has no gradients, and parameters of its own.
        features: Whether it is a backbone, which gives the stages' outputs by name in the place of logits; see
            `nas_agg.compiler.backbone`. Its memory is ``plain``, and it is not fused.

    Raises:
        InputError: If it is not a network, the weights are another's, or what is asked for does not go together.
    """
    from nas_agg.compiler import compile

    if features:
        from nas_agg.compiler.backbone import backbone

        if fuse:
            raise InputError("a backbone is not fused: leave out fuse, or features")
        return backbone(_loaded(genotype), seed, weights, download=download, memory=memory, passes=passes)
    return compile(_loaded(genotype), seed, weights, download=download, memory=memory, passes=passes, fuse=fuse)


def search(
    space: str | os.PathLike[str] | Space | Mapping[str, Any],
    evaluate: Callable[[Any, Trial], float | Sequence[float]] | None = None,
    searcher: str | type[Searcher] = "predictor",
    budget: int = 50,
    seed: int = 0,
    *,
    out: str | os.PathLike[str] | None = None,
    show: bool = False,
    **settings: Any,
) -> SearchResult:
    """Searches a space for the network with the highest score.

    Without ``evaluate`` networks are trained by worker processes, the best is trained in full and tested, and the run
    is kept in a folder. With it, that function is called here in the place of training, one network at a time, and the
    space's own limits do not hold.

    Args:
        space: A space's name, a space file, a space or its text; with ``evaluate`` also open names alone, such as
            ``{"rate": {"from": 1, "to": 9}, "how": ["sum", "concat"]}``.
        evaluate: ``evaluate(genotype, trial) -> float``, to be maximised, or a tuple where ``objective`` names several;
            ``trial`` is an Optuna trial. Of open names alone it gets their values.
        searcher: A searcher's name (``nas_agg searchers``), or a class of one.
        budget: Distinct networks to evaluate.
        seed: Of everything random in the search.
        out: The run folder; ``runs/SPACE-DATASET-SEED`` if unsaid, when networks are trained.
        show: Whether to print how it goes.
        **settings: What the command line's options say: ``dataset="cifar10"``, ``epochs=20``, ``recipe``,
            ``max_params="1M"``, ``max_macs``, ``workers=2``, ``device``, ``timeout="2h"``, ``trial_timeout``,
            ``retries``, ``image_size``, ``storage``, ``start=["30a64"]`` (the first networks), ``max_latency="5ms"``,
            ``latency_target``, ``memory``, ``compile``.

    Raises:
        InputError: A setting is wrong, or ``out`` is a run with other settings.
        NasAggError: Ten networks in a row failed, or none gave a result.
    """
    from nas_agg.study import search

    return search(space, evaluate, searcher, budget, seed, out=out, show=show, **settings)
