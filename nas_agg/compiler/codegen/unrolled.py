"""Aggregates whose nodes are written one by one: branches, single nodes, and all that loops cannot express."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

from nas_agg.compiler.codegen.classes import EmittedClass, leading_slice
from nas_agg.compiler.codegen.gather_facts import listed, modules, starts_of
from nas_agg.compiler.codegen.layers import Item, joined, unit_call
from nas_agg.compiler.codegen.schedules import Schedules
from nas_agg.compiler.codegen.syntax.formatting import WIDTH
from nas_agg.compiler.codegen.syntax.ir import names, parse, show, statements
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, Simplified, same
from nas_agg.compiler.codegen.syntax.rewrites import drop_pairs, fold_loops, inline_names
from nas_agg.expansion.trace import AggregateRun, GatherRun, NodeRun, StepRun, UnitRun
from nas_agg.language.layers import norm_groups
from nas_agg.language.operators import Gated
from nas_agg.language.resolved import Join

Key = tuple[int, ...]  # identifies a tensor by its index at each use


class _TensorTexts(dict[Key, str]):
    """Names or widths of tensors; raises NotExpressible for others."""

    def __missing__(self, key: Key) -> str:
        raise NotExpressible


class Unrolled:
    """Writes the constructor and the forward of an aggregate node by node."""

    def __init__(self, text: Schedules):
        self.text, self.code, self.classes = text, text.code, text.classes
        self.runs = text.runs
        self.init: list[str] = []
        self.forward: list[str] = []
        self.names = _TensorTexts()
        self.normed: dict[tuple[Key, tuple[int, ...]], str] = {}
        self.widths = _TensorTexts()
        self.tests: dict[int, str] = {}
        self.temporaries: set[str] = set()
        self.raws: set[str] = set()
        self.count = 0

    def write(self) -> None:
        code, n = self.code, self.runs[0].n
        if code.returns_pre_activation or self.runs[0].split:
            raise NotExpressible
        self.name(0, "x", "in_")
        if code.takes_pre_activation:
            self.names.setdefault(self.raw_key(0), "raw")
            self.widths.setdefault(self.raw_key(0), "in_")
        for k in range(n):
            self.node(k, [run.nodes[k] for run in self.runs], n)
        outs = [run.output for run in self.runs]
        parts, text, width = self.gather(outs, "self.output")  # type: ignore[arg-type]
        if parts:
            self.init.append(f"self.output = {modules(parts)}")
        self.forward.append(f"return {text}")
        if len(self.forward) > 1 and self.forward[-2].startswith(f"{text} = "):
            last = self.forward.pop(-2)
            self.forward[-1] = "return " + last.removeprefix(f"{text} = ")
        body = inline_names(statements(self.forward), self.temporaries, {f"y{k + 1}" for k in range(n)})
        code.forward = drop_pairs(body, self.raws)
        code.init = fold_loops(statements(self.init), self.classes.counter)
        code.out = self.text.output_width(width)
        code.width = code.out or width
        code.forward_parameters = (
            "x" + (", shortcut" if code.mode == "argument" else "") + ", raw" * code.takes_pre_activation
        )

    def temporary(self, stem: str) -> str:
        """A new name, which may be inlined later unless it is that of a feature after `each`."""
        self.count += 1
        if stem != "each":
            self.temporaries.add(f"{stem}{self.count}")
        return f"{stem}{self.count}"

    def key(self, l: int) -> Key:
        return tuple(run.features[l] for run in self.runs)

    def raw_key(self, l: int) -> Key:
        return tuple(self.classes.traced.tape.pre_activation(run.features[l]) for run in self.runs)

    def name(self, l: int, name: str, width: str) -> None:
        self.names.setdefault(self.key(l), name)
        self.widths.setdefault(self.key(l), width)

    def node(self, k: int, nodes: list[NodeRun], n: int) -> None:
        """Write a node: its modules, and the call of its unit."""
        if any(run.features[k + 1] not in self.classes.live for run in self.runs):
            raise NotExpressible
        parts, text, width = self.gather([node.reads for node in nodes], f"self[{k}].reads")
        units = [node.unit for node in nodes]
        code = self.text.calls.written_class_of(units)
        if code.shortcut_is_list:
            raise NotExpressible
        takes_shortcut = code.mode == "argument"
        shortcut, shortcut_parts, state = self.shortcut(k, nodes, code.optional) if takes_shortcut else ("", {}, "")
        if code.sliced:
            if text != "x" or code.takes_shortcut_width:
                raise NotExpressible
            text, width = leading_slice_text(code, units, text, width)
            if "c" in names(text) and "c = x.shape[1]" not in self.forward:
                self.forward.insert(0, "c = x.shape[1]")
        input_width = f"{width}, {state}" if code.takes_shortcut_width else width
        call = self.text.unit_call(units, input_width, [[node] for node in nodes], k)[1]
        self.append(k, call, parts, shortcut_parts)
        name = "x" if n == 1 and self.runs[0].output and self.simple_end() else f"y{k + 1}"
        raw = ("raw" if n == 1 else f"raw{k + 1}") if code.returns_pre_activation else ""
        self.call(k, code, text, shortcut, (name, raw))
        out = [self.classes.channels(unit.out) for unit in units]
        fixed = same(out) and len(self.runs) > 1
        width = str(out[0]) if fixed else self.text.calls.output_width(code, call, f"self[{k}].unit.out")
        self.names[self.key(k + 1)], self.widths[self.key(k + 1)] = name, width
        if raw:
            self.raws.add(raw)
            self.names[self.raw_key(k + 1)], self.widths[self.raw_key(k + 1)] = raw, width

    def append(self, k: int, call: str, reads: dict[str, Any], shortcut: dict[str, Any]) -> None:
        """Write the lines of the constructor that create a node's modules."""
        texts = {"unit": call}
        if reads:
            texts["reads"] = modules(reads)
        optional = modules(shortcut) if shortcut else ""
        if optional and k not in self.tests:
            texts["shortcut"], optional = optional, ""
        if sum(map(len, texts.values())) > 80:
            for role in [role for role in texts if role != "unit"]:
                self.init.append(f"{role} = {texts[role]}")
                texts[role] = role
        self.init.append(f"self.append({modules(texts)})")
        if optional:
            self.init += [f"if {self.tests[k]}:", f'    self[{k}]["shortcut"] = {optional}']

    def call(self, k: int, code: EmittedClass, x: str, shortcut: str, targets: tuple[str, str]) -> None:
        """Write the lines of the forward that call a node's unit."""
        if (code.leading_join or code.trailing_join) and shortcut != "shortcut" and len(x + shortcut) > WIDTH - 50:
            self.forward.append(f"shortcut = {shortcut}")
            shortcut = "shortcut"
        if code.trailing_join and k in self.tests:
            self.join(k, code.trailing_join, targets[0], x)
        else:
            call = unit_call(code, f"self[{k}].unit", x, shortcut)
            self.forward.append(f"{', '.join(filter(None, targets))} = {call}")

    def join(self, k: int, items: list[Item], name: str, text: str) -> None:
        """Write the call of a unit with an optional join; the items are the join and what follows it."""
        at = len(self.forward) - 1 - self.forward[::-1].index("shortcut = None")
        self.forward[at] = f"y = self[{k}].unit({text})"
        self.forward[-1] = f"    y = {joined(items[:1], 'y', self.forward[-1].removeprefix('    shortcut = '))}"
        self.forward.append(f"{name} = {joined(items[1:], 'y', '')}")

    def simple_end(self) -> bool:
        """Whether the output is the feature of the single node."""
        return all(run.output is not None and run.output.selected == [1] for run in self.runs)

    # ------------------------------------------------------------------ gathers

    def gather(self, ones: list[GatherRun], place: str, main: bool = True) -> tuple[dict, str, str]:
        """The modules, the expression and the channels of a gather; ``main``: whether it has a main path."""
        first = ones[0]
        gather = first.gather
        if any(one.gather.operator_type is not gather.operator_type for one in ones):
            raise NotExpressible
        sources = [source for source, _ in first.sources]
        if any([source for source, _ in one.sources] != sources for one in ones):
            raise NotExpressible
        has_main, complete = main and first.main is not None, main or first.main is None
        texts: list[str] = []
        widths: list[str] = []
        parts = self.apply_each(ones, place)
        for k, source in enumerate(sources):
            key = tuple(one.sources[k][1] for one in ones)
            text = self.source(ones, source, key, place, parts)
            texts.append(self.norm(ones, source, key, text, place, parts) if gather.norm != "none" else text)
            widths.append(self.widths[key])
        prepared = self.prepared(ones, texts, widths, place, parts) if sources else ""
        if prepared and len(texts) == 1:
            texts = [f"{texts[0]} * {place}.weights[0]" if gather.operator_type is not Gated else f"{prepared}[0]"]
        if has_main:
            mains = self.mains(ones)
            texts.append(self.names[mains])
            widths.append(self.widths[mains])
        if not texts:
            raise NotExpressible
        if prepared and len(sources) > 1:
            return parts, *self.join_prepared(ones, prepared, texts[-1] if has_main else None, widths, complete)
        return parts, *self.joined(ones, texts, widths, bool(has_main), complete)

    def prepared(self, ones: list[GatherRun], texts: list[str], widths: list[str], place: str, parts: dict) -> str:
        """The expression of the weighted and gated sources as a list; empty if they have neither weights nor gates."""
        gather, prepared, sources = ones[0].gather, "", f"[{', '.join(texts)}]"
        if gather.weight:
            parts["weights"] = self.weights(ones, f"[{', '.join(widths)}]")
            prepared = f"map(torch.mul, {sources}, {place}.weights)"
        if gather.operator_type is Gated:
            parts["gates"] = f"gates([{', '.join(widths)}])"
            prepared = f"gated({listed(prepared) or sources}, {place}.gates)"
        return prepared

    def mains(self, ones: list[GatherRun]) -> Key:
        return tuple(-1 if one.main is None else one.main for one in ones)

    def apply_each(self, ones: list[GatherRun], place: str) -> dict[str, Any]:
        """Write the calls of `each`, if the gather has one, and name their outputs; returns its modules."""
        parts: dict[str, Any] = {}
        if any((one.gather.raw and one.eaches) or list(one.eaches) != list(ones[0].eaches) for one in ones):
            raise NotExpressible
        k = min(ones[0].position, self.runs[0].n) - 1  # at position n + 1 names have the values of node n
        rows = [[run.nodes[k]] for run in self.runs]
        for source in ones[0].eaches:
            runs = [one.eaches[source] for one in ones]
            base, output = tuple(run.x for run in runs), tuple(run.out for run in runs)
            code, call = self.text.unit_call(runs, self.widths[base], rows, k)
            if code.returns_pre_activation or code.takes_pre_activation or parts.setdefault("each", call) != call:
                raise NotExpressible
            name = self.temporary("each")
            self.forward.append(f"{name} = {place}.each({self.names[base]})")
            self.names[output] = name
            out = [self.classes.channels(tensor) for tensor in output]
            self.widths[output] = (
                str(out[0]) if same(out) else self.text.calls.output_width(code, call, f"{place}.each.out")
            )
        return parts

    def weights(self, ones: list[GatherRun], widths: str) -> str:
        """The expression that creates the weights of sources of these widths."""
        starts = starts_of(ones)
        if all(one.plain for one in starts):
            return f"weights({widths})"
        if not same([one.value for one in starts]):
            raise NotExpressible
        return f"weights_from({starts[0].text}, {widths})"

    def join_prepared(
        self, ones: list[GatherRun], sources: str, main: str | None, widths: list[str], complete: bool
    ) -> tuple[str, str]:
        """The expression that joins a list of weighted or gated sources, and its channels."""
        word, count = ones[0].gather.operator.word, len(ones[0].sources) + (main is not None)
        tensors = f"[*{sources}, {main}]" if main else sources
        if word == "mixed":
            raise NotExpressible
        if word == "concat":
            return f"torch.cat({listed(tensors)}, 1)", _total(widths)
        if word == "product":
            return f"reduce(torch.mul, {tensors})", self.widest(ones, widths, main is not None)
        total = f"reduce(torch.add, {tensors})"
        return f"{total} / {count}" if word == "mean" and complete else total, widths[-1]

    def source(self, ones: list[GatherRun], source: int, key: Key, place: str, parts: dict) -> str:
        """The name of a source, after `match` if it goes through one."""
        matched = [source in one.matches for one in ones]
        if not any(matched):
            return self.names[key]
        if not all(matched):
            raise NotExpressible
        runs = [one.matches[source] for one in ones]
        base = tuple(run.x for run in runs)
        code = self.text.calls.written_class_of(runs)
        call = self.match_call(ones, runs, code, self.widths[base])
        parts.setdefault("match", {})[source] = call
        name = self.names[key] = self.temporary("fit")
        self.forward.append(f'{name} = {place}.match["{source}"]({self.names[base]})')
        out, mains = [self.classes.channels(tensor) for tensor in key], self.mains(ones)
        if same(out):
            self.widths[key] = str(out[0])
        elif mains in self.widths and out == [self.classes.channels(main) for main in mains]:
            self.widths[key] = self.widths[mains]
        else:
            self.widths[key] = self.text.calls.output_width(code, call, f'{place}.match["{source}"].out')
        return name

    def match_call(self, ones: list[GatherRun], runs: list[UnitRun], code: EmittedClass, width: str) -> str:
        """The call that creates the `match` unit of a source."""
        k = min(ones[0].position, self.runs[0].n) - 1  # at position n + 1 names have the values of node n
        rows = [[run.nodes[min(k, run.n - 1)]] for run in self.runs] if self.runs[0].n else []

        def express(name: str) -> str:
            values = [run.scope.get(name) for run in runs]
            fixed = None not in values and same(values)
            if rows and values == [row[0].scope.get(name) for row in rows] and not (fixed and name != "w"):
                return self.text.text_of(name, rows, k)
            if fixed:
                return str(values[0])
            raise NotExpressible

        return self.text.calls.arguments(code, width, express)

    def norm(self, ones: list[GatherRun], source: int, key: Key, text: str, place: str, parts: dict) -> str:
        word = ones[0].gather.norm
        groups = tuple(norm_groups(word, self.classes.channels(tensor)) for tensor in key)
        if (key, groups) in self.normed:
            return self.normed[key, groups]
        if word == "bn":
            self.check_norm(ones, source, key)
            parts.setdefault("norms", {})[source] = f"nn.BatchNorm2d({self.widths[key]}, affine=False)"
            call = f'{place}.norms["{source}"]({text})'
        elif same(list(groups)) and word != "in":
            call = f"torch.group_norm({text}, {groups[0]})"
        elif word == "in":
            call = f"torch.group_norm({text}, {text}.shape[1])"
        else:
            call = f"torch.group_norm({text}, math.gcd(32, {text}.shape[1]))"
        name = self.temporary("normed")
        self.forward.append(f"{name} = {call}")
        self.normed[key, groups] = name
        return name

    def check_norm(self, ones: list[GatherRun], source: int, key: Key) -> None:
        """Check that the graph has a norm with statistics at this gather."""
        tape = self.classes.traced.tape
        for one, tensor in zip(ones, key, strict=True):
            norm = tape.norms.get((tensor, 0))
            if norm is None or tape.paths[norm] != f"{one.path}.norms.{source}":
                raise NotExpressible

    def joined(
        self, ones: list[GatherRun], texts: list[str], widths: list[str], has_main: bool, complete: bool
    ) -> tuple[str, str]:
        word = ones[0].gather.operator.word
        out = ""
        if complete and len(self.runs) > 1:
            result = [self.classes.channels(one.result) for one in ones if one.result is not None]
            out = str(result[0]) if same(result) else ""
        if len(texts) == 1:
            return texts[0], widths[0]
        if word == "concat":
            return f"torch.cat([{', '.join(texts)}], 1)", out or _total(widths)
        if word == "mixed":
            raise NotExpressible
        if word == "product":
            return " * ".join(texts), out or self.widest(ones, widths, has_main)
        if word == "mean" and complete:
            return f"({' + '.join(texts)}) / {len(texts)}", out or widths[-1]
        return " + ".join(texts), out or widths[-1]

    def widest(self, ones: list[GatherRun], widths: list[str], has_main: bool) -> str:
        """The channels of a product, some factors of which may have a single channel."""
        rows = [[*[t for _, t in one.sources], *([one.main] if has_main else [])] for one in ones]
        channels = [[self.classes.channels(tensor) for tensor in row if tensor is not None] for row in rows]
        for k, width in enumerate(widths):
            if all(row[k] == max(row) for row in channels):
                return width
        raise NotExpressible

    # ------------------------------------------------------------------ shortcuts

    def shortcut(self, k: int, nodes: list[NodeRun], optional: bool) -> tuple[str, dict, str]:
        """The expression, the modules and the channels of a node's shortcut."""
        ones = [node.shortcut for node in nodes]
        if any(one is None for one in ones):
            raise NotExpressible
        result = [bool(one.sources) for one in ones if one]
        if not any(result):
            if not optional:
                raise NotExpressible
            return "", {}, ""
        place = f"self[{k}].shortcut"
        if all(result):
            parts, text, width = self.gather(ones, place, main=False)  # type: ignore[arg-type]
            return text, parts, width
        return self.optional_shortcut(k, nodes, result, place)

    def optional_shortcut(self, k: int, nodes: list[NodeRun], present: list[bool], place: str) -> tuple[str, dict, str]:
        """The same for a shortcut that is missing at some uses."""
        ones: list[GatherRun] = [node.shortcut for node in nodes]  # type: ignore[misc]
        model = next(one for one in ones if one.sources)
        if any(one.matches or one.eaches for one in ones):
            raise NotExpressible
        # Where it is missing, the features that it would take stand for it.
        completed = [
            one if one.sources else replace(one, sources=[(i, run.features[i]) for i, _ in model.sources])
            for run, one in zip(self.runs, ones, strict=True)
        ]
        begin, tensor_names, normed = len(self.forward), _TensorTexts(self.names), dict(self.normed)
        parts, text, width = self.gather(completed, place, main=False)
        self.names, self.normed = tensor_names, normed
        lines = self.forward[begin:]
        del self.forward[begin:]
        test = self.condition(k, nodes, present)
        check = f'"shortcut" in self[{k}]'
        if not parts:
            check = f"self.joined{k}"
            self.init.append(f"{check} = {test}")
        self.forward += ["shortcut = None", f"if {check}:", *[f"    {line}" for line in lines]]
        self.forward.append(f"    shortcut = {text}")
        self.tests[k] = test
        return "shortcut", parts, width

    def condition(self, k: int, nodes: list[NodeRun], present: list[bool]) -> str:
        """The condition under which a shortcut is present."""
        rows = [[node] for node in nodes]
        if present == [node.scope["s"] == 1 for node in nodes]:
            return f"{self.text.text_of('s', rows, k)} == 1"
        raise NotExpressible


