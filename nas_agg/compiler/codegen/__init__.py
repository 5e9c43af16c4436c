"""Code generation: the Python file of a genotype, which imports only torch.

`parts.py` writes every unit and aggregate of the expansion's trace with its numbers as literals (`layers.py`: the
form of each layer in torch; `pre_activation.py`: parts that return or take pre-activations). Parts that are equal but
for numbers are one class. `naming.py` finds what the numbers are called in it, `fitting.py` the expressions over
those names. `unit_text.py`, `loop_text.py`, `matched_loop.py` and `unrolled.py` write the classes, `inlining.py`
decides which are written where they are used, and `writer.py` drives them. `verification.py` runs the file before it
is returned; if there is no such text, `straight_line.py` writes the graph operation by operation. `package.py` writes
the folder of a compiled model.
"""

from __future__ import annotations

import contextlib

from nas_agg.compiler.codegen.classes.formatting import format_file
from nas_agg.compiler.codegen.ir.tree import NotExpressible
from nas_agg.compiler.codegen.straight_line import write_operations
from nas_agg.compiler.codegen.verification import matches_graph
from nas_agg.compiler.codegen.writer import write_classes
from nas_agg.expansion.costs import cost
from nas_agg.expansion.trace import trace
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
    with contextlib.suppress(NotExpressible):  # then the straight-line form
        text = format_file(genotype, costs, title, about, write_classes(traced))
        if matches_graph(text, traced.graph):
            return text
    return format_file(genotype, costs, title, about, write_operations(traced.graph))
