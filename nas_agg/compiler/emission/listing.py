"""Aggregates whose nodes are written one by one: branches, single nodes, and what no loop says."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nas_agg.compiler.emission.numbers import Unsaid, same
from nas_agg.compiler.emission.text import WIDTH
from nas_agg.compiler.emission.trace import AggregateRun, GatherRun, NodeRun, UnitRun
from nas_agg.layers import norm_groups
from nas_agg.operators import Gated
from nas_agg.parts import Join

if TYPE_CHECKING:
    from nas_agg.compiler.emission.aggregates import AggregateText

Key = tuple[int, ...]  # a tensor: its number at each use


class Listing:
    """Writes the bodies of an aggregate's constructor and forward node by node."""

    def __init__(self, text: AggregateText):
        self.text, self.made, self.classes = text, text.made, text.classes
        self.runs = text.runs
        self.init: list[str] = []
        self.forward: list[str] = []
        self.names: dict[Key, str] = {}
        self.normed: dict[tuple[Key, tuple[int, ...]], str] = {}
        self.widths: dict[Key, str] = {}
        self.taken = 0
        self.tests: dict[int, str] = {}
        self.temporary = 0

    def write(self) -> None:
        made, n = self.made, self.runs[0].n
        self.name(0, "x", "in_")
        if made.takes:
            self.names.setdefault(self.raw_key(0), "raw")
            self.widths.setdefault(self.raw_key(0), "in_")
        for k in range(n):
            self.node(k, [run.nodes[k] for run in self.runs], n)
        outs = [run.output for run in self.runs]
        parts, text, width = self.gather("output", outs, "self.output")  # type: ignore[arg-type]
        if parts:
            self.init.append(f"self.output = {_dict(parts)}")
        self.forward.append(f"return {text}")
        if not made.gives and len(self.forward) > 1 and self.forward[-2].startswith(f"{text} = "):
            last = self.forward.pop(-2)
            self.forward[-1] = "return " + last.removeprefix(f"{text} = ")
        self.forward = inlined(self.forward)
        made.lines = self.init
        made.out = "in_" if width == "in_" else None
        made.out_line = f"self.out = {width}"
        given = (", shortcut" if made.mode == "given" else "") + (", raw" if made.takes else "")
        if made.gives:
            self.forward[-1] += f", {self.leaving_raw()}"
        body = "\n".join(self.forward)
        for name in set(re.findall(r"\braw\d*\b", body)):
            if len(re.findall(rf"\b{name}\b", body)) == 1:  # given, and needed by no one
                self.forward = [re.sub(rf", {name} =", ", _ =", line) for line in self.forward]
        head = f"def forward(self, x{given}):"
        made.forward = [head, *[f"    {line}" for line in self.forward]]

    def key(self, l: int) -> Key:
        return tuple(run.features[l] for run in self.runs)

    def raw_key(self, l: int) -> Key:
        return tuple(self.classes.traced.tape.raw(run.features[l]) for run in self.runs)

    def leaving_raw(self) -> str:
        """The raw form of what leaves."""
        outs = [run.output for run in self.runs]
        if any(out is None or out.asked != outs[0].asked for out in outs):  # type: ignore[union-attr]
            raise Unsaid
        keys = [self.raw_key(l) for l in outs[0].asked]  # type: ignore[union-attr]
        if any(key not in self.names for key in keys):
            raise Unsaid
        texts = [self.names[key] for key in keys]
        return texts[0] if len(texts) == 1 else f"torch.cat([{', '.join(texts)}], 1)"

    def name(self, l: int, name: str, width: str) -> None:
        self.names.setdefault(self.key(l), name)
        self.widths.setdefault(self.key(l), width)

    def node(self, k: int, nodes: list[NodeRun], n: int) -> None:
        alive = [run.features[k + 1] in self.classes.live for run in self.runs]
        if not any(alive):
            self.init.append("self.append(nn.Identity())  # leads nowhere")
            self.text.writer.left_out.update(i for node in nodes for i in ops_of(node))
            return
        if not all(alive):
            raise Unsaid
        parts, text, width = self.gather("reads", [node.reads for node in nodes], f"self[{k}].reads")
        units = [node.unit for node in nodes]
        rows = [[node] for node in nodes]
        given, extra, state = "", dict[str, Any](), ""
        made = self.text.writer.written(self.classes.of[id(units[0])])
        if made.mode == "given":
            given, extra, state = self.given(k, nodes, made.optional)
        made, call = self.text.unit_call(units, f"{width}, {state}" if made.state else width, rows, k)
        written = {"unit": call}
        if parts:
            written["reads"] = _dict(parts)
        if extra:
            written["shortcut"] = _dict(extra)
        optional = written.pop("shortcut", None) if k in self.tests else None
        if sum(map(len, written.values())) > 80:
            for role in [role for role in written if role != "unit"]:
                self.init.append(f"{role} = {written[role]}")
                written[role] = role
        inner = ", ".join(f'"{name}": {value}' for name, value in written.items())
        self.init.append(f"self.append(nn.ModuleDict({{{inner}}}))")
        if optional:
            self.init += [f"if {self.tests[k]}:", f'    self[{k}]["shortcut"] = {optional}']
        made.out_used = True
        name = "x" if n == 1 and self.runs[0].output and self.simple_end() else f"y{k + 1}"
        pair = ""
        if made.gives:
            pair = ", raw" if n == 1 else f", raw{k + 1}"
            self.names[self.raw_key(k + 1)] = pair[2:]
            self.widths[self.raw_key(k + 1)] = f"self[{k}].unit.out"
        self.forward.append(f"{name}{pair} = self[{k}].unit({text}{given})")
        out = [self.classes.channels(unit.out) for unit in units]
        key = self.key(k + 1)
        self.names[key] = name
        width = "in_" if made.out == "in_" and width == "in_" else f"self[{k}].unit.out"
        self.widths[key] = str(out[0]) if same(out) and len(self.runs) > 1 else width

    def simple_end(self) -> bool:
        """Whether nothing but the newest feature is needed behind a single node."""
        return all(run.output is not None and run.output.asked == [1] for run in self.runs)

    # ------------------------------------------------------------------ gathers

    def gather(self, role: str, ones: list[GatherRun], place: str, main: bool = True) -> tuple[dict, str, str]:
        """Its modules, its expression and its channels."""
        first = ones[0]
        gather = first.gather
        if any(one.gather.how is not gather.how for one in ones):
            raise Unsaid
        sources = [source for source, _ in first.sources]
        if any([source for source, _ in one.sources] != sources for one in ones):
            raise Unsaid
        has_main = main and first.main is not None
        whole = main or first.main is None
        mains = tuple(-1 if one.main is None else one.main for one in ones)
        texts: list[str] = []
        widths: list[str] = []
        parts: dict[str, Any] = {}
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
            parts["weights"] = f"weights([{', '.join(widths)}])"
            changed = f"weighted([{', '.join(texts)}], {place}.weights)"
            texts = [f"{texts[0]} * {place}.weights[0]"] if len(texts) == 1 else texts
        if gather.how is Gated and sources:
            parts["gates"] = f"gates([{', '.join(widths)}])"
            changed = f"gated({changed or '[' + ', '.join(texts) + ']'}, {place}.gates)"
            texts = [f"{changed}[0]"] if len(texts) == 1 else texts
        if has_main:
            if mains not in self.names:
                raise Unsaid
            texts.append(self.names[mains])
            widths.append(self.widths[mains])
        if not texts:
            raise Unsaid
        if changed and len(sources) > 1:
            return parts, *self.changed(ones, changed, texts[-1] if has_main else None, widths, whole)
        return parts, *self.joined(ones, texts, widths, bool(has_main), whole)

    def changed(
        self, ones: list[GatherRun], sources: str, main: str | None, widths: list[str], whole: bool
    ) -> tuple[str, str]:
        """What sources become that were weighted or gated together."""
        word, count = ones[0].gather.operator.word, len(ones[0].sources) + (main is not None)
        tensors = f"[*{sources}, {main}]" if main else sources
        if word == "mixed":
            raise Unsaid
        if word == "concat":
            return f"torch.cat({tensors}, 1)", _total(widths)
        total = f"reduce(torch.add, {tensors})"
        return f"{total} / {count}" if word == "mean" and whole else total, widths[-1]

    def source(self, role: str, ones: list[GatherRun], source: int, key: Key, place: str, parts: dict) -> str:
        matched = [source in one.matches for one in ones]
        if not any(matched):
            if key not in self.names:
                raise Unsaid
            return self.names[key]
        if not all(matched):
            raise Unsaid
        runs: list[UnitRun] = [one.matches[source] for one in ones]
        made = self.classes.of[id(runs[0])]
        if any(self.classes.of[id(run)] is not made for run in runs):
            raise Unsaid
        self.text.writer.written(made)
        made.out_used = True
        base = tuple(run.x for run in runs)
        if base not in self.names:
            raise Unsaid
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
            if name == "w" and role == "shortcut" and values == [self.classes.channels(r[0].unit.out) for r in rows]:
                return self.unit_width(k, rows)
            raise Unsaid

        call = self.text.writer.arguments(made, self.widths[base], said)
        parts.setdefault("match", {})[source] = call
        self.temporary += 1
        name = f"fit{self.temporary}"
        self.forward.append(f'{name} = {place}.match["{source}"]({self.names[base]})')
        self.names[key] = name
        out = [self.classes.channels(tensor) for tensor in key]
        self.widths[key] = str(out[0]) if same(out) else f"{place}.match['{source}'].out"
        return name

    def unit_width(self, k: int, rows: list[list[NodeRun]]) -> str:
        """The channels of a unit that is not made yet."""
        made = self.text.writer.written(self.classes.of[id(rows[0][0].unit)])
        if made.out is None:
            raise Unsaid
        words = {self.classes.text(name): name for name in made.args}
        parts = made.out.split(" * ")
        if not all(part.isdigit() or part in words for part in parts):
            raise Unsaid
        return " * ".join(part if part.isdigit() else self.text.text_of(words[part], rows, k) for part in parts)

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
        self.temporary += 1
        name = f"normed{self.temporary}"
        self.forward.append(f"{name} = {call}")
        self.normed[key, groups] = name
        return name

    def own_norm(self, ones: list[GatherRun], source: int, key: Key) -> None:
        """A norm with statistics is where the graph has it."""
        tape = self.classes.traced.tape
        for one, tensor in zip(ones, key, strict=True):
            if tape.paths[tape.norms[tensor, 0]] != f"{one.path}.norms.{source}":
                raise Unsaid

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
            return self.mixed(ones, texts, widths, has_main, out)
        if word == "mean" and whole:
            return f"({' + '.join(texts)}) / {len(texts)}", out or widths[-1]
        return " + ".join(texts), out or widths[-1]

    def mixed(
        self, ones: list[GatherRun], texts: list[str], widths: list[str], has_main: bool, out: str
    ) -> tuple[str, str]:
        if not has_main:
            return f"torch.cat([{', '.join(texts)}], 1)", out or _total(widths)
        numbers = [one.values["mixed"] for one in ones]
        if not same(numbers):
            raise Unsaid
        if numbers[0] == 0:
            return f"torch.cat([{', '.join(texts)}], 1)", out or _total(widths)
        function = "mixed" if ones[0].values["onto"] == "front" else "mixed_back"
        state = texts[0] if len(texts) == 2 else f"torch.cat([{', '.join(texts[:-1])}], 1)"
        return f"{function}({state}, {texts[-1]}, {numbers[0]})", out or f"{_total(widths)} - {numbers[0]}"

    # ------------------------------------------------------------------ shortcuts

    def given(self, k: int, nodes: list[NodeRun], optional: bool) -> tuple[str, dict, str]:
        """What a unit is given for its join."""
        if self.runs[0].dealt:
            return self.dealt(nodes), {}, ""
        ones = [node.shortcut for node in nodes]
        if any(one is None for one in ones):
            raise Unsaid
        found = [bool(one.sources) for one in ones if one]
        if not any(found):
            if not optional:
                raise Unsaid
            return "", {}, ""
        place = f"self[{k}].shortcut"
        if all(found):
            parts, text, width = self.gather("shortcut", ones, place, main=False)  # type: ignore[arg-type]
            return f", {text}", parts, width
        return self.sometimes(k, nodes, found, place)

    def sometimes(self, k: int, nodes: list[NodeRun], found: list[bool], place: str) -> tuple[str, dict, str]:
        """A shortcut that is there at some uses alone."""
        ones: list[GatherRun] = [node.shortcut for node in nodes]  # type: ignore[misc]
        model = next(one for one in ones if one.sources)
        if any(one.matches for one in ones):
            raise Unsaid
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
        return ", shortcut", parts, width

    def when(self, k: int, nodes: list[NodeRun], found: list[bool]) -> str:
        """The condition of a shortcut, in the names that decide it."""
        rows = [[node] for node in nodes]
        if found == [node.scope["s"] == 1 for node in nodes]:
            return f"{self.text.text_of('s', rows, k)} == 1"
        if found == [self.classes.channels(node.unit.x) == self.classes.channels(node.unit.out) for node in nodes]:
            return f"in_ == {self.unit_width(k, rows)}"
        raise Unsaid

    def dealt(self, nodes: list[NodeRun]) -> str:
        found = [taken(node.unit, self.classes) for node in nodes]
        if not same(found):
            raise Unsaid
        begin, self.taken = self.taken, self.taken + found[0]
        return f", shortcut[:, {begin}:{self.taken}]"


