"""Aggregates whose nodes are written one by one."""

from __future__ import annotations

from dataclasses import replace

from nas_agg.compiler.codegen.classes.class_text import ClassText
from nas_agg.compiler.codegen.classes.formatting import mask_brackets
from nas_agg.compiler.codegen.classes.naming import no_pick
from nas_agg.compiler.codegen.ir.loops import weighted
from nas_agg.compiler.codegen.ir.tree import (
    Expression,
    Form,
    Node,
    NotExpressible,
    Part,
    Pick,
    fold,
)


class UnrolledText(ClassText):
    """Writes an aggregate node by node."""

    def write(self) -> None:
        parts, first = self.code.parts, self.code.parts[0]
        assert first.nodes is not None and first.returned is not None
        self.base = "nn.ModuleList"
        self.inputs += ["raw"] * first.takes + ["shortcut"] * first.joins
        self.picks = [pick for node in first.nodes for pick in (node.reads, node.shortcut) if pick]
        self.picks.append(first.returned)
        self.values, self.raws = ["x"], ["raw" if first.takes else "x"]
        inlined = self.first_inlined(first)
        for k, node in enumerate(first.nodes):
            self.append_node({name: fold([p.nodes[k].fields[name] for p in parts], no_pick) for name in node.fields})  # type: ignore[index]
            text, name = self.node_text(node, f"self[{k}]"), f"y{k + 1}"
            if node.unit.gives:
                self.forward.append((0, f"{name}, raw{k + 1} = {text}"))
            elif k < inlined:
                self.forward.append((0, f"{name} = {text}"))
            self.values.append(name if k < inlined else text)
            self.raws.append(f"raw{k + 1}" if node.unit.gives else self.values[-1])
        if first.output_fields:
            columns = {name: [part.output_fields[name] for part in parts] for name in first.output_fields}
            fields = {name.partition(".")[2]: fold(column, no_pick) for name, column in columns.items()}
            self.init.append(f"self.output = {self.modules(fields)}")
        text = self.picked(first.returned, "self.output")
        if first.gives:
            text = f"{text}, {self.picked(replace(first.returned, raw=True), 'self.output')}"
        self.forward.append((0, f"return {text}"))

    def first_inlined(self, part: Part) -> int:
        """The number of the first of the last nodes that are read by the output alone, and written where it is."""
        assert part.nodes is not None
        inlined = len(part.nodes)
        read = {source for pick in self.picks[:-1] for source in pick.sources}
        while inlined and not part.nodes[inlined - 1].unit.gives and not part.gives and len(part.nodes) - inlined < 4:
            if inlined in read or self.picks[-1].sources.count(inlined) != 1:
                break
            inlined -= 1
        return inlined

    def append_node(self, fields: dict[str, Expression]) -> None:
        text = self.modules(fields)
        shown = {name: self.show(field) for name, field in fields.items()}
        if len(text) > 95:
            names = {name: name.split(".")[1] if "." in name else name for name in shown if name.count(".") != 1}
            for name, variable in sorted(names.items(), key=lambda item: -len(shown[item[0]])):
                if (
                    len(text) > 95
                    and len(shown[name]) > 20
                    and not any(f"{variable} = " in line for line in self.pending)
                ):
                    self.pending.append(f"{variable} = {shown[name]}")
                    fields = {**fields, name: Form(variable)}
                    text = self.modules(fields)
        lines = [*self.pending, f"self.append({text})"]
        self.pending = []
        if len(lines) == 1 and self.init and self.init[-1].lstrip() == lines[0]:
            if self.init[-1].startswith(" "):
                count = int(self.init[-2].removeprefix("for _ in range(").removesuffix("):")) + 1
                self.init[-2] = f"for _ in range({count}):"
            elif self.init[-2:] == lines * 2:
                self.init[-2:] = ["for _ in range(3):", f"    {lines[0]}"]
            else:
                self.init += lines
        else:
            self.init += lines

    def node_text(self, node: Node, place: str) -> str:
        x = self.picked(node.reads, place)
        shortcut = self.picked(node.shortcut, place) if node.shortcut else ""
        return self.called(node, place, x, shortcut, "unit" in node.fields)

    def fitted(self, source: int, position: int, path: str, value: str) -> str:
        """A source that was matched; a name for it where it is read again."""
        place = "self" if path.startswith("output") else f"self[{position - 1}]"
        key = (source, position, path)
        text = f'{place}.{path}["{source}"]({value})'
        return text if sum(key in pick.matched for pick in self.picks) == 1 else self.named(key, "fit", text)

    def named(self, key: tuple[int, int, str], name: str, text: str) -> str:
        """A name for a value that is used more than once."""
        if key not in self.fits:
            self.fits[key] = f"{name}{len(self.fits) + 1}"
            self.forward.append((0, f"{self.fits[key]} = {text}"))
        return self.fits[key]

    def normed(self, pick: Pick, source: int, name: str) -> str:
        """A source with its norm; a name for it where it is read again."""
        if pick.norm.count("{}") > 1 and not name.isidentifier():
            name = self.named((source, pick.position, pick.place), "fit", name)
        text = pick.norm.replace("{}", name)
        if pick.norm == "bn":
            own = "self.output" if pick.place == "output" else f"self[{pick.position - 1}].{pick.place}"
            text = f'{own}.norms["{source}"]({name})'
        readers = [p for p in self.picks if p.norm and source in p.sources and not (p.main and source == p.sources[-1])]
        return text if len(readers) == 1 or not name.isidentifier() else self.named((source, -1, name), "n", text)

    def prepared(self, pick: Pick, place: str) -> list[str]:
        """The sources of a pick, matched and with their norms; the main path, if there is one, is the last."""
        matched = {source: (position, path) for source, position, path in pick.matched}
        names: list[str] = []
        for k, source in enumerate(pick.sources):
            is_main = pick.main and k == len(pick.sources) - 1
            name = (self.raws if pick.raw and not is_main else self.values)[source]
            if source in matched:
                name = self.fitted(source, *matched[source], name)
            if pick.each:
                name = f"{place}.each({name})"
            names.append(self.normed(pick, source, name) if pick.norm and not is_main else name)
        return names

    def picked(self, pick: Pick, place: str) -> str:
        """What a position gathers."""
        own = "self.output" if pick.place == "output" else f"{place}.{pick.place}"
        names, count = self.prepared(pick, own), len(pick.sources) - pick.main
        if pick.weight and pick.operator == "add" and (count > 2 or (pick.weight == "gates" and count)):
            text = weighted(pick.weight, f"[{', '.join(names[:count])}]", own)
            return f"reduce(torch.add, {f'[*{text}, {names[-1]}]' if pick.main else text})"
        if pick.weight:
            names[:count] = [f"{name} * {own}.weights[{k}]" for k, name in enumerate(names[:count])]
        if pick.operator == "mean" and pick.place == "shortcut":
            return f"[{', '.join(names)}]"
        if len(names) == 1:
            return names[0]
        if pick.operator == "mixed" and pick.main:
            raise NotExpressible
        if pick.operator in ("cat", "mixed"):
            return f"torch.cat([{', '.join(names)}], 1)"
        text = _in_line(pick.operator, names)
        if pick.operator == "mean":
            return f"({text}) / {len(names)}"
        return f"({text})" if pick.place == "shortcut" and not text.startswith("reduce(") else text


def _in_line(operator: str, names: list[str]) -> str:
    """The sum or product of some tensors."""
    names = [names[0], *(f"({name})" if {"+", "*"} & set(mask_brackets(name).split()) else name for name in names[1:])]
    text = (" * " if operator == "mul" else " + ").join(names)
    return f"reduce(torch.add, [{', '.join(names)}])" if len(text) > 90 and operator == "add" else text
