"""Units as classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from nas_agg.compiler.emission.classes import Class
from nas_agg.compiler.emission.joins import Joins, env
from nas_agg.compiler.emission.layers import Item, layer
from nas_agg.compiler.emission.numbers import Said, Unsaid, same
from nas_agg.compiler.emission.text import WIDTH, fitted
from nas_agg.compiler.emission.trace import AggregateRun, StepRun, UnitRun
from nas_agg.parts import Aggregate, Join, Sequence, WordUse

if TYPE_CHECKING:
    from nas_agg.compiler.emission.writer import Writer


class UnitText(Joins):
    """The text of one unit's class."""

    def __init__(self, writer: Writer, made: Class):
        self.writer, self.made, self.classes = writer, made, writer.classes
        self.runs: list[UnitRun] = made.runs
        self.root = made is writer.classes.root
        unit: Sequence = made.part
        self.names = {} if self.root else self.free(unit.free)
        self.entering = self.channels = str(self.classes.channels(0)) if self.root else "in_"
        self.used: set[str] = set()
        self.init: list[str] = []
        self.items: list[Item] = []
        self.attributes = {label for label, _ in unit.steps}
        self.locals = 0

    def free(self, names: tuple[str, ...]) -> dict[str, str]:
        """The names that are arguments; those of one value are numbers, but for the width."""
        found = {}
        for name in names:
            values = [run.scope.get(name) for run in self.runs]
            if None not in values and (name == "w" or not same(values)):
                found[name] = self.classes.text(name)
        return found

    def write(self) -> None:
        made, runs = self.made, self.runs
        made.mode = self.mode()
        steps = made.part.steps
        for k in range(len(steps)):
            column = [run.steps[k] for run in runs]
            self.step(column[0].label, column, self.names, k == len(steps) - 1)
            if k in made.raw_at:
                self.items.append(Item("raw"))
        made.args = sorted(self.used, key=lambda name: ("nwgs".find(name) if name in "nwgs" else 9, name))
        made.out = self.channels
        made.out_line = f"self.out = {self.channels}"
        made.doc = ""
        sequential = (
            not self.root
            and made.mode == "none"
            and not (made.gives or made.takes or made.raw_at)
            and self.items
            and all(item.module and not item.module[0].startswith("!") for item in self.items)
        )
        for item in self.items:
            if item.module and not item.module[1]:
                self.init.append(item.module[0])
            elif item.module and (sequential or item.call.startswith("self.") or item.module[0].startswith("!")):
                self.init.append(f"self.{item.module[0].lstrip('!')} = {item.module[1]}")
        made.lines = self.init
        if sequential:
            made.base = "nn.Sequential"
        else:
            made.forward = self.forward()

    # ------------------------------------------------------------------ steps

    def step(self, label: str, column: list[StepRun], names: Mapping[str, str], last: bool = False) -> None:
        step = column[0].step
        if self.raw(column):
            self.child(label, column)
        elif isinstance(step, WordUse):
            self.word(label, column, names, last)
        elif isinstance(step, Join):
            self.join(column)
        elif all(run.x == run.out for run in column):
            if any(self.classes.stateful(run) for run in column):
                raise Unsaid
        elif isinstance(step, Sequence) and self.simple(step) and not any(map(self.classes.stateful, column)):
            self.inline(label, [run.run for run in column], names)  # type: ignore[misc]
        elif isinstance(step, Aggregate) and self.single(step, column):
            self.inline(label, [run.run.nodes[0].unit for run in column], self.unbound(step))  # type: ignore[union-attr]
        elif not (isinstance(step, Sequence) and self.short(label, column)):
            self.child(label, column)

    def raw(self, column: list[StepRun]) -> bool:
        """Whether what is inside gives or takes raw forms."""
        made = self.classes.of.get(id(column[0].run))
        return made is not None and (made.gives or made.takes)

    def short(self, label: str, column: list[StepRun]) -> bool:
        """A unit of a few layers, written where it stands."""
        channels, used = self.channels, set(self.used)
        text = self.brief([run.run for run in column], self.names)  # type: ignore[misc]
        once = len(column[0].step.steps) <= (4 if self.root else 2) and len(
            self.classes.of[id(column[0].run)].runs
        ) == len(column)
        if text is None or (len(f"self.{label} = {text}") > WIDTH - 8 and not once):
            self.channels, self.used = channels, used
            return False
        self.items.append(Item(f"self.{label}({{x}})", (label, text), 1))
        return True

    def brief(self, runs: list[UnitRun], names: Mapping[str, str]) -> str | None:
        """The text of a unit of a few layers as a value, or None."""
        unit = runs[0].unit
        if not unit.steps or len(unit.steps) > (4 if self.root else 3) or unit.joins:
            return None
        items, around, known = self.items, self.entering, self.names
        self.items, self.entering, self.names = [], self.channels, dict(names)
        try:
            for k, (own, _) in enumerate(unit.steps):
                self.step(own, [run.steps[k] for run in runs], names)
            parts = [item.module for item in self.items]
            if len(parts) == 1 and self.items[0].pair and parts[0]:  # two values come out as they are
                parts = [(parts[0][0].lstrip("!"), parts[0][1])]
        finally:
            self.items, self.entering, self.names = items, around, known
        if not parts or any(part is None or not part[1] or part[0].startswith("!") for part in parts):
            return None
        if any("self." in part[1] for part in parts if part) or self.channels.startswith("self."):
            return None
        return f"named({', '.join(f'{part[0]}={part[1]}' for part in parts if part)})"

    def simple(self, unit: Sequence) -> bool:
        """Whether a unit is but layers."""
        return all(
            isinstance(step, WordUse) or (isinstance(step, Sequence) and self.simple(step)) for _, step in unit.steps
        )

    def single(self, step: Aggregate, column: list[StepRun]) -> bool:
        """Whether an aggregate is one node that does some layers without weights."""
        runs: list[AggregateRun] = [run.run for run in column]  # type: ignore[misc]
        return (
            all(run.n == 1 and self.writer.chain(run) for run in runs)
            and self.simple(step.units[0])
            and not step.units[0].joins
            and not any(map(self.classes.stateful, column))
        )

    def inline(self, label: str, runs: list[UnitRun], names: Mapping[str, str]) -> None:
        around, self.entering = self.entering, self.channels
        for k, (own, _) in enumerate(runs[0].unit.steps):
            self.step(self.attribute(f"{label}_{own}"), [run.steps[k] for run in runs], names)
        self.entering = around

    def attribute(self, wanted: str) -> str:
        while wanted in self.attributes:
            wanted += "_"
        self.attributes.add(wanted)
        return wanted

    def said(self, tree: Any, uses: list[dict[str, Any]], names: Mapping[str, str]) -> str:
        known = {} if self.root else {**names, "_in": self.entering, "c": self.channels}
        found = Said(tree, uses, known)
        self.used |= found.used - {"_in", "c"}
        return found.text

    def word(self, label: str, column: list[StepRun], names: Mapping[str, str], last: bool) -> None:
        fields = dict(column[0].step.numbers)
        fixed = dict(column[0].step.fixed)
        uses = [env(run.local) for run in column]

        def say(field: str) -> str:
            if field in fields:
                return self.said(fields[field].expression.tree(), uses, names)
            value = fixed[field]
            return str(float(value)) if field == "dropout" else str(value)

        tape = self.classes.traced.tape
        ops = [[tape.ops[i] for i in run.ops] for run in column]
        made = layer(label, column, self.channels, say, ops, self.root and last, self.writer.squeezes)
        if made is None:
            return
        if made.out is not None:
            made = made._replace(out=self.width(made.out, column))
            if made.out != self.channels and re.fullmatch(r"c\d*", made.out or "") and made.item.module:
                said, name = self.width_text, made.out or ""
                self.items.append(Item("", (f"{name} = {said}", "")))
                head, text = made.item.module
                made = made._replace(item=made.item._replace(module=(head, _instead(text, said, name))))
            self.channels = made.out or ""
        self.items.append(made.item)

    def width(self, text: str, column: list[StepRun]) -> str:
        """How a width is called from here on: a long text gets a name of its own."""
        if self.root:
            return str(self.classes.channels(column[0].out))
        if all(run.local["c"] == self.classes.channels(run.out) for run in column) and text == self.channels:
            return text
        if re.fullmatch(r"[\w.]+|\d+ \* \w+", text):
            return text
        self.locals += 1
        self.width_text = text
        return f"c{self.locals if self.locals > 1 else ''}"

    # ------------------------------------------------------------------ what is inside

    def child(self, label: str, column: list[StepRun]) -> None:
        step = column[0].step
        if not isinstance(step, Sequence) and self.listed(label, column):
            return
        made = self.writer.written(self.classes.of[id(column[0].run)])
        runs = [run.run for run in column]
        if any(self.classes.of.get(id(run)) is not made for run in runs):
            raise Unsaid
        text = self.writer.call(made, self.channels, runs, column, self)
        joins = made.mode == "given"
        if joins and self.made.mode not in ("given", "own"):
            raise Unsaid
        given = "x" if self.made.mode == "own" else "shortcut"
        if joins and self.made.optional:
            raise Unsaid
        further = (f", {given}" if joins else "") + (", raw" if made.takes else "")
        mark = "!" if joins or made.gives or made.takes else ""
        pair = {True: "raw", False: "_"}[made.gives and column[0].label in self.kept()] if made.gives else ""
        self.items.append(Item(f"self.{label}({{x}}{further})", (mark + label, text), 1, pair=pair))
        self.channels = self.child_width(label, made, text, column)

    def kept(self) -> set[str]:
        """The steps whose raw form is kept."""
        return {label for k, (label, _) in enumerate(self.made.part.steps) if k in self.made.raw_at}

    def child_width(self, label: str, made: Class, text: str, column: list[StepRun]) -> str:
        if self.root:
            return str(self.classes.channels(column[0].out))
        if made.out == "in_":
            return self.channels
        passed = {self.classes.text(name) for name in made.args}
        if made.out is not None and re.fullmatch(r"\d+|[A-Za-z_]\w*|\d+ \* [A-Za-z_]\w*", made.out):
            words = set(re.findall(r"[A-Za-z_]\w*", made.out))
            as_they_are = all(re.search(rf"[(, ]{word}(?=[,)])", text) and f"{word}=" not in text for word in words)
            if words <= passed and as_they_are:
                return made.out
        made.out_used = True
        return f"self.{label}.out"

    def listed(self, label: str, column: list[StepRun]) -> bool:
        """An aggregate whose nodes follow one another, as a list of its units."""
        runs: list[AggregateRun] = [run.run for run in column]  # type: ignore[misc]
        n = runs[0].n
        around = self.classes.of[id(runs[0])]
        if around.takes or (around.gives and n != 1):
            return False
        if not around.gives and self.conditional(label, column):
            return True
        if n == 0 or any(run.n != n or not self.writer.chain(run) for run in runs):
            return False
        if not (runs[0].aggregate.each or n == 1):
            return False
        if n > 1 and not self.root:
            return False
        if n == 1 and self.brief_node(label, column):
            return True
        texts = []
        for k in range(n):
            units = [run.nodes[k].unit for run in runs]
            made = self.writer.written(self.classes.of[id(units[0])])
            if made.mode == "given":
                return False
            channels = str(self.classes.channels(units[0].x)) if self.root else self.channels
            try:
                texts.append(self.writer.call(made, channels, units, column, self))
            except Unsaid:
                return False
        pair = ("raw" if column[0].label in self.kept() else "_") if around.gives else ""
        text = f"chain({', '.join(repeated(texts))})"
        self.items.append(Item(f"self.{label}({{x}})", ("!" * bool(pair) + label, text), 1, pair=pair))
        if self.root:
            self.channels = str(self.classes.channels(column[0].out))
        elif made.out != "in_":
            made.out_used = True
            self.channels = f"self.{label}[-1].unit.out"
        return True

    def brief_node(self, label: str, column: list[StepRun]) -> bool:
        """An aggregate of one node with a few layers."""
        channels, used = self.channels, set(self.used)
        try:
            units = [run.run.nodes[0].unit for run in column]  # type: ignore[union-attr]
            text = None if units[0].unit.joins else self.brief(units, self.unbound(column[0].step))
        except Unsaid:
            text = None
        if text is None or len(f"self.{label} = chain({text})") > WIDTH - 8:
            self.channels, self.used = channels, used
            return False
        gives = self.classes.of[id(column[0].run)].gives
        pair = ("raw" if column[0].label in self.kept() else "_") if gives else ""
        self.items.append(Item(f"self.{label}({{x}})", ("!" * bool(pair) + label, f"chain({text})"), 1, pair=pair))
        return True

    def conditional(self, label: str, column: list[StepRun]) -> bool:
        """An aggregate of one node that is not there at some uses, and keeps the width."""
        runs: list[AggregateRun] = [run.run for run in column]  # type: ignore[misc]
        counts = {run.n for run in runs}
        if counts != {0, 1} or not all(self.writer.chain(run) for run in runs):
            return False
        if any(self.classes.channels(run.x) != self.classes.channels(run.out) for run in column):
            return False
        channels, used, known = self.channels, set(self.used), self.names
        try:
            units = [run.nodes[0].unit for run in runs if run.n]
            there = [run for run in column if run.run.n]  # type: ignore[union-attr]
            made = self.writer.written(self.classes.of[id(units[0])])
            if made.mode == "given" or runs[0].aggregate.nodes is None:
                return False
            nodes = runs[0].aggregate.nodes.expression
            test = self.said(nodes.tree(), [env(run.outer) for run in runs], self.names)
            self.names = self.unbound(column[0].step)
            text = self.brief(units, self.names)
            self.channels = channels
            if text is None:
                text = self.writer.call(made, channels, units, there, self)
        except Unsaid:
            self.channels, self.used = channels, used
            return False
        finally:
            self.names = known
        test = test.removeprefix("1 if ").removesuffix(" else 0")
        if test.startswith("0 if ") or test.replace("_", "a").isidentifier() or " if " in test:
            test = f"{test} == 1" if test.replace("_", "a").isidentifier() else f"({test}) == 1"
        elif not any(sign in test for sign in "<>="):
            test = f"{test} == 1"
        self.items.append(Item(f"self.{label}({{x}})", (label, f"chain(*[{text}] if {test} else [])"), 1))
        return True

    def unbound(self, step: Aggregate) -> dict[str, str]:
        """The names that an aggregate leaves as they are."""
        bound = {name for name, value in (("w", step.growth), ("g", step.cardinality), ("s", step.stride)) if value}
        bound |= {"l", "n"} | {name for name, _ in step.let}
        return {name: text for name, text in self.names.items() if name not in bound}

    # ------------------------------------------------------------------ forward

    def forward(self) -> list[str]:
        """The lines of the forward."""
        made = self.made
        keep = made.mode == "own"
        variable, lines, text, infix, heavy = "x", [], "x", False, 0
        out = "y" if keep else "x"
        items, paired = [item for item in self.items if item.call], False
        for item in items:
            if item.call == "raw":
                if not paired:
                    lines.append(f"raw = {text}")
                    variable = text = "raw"
                    infix, heavy = False, 0
                continue
            paired = bool(item.pair)
            longer = len(item.call) + len(text) > WIDTH - 24
            if text != variable and (item.heavy + heavy > 3 or longer or item.test):
                lines.append(f"{out} = {text}")
                variable = text = out
                infix, heavy = False, 0
            if item.test:
                call = item.call.replace("{x}", text)
                text, infix, heavy = f"{call} if {item.test} else {text}", True, 3
                continue
            text = item.call.replace("{x}", f"({text})" if infix and item.bare else text)
            infix, heavy = item.infix, heavy + item.heavy
            if item.pair:
                lines.append(f"{out}, {item.pair} = {text}")
                variable = text = out
                infix, heavy = False, 0
        if self.root and not (items and "flatten(1))" in items[-1].call and not items[-1].call.endswith("]")):
            text = (f"({text})" if infix else text) + ".flatten(1)"
        given = {"given": ", shortcut=None" if made.optional else ", shortcut"}.get(made.mode, "")
        given += ", raw" if made.takes else ""
        if made.gives and lines and lines[-1].startswith("x, raw = ") and text == "x":
            return [f"def forward(self, x{given}):", *[f"    {x}" for x in lines[:-1]], f"    return {lines[-1][9:]}"]
        head = f"def forward(self, x{given}):"
        text += ", raw" if made.gives else ""
        return [head, *[f"    {line}" for line in lines], f"    return {text}"]


def _instead(text: str, said: str, name: str) -> str:
    """A call in which a long width has its name."""
    return text.replace(f", {said},", f", {name},", 1).replace(f", {said})", f", {name})", 1)


def repeated(texts: list[str]) -> list[str]:
    """Calls, of which those that follow one another alike are written once."""
    found = []
    for text, group in groupby(texts):
        times = len(list(group))
        found += [f"*({text} for _ in range({times}))"] if times > 2 else [text] * times
    return found


def module_lines(lines: list[str], indent: int) -> list[str]:
    return [part for line in lines for part in fitted(line, indent)]
