"""The classes of a file, each written when the first call of it is."""

from __future__ import annotations

import ast
from typing import Any

from nas_agg.compiler.codegen.calls import Calls
from nas_agg.compiler.codegen.classes import Classes, EmittedClass, merge, slicing
from nas_agg.compiler.codegen.loops import PatternLoop
from nas_agg.compiler.codegen.matching_loops import FittingLoop
from nas_agg.compiler.codegen.pre_activation import PreActivations
from nas_agg.compiler.codegen.schedules import Schedules
from nas_agg.compiler.codegen.syntax.helpers import helpers, single_squeeze
from nas_agg.compiler.codegen.syntax.ir import ClassDef, functions, rewrite, show, statements, walk
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, same
from nas_agg.compiler.codegen.syntax.rewrites import drop_records, inline_sequences
from nas_agg.compiler.codegen.units import UnitText
from nas_agg.compiler.codegen.unrolled import Unrolled
from nas_agg.expansion.trace import AggregateRun, Trace
from nas_agg.language.resolved import Unit


class Writer:
    """Writes the classes of a network.

    Args:
        traced: The network.
        merged: Whether aggregates that differ in what leaves them are one class.

    Raises:
        NotExpressible: If it has no such text.
    """

    def __init__(self, traced: Trace, merged: bool = True):
        self.classes = Classes(traced, set())
        PreActivations(self.classes)
        if merged:
            merge(self.classes)
        slicing(self.classes)
        self.calls = Calls(self.classes, write)

    def parts(self) -> list[str]:
        """The text of each helper and class, in the order in which they need one another."""
        self.calls.written(self.classes.root)
        if self.classes.lost:
            raise NotExpressible  # something with weights leads nowhere, and the graph has left it out
        needed: list[EmittedClass] = []
        kept: set[EmittedClass] = set()  # those that keep the channels of their output
        for code in reversed(self.calls.order):
            # What a loop that did not work out had asked for may be needed by no one.
            if code is self.classes.root or any(code.name in functions(other.init) for other in needed):
                if any(code.name in functions(other.init) and self.asks(code, other, kept) for other in needed):
                    kept.add(code)
                needed.append(code)
        result = inline_sequences([self.definition(code, code in kept) for code in needed[::-1]])
        if single_squeeze(self.calls.squeezes):
            for definition in result:
                definition.init = rewrite(definition.init, _without_activations)
        called = {name for each in result for name in functions([*each.init, *each.forward])}
        return [*helpers(called, self.calls.squeezes), *["\n".join(each.lines()) for each in result]]

    def definition(self, code: EmittedClass, keeps_width: bool) -> ClassDef:
        """The class as it is emitted."""
        init = drop_records(code.init, code.width if keeps_width else "")
        if keeps_width:
            init = [*init, *statements([f"self.out = {code.width}"])]
        parameters = [] if code is self.classes.root else self.calls.parameters(code)
        defaults = {self.calls.parameter(code, name): text for name, text in code.defaults.items() if name in code.args}
        return ClassDef(
            code.name,
            parameters,
            defaults,
            code.base,
            init,
            code.forward,
            code.forward_parameters,
            keeps_width,
        )

    def asks(self, code: EmittedClass, other: EmittedClass, kept: set[EmittedClass]) -> bool:
        """True if a class reads the output channels of another."""
        parts = [*other.init, *statements([other.width])] if other in kept else other.init
        attributes = [show(part) for part in walk(parts) if isinstance(part, ast.Attribute) and part.attr == "out"]
        return any(attribute.endswith(tuple(code.asked)) for attribute in attributes)


def _without_activations(node: ast.AST) -> ast.AST | None:
    """A squeeze-and-excitation whose activations are those of the only kind."""
    if isinstance(node, ast.Call) and show(node.func) == "SE":
        return ast.Call(node.func, node.args[:2], [])
    return None


def write(calls: Calls, code: EmittedClass) -> None:
    """Write a class.

    Raises:
        NotExpressible: If it has no text.
    """
    if isinstance(code.part, Unit):
        UnitText(calls, code).write()
    else:
        write_aggregate(calls, code)


LISTED = 8  # nodes that are written one by one where no loop says them
_ORDER = {"nodes": 0, "growth": 1, "w": 1, "cardinality": 2, "g": 2, "stride": 3, "s": 3}


def write_aggregate(calls: Calls, code: EmittedClass) -> None:
    """Write the class of an aggregate.

    Raises:
        NotExpressible: If it has no text.
    """
    runs: list[AggregateRun] = code.runs
    counts, each = [run.n for run in runs], code.part.unit_per_node
    if not any(counts) or (each and not same(counts)) or any(run.split != runs[0].split for run in runs):
        raise NotExpressible
    code.base, code.mode = "nn.ModuleList", "given" if runs[0].split else "none"
    rolled = (not each and max(counts) > 1) or not same(counts)
    ways: list[Any] = [PatternLoop, FittingLoop] if rolled else []
    ways += [Unrolled] * (same(counts) and (each or counts[0] <= LISTED)) + [FittingLoop] * (not rolled and not each)
    failed = NotExpressible()
    for way in ways:
        code.fields, code.defaults = {}, {}
        schedules = Schedules(calls, code, way is not Unrolled)
        try:
            if schedules.rolled:
                schedules.count_argument()
            way(schedules).write()
        except NotExpressible as error:
            failed = error
            continue
        code.args = sorted([*code.fields, *schedules.used], key=lambda a: (a in code.defaults, _ORDER.get(a, 9), a))
        return
    raise failed
