"""The classes of a file, each written when the first call of it is."""

from __future__ import annotations

import re
from typing import Any

from nas_agg.compiler.codegen.aggregates import AggregateText, is_chain
from nas_agg.compiler.codegen.classes import Class, Classes
from nas_agg.compiler.codegen.inlining import bound, called, inline
from nas_agg.compiler.codegen.inside import Inside
from nas_agg.compiler.codegen.joins import env
from nas_agg.compiler.codegen.merging import merge
from nas_agg.compiler.codegen.numbers import Unsaid, same
from nas_agg.compiler.codegen.pre_activation import Raws
from nas_agg.compiler.codegen.slices import slicing
from nas_agg.compiler.codegen.text import fitted
from nas_agg.compiler.codegen.units import UnitText
from nas_agg.expansion.trace import AggregateRun, StepRun, Trace
from nas_agg.language.resolved import Sequence

_SIMPLE = re.compile(r"(\d+ \* )?[\w.]+(\[-?\d+\][\w.]*)?")


class Writer:
    """Writes the classes of a network.

    Args:
        traced: The network.
        merged: Whether aggregates that differ in what leaves them are one class.

    Raises:
        Unsaid: If it has no such text.
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
            raise Unsaid  # something with weights leads nowhere, and the graph has left it out
        needed: list[Class] = []
        for made in reversed(self.order):
            # What a loop that did not work out had asked for may be needed by no one.
            if made is self.classes.root or any(called(made.name, other) for other in needed):
                made.out_used = any(called(made.name, other) and self.asks(made, other) for other in needed)
                needed.append(made)
        for made in needed:
            made.lines = bare(made)
        parameters = {id(made): self.parameters(made) for made in needed}
        return ["\n".join(self.text(made)) for made in inline(needed[::-1], parameters)]

    def asks(self, made: Class, other: Class) -> bool:
        """Whether a class asks for the channels that another puts out."""
        text = "\n".join([*(other.lines or ()), other.out_line * other.out_used])
        return any(asked in text for asked in made.asked)

    def written(self, made: Class) -> Class:
        if made.failed:
            raise Unsaid from made.failed
        if not made.done:
            made.done = True
            try:
                if isinstance(made.part, Sequence):
                    UnitText(self, made).write()
                else:
                    AggregateText(self, made).write()
            except Unsaid as error:
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
            raise Unsaid
        return frame.said(trees[0][2], [env(one[1]) for one in trees], frame.names)

    def arguments(self, made: Class, channels: str, said: Any) -> str:
        parts, keyed = [channels], False
        for name in made.args:
            text = said(name)
            if made.defaults.get(name) == text:
                keyed = True
                continue
            parameter = self.parameter(made, name)
            keyed = keyed or not re.match(r"[A-Za-z_(]", text)
            parts.append(f"{parameter}={text}" if keyed else text)
        return f"{made.name}({', '.join(parts)})"

    def out(self, made: Class, call: str, otherwise: str) -> str:
        """The channels that a module puts out, in the names of its caller; or what else to call them."""
        given = {self.parameter(made, name): text for name, text in made.defaults.items()}
        given |= bound(self.parameters(made), call[call.index("(") + 1 : -1])
        if _SIMPLE.fullmatch(made.out or "") and set(re.findall(r"[A-Za-z_]\w*", made.out or "")) <= given.keys():
            found = re.sub(r"[A-Za-z_]\w*", lambda word: given[word.group()], made.out or "")
            if re.fullmatch(r"\d+ \* \d+", found):
                number, _, other = found.partition(" * ")
                return str(int(number) * int(other))
            if _SIMPLE.fullmatch(found):
                return found
        if otherwise.endswith(".out"):
            made.asked.add(otherwise)
        return otherwise

    def parameters(self, made: Class) -> list[str]:
        return ["in_", *["state"] * made.state, *[self.parameter(made, name) for name in made.args]]

    def parameter(self, made: Class, name: str) -> str:
        return name if name in made.fields else self.classes.text(name)

    # ------------------------------------------------------------------ the text of a class

    def text(self, made: Class) -> list[str]:
        root = made is self.classes.root
        parameters = "" if root else ", in_, state" if made.state else ", in_"
        for name in made.args:
            parameters += ", " + self.parameter(made, name)
            if name in made.defaults:
                parameters += f"={made.defaults[name]}"
        lines = [f"class {made.name}({made.base}):"]
        if made.doc:
            lines += [*fitted(f'"""{made.doc}"""', 4), ""]
        lines += [*fitted(f"def __init__(self{parameters}):", 4), "        super().__init__()"]
        for line in made.lines or ():
            indent = len(line) - len(line.lstrip())
            lines += fitted(line.lstrip(), 8 + indent)
        if made.out_used:
            lines.append(f"        {made.out_line}")
        if made.forward:
            lines.append("")
            for line in made.forward:
                indent = len(line) - len(line.lstrip())
                lines += fitted(line.lstrip(), 4 + indent)
        return lines


def bare(made: Class) -> list[str]:
    """The lines of a constructor without a record of channels that is not looked at."""
    lines = made.lines or []
    for record in (r"widths(?= = |\.append\()", r"c(?= = )"):
        kept = [line for line in lines if not re.match(rf"\s*{record}", line)]
        name = record.partition("(")[0]
        if not re.search(rf"(?<![\w.]){name}(?!\w|=(?!=))", "\n".join([*kept, made.out_line * made.out_used])):
            lines = kept
    return lines


def scope_of(run: Any) -> Any:
    return run.outer if isinstance(run, AggregateRun) else run.scope


def literal(values: list) -> str:
    """A value that is the same at every use."""
    if None in values or not same(values):
        raise Unsaid
    if isinstance(values[0], (list, tuple)):
        return f"[{', '.join(literal([value]) for value in values[0])}]"
    return str(values[0]) if isinstance(values[0], int) else repr(float(values[0]))