def split_width(run: UnitRun, classes: Any) -> int:
    """The channels of a split shortcut that a unit takes."""
    total = 0
    for step in run.steps:
        if isinstance(step.step, Join):
            total += classes.channels(step.x)
        elif isinstance(step.run, UnitRun) and step.run.unit.takes_shortcut:
            total += split_width(step.run, classes)
        elif isinstance(step.run, AggregateRun) and step.run.split:
            total += sum(split_width(node.unit, classes) for node in step.run.nodes)
    return total


def _total(widths: list[str]) -> str:
    if all(width.isdigit() for width in widths):
        return str(sum(int(width) for width in widths))
    return " + ".join(widths)


def leading_slice_text(code: EmittedClass, units: list[UnitRun], x: str, width: str) -> tuple[str, str]:
    """The expression of the slice at the beginning of a node's unit, and its channels.

    Args:
        code: The unit's class.
        units: The unit at each use.
        x: The tensor that the node reads.
        width: Its channels, in the names of the constructor.
    """
    steps: list[StepRun] = [leading_slice(unit) for unit in units]  # type: ignore[misc]
    fields = {**dict(steps[0].step.fixed), **dict(steps[0].step.numbers)}
    uses = [{"_in" if name == "in" else name: value for name, value in step.local.items()} for step in steps]
    trees = {name: _tree(fields[name]) for name in ("from", "slice")}

    def field_text(name: str, channels: str) -> str:
        return Simplified(trees[name], uses, {"_in": channels, "c": channels}).text

    begin, size = field_text("from", "c"), field_text("slice", "c")
    last = all(v["from"] + v["slice"] == s.local["c"] for s, v in ((s, s.step.values(s.local)) for s in steps))
    times = 1 if begin == size else _multiple(begin, size)
    end = "" if last else size if begin == "0" else f"{times + 1} * ({size})" if times else f"{begin} + {size}"
    begin = "" if begin == "0" else begin
    return show(parse(f"{x}[:, {begin}:{end}]")), field_text("slice", width)


def _multiple(text: str, part: str) -> int:
    """The factor by which an expression multiplies a part; 0 if it is not such a product."""
    match parse(text):
        case ast.BinOp(left=ast.Constant(value=int(times)), op=ast.Mult(), right=right) if show(right) == part:
            return times
    return 0


def _tree(field: Any) -> ast.expr:
    return field.expression.tree() if hasattr(field, "expression") else ast.Constant(field)
