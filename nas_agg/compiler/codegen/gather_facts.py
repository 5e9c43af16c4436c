"""Properties of an aggregate's gathers at all its uses, and the expressions that select and join their features."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from nas_agg.compiler.codegen.schedules import Schedules
from nas_agg.compiler.codegen.syntax.ir import parse, show
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, Simplified, same
from nas_agg.expansion.trace import AggregateRun, GatherRun
from nas_agg.language.operators import Gated
from nas_agg.language.resolved import NUM_SOURCES, Gather


def stateful(gather: Gather) -> bool:
    """Whether sources are normalized, weighted, gated or passed through `each` before they are joined."""
    return bool(gather.each) or gather.norm != "none" or gather.weight or gather.operator_type is Gated


class Start(NamedTuple):
    """The initial value of a gather's weights, and the names that it was computed from."""

    value: Any
    names: dict[str, Any]

    @property
    def plain(self) -> bool:
        """Whether it is one over the number of sources."""
        return self.value == Fraction(1, self.names[NUM_SOURCES])

    @property
    def text(self) -> str:
        return str(self.value) if isinstance(self.value, int) else repr(float(self.value))


def starts_of(gathers: list[GatherRun]) -> list[Start]:
    """The initial values of the weights of those gathers that have weights."""
    result = []
    for one in gathers:
        if one.gather.start and one.sources:
            names = {**one.scope, NUM_SOURCES: len(one.sources)}
            result.append(Start(one.gather.start.value(names), names))
    return result


class Role:
    """The reads, shortcuts or output of an aggregate at all its uses.

    Attributes:
        name: ``reads``, ``shortcut`` or ``output``.
        rows: For each use, the gathers that have sources.
        kind: `newest` or `input` if only that feature is taken, unchanged; else `pattern`.
        matched: Whether any source goes through `match`.
        has_own_list: Whether its sources are kept in a list besides that of the features.
    """

    def __init__(self, name: str, runs: list[AggregateRun], rows: list[list[GatherRun]]):
        self.name, self.runs, self.rows = name, runs, rows
        flat = [(run, one) for run, row in zip(runs, rows, strict=True) for one in row]
        self.all = [one for _, one in flat]
        self.gather: Gather | None = self.all[0].gather if self.all else None
        if self.gather and self.gather.each:
            raise NotExpressible
        self.matched = any(one.matches for one in self.all)
        self.kind = "pattern"
        self.raw = self.has_own_list = False
        if name != "shortcut" and self.all and not self.matched:
            if all(one.result == run.features[one.position - 1] for run, one in flat):
                self.kind = "newest"
            elif all(one.result == run.features[0] for run, one in flat):
                self.kind = "input"
        if self.kind == "pattern" and self.all:
            self.check(flat)

    def check(self, flat: list[tuple[AggregateRun, GatherRun]]) -> None:
        """Raise NotExpressible for gathers that loops cannot express."""
        assert self.gather is not None
        if self.gather.norm == "bn" and self.matched:
            raise NotExpressible
        self.raw = any(tensor != run.features[s] for run, one in flat for s, tensor in one.sources) and not self.matched
        if self.raw and self.gather.raw:
            if self.name != "shortcut" or any(len(one.sources) < len(one.selected) for one in self.all):
                raise NotExpressible
            return
        state: dict[int, list[int]] = {}
        for run, one in flat:
            tensors = state.setdefault(id(run), list(run.features))
            newest = self.name != "shortcut" and one.position - 1 in one.selected
            if len(one.sources) + newest != len(one.selected):
                raise NotExpressible  # a source was skipped
            for source, tensor in one.sources:
                if source in one.matches or tensor == run.features[source]:
                    tensors[source] = tensor
                if tensors[source] != tensor:
                    raise NotExpressible

    @property
    def word(self) -> str:
        assert self.gather is not None
        return self.gather.operator.word

    @property
    def prepared(self) -> bool:
        return self.gather is not None and stateful(self.gather)


