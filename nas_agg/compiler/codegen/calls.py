"""Calls of the constructors of emitted classes, in the names of the class that calls."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nas_agg.compiler.codegen.classes import Class, Classes, env
from nas_agg.compiler.codegen.syntax.ir import is_simple, names, parse, show, substitute
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, same
from nas_agg.expansion.trace import AggregateRun, StepRun


class Frame(Protocol):
    """The unit that calls."""

    made: Class
    names: dict[str, str]
    used: set[str]

    def said(self, tree: Any, uses: list[dict[str, Any]], names: Mapping[str, str]) -> str:
        """The text of an expression in its names."""


class Calls:
    """What the writers of classes share: all classes, and the calls of their constructors.

    Args:
        classes: Of the network.
        write: Writes a class.

    Attributes:
        squeezes: The kinds of squeeze-and-excitation in the file.
        slices: Whether slices are modules.
        order: The written classes, in the order in which they need one another.
    """

    def __init__(self, classes: Classes, write: Callable[[Calls, Class], None]):
        self.classes, self.write = classes, write
        self.squeezes: set[tuple[str, str, bool]] = set()
        self.slices = sum(map(classes.slices, classes.found.values())) > 1
        self.order: list[Class] = []

    def written(self, made: Class) -> Class:
        """A class, written when the first call of it is.

        Raises:
            NotExpressible: If it has no text, each time.
        """
        if made.failed:
            raise NotExpressible from made.failed
        if not made.done:
            made.done = True
            try:
                self.write(self, made)
            except NotExpressible as error:
                made.failed = error
                raise
            self.order.append(made)
        return made

    def written_for(self, runs: list[Any]) -> Class:
        """The written class of some uses.

        Raises:
            NotExpressible: If they are of several classes.
        """
        made = self.classes.of[id(runs[0])]
        if any(self.classes.of[id(run)] is not made for run in runs):
            raise NotExpressible
        return self.written(made)

    def call(self, made: Class, channels: str, runs: list[Any], column: list[StepRun], frame: Frame) -> str:
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

    def field(self, made: Class, name: str, runs: list[AggregateRun], frame: Frame) -> str:
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
