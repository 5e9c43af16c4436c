"""Code generation: the Python file of a genotype, which imports torch alone.

The trace of the expansion is grouped into classes (`classes.py`), each written with the names that differ between its
uses as parameters (`units.py`; `loops.py`, `matching_loops.py`, `unrolled.py` for aggregates; `schedules.py` for the
names). Classes are trees of `syntax/`, which rewrites and prints them. `verification.py` runs the file before it is
given; where no such text holds, `straight_line.py` writes the graph operation by operation. `package.py` writes the
folder of a compiled model.
"""

from __future__ import annotations

import contextlib

from nas_agg.compiler.codegen.straight_line import write_operations
from nas_agg.compiler.codegen.syntax.formatting import file
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible
from nas_agg.compiler.codegen.verification import matches_graph
from nas_agg.compiler.codegen.writer import Writer
from nas_agg.expansion.costs import cost
from nas_agg.expansion.trace import Trace, trace
from nas_agg.language.genotype import Genotype


def emit(genotype: Genotype, title: str = "", about: str = "") -> str:
    """The text of a Python file with the network of a genotype; see `docs/architecture.md`.

    The text is run before it is given. Where no text that reads well holds, it is the plain form.

    Args:
        genotype: A genotype without open names.
        title: The network's name.
        about: What it is and where it comes from: its paper, where it has one.

    Returns:
        Plain PyTorch, with the parameter names and the function of the compiled module.

    Raises:
        GenotypeError: If the genotype is not a network.
    """
    traced = trace(genotype)
    costs = cost(genotype)
    with contextlib.suppress(Exception):  # what cannot be written so is written plainly
        text = file(genotype, costs, title, about, write_classes(traced))
        if matches_graph(text, traced.graph):
            return text
    return file(genotype, costs, title, about, write_operations(traced.graph))


def write_classes(traced: Trace) -> list[str]:
    """The parts of a file with a class for each distinct unit and aggregate.

    Raises:
        NotExpressible: If there is no such text.
    """
    try:
        return Writer(traced).parts()
    except NotExpressible:
        return Writer(traced, merged=False).parts()
