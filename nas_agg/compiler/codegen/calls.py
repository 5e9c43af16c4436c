"""Calls of the constructors of emitted classes, in the names of the calling class."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nas_agg.compiler.codegen.classes import Classes, EmittedClass, env
from nas_agg.compiler.codegen.syntax.ir import is_simple, names, parse, show, substitute
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, same
from nas_agg.expansion.trace import AggregateRun, StepRun


class Frame(Protocol):
    """The calling unit."""

    code: EmittedClass
    names: dict[str, str]
    used: set[str]

    def express(self, tree: Any, uses: list[dict[str, Any]], names: Mapping[str, str]) -> str:
        """The text of an expression in the unit's names."""


class Calls:
    """The classes of a file and the calls of their constructors, shared by all class writers.

    Args:
        classes: The classes of the network.
        write: Writes a class.

    Attributes:
        squeezes: The kinds of squeeze-and-excitation in the file.
        slices: Whether slices are modules.
        order: The written classes, in order of their dependencies.
    """

    def __init__(self, classes: Classes, write: Callable[[Calls, EmittedClass], None]):
        self.classes, self.write = classes, write
        self.squeezes: set[tuple[str, str, bool]] = set()
        self.slices = sum(map(classes.slices, classes.by_key.values())) > 1
        self.order: list[EmittedClass] = []

    def ensure_written(self, code: EmittedClass) -> EmittedClass:
        """Write a class unless it has been written, and return it.

        Raises:
            NotExpressible: The class cannot be written; raised at each call.
        """
        if code.failed:
            raise NotExpressible from code.failed
        if not code.done:
            code.done = True
            try:
                self.write(self, code)
            except NotExpressible as error:
                code.failed = error
                raise
            self.order.append(code)
        return code

    def written_class_of(self, runs: list[Any]) -> EmittedClass:
        """Write the class of some uses, and return it.

        Raises:
            NotExpressible: The uses belong to several classes.
        """
        code = self.classes.by_run[id(runs[0])]
        if any(self.classes.by_run[id(run)] is not code for run in runs):
            raise NotExpressible
        return self.ensure_written(code)

    def call(self, code: EmittedClass, channels: str, runs: list[Any], column: list[StepRun], frame: Frame) -> str:
        """The text of a constructor's call inside a unit."""

        def express(name: str) -> str:
            if name in code.fields:
                return self.field(code, name, runs, frame)
            values = [scope_of(run).get(name) for run in runs]
            if name in frame.names and values == [step.local.get(name) for step in column]:
                frame.used.add(name)
                return frame.names[name]
            return literal(values)

        if code.takes_shortcut_width and frame.code.mode == "argument":
            frame.code.takes_shortcut_width = True
        state = (", state" if frame.code.mode == "argument" else ", in_") if code.takes_shortcut_width else ""
        return self.arguments(code, channels + state, express)

    def field(self, code: EmittedClass, name: str, runs: list[AggregateRun], frame: Frame) -> str:
        values, tree = code.fields[name]
        result = [values(run) for run in runs]
        if same(result):
            return literal(result)
        trees = [tree(run) for run in runs]
        if any(one is None for one in trees) or not same([one[0] for one in trees]):
            raise NotExpressible
        return frame.express(trees[0][2], [env(one[1]) for one in trees], frame.names)

    def arguments(self, code: EmittedClass, channels: str, express: Any) -> str:
        parts, keyed = [channels], False
        for name in code.args:
            text = express(name)
            if code.defaults.get(name) == text:
                keyed = True
                continue
            parameter = self.parameter(code, name)
            keyed = keyed or text[0].isdigit() or text[0] in "-["
            parts.append(f"{parameter}={text}" if keyed else text)
        return f"{code.name}({', '.join(parts)})"

    def output_width(self, code: EmittedClass, call: str, otherwise: str) -> str:
        """The output channels of a module in the names of its caller; ``otherwise`` if they cannot be expressed."""
        values = {self.parameter(code, name): text for name, text in code.defaults.items()}
        values |= arguments(parse(call), self.parameters(code))
        if code.out and is_simple(code.out) and set(names(code.out)) <= values.keys():
            result = product(substitute(code.out, values))
            if is_simple(result):
                return result
        if otherwise.endswith(".out"):
            code.width_expressions.add(otherwise)
        return otherwise

    def parameters(self, code: EmittedClass) -> list[str]:
        return ["in_", *["state"] * code.takes_shortcut_width, *[self.parameter(code, name) for name in code.args]]

    def parameter(self, code: EmittedClass, name: str) -> str:
        return name if name in code.fields else self.classes.python_name(name)


def scope_of(run: Any) -> Any:
    return run.outer if isinstance(run, AggregateRun) else run.scope


def literal(values: list) -> str:
    """The text of a value that is the same at every use."""
    if None in values or not same(values):
        raise NotExpressible
    if isinstance(values[0], (list, tuple)):
        return f"[{', '.join(literal([value]) for value in values[0])}]"
    return str(values[0]) if isinstance(values[0], int) else repr(float(values[0]))


def arguments(call: ast.expr, parameters: list[str]) -> dict[str, str]:
    """The argument of each parameter in a call."""
    assert isinstance(call, ast.Call)
    positional = dict(zip(parameters, map(show, call.args), strict=False))
    return positional | {keyword.arg: show(keyword.value) for keyword in call.keywords if keyword.arg}


def product(text: str) -> str:
    """Evaluate a product of two numbers; any other expression is unchanged."""
    match parse(text):
        case ast.BinOp(left=ast.Constant(value=int(a)), op=ast.Mult(), right=ast.Constant(value=int(b))):
            return str(a * b)
    return text