def listed(tensors: str) -> str:
    """Tensors as a list, which can be iterated over twice."""
    return f"[*{tensors}]" if tensors.startswith("map(") else tensors


def modules(parts: Mapping[Any, Any]) -> str:
    """The text of a dictionary of modules."""
    items = [f'"{name}": {modules(part) if isinstance(part, dict) else part}' for name, part in parts.items()]
    return f"nn.ModuleDict({{{', '.join(items)}}})"


class Loop:
    """Base of the loops over nodes: the features that gathers select, and their weights.

    Args:
        text: The names and schedules of the aggregate's class.

    Attributes:
        shortcut_is_list: Whether the units take their shortcut as a list.
        init: Lines of the constructor.
    """

    reads: Role
    output: Role

    def __init__(self, text: Schedules):
        self.text, self.code, self.classes, self.runs = text, text.code, text.classes, text.runs
        self.counter = self.classes.counter
        self.init: list[str] = []
        self.shortcut_is_list = False

    def values(self, role: Role, word: str) -> Any:
        """A number of a pattern, which must be the same everywhere."""
        result = []
        for run, row in zip(self.runs, role.rows, strict=True):
            for one in row:
                node = run.nodes[min(one.position, run.n) - 1] if run.n else None
                scope = node.scope if node else run.outer
                assert role.gather is not None
                result.append(role.gather.pattern.values(scope)[word])
        if not same(result):
            raise NotExpressible
        return result[0]

    def selected(self, role: Role, of: str, newest: bool = True) -> str:
        """The expression that selects the sources from a list of features, or of their widths."""
        assert role.gather is not None
        word = role.gather.pattern.word
        end = "" if newest else "-1"
        if role.name == "output" and len({one.gather.pattern.word for one in role.all}) > 1:
            self.code.fields["first"] = (
                lambda run: int(run.output.gather.pattern.word == "nodes"),
                lambda run: None,
            )
            if "self.first = first" not in self.init:
                self.init.append("self.first = first")
            return "widths[first:]" if of == "widths" else f"{of}[self.first :]"
        if word == "previous":
            return f"{of}[-1:]"
        if word == "dense":
            return f"{of}[:-1]" if end else of
        if word == "nodes":
            return f"{of}[1:{end}]"
        if word == "input":
            return f"{of}[:1]"
        if word == "window":
            return f"{of}[-{self.values(role, 'window')}:{end}]"
        if word == "micro-dense":
            m = self.values(role, "micro-dense")
            return f"{of}[(len({of}) - 1) // {m} * {m} :{' -1' if end else ''}]"
        if word == "exponential":
            result = f"spaced({of}, {self.values(role, 'exponential')})"
            return f"{result}[:-1]" if end else result
        raise NotExpressible

    def gathered_width(self, role: Role) -> str:
        """The channels of a gather in terms of the list of widths; checked at every use."""
        if role.kind == "newest":
            self.check_width(role, lambda widths, one: widths[one.position - 1])
            return "widths[-1]"
        if role.kind == "input":
            return "in_"
        word = role.word
        if word == "concat":
            self.check_width(role, lambda widths, one: sum(widths[k] for k in one.selected))
            return f"sum({self.selected(role, 'widths')})"
        if word == "mixed":
            raise NotExpressible
        self.check_width(role, lambda widths, one: widths[one.selected[-1]])
        if all(one.selected[-1] == one.position - 1 for one in role.all):
            return "widths[-1]"
        return f"{self.selected(role, 'widths')}[-1]"

    def check_width(self, role: Role, width: Any) -> None:
        for run, row in zip(self.runs, role.rows, strict=True):
            widths = [self.classes.channels(tensor) for tensor in run.features]
            for one in row:
                assert one.result is not None
                if width(widths, one) != self.classes.channels(one.result):
                    raise NotExpressible

    def joined(self, role: Role, tensors: str) -> str:
        """The expression that joins sources."""
        if role.name == "shortcut" and self.shortcut_is_list:
            return tensors
        counts = {len(one.sources) + (one.main is not None and role.name != "shortcut") for one in role.all}
        if counts == {1}:
            tree = parse(tensors)  # a list, or the products of two
            lists = tree.args[1:] if isinstance(tree, ast.Call) and show(tree.func) == "map" else [tree]
            return " * ".join(map(_only, map(show, lists)))
        if role.word in ("concat", "mixed"):
            return f"torch.cat({listed(tensors)}, 1)"
        if role.word == "mean" and role.name != "shortcut":
            return f"mean({listed(tensors)})"
        return f"reduce(torch.{'mul' if role.word == 'product' else 'add'}, {tensors})"

    def weights(self, role: Role, widths: str) -> str:
        """The expression that creates the weights of sources of these widths."""
        uses = starts_of(role.all)
        if role is self.reads and self.output is not role and self.output.gather:
            uses += starts_of(self.output.all)  # its weights are created in the same way
        if all(one.plain for one in uses):
            return f"weights({widths})"
        if same([one.value for one in uses]):
            return f"weights_from({uses[0].text}, {widths})"
        tree = parse(widths)
        number = show(tree.right) if isinstance(tree, ast.BinOp) else f"len({widths})"
        if not all(one.sources for one in role.all):
            number = f"max(1, {number})"
        names = {NUM_SOURCES: number} if role.name == "output" else {NUM_SOURCES: number, "l": self.counter}
        assert role.gather is not None and role.gather.start is not None
        result = Simplified(role.gather.start.expression.tree(), [one.names for one in uses], names)
        return f"weights_from({result.text}, {widths})"

    def norm_is_deferred(self) -> bool:
        """Whether a feature is normalized only once it is no longer the newest."""
        role = self.reads
        return role.prepared and role.gather is not None and role.gather.pattern.word == "dense"

    def source(self, role: Role, lists: str = "features", node: str = "node") -> str:
        """The expression of a position's gather."""
        if role.kind == "newest":
            return f"{lists}[-1]"
        if role.kind == "input":
            return f"{lists}[0]"
        assert role.gather is not None
        lists = "sources" if role.has_own_list else lists
        if not role.prepared:
            if role.word == "mixed" and role.name != "shortcut":
                raise NotExpressible
            return self.joined(role, self.selected(role, lists))
        main = role.name != "shortcut"
        if main and role.gather.norm != "none" and self.norm_is_deferred():
            tensors = "sources"
        else:
            tensors = self.selected(role, "sources" if role.gather.norm != "none" else lists, newest=not main)
        part = "self.output" if role.name == "output" else f"{node}.{role.name}"
        if role.gather.weight:
            tensors = f"map(torch.mul, {tensors}, {part}.weights)"
        if role.gather.operator_type is Gated:
            tensors = f"gated({listed(tensors)}, {part}.gates)"
        if main:
            tensors = f"[*{tensors}, {lists}[-1]]"
            return self.joined(role, tensors)
        return self.joined(role, tensors)

    def norm(self, role: Role) -> str:
        """The expression that normalizes a source, without parameters."""
        assert role.gather is not None
        if role.gather.norm == "none":
            return "X"
        groups = []
        for run, row in zip(self.runs, role.rows, strict=True):
            for one in row:
                groups += [self.classes.channels(tensor) for _, tensor in one.sources]
            del run
        word = role.gather.norm
        if word == "bn":
            raise NotExpressible
        if word == "ln":
            return "torch.group_norm(X, 1)"
        if word == "in":
            return "torch.group_norm(X, X.shape[1])"
        result = [math.gcd(32, c) for c in groups]
        return f"torch.group_norm(X, {result[0]})" if same(result) else "torch.group_norm(X, math.gcd(32, X.shape[1]))"


def _only(tensors: str) -> str:
    """The expression of the only element of a list."""
    return f"{tensors[:-2]}]" if tensors.endswith("[-1:]") else f"{tensors}[0]"
