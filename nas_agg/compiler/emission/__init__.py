"""Genotype -> the text of a Python file that imports torch alone."""

from __future__ import annotations

from nas_agg.compiler.emission.flat import flat
from nas_agg.compiler.emission.helpers import helpers
from nas_agg.compiler.emission.numbers import Unsaid
from nas_agg.compiler.emission.text import file
from nas_agg.compiler.emission.trace import Trace, trace
from nas_agg.compiler.emission.writer import Writer
from nas_agg.costs import cost
from nas_agg.genotype import Genotype


def emit(genotype: Genotype, title: str = "", about: str = "") -> str:
    """The text of a Python file with the network of a genotype; see `docs/architecture.md`.

    Args:
        genotype: A genotype without open names.
        title: The network's name.
        about: A line on what it is and where it comes from.

    Returns:
        Plain PyTorch, with the parameter names and the function of the compiled module.

    Raises:
        GenotypeError: If the genotype is not a network.
    """
    traced = trace(genotype)
    try:
        parts = structured(traced)
    except Unsaid:
        parts = flat(traced.graph)
    return file(genotype, cost(genotype), title, about, parts)


def structured(traced: Trace) -> list[str]:
    """The parts of a file with a class for each distinct unit and aggregate.

    Raises:
        Unsaid: If there is no such text.
    """
    writer = Writer(traced)
    classes = writer.parts()
    found, text = helpers("\n\n\n".join(classes), writer.squeezes)
    return [*found, *text.split("\n\n\n")]
