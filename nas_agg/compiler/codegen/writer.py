"""The classes of a file, each written when the first call of it is."""

from __future__ import annotations

import ast
from typing import Any

from nas_agg.compiler.codegen.aggregates import AggregateText, is_chain
from nas_agg.compiler.codegen.classes import Class, Classes
from nas_agg.compiler.codegen.inside import Inside
from nas_agg.compiler.codegen.ir import (
    ClassDef,
    calls,
    is_simple,
    names,
    parse,
    show,
    statements,
    substitute,
    walk,
)
from nas_agg.compiler.codegen.joins import env
from nas_agg.compiler.codegen.merging import merge
from nas_agg.compiler.codegen.numbers import NotExpressible, same
from nas_agg.compiler.codegen.pre_activation import Raws
from nas_agg.compiler.codegen.rewrites import drop_records, inline_sequences
from nas_agg.compiler.codegen.slices import slicing
from nas_agg.compiler.codegen.units import UnitText
from nas_agg.expansion.trace import AggregateRun, StepRun, Trace
from nas_agg.language.resolved import Sequence


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
        Raws(self.classes)
        if merged:
            merge(self.classes)
        slicing(self.classes, self.chain)
        self.squeezes: set[tuple[str, str, bool]] = set()
        self.slices = sum(map(self.classes.slices, self.classes.found.values())) > 1
        self.order: list[Class] = []

    def parts(self) -> list[str]:
        """The text of each class, in the order in which they need one another."""
        self.written(self.classes.root)
        if self.classes.lost:
            raise NotExpressible  # something with weights leads nowhere, and the graph has left it out
        needed: list[Class] = []
        kept: set[Class] = set()  # those that keep the channels of their output
        for made in reversed(self.order):
            # What a loop that did not work out had asked for may be needed by no one.
            if made is self.classes.root or any(calls(other.init, made.name) for other in needed):
                if any(calls(other.init, made.name) and self.asks(made, other, kept) for other in needed):
                    kept.add(made)
                needed.append(made)
        found = inline_sequences([self.definition(made, made in kept) for made in needed[::-1]])
        return ["\n".join(made.lines()) for made in found]

    def definition(self, made: Class, keeps_width: bool) -> ClassDef:
        """The class as it is emitted."""
        init = drop_records(made.init, made.width if keeps_width else "")
        if keeps_width:
            init = [*init, *statements([f"self.out = {made.width}"])]
        parameters = [] if made is self.classes.root else self.parameters(made)
        defaults = {self.parameter(made, name): text for name, text in made.defaults.items() if name in made.args}
        return ClassDef(
            made.name, parameters, defaults, made.base, init, made.forward, made.forward_parameters, keeps_width
        )

    def asks(self, made: Class, other: Class, kept: set[Class]) -> bool:
        """Whether a class asks for the channels that another puts out."""
        parts = [*other.init, *statements([other.width])] if other in kept else other.init
        attributes = [show(part) for part in walk(parts) if isinstance(part, ast.Attribute) and part.attr == "out"]
        return any(attribute.endswith(tuple(made.asked)) for attribute in attributes)

    def written(self, made: Class) -> Class:
        if made.failed:
            raise NotExpressible from made.failed
        if not made.done:
            made.done = True
            try:
                if isinstance(made.part, Sequence):
                    UnitText(self, made).write()
                else:
                    AggregateText(self, made).write()
            except NotExpressible as error:
                made.failed = error
                raise
            self.order.append(made)
        return made

    def chain(self, run: AggregateRun) -> bool:
        return is_chain(run, self.classes)

    # ------------------------------------------------------------------ calls

    def call(self, made: Class, channels: str, runs: list[Any], column: list[StepRun], frame: Inside) -> str:
        """The call of a constructor inside a unit."""

        def said(name: str) -> str:
            if name in made.fields:
                return self.field(made, name, runs, frame)
            values = [scope_of(run).get(name) for run in runs]
            if name in frame.names and values == [step.local.get(name) for step in column]:
                frame.used.add(name)
                return frame.names[name]
            return literal(values)

        if made.state and frame.made.mode == "given":
            frame.made.state = True
        state = (", state" if frame.made.mode == "given" else ", in_") if made.state else ""
        return self.arguments(made, channels + state, said)

    def field(self, made: Class, name: str, runs: list[AggregateRun], frame: Inside) -> str:
        values, tree = made.fields[name]
        found = [values(run) for run in runs]
        if same(found):
            return literal(found)
        trees = [tree(run) for run in runs]
        if any(one is None for one in trees) or not same([one[0] for one in trees]):
            raise NotExpressible
        return frame.said(trees[0][2], [env(one[1]) for one in trees], frame.names)

    def arguments(self, made: Class, channels: str, said: Any) -> str:
        parts, keyed = [channels], False
        for name in made.args:
            text = said(name)
            if made.defaults.get(name) == text:
                keyed = True
                continue
            parameter = self.parameter(made, name)
            keyed = keyed or text[0].isdigit() or text[0] in "-["
            parts.append(f"{parameter}={text}" if keyed else text)
        return f"{made.name}({', '.join(parts)})"

    def out(self, made: Class, call: str, otherwise: str) -> str:
        """The channels that a module puts out, in the names of its caller; or what else to call them."""
        given = {self.parameter(made, name): text for name, text in made.defaults.items()}
        given |= arguments(parse(call), self.parameters(made))
        if made.out and is_simple(made.out) and set(names(made.out)) <= given.keys():
            found = product(substitute(made.out, given))
            if is_simple(found):
                return found
        if otherwise.endswith(".out"):
            made.asked.add(otherwise)
        return otherwise

    def parameters(self, made: Class) -> list[str]:
        return ["in_", *["state"] * made.state, *[self.parameter(made, name) for name in made.args]]

    def parameter(self, made: Class, name: str) -> str:
        return name if name in made.fields else self.classes.text(name)


def scope_of(run: Any) -> Any:
    return run.outer if isinstance(run, AggregateRun) else run.scope


def literal(values: list) -> str:
    """A value that is the same at every use."""
    if None in values or not same(values):
        raise NotExpressible
    if isinstance(values[0], (list, tuple)):
        return f"[{', '.join(literal([value]) for value in values[0])}]"
    return str(values[0]) if isinstance(values[0], int) else repr(float(values[0]))


def arguments(call: ast.expr, parameters: list[str]) -> dict[str, str]:
    """Which parameter has which argument in a call."""
    assert isinstance(call, ast.Call)
    given = dict(zip(parameters, map(show, call.args), strict=False))
    return given | {keyword.arg: show(keyword.value) for keyword in call.keywords if keyword.arg}


def product(text: str) -> str:
    """A product of two numbers as its value."""
    match parse(text):
        case ast.BinOp(left=ast.Constant(value=int(a)), op=ast.Mult(), right=ast.Constant(value=int(b))):
            return str(a * b)
    return text
