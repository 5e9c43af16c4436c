"""Aggregates whose nodes are written one by one: branches, single nodes, and what no loop says."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

from nas_agg.compiler.codegen.classes import Class, leading
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


class Unrolled:
    """Writes the bodies of an aggregate's constructor and forward node by node."""

    def __init__(self, text: Schedules):
        self.text, self.made, self.classes = text, text.made, text.classes
        self.runs = text.runs
        self.init: list[str] = []
        self.forward: list[str] = []
        self.names: dict[Key, str] = {}
        self.normed: dict[tuple[Key, tuple[int, ...]], str] = {}
        self.widths: dict[Key, str] = {}
        self.tests: dict[int, str] = {}
        self.temporaries: set[str] = set()
        self.raws: set[str] = set()
        self.count = 0

    def write(self) -> None:
        made, n = self.made, self.runs[0].n
        if made.gives or self.runs[0].dealt:
            raise NotExpressible
        self.name(0, "x", "in_")
        if made.takes:
            self.names.setdefault(self.raw_key(0), "raw")
            self.widths.setdefault(self.raw_key(0), "in_")
        for k in range(n):
            self.node(k, [run.nodes[k] for run in self.runs], n)
        outs = [run.output for run in self.runs]
        parts, text, width = self.gather("output", outs, "self.output")  # type: ignore[arg-type]
        if parts:
            self.init.append(f"self.output = {modules(parts)}")
        self.forward.append(f"return {text}")
        if len(self.forward) > 1 and self.forward[-2].startswith(f"{text} = "):
            last = self.forward.pop(-2)
            self.forward[-1] = "return " + last.removeprefix(f"{text} = ")
        body = inline_names(statements(self.forward), self.temporaries, {f"y{k + 1}" for k in range(n)})
        made.forward = drop_pairs(body, self.raws)
        made.init = fold_loops(statements(self.init), self.classes.counter)
        made.out = self.text.leaving(width)
        made.width = made.out or width
        made.forward_parameters = "x" + (", shortcut" if made.mode == "given" else "") + ", raw" * made.takes

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
        if any(run.features[k + 1] not in self.classes.live for run in self.runs):
            raise NotExpressible
        parts, text, width = self.gather("reads", [node.reads for node in nodes], f"self[{k}].reads")
        units = [node.unit for node in nodes]
        rows = [[node] for node in nodes]
        given, extra, state = "", dict[str, Any](), ""
        made = self.text.calls.written(self.classes.of[id(units[0])])
        if made.several:
            raise NotExpressible
        if made.mode == "given":
            given, extra, state = self.given(k, nodes, made.optional)
        if made.sliced:
            if text != "x" or made.state:
                raise NotExpressible
            text, width = sliced(made, units, text, width)
            if "c" in names(text) and "c = x.shape[1]" not in self.forward:
                self.forward.insert(0, "c = x.shape[1]")
        made, call = self.text.unit_call(units, f"{width}, {state}" if made.state else width, rows, k)
        written = {"unit": call}
        if parts:
            written["reads"] = modules(parts)
        if extra:
            written["shortcut"] = modules(extra)
        optional = written.pop("shortcut", None) if k in self.tests else None
        if sum(map(len, written.values())) > 80:
            for role in [role for role in written if role != "unit"]:
                self.init.append(f"{role} = {written[role]}")
                written[role] = role
        inner = ", ".join(f'"{name}": {value}' for name, value in written.items())
        self.init.append(f"self.append(nn.ModuleDict({{{inner}}}))")
        if optional:
            self.init += [f"if {self.tests[k]}:", f'    self[{k}]["shortcut"] = {optional}']
        name = "x" if n == 1 and self.runs[0].output and self.simple_end() else f"y{k + 1}"
        pair = ""
        if made.gives:
            pair = ", raw" if n == 1 else f", raw{k + 1}"
            self.names[self.raw_key(k + 1)] = pair[2:]
            self.raws.add(pair[2:])
        if (made.ahead or made.behind) and given != "shortcut" and len(text + given) > WIDTH - 50:
            self.forward.append(f"shortcut = {given}")
            given = "shortcut"
        if made.behind and k in self.tests:
            self.join(k, made.behind, name, text)
        else:
            self.forward.append(f"{name}{pair} = {unit_call(made, f'self[{k}].unit', text, given)}")
        out = [self.classes.channels(unit.out) for unit in units]
        key = self.key(k + 1)
        self.names[key] = name
        width = (
            str(out[0]) if same(out) and len(self.runs) > 1 else self.text.calls.out(made, call, f"self[{k}].unit.out")
        )
        self.widths[key] = width
        if made.gives:
            self.widths[self.raw_key(k + 1)] = width

    def join(self, k: int, behind: list[Item], name: str, text: str) -> None:
        """The call of a unit whose join, which is there at some uses, and what follows it are written here."""
        at = len(self.forward) - 1 - self.forward[::-1].index("shortcut = None")
        self.forward[at] = f"y = self[{k}].unit({text})"
        self.forward[-1] = f"    y = {joined(behind[:1], 'y', self.forward[-1].removeprefix('    shortcut = '))}"
        self.forward.append(f"{name} = {joined(behind[1:], 'y', '')}")

    def simple_end(self) -> bool:
        """Whether nothing but the newest feature is needed behind a single node."""
        return all(run.output is not None and run.output.asked == [1] for run in self.runs)

    # ------------------------------------------------------------------ gathers

    def gather(self, role: str, ones: list[GatherRun], place: str, main: bool = True) -> tuple[dict, str, str]:
        """Its modules, its expression and its channels."""
        first = ones[0]
        gather = first.gather
        if any(one.gather.operator_type is not gather.operator_type for one in ones):
            raise NotExpressible
        sources = [source for source, _ in first.sources]
        if any([source for source, _ in one.sources] != sources for one in ones):
            raise NotExpressible
        has_main = main and first.main is not None
        whole = main or first.main is None
        mains = tuple(-1 if one.main is None else one.main for one in ones)
        texts: list[str] = []
        widths: list[str] = []
        parts = self.passed(ones, place)
        for k, source in enumerate(sources):
            key = tuple(one.sources[k][1] for one in ones)
            text = self.source(role, ones, source, key, place, parts)
            width = self.widths[key]
            if gather.norm != "none":
                text = self.norm(ones, source, key, text, place, parts)
            texts.append(text)
            widths.append(width)
        changed = ""
        if gather.weight and sources:
            parts["weights"] = self.weights(ones, f"[{', '.join(widths)}]")
            changed = f"map(torch.mul, [{', '.join(texts)}], {place}.weights)"
            texts = [f"{texts[0]} * {place}.weights[0]"] if len(texts) == 1 else texts
        if gather.operator_type is Gated and sources:
            parts["gates"] = f"gates([{', '.join(widths)}])"
            changed = f"gated({listed(changed) or '[' + ', '.join(texts) + ']'}, {place}.gates)"
            texts = [f"{changed}[0]"] if len(texts) == 1 else texts
        if has_main:
            if mains not in self.names:
                raise NotExpressible
            texts.append(self.names[mains])
            widths.append(self.widths[mains])
        if not texts:
            raise NotExpressible
        if changed and len(sources) > 1:
            return parts, *self.changed(ones, changed, texts[-1] if has_main else None, widths, whole)
        return parts, *self.joined(ones, texts, widths, bool(has_main), whole)

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
            if base not in self.names:
                raise NotExpressible
            made, call = self.text.unit_call(runs, self.widths[base], rows, k)
            if made.gives or made.takes or parts.setdefault("each", call) != call:
                raise NotExpressible
            name = self.temporary("each")
            self.forward.append(f"{name} = {place}.each({self.names[base]})")
            self.names[behind] = name
            out = [self.classes.channels(tensor) for tensor in behind]
            self.widths[behind] = str(out[0]) if same(out) else self.text.calls.out(made, call, f"{place}.each.out")
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
        """What sources become that were weighted or gated together."""
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

    def source(self, role: str, ones: list[GatherRun], source: int, key: Key, place: str, parts: dict) -> str:
        matched = [source in one.matches for one in ones]
        if not any(matched):
            if key not in self.names:
                raise NotExpressible
            return self.names[key]
        if not all(matched):
            raise NotExpressible
        runs: list[UnitRun] = [one.matches[source] for one in ones]
        made = self.classes.of[id(runs[0])]
        if any(self.classes.of[id(run)] is not made for run in runs):
            raise NotExpressible
        self.text.calls.written(made)
        base = tuple(run.x for run in runs)
        if base not in self.names:
            raise NotExpressible
        k = min(ones[0].position, self.runs[0].n) - 1  # at position n + 1 names are what they were at node n
        rows = [[run.nodes[min(k, run.n - 1)]] for run in self.runs] if self.runs[0].n else []

        def said(name: str) -> str:
            values = [run.scope.get(name) for run in runs]
            if None not in values and same(values) and name != "w":
                return str(values[0])
            if rows and values == [row[0].scope.get(name) for row in rows]:
                return self.text.text_of(name, rows, k)
            if None not in values and same(values):
                return str(values[0])
            raise NotExpressible

        call = self.text.calls.arguments(made, self.widths[base], said)
        parts.setdefault("match", {})[source] = call
        name = self.temporary("fit")
        self.forward.append(f'{name} = {place}.match["{source}"]({self.names[base]})')
        self.names[key] = name
        out = [self.classes.channels(tensor) for tensor in key]
        mains = tuple(-1 if one.main is None else one.main for one in ones)
        if same(out):
            self.widths[key] = str(out[0])
        elif mains in self.widths and out == [self.classes.channels(main) for main in mains]:
            self.widths[key] = self.widths[mains]
        else:
            self.widths[key] = self.text.calls.out(made, call, f'{place}.match["{source}"].out')
        return name

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
            found = [self.classes.channels(one.result) for one in ones if one.result is not None]
            out = str(found[0]) if same(found) else ""
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
        """What a unit is given for its join."""
        ones = [node.shortcut for node in nodes]
        if any(one is None for one in ones):
            raise NotExpressible
        found = [bool(one.sources) for one in ones if one]
        if not any(found):
            if not optional:
                raise NotExpressible
            return "", {}, ""
        place = f"self[{k}].shortcut"
        if all(found):
            parts, text, width = self.gather("shortcut", ones, place, main=False)  # type: ignore[arg-type]
            return text, parts, width
        return self.sometimes(k, nodes, found, place)

    def sometimes(self, k: int, nodes: list[NodeRun], found: list[bool], place: str) -> tuple[str, dict, str]:
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
        begin, names, normed = len(self.forward), dict(self.names), dict(self.normed)
        parts, text, width = self.gather("shortcut", taken, place, main=False)
        self.names, self.normed = names, normed
        lines = self.forward[begin:]
        del self.forward[begin:]
        test = self.when(k, nodes, found)
        check = f'"shortcut" in self[{k}]'
        if not parts:
            check = f"self.joined{k}"
            self.init.append(f"{check} = {test}")
        self.forward += ["shortcut = None", f"if {check}:", *[f"    {line}" for line in lines]]
        self.forward.append(f"    shortcut = {text}")
        self.tests[k] = test
        return "shortcut", parts, width

    def when(self, k: int, nodes: list[NodeRun], found: list[bool]) -> str:
        """The condition of a shortcut, in the names that decide it."""
        rows = [[node] for node in nodes]
        if found == [node.scope["s"] == 1 for node in nodes]:
            return f"{self.text.text_of('s', rows, k)} == 1"
        raise NotExpressible


def taken(run: UnitRun, classes: Any) -> int:
    """The channels of a dealt shortcut that a unit takes."""
    total = 0
    for step in run.steps:
        if isinstance(step.step, Join):
            total += classes.channels(step.x)
        elif isinstance(step.run, UnitRun) and step.run.unit.takes_shortcut:
            total += taken(step.run, classes)
        elif isinstance(step.run, AggregateRun) and step.run.dealt:
            total += sum(taken(node.unit, classes) for node in step.run.nodes)
    return total


def _total(widths: list[str]) -> str:
    if all(width.isdigit() for width in widths):
        return str(sum(int(width) for width in widths))
    return " + ".join(widths)


def sliced(made: Class, units: list[UnitRun], x: str, width: str) -> tuple[str, str]:
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
    """How many times a part a text is; 0 if it is no such product."""
    match parse(text):
        case ast.BinOp(left=ast.Constant(value=int(times)), op=ast.Mult(), right=right) if show(right) == part:
            return times
    return 0


def _tree(field: Any) -> ast.expr:
    return field.expression.tree() if hasattr(field, "expression") else ast.Constant(field)
