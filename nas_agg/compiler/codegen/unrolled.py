"""Aggregates whose nodes are written one by one: branches, single nodes, and what no loop says."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

from nas_agg.compiler.codegen.classes import EmittedClass, leading
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

Key = tuple[int, ...]  # a tensor: its number at each use


class _Known(dict[Key, str]):
    """The names of tensors."""

    def __missing__(self, key: Key) -> str:
        raise NotExpressible


class Unrolled:
    """Writes the bodies of an aggregate's constructor and forward node by node."""

    def __init__(self, text: Schedules):
        self.text, self.code, self.classes = text, text.code, text.classes
        self.runs = text.runs
        self.init: list[str] = []
        self.forward: list[str] = []
        self.names = _Known()
        self.normed: dict[tuple[Key, tuple[int, ...]], str] = {}
        self.widths = _Known()
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
        code.out = self.text.leaving(width)
        code.width = code.out or width
        code.forward_parameters = (
            "x" + (", shortcut" if code.mode == "given" else "") + ", raw" * code.takes_pre_activation
        )

    def temporary(self, what: str) -> str:
        """A name for what may be written where it is used; the features behind `each` keep theirs."""
        self.count += 1
        if what != "each":
            self.temporaries.add(f"{what}{self.count}")
        return f"{what}{self.count}"

    def key(self, l: int) -> Key:
        return tuple(run.features[l] for run in self.runs)

    def raw_key(self, l: int) -> Key:
        return tuple(self.classes.traced.tape.pre_activation(run.features[l]) for run in self.runs)

    def name(self, l: int, name: str, width: str) -> None:
        self.names.setdefault(self.key(l), name)
        self.widths.setdefault(self.key(l), width)

    def node(self, k: int, nodes: list[NodeRun], n: int) -> None:
        """A node: its modules, and the call of its unit."""
        if any(run.features[k + 1] not in self.classes.live for run in self.runs):
            raise NotExpressible
        parts, text, width = self.gather([node.reads for node in nodes], f"self[{k}].reads")
        units = [node.unit for node in nodes]
        code = self.text.calls.written_for(units)
        if code.shortcut_is_list:
            raise NotExpressible
        given, shortcut, state = self.given(k, nodes, code.optional) if code.mode == "given" else ("", {}, "")
        if code.sliced:
            if text != "x" or code.state:
                raise NotExpressible
            text, width = sliced(code, units, text, width)
            if "c" in names(text) and "c = x.shape[1]" not in self.forward:
                self.forward.insert(0, "c = x.shape[1]")
        entering = f"{width}, {state}" if code.state else width
        call = self.text.unit_call(units, entering, [[node] for node in nodes], k)[1]
        self.append(k, call, parts, shortcut)
        name = "x" if n == 1 and self.runs[0].output and self.simple_end() else f"y{k + 1}"
        raw = ("raw" if n == 1 else f"raw{k + 1}") if code.returns_pre_activation else ""
        self.call(k, code, text, given, (name, raw))
        out = [self.classes.channels(unit.out) for unit in units]
        fixed = same(out) and len(self.runs) > 1
        width = str(out[0]) if fixed else self.text.calls.out(code, call, f"self[{k}].unit.out")
        self.names[self.key(k + 1)], self.widths[self.key(k + 1)] = name, width
        if raw:
            self.raws.add(raw)
            self.names[self.raw_key(k + 1)], self.widths[self.raw_key(k + 1)] = raw, width

    def append(self, k: int, call: str, reads: dict[str, Any], shortcut: dict[str, Any]) -> None:
        """The lines of the constructor that make a node's modules."""
        written = {"unit": call}
        if reads:
            written["reads"] = modules(reads)
        optional = modules(shortcut) if shortcut else ""
        if optional and k not in self.tests:
            written["shortcut"], optional = optional, ""
        if sum(map(len, written.values())) > 80:
            for role in [role for role in written if role != "unit"]:
                self.init.append(f"{role} = {written[role]}")
                written[role] = role
        self.init.append(f"self.append({modules(written)})")
        if optional:
            self.init += [f"if {self.tests[k]}:", f'    self[{k}]["shortcut"] = {optional}']

    def call(self, k: int, code: EmittedClass, x: str, given: str, targets: tuple[str, str]) -> None:
        """The lines of the forward that call a node's unit."""
        if (code.leading_join or code.trailing_join) and given != "shortcut" and len(x + given) > WIDTH - 50:
            self.forward.append(f"shortcut = {given}")
            given = "shortcut"
        if code.trailing_join and k in self.tests:
            self.join(k, code.trailing_join, targets[0], x)
        else:
            self.forward.append(f"{', '.join(filter(None, targets))} = {unit_call(code, f'self[{k}].unit', x, given)}")

    def join(self, k: int, behind: list[Item], name: str, text: str) -> None:
        """The call of a unit whose join, which is there at some uses, and what follows it are written here."""
        at = len(self.forward) - 1 - self.forward[::-1].index("shortcut = None")
        self.forward[at] = f"y = self[{k}].unit({text})"
        self.forward[-1] = f"    y = {joined(behind[:1], 'y', self.forward[-1].removeprefix('    shortcut = '))}"
        self.forward.append(f"{name} = {joined(behind[1:], 'y', '')}")

    def simple_end(self) -> bool:
        """True if only the newest feature is needed after a single node."""
        return all(run.output is not None and run.output.selected == [1] for run in self.runs)

    # ------------------------------------------------------------------ gathers

    def gather(self, ones: list[GatherRun], place: str, main: bool = True) -> tuple[dict, str, str]:
        """Its modules, its expression and its channels."""
        first = ones[0]
        gather = first.gather
        if any(one.gather.operator_type is not gather.operator_type for one in ones):
            raise NotExpressible
        sources = [source for source, _ in first.sources]
        if any([source for source, _ in one.sources] != sources for one in ones):
            raise NotExpressible
        has_main, whole = main and first.main is not None, main or first.main is None
        texts: list[str] = []
        widths: list[str] = []
        parts = self.passed(ones, place)
        for k, source in enumerate(sources):
            key = tuple(one.sources[k][1] for one in ones)
            text = self.source(ones, source, key, place, parts)
            texts.append(self.norm(ones, source, key, text, place, parts) if gather.norm != "none" else text)
            widths.append(self.widths[key])
        changed = self.prepared(ones, texts, widths, place, parts) if sources else ""
        if changed and len(texts) == 1:
            texts = [f"{texts[0]} * {place}.weights[0]" if gather.operator_type is not Gated else f"{changed}[0]"]
        if has_main:
            mains = self.mains(ones)
            texts.append(self.names[mains])
            widths.append(self.widths[mains])
        if not texts:
            raise NotExpressible
        if changed and len(sources) > 1:
            return parts, *self.changed(ones, changed, texts[-1] if has_main else None, widths, whole)
        return parts, *self.joined(ones, texts, widths, bool(has_main), whole)

    def prepared(self, ones: list[GatherRun], texts: list[str], widths: list[str], place: str, parts: dict) -> str:
        """The sources with their weights and gates, as a list; empty if they have none."""
        gather, changed, sources = ones[0].gather, "", f"[{', '.join(texts)}]"
        if gather.weight:
            parts["weights"] = self.weights(ones, f"[{', '.join(widths)}]")
            changed = f"map(torch.mul, {sources}, {place}.weights)"
        if gather.operator_type is Gated:
            parts["gates"] = f"gates([{', '.join(widths)}])"
            changed = f"gated({listed(changed) or sources}, {place}.gates)"
        return changed

    def mains(self, ones: list[GatherRun]) -> Key:
        return tuple(-1 if one.main is None else one.main for one in ones)

    def passed(self, ones: list[GatherRun], place: str) -> dict[str, Any]:
        """The unit that all features go through, if there is one; they bear names behind it."""
        parts: dict[str, Any] = {}
        if any((one.gather.raw and one.eaches) or list(one.eaches) != list(ones[0].eaches) for one in ones):
            raise NotExpressible
        k = min(ones[0].position, self.runs[0].n) - 1  # at position n + 1 names are what they were at node n
        rows = [[run.nodes[k]] for run in self.runs]
        for source in ones[0].eaches:
            runs = [one.eaches[source] for one in ones]
            base, behind = tuple(run.x for run in runs), tuple(run.out for run in runs)
            code, call = self.text.unit_call(runs, self.widths[base], rows, k)
            if code.returns_pre_activation or code.takes_pre_activation or parts.setdefault("each", call) != call:
                raise NotExpressible
            name = self.temporary("each")
            self.forward.append(f"{name} = {place}.each({self.names[base]})")
            self.names[behind] = name
            out = [self.classes.channels(tensor) for tensor in behind]
            self.widths[behind] = str(out[0]) if same(out) else self.text.calls.out(code, call, f"{place}.each.out")
        return parts

    def weights(self, ones: list[GatherRun], widths: str) -> str:
        """The weights of sources of these widths, as they start."""
        starts = starts_of(ones)
        if all(one.plain for one in starts):
            return f"weights({widths})"
        if not same([one.value for one in starts]):
            raise NotExpressible
        return f"weights_from({starts[0].text}, {widths})"

    def changed(
        self, ones: list[GatherRun], sources: str, main: str | None, widths: list[str], whole: bool
    ) -> tuple[str, str]:
        """The joined sources, which were weighted or gated as a list."""
        word, count = ones[0].gather.operator.word, len(ones[0].sources) + (main is not None)
        tensors = f"[*{sources}, {main}]" if main else sources
        if word == "mixed":
            raise NotExpressible
        if word == "concat":
            return f"torch.cat({listed(tensors)}, 1)", _total(widths)
        if word == "product":
            return f"reduce(torch.mul, {tensors})", self.widest(ones, widths, main is not None)
        total = f"reduce(torch.add, {tensors})"
        return f"{total} / {count}" if word == "mean" and whole else total, widths[-1]

    def source(self, ones: list[GatherRun], source: int, key: Key, place: str, parts: dict) -> str:
        """A source, through `match` where it goes through that."""
        matched = [source in one.matches for one in ones]
        if not any(matched):
            return self.names[key]
        if not all(matched):
            raise NotExpressible
        runs = [one.matches[source] for one in ones]
        base = tuple(run.x for run in runs)
        code = self.text.calls.written_for(runs)
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
            self.widths[key] = self.text.calls.out(code, call, f'{place}.match["{source}"].out')
        return name

    def match_call(self, ones: list[GatherRun], runs: list[UnitRun], code: EmittedClass, width: str) -> str:
        """The call that creates the projection of a source."""
        k = min(ones[0].position, self.runs[0].n) - 1  # at position n + 1 names are what they were at node n
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
            self.own_norm(ones, source, key)
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

    def own_norm(self, ones: list[GatherRun], source: int, key: Key) -> None:
        """A norm with statistics is where the graph has it."""
        tape = self.classes.traced.tape
        for one, tensor in zip(ones, key, strict=True):
            norm = tape.norms.get((tensor, 0))
            if norm is None or tape.paths[norm] != f"{one.path}.norms.{source}":
                raise NotExpressible

    def joined(
        self, ones: list[GatherRun], texts: list[str], widths: list[str], has_main: bool, whole: bool
    ) -> tuple[str, str]:
        word = ones[0].gather.operator.word
        out = ""
        if whole and len(self.runs) > 1:
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
        if word == "mean" and whole:
            return f"({' + '.join(texts)}) / {len(texts)}", out or widths[-1]
        return " + ".join(texts), out or widths[-1]

    def widest(self, ones: list[GatherRun], widths: list[str], has_main: bool) -> str:
        """The channels of a product, of which some factors may have a single one."""
        rows = [[*[t for _, t in one.sources], *([one.main] if has_main else [])] for one in ones]
        channels = [[self.classes.channels(tensor) for tensor in row if tensor is not None] for row in rows]
        for k, width in enumerate(widths):
            if all(row[k] == max(row) for row in channels):
                return width
        raise NotExpressible

    # ------------------------------------------------------------------ shortcuts

    def given(self, k: int, nodes: list[NodeRun], optional: bool) -> tuple[str, dict, str]:
        """The expression of the shortcut that a unit joins."""
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
        return self.sometimes(k, nodes, result, place)

    def sometimes(self, k: int, nodes: list[NodeRun], result: list[bool], place: str) -> tuple[str, dict, str]:
        """A shortcut that is there at some uses alone."""
        ones: list[GatherRun] = [node.shortcut for node in nodes]  # type: ignore[misc]
        model = next(one for one in ones if one.sources)
        if any(one.matches or one.eaches for one in ones):
            raise NotExpressible
        # Where there is none, the features that it would take stand for it.
        taken = [
            one if one.sources else replace(one, sources=[(i, run.features[i]) for i, _ in model.sources])
            for run, one in zip(self.runs, ones, strict=True)
        ]
        begin, known, normed = len(self.forward), _Known(self.names), dict(self.normed)
        parts, text, width = self.gather(taken, place, main=False)
        self.names, self.normed = known, normed
        lines = self.forward[begin:]
        del self.forward[begin:]
        test = self.when(k, nodes, result)
        check = f'"shortcut" in self[{k}]'
        if not parts:
            check = f"self.joined{k}"
            self.init.append(f"{check} = {test}")
        self.forward += ["shortcut = None", f"if {check}:", *[f"    {line}" for line in lines]]
        self.forward.append(f"    shortcut = {text}")
        self.tests[k] = test
        return "shortcut", parts, width

    def when(self, k: int, nodes: list[NodeRun], result: list[bool]) -> str:
        """The condition of a shortcut, in the names that decide it."""
        rows = [[node] for node in nodes]
        if result == [node.scope["s"] == 1 for node in nodes]:
            return f"{self.text.text_of('s', rows, k)} == 1"
        raise NotExpressible


