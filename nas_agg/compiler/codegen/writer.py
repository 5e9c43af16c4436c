"""Writes the classes of a file, each when it is first called."""

from __future__ import annotations

import ast
from typing import Any

from nas_agg.compiler.codegen.calls import Calls
from nas_agg.compiler.codegen.classes import Classes, EmittedClass, mark_leading_slices, merge
from nas_agg.compiler.codegen.loops import PatternLoop
from nas_agg.compiler.codegen.matching_loops import MatchingLoop
from nas_agg.compiler.codegen.pre_activation import PreActivations
from nas_agg.compiler.codegen.schedules import Schedules
from nas_agg.compiler.codegen.syntax.helpers import helpers, single_squeeze
from nas_agg.compiler.codegen.syntax.ir import ClassDef, functions, rewrite, show, statements, walk
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, same
from nas_agg.compiler.codegen.syntax.rewrites import drop_records, inline_sequences
from nas_agg.compiler.codegen.units import UnitWriter
from nas_agg.compiler.codegen.unrolled import Unrolled
from nas_agg.expansion.trace import AggregateRun, Trace
from nas_agg.language.resolved import Unit


class Writer:
    """Writes the classes of a network.

    Args:
        traced: The trace of the network.
        merged: Whether aggregates that differ only in schedules and in whether their output contains
            the input share a class.

    Raises:
        NotExpressible: The network cannot be written as classes.
    """

    def __init__(self, traced: Trace, merged: bool = True):
        self.classes = Classes(traced, set())
        PreActivations(self.classes)
        if merged:
            merge(self.classes)
        mark_leading_slices(self.classes)
        self.calls = Calls(self.classes, write)

    def parts(self) -> list[str]:
        """The text of each helper and class, in order of their dependencies."""
        self.calls.ensure_written(self.classes.root)
        if self.classes.unused_stateful:
            raise NotExpressible  # the graph omits layers with weights that do not lead to the output
        needed: list[EmittedClass] = []
        with_width: set[EmittedClass] = set()  # those that store their output channels
        for code in reversed(self.calls.order):
            # A class that only a failed attempt called is not needed.
            if code is self.classes.root or any(code.name in functions(other.init) for other in needed):
                callers = [other for other in needed if code.name in functions(other.init)]
                if any(self.reads_width(code, other, with_width) for other in callers):
                    with_width.add(code)
                needed.append(code)
        result = inline_sequences([self.definition(code, code in with_width) for code in needed[::-1]])
        if single_squeeze(self.calls.squeezes):
            for definition in result:
                definition.init = rewrite(definition.init, _without_activations)
        called = {name for each in result for name in functions([*each.init, *each.forward])}
        return [*helpers(called, self.calls.squeezes), *["\n".join(each.lines()) for each in result]]

    def definition(self, code: EmittedClass, keeps_width: bool) -> ClassDef:
        """The definition of a class."""
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

    def reads_width(self, code: EmittedClass, caller: EmittedClass, with_width: set[EmittedClass]) -> bool:
        """Whether a class reads the output channels of a class that it calls."""
        parts = [*caller.init, *statements([caller.width])] if caller in with_width else caller.init
        attributes = [show(part) for part in walk(parts) if isinstance(part, ast.Attribute) and part.attr == "out"]
        return any(attribute.endswith(tuple(code.width_expressions)) for attribute in attributes)


def _without_activations(node: ast.AST) -> ast.AST | None:
    """Rewrite the constructor of a squeeze-and-excitation without its activations."""
    if isinstance(node, ast.Call) and show(node.func) == "SE":
        return ast.Call(node.func, node.args[:2], [])
    return None


def write(calls: Calls, code: EmittedClass) -> None:
    """Write a class.

    Raises:
        NotExpressible: The class cannot be written.
    """
    if isinstance(code.part, Unit):
        UnitWriter(calls, code).write()
    else:
        write_aggregate(calls, code)


MAX_UNROLLED = 8  # nodes of equal units that are written one by one if no loop can express them
_ORDER = {"nodes": 0, "growth": 1, "w": 1, "cardinality": 2, "g": 2, "stride": 3, "s": 3}


def write_aggregate(calls: Calls, code: EmittedClass) -> None:
    """Write the class of an aggregate.

    Raises:
        NotExpressible: The class cannot be written.
    """
    runs: list[AggregateRun] = code.runs
    counts, each = [run.n for run in runs], code.part.unit_per_node
    if not any(counts) or (each and not same(counts)) or any(run.split != runs[0].split for run in runs):
        raise NotExpressible
    code.base, code.mode = "nn.ModuleList", "argument" if runs[0].split else "none"
    rolled = (not each and max(counts) > 1) or not same(counts)
    forms: list[Any] = [PatternLoop, MatchingLoop] if rolled else []
    forms += [Unrolled] * (same(counts) and (each or counts[0] <= MAX_UNROLLED))
    forms += [MatchingLoop] * (not rolled and not each)
    failed = NotExpressible()
    for form in forms:
        code.fields, code.defaults = {}, {}
        schedules = Schedules(calls, code, form is not Unrolled)
        try:
            if schedules.rolled:
                schedules.count_argument()
            form(schedules).write()
        except NotExpressible as error:
            failed = error
            continue
        code.args = sorted([*code.fields, *schedules.used], key=lambda a: (a in code.defaults, _ORDER.get(a, 9), a))
        return
    raise failed
