"""Units as classes."""

from __future__ import annotations

from nas_agg.compiler.codegen.classes.class_text import LINE, ClassText, depth, varies
from nas_agg.compiler.codegen.classes.naming import no_pick
from nas_agg.compiler.codegen.ir.layers import Operation
from nas_agg.compiler.codegen.ir.tree import (
    MEAN,
    SHORTCUT,
    Expression,
    Form,
    NotExpressible,
    Number,
    Part,
    Use,
    X,
    fold,
    put,
    walk,
)


class UnitText(ClassText):
    """Writes a unit."""

    def write(self) -> None:
        parts = self.code.parts
        first = parts[0]
        is_sequence = first.sequence and not self.root
        if is_sequence:
            self.base = "nn.Sequential"
        columns = [[part.operations[k] for part in parts] for k in range(len(first.operations))]
        calls = [self.operation(column, is_sequence) for column in columns]
        if not is_sequence:
            self.inputs += ["shortcut"] * first.joins
            with_raw = first.gives or any(part.gives for op in first.operations for part in inner_parts(op))
            self.statements(calls, first) if with_raw else self.statements(calls)

    def operation(self, column: list[Operation], is_sequence: bool) -> Expression:
        """The call of an operation of all parts, whose module is added to the constructor if there has to be one."""
        op = column[0]
        if op.module is None:
            call = self.fixed([each.applied(False) for each in column])
            return put(call, {SHORTCUT: Form("*shortcut")}) if getattr(call, "form", "") == MEAN else call
        call = fold([each.applied(False) for each in column], no_pick)
        varying = any(varies(number) for number in walk(call) if isinstance(number, Number))
        as_module = op.call is None or (not op.stateful and varying)
        if is_sequence or op.stateful or as_module:
            module = fold([each.module for each in column], no_pick)
            self.init.append(f"self.{op.field} = {self.show(module)}")
        return op.applied(True) if as_module else call

    def statements(self, calls: list[Expression], raws: Part | None = None) -> None:
        """The forward: calls inside calls, as far as they are short.

        Args:
            calls: What is computed, in order.
            raws: The unit if it has pre-activations: `raw` is kept where one is made that is needed.
        """
        needed = self.raw_ends(raws) if raws else []
        current: Expression = X
        for k, call in enumerate(calls):
            longer = put(call, {X: current})
            if current != X and (len(self.show(longer)) > LINE or depth(longer) > 3):
                self.forward.append((0, f"x = {self.show(current)}"))
                longer = call
            current = self.keep_raw(raws, k, longer, needed) if raws else longer
        text = self.show(current)
        if self.root:
            flat = text.endswith("[:, :, None, None]")
            text = text.removesuffix("[:, :, None, None]") if flat else f"{text}.flatten(1)"
        gives = raws is not None and raws.gives
        if gives and self.forward and self.forward[-1][1].startswith("x, raw = ") and text == "x":
            self.forward.append((0, f"return {self.forward.pop()[1].removeprefix('x, raw = ')}"))
        else:
            self.forward.append((0, f"return {text}{', raw' * gives}"))

    def raw_ends(self, part: Part) -> list[int]:
        """The operations before which a pre-activation is needed, and the end of that of the unit's output."""
        needed = [k for k, op in enumerate(part.operations) if any(inner.takes for inner in inner_parts(op))]
        last = len(part.operations)
        while part.gives and last and _is_skipped(part.operations[last - 1]):
            last -= 1
        return sorted({*needed, last}) if part.gives else needed

    def keep_raw(self, part: Part, k: int, current: Expression, needed: list[int]) -> Expression:
        """Keep the pre-activation of an operation's output, if it is needed, and return the output."""
        op, following = part.operations[k], next((j for j in needed if j > k), None)
        if any(inner.gives for inner in inner_parts(op)):
            used = following is not None and all(map(_is_skipped, part.operations[k + 1 : following]))
            self.forward.append((0, f"x, {'raw' if used else '_'} = {self.show(current)}"))
            return X
        if part.gives and k + 1 == needed[-1]:
            self.forward.append((0, f"raw = {self.show(current)}"))
            return Form("raw")
        if k + 1 in needed and not _is_skipped(op):
            raise NotExpressible
        return current


def inner_parts(op: Operation) -> list[Part]:
    """The part that an operation is, if it is one."""
    return [part for part in op.module.parts if part] if isinstance(op.module, Use) else []


def _is_skipped(op: Operation) -> bool:
    """True for norms and activations, which a pre-activation is without."""
    function = getattr(op.module, "function", getattr(op.module, "form", ""))
    return "Norm" in function or (
        isinstance(op.module, Form) and function.startswith("nn.") and function.endswith("()")
    )
