"""Search spaces and search for how deep networks aggregate features.

    import nas_agg
    genotype = nas_agg.load("microdense/30a64")
    nas_agg.cost(genotype).params
    network = nas_agg.compile(genotype)
    result = nas_agg.search("microdense", evaluate, budget=50)

Counting imports no torch; `compile` and training do.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from nas_agg.errors import GenotypeError, InputError, NasAggError

if TYPE_CHECKING:
    import os

    from nas_agg.compiler import Network
    from nas_agg.costs import Cost
    from nas_agg.genotype import Genotype
    from nas_agg.study import SearchResult

try:
    __version__ = version("nas-agg")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"

__all__ = ["GenotypeError", "InputError", "NasAggError", "compile", "cost", "load", "search"]


def load(source: str | os.PathLike[str] | Mapping[str, Any]) -> Genotype:
    """A genotype.

    Args:
        source: A JSON or YAML file, ``space/point``, a run folder (its best network), ``RUN:TRIAL``, or JSON values.

    Raises:
        InputError: If there is none, or it is not a network.
    """
    if isinstance(source, Mapping):
        from nas_agg.genotype import Genotype
        from nas_agg.names import Names

        genotype = Genotype.read(source)
        if not genotype.open:
            Names(genotype).network()
        return genotype
    from nas_agg.sources import open_genotype

    return open_genotype(str(source))


def cost(genotype: Genotype) -> Cost:
    """What a genotype's network costs, by arithmetic: see `nas_agg.costs.Cost`.

    Raises:
        GenotypeError: If it is not a network.
    """
    from nas_agg.costs import cost

    return cost(genotype)


def compile(genotype: Genotype, seed: int | None = None, weights: str | os.PathLike[str] | None = None) -> Network:
    """A genotype's network, a ``torch.nn.Module``: images ``(N, channels, height, width)`` to logits ``(N, classes)``.

    Args:
        genotype: A genotype without open names.
        seed: Of the initial weights; None takes torch's global random state.
        weights: A ``.safetensors`` file of this network's weights.

    Raises:
        InputError: If it is not a network, or the weights are another's.
    """
    from nas_agg.compiler import compile

    return compile(genotype, seed, weights)


def search(*args: Any, **kwargs: Any) -> SearchResult:
    """Searches a space: see `nas_agg.study.search`."""
    from nas_agg.study import search

    return search(*args, **kwargs)
