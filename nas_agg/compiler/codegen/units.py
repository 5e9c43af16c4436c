"""Units as classes."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from nas_agg.compiler.codegen.calls import Calls
from nas_agg.compiler.codegen.classes import Class, env
from nas_agg.compiler.codegen.joins import UnitBody
from nas_agg.compiler.codegen.layers import Item, Uses
from nas_agg.compiler.codegen.nested import Nested
from nas_agg.compiler.codegen.syntax.formatting import WIDTH
from nas_agg.compiler.codegen.syntax.ir import is_simple, replaced_part, statements, substitute
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible
from nas_agg.expansion.trace import StepRun
from nas_agg.language.resolved import Aggregate, Join, ResolvedWord, Unit


class UnitText(UnitBody):
    """The text of one unit's class."""

    def __init__(self, calls: Calls, made: Class):
        super().__init__(calls, made)
        self.nested = Nested(self, self.step)
        self.init: list[str] = []
        self.locals = 0

    def write(self) -> None:
        made, runs = self.made, self.runs
        made.mode = self.mode()
        steps = made.part.steps
        for k in range(made.sliced, len(steps)):
            column = [run.steps[k] for run in runs]
            self.step(column[0].label, column, self.names, k == len(steps) - 1)
            if k in made.raw_at:
                self.items.append(Item("raw"))
        made.args = sorted(self.used, key=lambda name: ("nwgs".find(name) if name in "nwgs" else 9, name))
        level = not made.sliced and all(self.classes.channels(run.x) == self.classes.channels(run.out) for run in runs)
        made.out = "in_" if level and "self." in self.channels else self.channels
        made.width = made.out
        sequential = not self.root and self.sequential()
        for item in self.items:
            if item.module and not item.module[1]:
                self.init.append(item.module[0])
            elif item.module and (sequential or item.call.startswith("self.") or item.module[0].startswith("!")):
                self.init.append(f"self.{item.module[0].lstrip('!')} = {item.module[1]}")
        made.init = statements(self.init)
        if sequential:
            made.base = "nn.Sequential"
        else:
            made.forward = statements(self.forward())

    def sequential(self) -> bool:
        """Whether a unit is modules in a row; a join ahead of them or behind is then written by the callers."""

        def modules(items: list[Item]) -> bool:
            return bool(items) and all(item.module and not item.module[0].startswith("!") for item in items)

        made = self.made
        if made.gives and made.mode == "none" and not made.takes:
            *ahead, last = [item for item in self.items if item.call != "raw"]
            if last.pair and self.items[-1].call == "raw" and last.call.endswith("(X)") and modules(ahead):
                assert last.module is not None
                self.items = [*ahead, last._replace(module=(last.module[0].lstrip("!"), last.module[1]))]
                return True
        if made.gives or made.takes or made.raw_at:
            return False
        joins = [k for k, item in enumerate(self.items) if "shortcut" in item.call]
        if made.mode == "given" and len(joins) == 1 and not made.state and not getattr(self.runs[0], "nested", False):
            ahead, behind = self.items[: joins[0]], self.items[joins[0] :]
            if not ahead and modules(behind[1:]) and not made.optional:
                self.items, made.ahead = behind[1:], behind[:1]
                return True
            if modules(ahead) and not any("self." in item.call or "!" in str(item.module) for item in behind):
                self.items, made.behind = ahead, behind
                return True
        return made.mode == "none" and (modules(self.items) or (made.sliced and not self.items))

    # ------------------------------------------------------------------ steps

    def step(self, label: str, column: list[StepRun], names: Mapping[str, str], last: bool = False) -> None:
        step = column[0].step
        if self.raw(column):
            self.child(label, column)
        elif isinstance(step, ResolvedWord):
            self.word(label, column, names, last)
        elif isinstance(step, Join):
            self.join(column)
        elif all(run.x == run.out for run in column):
            if any(self.classes.stateful(run) for run in column):
                raise NotExpressible
        elif isinstance(step, Unit) and self.nested.simple(step) and not any(map(self.classes.stateful, column)):
            self.nested.inline(label, [run.run for run in column], names)  # type: ignore[misc]
        elif isinstance(step, Aggregate) and self.nested.single(step, column):
            self.nested.inline(label, [run.run.nodes[0].unit for run in column], self.nested.unbound(step))  # type: ignore[union-attr]
        elif not (isinstance(step, Unit) and self.nested.short(label, column)):
            self.child(label, column)

    def raw(self, column: list[StepRun]) -> bool:
        """Whether what is inside gives or takes raw forms."""
        made = self.classes.of.get(id(column[0].run))
        return made is not None and (made.gives or made.takes)

    def word(self, label: str, column: list[StepRun], names: Mapping[str, str], last: bool) -> None:
        fields = dict(column[0].step.numbers)
        fixed = dict(column[0].step.fixed)
        uses = [env(run.local) for run in column]

        def say(field: str) -> str:
            if field in fields:
                return self.said(fields[field].expression.tree(), uses, names)
            value = fixed[field]
            return repr(float(value)) if isinstance(value, Fraction) else str(value)

        tape = self.classes.traced.tape
        ops = [[tape.ops[i] for i in run.ops] for run in column]
        made = Uses(label.replace("-", "_"), column, self.channels, say, ops, self.root and last, self.calls).made()
        if made is None:
            return
        item = made.item
        if made.out is not None:
            count = self.locals
            self.channels = self.width(made.out, column)
            if self.locals > count and item.module:
                self.items.append(Item("", (f"{self.channels} = {made.out}", "")))
                named = replaced_part(item.module[1], made.out, self.channels)
                item = item._replace(module=(item.module[0], named))
        self.items.append(item)

    def width(self, text: str, column: list[StepRun]) -> str:
        """How a width is called from here on: a long text gets a name of its own."""
        if self.root:
            return str(self.classes.channels(column[0].out))
        if all(run.local["c"] == self.classes.channels(run.out) for run in column) and text == self.channels:
            return text
        if is_simple(text):
            return text
        self.locals += 1
        return f"c{self.locals if self.locals > 1 else ''}"

    # ------------------------------------------------------------------ what is inside

    def child(self, label: str, column: list[StepRun]) -> None:
        step = column[0].step
        if not isinstance(step, Unit) and self.nested.listed(label, column):
            return
        made = self.calls.written(self.classes.of[id(column[0].run)])
        runs = [run.run for run in column]
        if any(self.classes.of.get(id(run)) is not made for run in runs):
            raise NotExpressible
        text = self.calls.call(made, self.channels, runs, column, self)
        joins = made.mode == "given"
        if joins and self.made.mode not in ("given", "own"):
            raise NotExpressible
        given = "x" if self.made.mode == "own" else "shortcut"
        if joins and self.made.optional:
            raise NotExpressible
        further = (f", {given}" if joins else "") + (", raw" if made.takes else "")
        mark = "!" if joins or made.gives or made.takes else ""
        pair = {True: "raw", False: "_"}[made.gives and column[0].label in self.kept()] if made.gives else ""
        self.items.append(Item(f"self.{label}(X{further})", (mark + label, text), 1, pair=pair))
        self.channels = self.child_width(label, made, text, column)

    def child_width(self, label: str, made: Class, text: str, column: list[StepRun]) -> str:
        if self.root:
            return str(self.classes.channels(column[0].out))
        widths = [self.classes.channels(run.out) for run in column]
        known = {self.entering: "in", **{name: own for own, name in self.names.items()}}
        same_as = [text for text, own in known.items() if widths == [run.local.get(own) for run in column]]
        self.used |= {name for name, text in self.names.items() if text in same_as[:1]}
        return self.calls.out(made, text, (same_as or [f"self.{label}.out"])[0])

    # ------------------------------------------------------------------ forward

    def forward(self) -> list[str]:
        """The lines of the forward."""
        made = self.made
        keep = made.mode == "own"
        variable, lines, text, heavy = "x", list[str](), "x", 0
        out = "y" if keep else "x"
        items, paired = [item for item in self.items if item.call], False
        for item in items:
            if item.call == "raw":
                if not paired:
                    lines.append(f"raw = {text}")
                    variable = text = "raw"
                    heavy = 0
                continue
            paired = bool(item.pair)
            longer = len(item.call) + len(text) > WIDTH - 26
            if text != variable and (item.heavy + heavy > 3 or longer or item.test):
                lines.append(f"{out} = {text}")
                variable = text = out
                heavy = 0
            if item.test:
                call = substitute(item.call, {"X": text})
                text, heavy = f"{call} if {item.test} else {text}", 3
                continue
            text = substitute(item.call, {"X": text})
            heavy += item.heavy
            if item.pair:
                lines.append(f"{out}, {item.pair} = {text}")
                variable = text = out
                heavy = 0
        if self.root and not (items and "flatten(1))" in items[-1].call and not items[-1].call.endswith("]")):
            text = substitute("X.flatten(1)", {"X": text})
        given = {"given": ", shortcut=None" if made.optional else ", shortcut"}.get(made.mode, "")
        made.forward_parameters = f"x{given}" + ", raw" * made.takes
        if made.gives and lines and lines[-1].startswith("x, raw = ") and text == "x":
            return [*lines[:-1], f"return {lines[-1][9:]}"]
        return [*lines, f"return {text}" + ", raw" * made.gives]
