"""The body of a unit's class: its names and items, and the joins of its shortcut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas_agg.compiler.codegen.calls import Calls
from nas_agg.compiler.codegen.classes import EmittedClass, env
from nas_agg.compiler.codegen.gather_facts import stateful
from nas_agg.compiler.codegen.layers import Item
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, Simplified, same
from nas_agg.expansion.trace import StepRun, UnitRun


class UnitBody:
    """The body of a unit's class while it is being written.

    Args:
        calls: Calls of the constructors of other classes.
        code: The class.

    Attributes:
        names: The Python names of possible arguments.
        used: The names that have been used.
        channels: The expression of the channels after the last step.
        input_width: The expression of the input channels.
        items: The steps of the forward.
        attributes: The attributes of the module that are in use.
        present: For each use, whether there is a shortcut to join.
    """

    def __init__(self, calls: Calls, code: EmittedClass):
        self.calls, self.code, self.classes = calls, code, calls.classes
        self.runs: list[UnitRun] = code.runs
        self.root = code is calls.classes.root
        self.names = {} if self.root else self.argument_names(code.part.free_names)
        self.input_width = self.channels = str(self.classes.channels(0)) if self.root else "in_"
        self.used: set[str] = set()
        self.items: list[Item] = []
        self.attributes = {label for label, _ in code.part.steps}
        self.present: list[bool] = []

    def argument_names(self, names: tuple[str, ...]) -> dict[str, str]:
        """The Python names of arguments: names with several values, and the width."""
        result = {}
        for name in names:
            values = [run.scope.get(name) for run in self.runs]
            if None not in values and (name == "w" or not same(values)):
                result[name] = self.classes.python_name(name)
        return result

    def snapshot(self) -> tuple[str, set[str]]:
        """The state that an attempt may change; see `restore`."""
        return self.channels, set(self.used)

    def restore(self, snapshot: tuple[str, set[str]]) -> None:
        """Revert an attempt."""
        self.channels, self.used = snapshot

    def attribute(self, name: str) -> str:
        """Reserve an attribute: the name, with underscores appended while it is in use."""
        while name in self.attributes:
            name += "_"
        self.attributes.add(name)
        return name

    def express(self, tree: Any, uses: list[dict[str, Any]], names: Mapping[str, str]) -> str:
        """The text of an expression in the names of the constructor."""
        available = {} if self.root else {**names, "_in": self.input_width, "c": self.channels}
        if self.code.sliced:
            del available["_in"]
        result = Simplified(tree, uses, available)
        self.used |= result.used - {"_in", "c"}
        return result.text

    def pre_activation_labels(self) -> set[str]:
        """Labels of the steps whose pre-activation is kept."""
        return {label for k, (label, _) in enumerate(self.code.part.steps) if k in self.code.pre_activation_at}

    def mode(self) -> str:
        """The source of the shortcut, see `EmittedClass.mode`; also sets `optional`."""
        code = self.code
        if not code.part.takes_shortcut:
            return "none"
        if self.runs[0].split or all(run.joined is None for run in self.runs):
            if not self.runs[0].split:
                raise NotExpressible
            return "argument"
        if any(run.joined is None for run in self.runs):
            raise NotExpressible
        self.present = [bool(run.joined.sources) for run in self.runs]  # type: ignore[union-attr]
        if not any(self.present):
            return "none"
        code.optional = not all(self.present)
        if getattr(self.runs[0], "nested", False):
            return "argument"
        for run in self.runs:
            result = run.joined
            assert result is not None
            if result.sources and (stateful(result.gather) or [tensor for _, tensor in result.sources] != [run.x]):
                return "argument"
        return "own"

    def join(self, column: list[StepRun]) -> None:
        code = self.code
        if code.mode == "none":
            return
        shortcut = "x" if code.mode == "own" else "shortcut"
        if self.runs[0].split:
            self.items.append(Item(f"{shortcut} + X"))
            return
        result = next(run.joined for run in self.runs if run.joined and run.joined.sources)
        word = result.gather.operator.word
        if word == "concat":
            call = f"torch.cat([{shortcut}, X], 1)"
            self.channels = self.width_of_join(column)
        elif word == "mean":
            counts = [len(run.joined.sources) for run in self.runs if run.joined and run.joined.sources]
            call = f"({shortcut} + X) / {counts[0] + 1}"
            if not same(counts):  # the shortcut is a list
                call, code.shortcut_is_list = f"mean([*{shortcut}, X])", True
        elif word == "mixed":
            number = self.mixed(column)
            call = f"{number[0]}({shortcut}, X, {number[1]})"
            if number[1] == "0":
                call = f"torch.cat([{shortcut}, X], 1)"
            self.channels = self.width_of_join(column)
        elif word == "product":
            call = f"{shortcut} * X"
            self.widen(column)
        else:
            call = f"{shortcut} + X"
        if not code.optional:
            self.items.append(Item(call))
            return
        if code.mode == "argument":
            self.items.append(Item(call, test="shortcut is not None"))
            return
        self.items.append(Item(call, ("!residual", self.condition(column)), test="self.residual"))

    def widen(self, column: list[StepRun]) -> None:
        """Update the channels after a product in which the main path is a gate of one channel."""
        out = [self.classes.channels(step.out) for step in column]
        if out == [step.local["c"] for step in column]:
            return
        if self.code.mode != "own" or out != [self.classes.channels(run.x) for run in self.runs]:
            raise NotExpressible
        self.channels = self.input_width

    def condition(self, column: list[StepRun]) -> str:
        """The condition under which a unit joins its own input."""
        stride = [run.scope["s"] == 1 for run in self.runs]
        width = [self.classes.channels(run.x) == step.local["c"] for run, step in zip(self.runs, column, strict=True)]
        both = [a and b for a, b in zip(stride, width, strict=True)]
        equal = f"in_ == {self.channels}"
        if "s" in self.names:
            for values, text in ((both, f"self.residual = s == 1 and {equal}"), (stride, "s == 1")):
                if values == self.present and not text.endswith("in_ == in_"):
                    self.used.add("s")
                    return text.removeprefix("self.residual = ")
        if width == self.present:
            return equal
        raise NotExpressible

    def mixed(self, column: list[StepRun]) -> tuple[str, str]:
        result = [run.joined for run in self.runs if run.joined and run.joined.sources]
        numbers = [one.values["mixed"] for one in result]
        if len(result) < len(self.runs):
            raise NotExpressible
        function = "mixed" if result[0].values["onto"] == "front" else "mixed_back"
        if same(numbers):
            return function, str(numbers[0])
        tree = dict(result[0].gather.operator.numbers)["mixed"].expression.tree()
        text = self.express(tree, [env(run.scope) for run in self.runs], self.names)
        self.items.append(Item("", (f"!{(name := self.attribute('summed'))}", text)))
        return function, f"self.{name}"

    def width_of_join(self, column: list[StepRun]) -> str:
        """The channels after a join that appends channels to those of the shortcut."""
        widths = [self.classes.channels(step.out) for step in column]
        if self.code.optional:
            raise NotExpressible
        shortcut = [sum(self.classes.channels(t) for _, t in run.joined.sources) for run in self.runs if run.joined]
        appended = [a - b for a, b in zip(widths, shortcut, strict=True)]
        state = "in_" if self.code.mode == "own" else "state"
        self.code.takes_shortcut_width = state == "state"
        if appended == [step.local["c"] for step in column]:
            return f"{state} + {self.channels}"
        if same(appended):
            return f"{state} + {appended[0]}"
        for name, text in self.names.items():
            if appended == [run.scope.get(name) for run in self.runs]:
                self.used.add(name)
                return f"{state} + {text}"
        raise NotExpressible
