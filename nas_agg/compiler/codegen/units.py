"""Emitted classes of units."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from nas_agg.compiler.codegen.calls import Calls
from nas_agg.compiler.codegen.classes import EmittedClass, env
from nas_agg.compiler.codegen.inline_parts import InlineParts
from nas_agg.compiler.codegen.layers import Item, Uses
from nas_agg.compiler.codegen.syntax.formatting import WIDTH
from nas_agg.compiler.codegen.syntax.ir import is_simple, replace_part, statements, substitute
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible
from nas_agg.compiler.codegen.unit_body import UnitBody
from nas_agg.expansion.trace import StepRun
from nas_agg.language.resolved import Aggregate, Join, ResolvedWord, Unit


class UnitWriter(UnitBody):
    """Writes the class of one unit."""

    def __init__(self, calls: Calls, code: EmittedClass):
        super().__init__(calls, code)
        self.inline_parts = InlineParts(self, self.step)
        self.init: list[str] = []
        self.locals = 0

    def write(self) -> None:
        code, runs = self.code, self.runs
        code.mode = self.mode()
        steps = code.part.steps
        for k in range(code.sliced, len(steps)):
            column = [run.steps[k] for run in runs]
            self.step(column[0].label, column, self.names, k == len(steps) - 1)
            if k in code.pre_activation_at:
                self.items.append(Item("raw"))
        code.args = sorted(self.used, key=lambda name: ("nwgs".find(name) if name in "nwgs" else 9, name))
        level = not code.sliced and all(self.classes.channels(run.x) == self.classes.channels(run.out) for run in runs)
        code.out = "in_" if level and "self." in self.channels else self.channels
        code.width = code.out
        sequential = not self.root and self.sequential()
        for item in self.items:
            if item.module and not item.module[1]:
                self.init.append(item.module[0])
            elif item.module and (sequential or item.call.startswith("self.") or item.module[0].startswith("!")):
                self.init.append(f"self.{item.module[0].lstrip('!')} = {item.module[1]}")
        code.init = statements(self.init)
        if sequential:
            code.base = "nn.Sequential"
        else:
            code.forward = statements(self.forward())

    def sequential(self) -> bool:
        """Whether a unit is a sequence of modules; callers write a join before or after them."""
        code = self.code
        if code.returns_pre_activation and code.mode == "none" and not code.takes_pre_activation:
            return self.ends_in_pair()
        if code.returns_pre_activation or code.takes_pre_activation or code.pre_activation_at:
            return False
        if code.mode == "argument" and not code.takes_shortcut_width and not getattr(self.runs[0], "nested", False):
            return self.joins_at_end()
        return code.mode == "none" and (are_modules(self.items) or (code.sliced and not self.items))

    def ends_in_pair(self) -> bool:
        """Whether a unit is a sequence whose last module returns the unit's pre-activation; updates the items."""
        *first, last = [item for item in self.items if item.call != "raw"]
        if not (last.pair and self.items[-1].call == "raw" and last.call.endswith("(X)") and are_modules(first)):
            return False
        assert last.module is not None
        self.items = [*first, last._replace(module=(last.module[0].lstrip("!"), last.module[1]))]
        return True

    def joins_at_end(self) -> bool:
        """Whether a unit's only join is before or after a sequence of modules; moves the join to the callers."""
        joins = [k for k, item in enumerate(self.items) if "shortcut" in item.call]
        if len(joins) != 1:
            return False
        before, rest = self.items[: joins[0]], self.items[joins[0] :]
        if not before and are_modules(rest[1:]) and not self.code.optional:
            self.items, self.code.leading_join = rest[1:], rest[:1]
            return True
        uses_self = any("self." in item.call or (item.module and item.module[0].startswith("!")) for item in rest)
        if are_modules(before) and not uses_self:
            self.items, self.code.trailing_join = before, rest
            return True
        return False

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
        elif (
            isinstance(step, Unit)
            and self.inline_parts.has_only_layers(step)
            and not any(map(self.classes.stateful, column))
        ):
            self.inline_parts.inline_steps(label, [run.run for run in column], names)  # type: ignore[misc]
        elif isinstance(step, Aggregate) and self.inline_parts.is_stateless_node(step, column):
            units = [run.run.nodes[0].unit for run in column]  # type: ignore[union-attr]
            self.inline_parts.inline_steps(label, units, self.inline_parts.unbound(step))
        elif not (isinstance(step, Unit) and self.inline_parts.inline_unit(label, column)):
            self.child(label, column)

    def raw(self, column: list[StepRun]) -> bool:
        """Whether the class of a step returns or takes pre-activations."""
        code = self.classes.by_run.get(id(column[0].run))
        return code is not None and (code.returns_pre_activation or code.takes_pre_activation)

    def word(self, label: str, column: list[StepRun], names: Mapping[str, str], last: bool) -> None:
        fields = dict(column[0].step.numbers)
        fixed = dict(column[0].step.fixed)
        uses = [env(run.local) for run in column]

        def field_text(field: str) -> str:
            if field in fields:
                return self.express(fields[field].expression.tree(), uses, names)
            value = fixed[field]
            return repr(float(value)) if isinstance(value, Fraction) else str(value)

        tape = self.classes.traced.tape
        ops = [[tape.ops[i] for i in run.ops] for run in column]
        form = Uses(
            label.replace("-", "_"), column, self.channels, field_text, ops, self.root and last, self.calls
        ).form()
        if form is None:
            return
        item = form.item
        if form.out is not None:
            count = self.locals
            self.channels = self.width(form.out, column)
            if self.locals > count and item.module:
                self.items.append(Item("", (f"{self.channels} = {form.out}", "")))
                named = replace_part(item.module[1], form.out, self.channels)
                item = item._replace(module=(item.module[0], named))
        self.items.append(item)

    def width(self, text: str, column: list[StepRun]) -> str:
        """The expression of a width from here on; a long one becomes a local variable."""
        if self.root:
            return str(self.classes.channels(column[0].out))
        if all(run.local["c"] == self.classes.channels(run.out) for run in column) and text == self.channels:
            return text
        if is_simple(text):
            return text
        self.locals += 1
        return f"c{self.locals if self.locals > 1 else ''}"

    # ------------------------------------------------------------------ inner classes

    def child(self, label: str, column: list[StepRun]) -> None:
        step = column[0].step
        if not isinstance(step, Unit) and self.inline_parts.inline_chain(label, column):
            return
        code = self.calls.ensure_written(self.classes.by_run[id(column[0].run)])
        runs = [run.run for run in column]
        if any(self.classes.by_run.get(id(run)) is not code for run in runs):
            raise NotExpressible
        text = self.calls.call(code, self.channels, runs, column, self)
        joins = code.mode == "argument"
        if joins and self.code.mode not in ("argument", "own"):
            raise NotExpressible
        shortcut = "x" if self.code.mode == "own" else "shortcut"
        if joins and self.code.optional:
            raise NotExpressible
        arguments = (f", {shortcut}" if joins else "") + (", raw" if code.takes_pre_activation else "")
        mark = "!" if joins or code.returns_pre_activation or code.takes_pre_activation else ""
        pair = (
            {True: "raw", False: "_"}[code.returns_pre_activation and column[0].label in self.pre_activation_labels()]
            if code.returns_pre_activation
            else ""
        )
        self.items.append(Item(f"self.{label}(X{arguments})", (mark + label, text), 1, pair=pair))
        self.channels = self.child_width(label, code, text, column)

    def child_width(self, label: str, code: EmittedClass, text: str, column: list[StepRun]) -> str:
        if self.root:
            return str(self.classes.channels(column[0].out))
        widths = [self.classes.channels(run.out) for run in column]
        origins = {self.input_width: "in", **{text: name for name, text in self.names.items()}}
        same_as = [text for text, name in origins.items() if widths == [run.local.get(name) for run in column]]
        self.used |= {name for name, text in self.names.items() if text in same_as[:1]}
        return self.calls.output_width(code, text, (same_as or [f"self.{label}.out"])[0])

    # ------------------------------------------------------------------ forward

    def forward(self) -> list[str]:
        """The lines of the forward."""
        code = self.code
        keep = code.mode == "own"
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
        shortcut = {"argument": ", shortcut=None" if code.optional else ", shortcut"}.get(code.mode, "")
        code.forward_parameters = f"x{shortcut}" + ", raw" * code.takes_pre_activation
        if code.returns_pre_activation and lines and lines[-1].startswith("x, raw = ") and text == "x":
            return [*lines[:-1], f"return {lines[-1][9:]}"]
        return [*lines, f"return {text}" + ", raw" * code.returns_pre_activation]


def are_modules(items: list[Item]) -> bool:
    """Whether a sequence of modules can replace these items."""
    return bool(items) and all(item.module and not item.module[0].startswith("!") for item in items)
