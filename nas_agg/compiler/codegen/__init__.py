"""Code generation: the Python file of a genotype, which imports only torch.

The trace of the expansion is grouped into classes (`classes.py`), whose parameters are the names that differ between
their uses (`units.py`; `loops.py`, `matching_loops.py` and `unrolled.py` for aggregates; `schedules.py` for the names).
Classes are syntax trees, which `syntax/` rewrites and prints. `verification.py` runs the file before it is returned; if
it fails, `straight_line.py` writes the graph operation by operation instead. `package.py` writes the folder of a
compiled model.
"""

from __future__ import annotations

import contextlib

from nas_agg.compiler.codegen.straight_line import write_operations
from nas_agg.compiler.codegen.syntax.formatting import format_file
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible
from nas_agg.compiler.codegen.verification import matches_graph
from nas_agg.compiler.codegen.writer import Writer
from nas_agg.expansion.costs import cost
from nas_agg.expansion.trace import Trace, trace
from nas_agg.language.genotype import Genotype


def emit(genotype: Genotype, title: str = "", about: str = "") -> str:
    """Write the network of a genotype as a Python file; see `docs/architecture.md`.

    The code is verified before it is returned. If it cannot be written as readable classes, it is written in the
    straight-line form, one line per operation.

    Args:
        genotype: A genotype without search variables.
        title: Title of the network.
        about: Description and provenance of the network.

    Returns:
        The text of the file: plain PyTorch with the parameter names and the function of the compiled module.

    Raises:
        GenotypeError: The genotype is not a valid network.
    """
    traced = trace(genotype)
    costs = cost(genotype)
    with contextlib.suppress(Exception):  # otherwise the straight-line form
        text = format_file(genotype, costs, title, about, write_classes(traced))
        if matches_graph(text, traced.graph):
            return text
    return format_file(genotype, costs, title, about, write_operations(traced.graph))


def write_classes(traced: Trace) -> list[str]:
    """Write the parts of a file with a class for each distinct unit and aggregate.

    Raises:
        NotExpressible: The network cannot be written in this form.
    """
    try:
        return Writer(traced).parts()
    except NotExpressible:
        return Writer(traced, merged=False).parts()
