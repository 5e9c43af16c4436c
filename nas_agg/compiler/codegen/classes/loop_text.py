"""Aggregates as loops over equal nodes."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.classes.class_text import ClassText
from nas_agg.compiler.codegen.classes.naming import Domain, no_pick
from nas_agg.compiler.codegen.ir.loops import NEWEST, joined, selection, spaced, weighted
from nas_agg.compiler.codegen.ir.schedules import schedule_texts
from nas_agg.compiler.codegen.ir.tree import (
    Expression,
    Node,
    NotExpressible,
    Pick,
    Row,
    fold,
)


class LoopText(ClassText):
    """Writes an aggregate as a loop."""

    newest = "c"  # the text of the newest feature's width

    def write(self) -> None:
        parts = self.code.parts
        self.part = next(part for part in parts if part.nodes)
        self.rows = [(k, node) for k, part in enumerate(parts) for node in part.nodes or ()]
        self.node = next((node for _, node in self.rows if node.shortcut), self.rows[0][1])
        nodes = self.names.uses.text(tuple(len(part.nodes or ()) for part in parts), "nodes")
        chained = self.code.form == "chain"
        self.base = "nn.Sequential" if chained else "nn.ModuleList"
        self.select, self.side, leaves = (NEWEST, "", NEWEST) if chained else self.selections()
        domain = self.domain(self.rows, self.select, self.node.reads.operator)
        columns = [node.fields.get("unit") for _, node in self.rows]
        unit = domain.show(fold(columns, no_pick)) if any(columns) else ""
        self.modules_of_roles = {} if chained else self.gather_modules([node for _, node in self.rows])
        body = self.chain_body(unit) if chained else self.loop_body(unit, domain)
        self.setup(domain, body, self.rows)
        self.init += [loop_header(nodes, domain), *[f"    {line}" for line in body]]
        if not chained:
            self.loop_forward(leaves)

    def selections(self) -> tuple[str, str, str]:
        """The texts of what is read, joined and returned, of the list of features."""
        shortcuts = [node.shortcut for _, node in self.rows if node.shortcut]
        select = selection([node.reads for _, node in self.rows])
        side, leaves = selection(shortcuts) if shortcuts else "", self.leaves()
        if select is None or side is None or leaves is None:
            raise NotExpressible
        return select, side, leaves

    def leaves(self) -> str | None:
        """What leaves a loop, of its list of features."""
        picks = [part.returned for part in self.code.parts if part.returned]
        text = selection(picks)
        if text is None and all(
            pick.sources == tuple(range(pick.sources[0], pick.position)) for pick in picks if pick.sources
        ):
            starts = Row(
                pick.sources[0] if part.nodes and (pick := part.returned) else None for part in self.code.parts
            )
            text = f"features[{self.forward_number(starts, 'first')} :]"
        return text

    def domain(self, rows: list[tuple[int, Node]], select: str, operator: str) -> Domain:
        """Names at each iteration."""
        parts = self.code.parts
        extra: dict[str, list[Any]] = {"i": [node.number for _, node in rows], **self.varying_names(rows)}
        widths = [
            [parts[k].names["in_"], *(before.made for before in (parts[k].nodes or ())[: node.number - 1])]
            for k, node in rows
        ]
        extra[self.newest] = [each[-1] for each in widths]
        if operator == "cat" and select not in (NEWEST, "features[:1]"):
            totals = [sum(eval(select, {"features": each, "spaced": spaced, "len": len})) for each in widths]
            extra[f"sum({select.replace('features', 'widths')})"] = totals
        domain = Domain(self.names, [k for k, _ in rows], extra)
        domain.schedules = self.schedules()
        return domain

    def varying_names(self, rows: list[tuple[int, Node]]) -> dict[str, list[Any]]:
        """The genotype's names that differ between nodes; others become names of the class."""
        outer, varying = self.names.outer, {}
        for name in sorted(set.intersection(*[set(node.names) for _, node in rows]) - {"in_", "l", "n", "nodes"}):
            values = [[node.names[name] for owner, node in rows if owner == k] for k in range(len(self.code.parts))]
            if all(len(set(each)) <= 1 for each in values):
                outer.setdefault(_public(name), [each[0] if each else 0 for each in values])
                continue
            varying[name] = [node.names[name] for _, node in rows]
            outer.pop(name, None)
            self.names.hidden.add(name)
            if name == "s":
                outer["stride"] = [each[0] if each else 1 for each in values]
        return varying

    def schedules(self) -> tuple[str, ...]:
        """The genotype's expressions for the names of nodes."""
        aggregate = self.code.parts[0].run.aggregate
        schedules = (aggregate.growth, aggregate.cardinality, aggregate.stride, *(value for _, value in aggregate.let))
        expressions = [getattr(schedule, "expression", schedule) for schedule in schedules]
        return tuple(text for each in expressions if hasattr(each, "tree") for text in schedule_texts(each.tree()))

    def gather_modules(self, nodes: list[Node]) -> dict[str, dict[str, tuple[Expression, list[bool]]]]:
        """Modules of gathers, by place and kind, and which nodes have them."""
        result: dict[str, dict[str, tuple[Expression, list[bool]]]] = {}
        for place in ("reads", "shortcut"):
            for kind in ("match", "norms", "weights", "gates"):
                suffix = "" if kind in ("weights", "gates") else ".{}"
                found = [node.fields.get(f"{place}.{kind}{suffix.format(node.number - 1)}") for node in nodes]
                if any(found):
                    result.setdefault(place, {})[kind] = (fold(found, no_pick), [each is not None for each in found])
        return result

    def chain_body(self, unit: str) -> list[str]:
        unit = unit or "nn.Sequential()"
        if len(unit) > 74:
            return [f"unit = {unit}", "self.append(named(unit=unit))"]
        return [f"self.append(named(unit={unit}))"]

    def loop_body(self, unit: str, domain: Domain) -> list[str]:
        """The lines that append the modules of a node."""
        always, body, optional = {"unit": unit} if unit else {}, [], []
        for place, kinds in self.modules_of_roles.items():
            presents = {kind: present for kind, (_, present) in kinds.items()}
            if len(kinds) == 1 or all(map(all, presents.values())):
                present = next(iter(presents.values()))
                test = "" if all(present) else self.condition(present, domain)
                lines, text = self.role_modules(kinds, domain)
                if not test:
                    body += lines
                    always[place] = text
                else:
                    lines.append(f'node["{place}"] = {text}')
                    optional += [f"if {test}:", *(f"    {line}" for line in lines)]
                continue
            others = {kind: domain.show(module) for kind, (module, _) in kinds.items() if kind != "match"}
            if "norms" in others or "match" not in kinds or not all(all(presents[kind]) for kind in others):
                raise NotExpressible
            always[place] = module_dict(others)  # some nodes have a match beside their weights
            domain.used.add("i")
            test = self.condition(presents["match"], domain)
            text = f"nn.ModuleDict({{str(i - 1): {domain.show(kinds['match'][0])}}})"
            optional += [f"if {test}:", f'    node["{place}"]["match"] = {text}']
        body += _pulled(always, 90)
        if not optional:
            return [*body, f"self.append({module_dict(always)})"]
        return [*body, f"node = {module_dict(always)}", *optional, "self.append(node)"]

    def role_modules(self, kinds: dict, domain: Domain) -> tuple[list[str], str]:
        """The modules of a role of a node, after some lines."""
        items = {kind: domain.show(module) for kind, (module, _) in kinds.items()}
        lines = [f"{kind} = {text}" for kind, text in items.items() if len(text) > 48]
        items = {kind: kind if len(text) > 48 else text for kind, text in items.items()}
        for kind in sorted(items.keys() - {"weights", "gates"}):
            domain.used.add("i")
            form = "named(**{{str(i - 1): {}}})" if len(items) == 1 else "nn.ModuleDict({{str(i - 1): {}}})"
            items[kind] = form.format(items[kind])
        return lines, f"named(match={items['match']})" if set(items) == {"match"} else module_dict(items)

    def condition(self, present: list[bool], domain: Domain) -> str:
        """A test that is true at the nodes that have something.

        Widths are known at every node, those of modules only where they are: a parameter for widths comes first.
        """
        widths = [node.made for _, node in self.rows]
        width = domain.text(tuple(widths), "out")
        assert domain.fitter is not None
        test = domain.fitter.condition(present, {f"({width})" if " if " in width else width: widths})
        if test is None:
            raise NotExpressible
        return domain.use(test)

    def setup(self, domain: Domain, body: list[str], rows: list[tuple[int, Node]]) -> None:
        """What the body of a loop needs: definitions of the names at a node, and channels so far."""
        tracked = [name for name in ("c", "widths") if name in domain.used]
        made = domain.text(tuple(node.made for _, node in rows), "out", "c") if tracked else ""
        body[:0] = self.definitions(domain)
        for name, first, line in (("c", "in_", f"c = {made}"), ("widths", "[in_]", f"widths.append({made})")):
            if name in tracked:
                self.names.use("in_")
                self.init.append(f"{name} = {first}")
                body.append(line)

    def definitions(self, domain: Domain) -> list[str]:
        """Definitions of the names at a node that are used."""
        lines: list[str] = []
        done = {"i", "c", self.newest}
        hidden = {name: domain.extra.pop(name) for name in done - {"i"} if name in domain.extra}
        while pending := [name for name in domain.extra if name in domain.used - done and name.isidentifier()]:
            for name in pending:
                done.add(name)
                hidden[name] = domain.extra.pop(name)
                domain.fitter = None
                text = domain.text(tuple(hidden[name]), "strides" if name == "s" else _public(name))
                lines.insert(0, f"{name} = {text}")
        domain.extra |= hidden
        domain.fitter = None
        return lines

    def loop_forward(self, leaves: str) -> None:
        """The forward: a loop that keeps the newest feature, or a list of features."""
        part, node, shortcut = self.part, self.node, self.node.shortcut
        self.simple = self.select == NEWEST and leaves == NEWEST
        self.inputs += ["shortcut"] * part.joins
        self.header = (
            "for node, part in zip(self, shortcut.chunk(len(self), 1)):" if part.joins else "for node in self:"
        )
        lists_shortcuts = shortcut and (self.side not in ("", NEWEST) or shortcut.norm or shortcut.weight)
        self.listed = bool(self.simple and lists_shortcuts)  # sources of shortcuts have a list of their own
        lines = self.listing() if self.listed else []
        reading = self.gathered_text(self.select, node.reads, "reads")
        side = self.gathered_text(self.side, shortcut, "shortcut") if shortcut else ""
        if " if " in reading:
            lines.append(f"y = {reading}")
            reading = "y"
        if shortcut and any(each.shortcut is None for _, each in self.rows):
            self.optional_shortcut(reading)
            return
        if " if " in side or len(side) > 40:
            lines.append(f"shortcut = {side}")
            side = "shortcut"
        side = "part" if part.joins else side
        if part.takes or (node.unit.gives and part.gives):
            self.loop_with_raw(lines, reading, side, leaves)
        else:
            text = self.called(node, "node", reading, side, "unit" in node.fields) + "[0]" * node.unit.gives
            self.finish_loop(lines, text, leaves)

    def finish_loop(self, lines: list[str], text: str, leaves: str) -> None:
        """The loop, in which some lines are ahead of the text of a node, and what is returned."""
        if self.simple:
            start = [(0, "sources = []")] if self.listed else []
            self.forward += [*start, *self.loop([*lines, f"x = {text}"]), (0, "return x")]
            return
        assert self.part.returned is not None
        operator = self.part.returned.operator
        branches = self.select == "features[:1]" and not self.side and leaves == "features[1:]"
        if branches and not lines and not self.part.joins:
            self.forward.append((0, f"return {joined(operator, f'[{text} for node in self]')}"))
            return
        out = {NEWEST: "features[-1]", "features[:1]": "features[0]"}.get(leaves) or joined(operator, leaves)
        body = self.loop([*lines, f"features.append({text})"])
        self.forward += [(0, "features = [x]"), *body, (0, f"return {out}")]

    def loop(self, body: list[str]) -> list[tuple[int, str]]:
        return [(0, self.header), *[(4, line) for line in body]]

    def listing(self) -> list[str]:
        """The lines that append the input of a node, matched if it has to be, to the sources of shortcuts."""
        shortcut, kinds = self.node.shortcut, self.modules_of_roles.get("shortcut", {})
        assert shortcut is not None
        if "match" not in kinds:
            return [f"sources.append({_normed(shortcut.norm, 'x')})"]
        if shortcut.norm == "bn":
            raise NotExpressible
        alone = set(kinds) == {"match"}
        value = "node.shortcut(x)" if alone else "node.shortcut.match[str(len(sources))](x)"
        test = '"shortcut" in node' if alone else '"match" in node.shortcut'
        first = f"y = {value}" if all(kinds["match"][1]) else f"y = {value} if {test} else x"
        return [first, f"sources.append({_normed(shortcut.norm, 'y')})"]

    def gathered_text(self, select: str, pick: Pick, place: str) -> str:
        """What a node reads, or what joins in it: the list of it for a mean, which is taken together with the node."""
        kinds, newest = self.modules_of_roles.get(place, {}), "x" if self.simple else "features[-1]"
        as_list = place == "shortcut" and pick.operator == "mean"
        if select == NEWEST and not pick.norm and not (kinds and as_list) and set(kinds) <= {"match"}:
            return f"[{newest}]" if as_list else self.newest_text(place, newest)
        if not self.listed and (kinds or pick.norm):
            raise NotExpressible
        if select == "features[:1]" and not self.listed:
            return "features[0]" if self.simple else "x"
        chosen = select.replace("features", "sources") if self.listed else select
        if pick.weight:
            chosen = weighted(pick.weight, chosen, f"node.{place}")
            chosen = f"[*{chosen}]" if pick.operator in ("cat", "mixed") else chosen
        return chosen if as_list else joined(pick.operator, chosen)

    def newest_text(self, place: str, newest: str) -> str:
        """The newest feature, matched where a node has a module for it."""
        kinds = self.modules_of_roles.get(place)
        if not kinds:
            return newest
        call = f"node.{place}({newest})"
        return call if all(kinds["match"][1]) else f'{call} if "{place}" in node else {newest}'

    def optional_shortcut(self, reading: str) -> None:
        """A chain in which a shortcut joins where it has the shape of the node's output, or where its weights are."""
        node, kinds = self.node, self.modules_of_roles.get("shortcut", {})
        shortcut = node.shortcut
        assert shortcut is not None
        own = not self.simple or len(shortcut.sources) > 1 or "match" in kinds
        if own or shortcut.norm == "bn" or shortcut.weight == "gates" or shortcut.operator == "mean":
            raise NotExpressible
        unit = self.called(node, "node", reading, "", "unit" in node.fields, bare=True)
        value = _normed(shortcut.norm, "x") + " * node.shortcut.weights[0]" * bool(shortcut.weight)
        joins = self.called(node, "node", reading, value, False, bare="y")
        without = self.called(node, "node", reading, "", False, bare="y0")
        test = '"shortcut" in node' if kinds else "y.shape == x.shape"
        self.forward += [*self.loop([f"y = {unit}", f"x = {joins} if {test} else {without}"]), (0, "return x")]

    def loop_with_raw(self, lines: list[str], reading: str, shortcut: str, leaves: str) -> None:
        """A loop whose nodes return pre-activations, which may enter and leave it, too."""
        part, node = self.part, self.node
        if part.takes:
            self.inputs.append("raw")
            lines, reading, shortcut = [], "x", "raw"
        text = self.called(node, "node", reading, shortcut, "unit" in node.fields)
        if part.takes or self.simple:
            returned = f"return x{', raw' * part.gives}"
            self.forward += [*self.loop([*lines, f"x, raw = {text}"]), (0, returned)]
            return
        assert part.returned is not None
        texts = [joined(part.returned.operator, leaves.replace("features", name)) for name in ("features", "raws")]
        if leaves == NEWEST:
            texts = ["features[-1]", "raws[-1]"]
        body = self.loop([*lines, f"y, raw = {text}", "features.append(y)", "raws.append(raw)"])
        self.forward += [(0, "features, raws = [x], [x]"), *body, (0, f"return {', '.join(texts)}")]


def _pulled(modules: dict[str, str], width: int) -> list[str]:
    """Lines that give the longest of some modules a name, until they fit a line."""
    lines = []
    for name in sorted(modules, key=lambda name: -len(modules[name])):
        if sum(len(key) + len(text) + 6 for key, text in modules.items()) > width - 16:
            lines.append(f"{name} = {modules[name]}")
            modules[name] = name
    return lines


def loop_header(nodes: str, domain: Domain) -> str:
    last = int(nodes) + 1 if nodes.isdigit() else f"{nodes} + 1"
    return f"for i in range(1, {last}):" if "i" in domain.used else f"for _ in range({nodes}):"


def _public(name: str) -> str:
    """What a parameter for one of the genotype's names is called."""
    return {"w": "growth", "g": "cardinality"}.get(name, name)


def module_dict(modules: dict[str, str]) -> str:
    items = ", ".join(f'"{name}": {text}' for name, text in modules.items())
    return f"nn.ModuleDict({{{items}}})" if items else "nn.ModuleDict()"


def _normed(norm: str, x: str) -> str:
    """A source with its norm."""
    if norm == "bn":
        return f"node.shortcut.norms[str(len(sources))]({x})"
    return norm.replace("{}", x) if norm else x