def taken(run: UnitRun, classes: Any) -> int:
    """The channels of a dealt shortcut that a unit takes."""
    total = 0
    for step in run.steps:
        if isinstance(step.step, Join):
            total += classes.channels(step.x)
        elif isinstance(step.run, UnitRun) and step.run.unit.joins:
            total += taken(step.run, classes)
        elif isinstance(step.run, AggregateRun) and step.run.dealt:
            total += sum(taken(node.unit, classes) for node in step.run.nodes)
    return total


def inlined(lines: list[str]) -> list[str]:
    """Lines without those names that are used in the next line alone."""
    found: list[str] = []
    for line in reversed(lines):
        name, equals, value = line.partition(" = ")
        following = found[-1] if found else ""
        uses = sum(len(re.findall(rf"\b{name.strip()}\b", other)) for other in found)
        apart = " " in name.strip() or not re.fullmatch(r"\s*(fit|normed)\d+", name)
        fits = len(following) + len(value) < WIDTH - 12 and _indent(following) == _indent(line)
        if equals and not apart and uses == 1 and fits and re.search(rf"\b{name.strip()}\b", following):
            before, after = re.split(rf"\b{name.strip()}\b", following, maxsplit=1)
            found[-1] = before + value + after
            continue
        found.append(line)
    return found[::-1]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def ops_of(node: NodeRun) -> set[int]:
    """What a node's unit and gathers wrote on the tape."""
    found: set[int] = set()
    todo: list[Any] = [node.unit]
    for gather in (node.reads, node.shortcut):
        if gather:
            todo += gather.matches.values()
            found |= gather.ops
    while todo:
        unit = todo.pop()
        for step in unit.steps:
            found.update(step.ops)
    return found


def _total(widths: list[str]) -> str:
    if all(width.isdigit() for width in widths):
        return str(sum(int(width) for width in widths))
    return " + ".join(widths)


def _dict(parts: dict) -> str:
    """Modules under names."""
    written = [f'"{name}": {_dict(value) if isinstance(value, dict) else value}' for name, value in parts.items()]
    return f"nn.ModuleDict({{{', '.join(written)}}})"