def taken(run: UnitRun, classes: Any) -> int:
    """The channels of a split shortcut that a unit takes."""
    total = 0
    for step in run.steps:
        if isinstance(step.step, Join):
            total += classes.channels(step.x)
        elif isinstance(step.run, UnitRun) and step.run.unit.takes_shortcut:
            total += taken(step.run, classes)
        elif isinstance(step.run, AggregateRun) and step.run.split:
            total += sum(taken(node.unit, classes) for node in step.run.nodes)
    return total


def _total(widths: list[str]) -> str:
    if all(width.isdigit() for width in widths):
        return str(sum(int(width) for width in widths))
    return " + ".join(widths)


def sliced(code: EmittedClass, units: list[UnitRun], x: str, width: str) -> tuple[str, str]:
    """The slice of what a node reads, and its channels.

    Args:
        made: The unit's class.
        units: At each use.
        x: The tensor that the node reads.
        width: Its channels, in the constructor.
    """
    steps: list[StepRun] = [leading(unit) for unit in units]  # type: ignore[misc]
    fields = {**dict(steps[0].step.fixed), **dict(steps[0].step.numbers)}
    uses = [{"_in" if name == "in" else name: value for name, value in step.local.items()} for step in steps]
    trees = {name: _tree(fields[name]) for name in ("from", "slice")}

    def say(name: str, whole: str) -> str:
        return Simplified(trees[name], uses, {"_in": whole, "c": whole}).text

    begin, size = say("from", "c"), say("slice", "c")
    last = all(v["from"] + v["slice"] == s.local["c"] for s, v in ((s, s.step.values(s.local)) for s in steps))
    times = 1 if begin == size else _multiple(begin, size)
    end = "" if last else size if begin == "0" else f"{times + 1} * ({size})" if times else f"{begin} + {size}"
    begin = "" if begin == "0" else begin
    return show(parse(f"{x}[:, {begin}:{end}]")), say("slice", width)


def _multiple(text: str, part: str) -> int:
    """The factor by which an expression multiplies a part; 0 if it is no such product."""
    match parse(text):
        case ast.BinOp(left=ast.Constant(value=int(times)), op=ast.Mult(), right=right) if show(right) == part:
            return times
    return 0


def _tree(field: Any) -> ast.expr:
    return field.expression.tree() if hasattr(field, "expression") else ast.Constant(field)
