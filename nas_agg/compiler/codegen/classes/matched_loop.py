"""Aggregates as loops in which a source is made to fit once per shape: a list holds the newest form of each."""

from __future__ import annotations

from nas_agg.compiler.codegen.classes.loop_text import LoopText, loop_header, module_dict
from nas_agg.compiler.codegen.classes.naming import Domain, no_pick
from nas_agg.compiler.codegen.ir.gathers import ALIGNED_NORM
from nas_agg.compiler.codegen.ir.loops import NEWEST, joined, selection, weighted
from nas_agg.compiler.codegen.ir.roles import Role, match_uses, roles_of
from nas_agg.compiler.codegen.ir.tree import (
    Call,
    NotExpressible,
    Part,
    Row,
    Use,
    fold,
)


class MatchedLoopText(LoopText):
    """Writes an aggregate as a loop over lists of widths in the constructor, and of features in the forward."""

    newest = "widths[-1]"

    def write(self) -> None:
        self.rows = [(k, node) for k, part in enumerate(self.code.parts) for node in part.nodes or ()]
        self.base = "nn.ModuleList"
        self.roles = roles_of(self.code.parts)
        for role in self.roles.values():
            select = selection([pick for row in role.picks for pick in row])
            if select is None:
                raise NotExpressible
            role.select = select
        self.scaled = any(
            node.names.get("s", 1) != 1 and any(True for role in self.roles for _ in match_uses(self.code.parts, role))
            for _, node in self.rows
        )
        for role in self.roles.values():
            self.check(role)
        self.construct()
        self.forward_loop()

    # ------------------------------------------------------------------ shapes

    def shapes(self, part: Part) -> list[tuple[int, int]]:
        """The width of each feature, and by how much its map is smaller than that of the input."""
        shapes = [(part.names["in_"], 1)]
        for node in part.nodes or ():
            shapes.append((node.made, shapes[-1][1] * (node.names.get("s", 1) if self.scaled else 1)))
        return shapes

    def norm(self, role: Role) -> str:
        """The norm of a role's sources, valid for all features, which are all normalized."""
        widths = [width for part in self.code.parts for width, _ in self.shapes(part)]
        unaligned = role.first.norm == ALIGNED_NORM and any(width % 32 for width in widths)
        return "normed({})" if unaligned else role.first.norm

    def check(self, role: Role) -> None:
        """Check that sources are made to fit exactly where their shape in the list differs from the wanted one."""
        made = {use[:3] for use in match_uses(self.code.parts, role.name)}
        role.norm = self.norm(role)
        if made or role.norm:
            taken = any(each.list == "fits" for each in self.roles.values())
            role.list = f"{role.name}_fits" if taken else "fits"
        role.fits = role.list if made else ""
        for k, part in enumerate(self.code.parts if made else ()):
            own = self.shapes(part)
            shapes, origins = list(own), dict.fromkeys(range(len(own)), 0)
            for pick in role.picks[k]:
                target = own[pick.position - (role.name != "shortcut")]
                places = {source: position for source, position, _ in pick.matched}
                for source in pick.sources:
                    is_new = shapes[source] != target
                    if ((k, pick.position, source) in made) != (is_new and own[source] != target):
                        raise NotExpressible
                    if is_new:
                        shapes[source] = target
                        origins[source] = 0 if own[source] == target else pick.position
                        role.returning = role.returning or own[source] == target
                    if origins[source] != places.get(source, 0):
                        raise NotExpressible

    # ------------------------------------------------------------------ the constructor

    def construct(self) -> None:
        nodes = self.names.uses.text(tuple(len(part.nodes or ()) for part in self.code.parts), "nodes")
        domain = self.domain(self.rows, self.roles["reads"].select, self.roles["reads"].first.operator)
        named = self.name_width(domain)
        step = domain.text(tuple(node.names.get("s", 1) for _, node in self.rows), "s") if self.scaled else ""
        body = self.node_lines(domain)
        definitions = [*self.definitions(domain), *named, *[f"scale = scales[-1] * {step}"] * self.scaled]
        output = self.output_lines(domain)
        lists = self.shape_lists("widths" in domain.used or any("widths" in line for line in (*body, *output)))
        self.init += [f"{name} = [{first}]" for name, (first, _) in lists.items()]
        self.init.append(loop_header(nodes, domain))
        body = [*definitions, *body, *(f"{name}.append({value})" for name, (_, value) in lists.items())]
        self.init += [*(f"    {line}" for line in body), *output]

    def name_width(self, domain: Domain) -> list[str]:
        """Find the text of a node's width, with a line that gives it a name if it needs one."""
        widths = [node.made for _, node in self.rows]
        self.made = domain.text(tuple(widths), "out", self.newest)
        if self.made.isidentifier() or not (self.scaled or "shortcut" in self.roles):
            return []
        line, self.made = f"c = {self.made}", "c"
        domain.extra["c"], domain.fitter = widths, None
        return [line]

    def node_lines(self, domain: Domain) -> list[str]:
        """The lines that append the modules of a node."""
        lines: list[str] = []
        modules: dict[str, str] = {}
        if self.has_unit:
            modules["unit"] = domain.show(fold([node.fields.get("unit") for _, node in self.rows], no_pick))
        for name in ("reads", "shortcut"):
            if name in self.roles and (text := self.modules_of(self.roles[name], domain, lines)):
                modules[name] = text
        if len(modules) > 1 and len(modules.get("unit", "")) > 60:
            lines.append(f"unit = {modules['unit']}")
            modules["unit"] = "unit"
        return [*lines, f"self.append({module_dict(modules)})"]

    def shape_lists(self, widths_used: bool) -> dict[str, tuple[str, str]]:
        """The lists in the constructor, with what they begin with and what a node appends."""
        shape = ("(in_, 1)", f"({self.made}, scale)") if self.scaled else ("in_", self.made)
        fits = {role.fits: shape for role in self.roles.values() if role.fits and role.name != "output"}
        scales = {"scales": ("1", "scale")} if self.scaled else {}
        if not (fits or scales or widths_used):
            return {}
        self.names.use("in_")
        return {"widths": ("in_", self.made), **scales, **fits}

    @property
    def has_unit(self) -> bool:
        return "unit" in self.rows[0][1].fields

    def modules_of(self, role: Role, domain: Domain, lines: list[str], leaves: bool = False) -> str:
        """The name of the modules of a role at a node, or of what leaves, which is defined by the last of the lines."""
        target = (self.made, "scale") if role.name == "shortcut" else ("widths[-1]", "scales[-1]")
        count = "len(widths)" if leaves else "i"
        shape = f"({', '.join(target)})" if self.scaled else target[0]
        parts: dict[str, str] = {}
        select = _older(role.select) if role.main else role.select
        chosen = select.replace("len(features)", count).replace("features", f"range({count})")
        widths = select.replace("features", "widths")
        if uses := list(match_uses(self.code.parts, role.name)):
            if role.first.weight:
                lines.append(f"sources = {chosen}")
                chosen, widths = "sources", f"[{target[0]}] * len(sources)"
            fits = role.fits
            if role.name == "output":
                fits = "list(zip(widths, scales))" if self.scaled else "list(widths)"
            text = self.match_text(role, uses, target, domain)
            if role.returning:
                text += f" if {'(widths[k], scales[k])' if self.scaled else 'widths[k]'} != {shape} else nn.Identity()"
            lines.append(f"match = {{str(k): {text} for k in unfit({chosen}, {fits}, {shape})}}")
            parts["match"] = "nn.ModuleDict(match)"
            domain.used |= set() if leaves else {"i"}
        if role.first.weight:
            parts[role.first.weight] = self.weights_text(role, domain, widths, leaves)
        if parts:
            lines.append(f"{role.name} = {module_dict(parts)}")
        return role.name if parts else ""

    def weights_text(self, role: Role, domain: Domain, widths: str, leaves: bool) -> str:
        calls = [node.fields.get(f"{role.name}.{role.first.weight}") for _, node in self.rows]
        if leaves:
            calls = [part.output_fields.get(f"output.{role.first.weight}") for part in self.code.parts]
        known = [call for call in calls if isinstance(call, Call)]
        if not known or len({call.function for call in known}) > 1:
            raise NotExpressible
        function = known[0].function
        if function != "weights_from":
            return f"{function}({widths})"
        starts = Row(call.arguments[0].value if isinstance(call, Call) else None for call in calls)
        own = self.names.uses if leaves else domain
        return f"{function}({own.text(starts, 'start')}, {widths})"

    def match_text(
        self, role: Role, uses: list[tuple[int, int, int, Use]], target: tuple[str, str], domain: Domain
    ) -> str:
        """The construction of the module for source `k`."""
        own = [self.shapes(part) for part in self.code.parts]
        sources = [own[part][source] for part, _, source, _ in uses]
        wanted = [own[part][position - (role.name != "shortcut")] for part, position, _, _ in uses]
        width, scale = target
        extra = {width: [w for w, _ in wanted], "widths[k]": [w for w, _ in sources]}
        if self.scaled:
            extra[f"{scale} // scales[k]"] = [a // b for (_, a), (_, b) in zip(wanted, sources, strict=True)]
        inner = Domain(self.names, [part for part, *_ in uses], extra)
        text = inner.show(fold([use for *_, use in uses], no_pick))
        domain.used |= inner.used
        return text

    def output_lines(self, domain: Domain) -> list[str]:
        """The modules of what leaves."""
        role = self.roles.get("output") or self.roles["reads"]
        lines: list[str] = []
        if not any(part.output_fields for part in self.code.parts):
            return []
        self.modules_of(role, domain, lines, True)
        lines[-1] = lines[-1].replace(f"{role.name} = ", "self.output = ", 1)
        return lines

    # ------------------------------------------------------------------ the forward

    def forward_loop(self) -> None:
        node = self.rows[0][1]
        reads, shortcut = self.roles["reads"], self.roles.get("shortcut")
        output = self.roles.get("output") or reads
        lists = {"features": "x"}
        for role in (reads, shortcut):
            if role and role.list != "features":
                lists[role.list] = _normed(role.norm, "x")
        x = self.gathered(reads, "node.reads")
        body = self.refit(reads, "node.reads")
        side = ""
        if shortcut:
            body += self.refit(shortcut, "node.shortcut")
            body.append(f"shortcut = {self.gathered(shortcut, 'node.shortcut')}")
            side = "shortcut"
        body.append(f"x = {self.called(node, 'node', x, side, self.has_unit)}")
        body += [f"{name}.append({value})" for name, value in lists.items()]
        has_output = any(part.output_fields for part in self.code.parts)
        self.forward.append((0, f"{', '.join(lists)} = {', '.join(f'[{value}]' for value in lists.values())}"))
        self.forward.append((0, "for node in list(self)[:-1]:" if has_output else "for node in self:"))
        self.forward += [(4, line) for line in body]
        if output.name == "output" and output.list != "features":
            norm = output.norm
            every = f"[{_normed(norm, 'x')} for x in features]" if norm else "list(features)"
            self.forward.append((0, f"{output.list} = {every}"))
        refit = self.refit(output, "self.output") if has_output else []
        self.forward += [(0, line) if line[0] != " " else (4, line[4:]) for line in refit]
        self.forward.append((0, f"return {self.gathered(output, 'self.output')}"))

    def refit(self, role: Role, place: str) -> list[str]:
        """The lines that make the sources of a position fit."""
        if not role.fits:
            return []
        lines, value = [f"for k, match in {place}.match.items():"], "match(features[int(k)])"
        if role.norm.count("{}") > 1:
            lines.append(f"    y = {value}")
            value = "y"
        return [*lines, f"    {role.list}[int(k)] = {_normed(role.norm, value)}"]

    def gathered(self, role: Role, place: str) -> str:
        as_list = role.name == "shortcut" and role.first.operator == "mean"
        pick, select = role.first, role.select
        if select == NEWEST and not pick.weight and not as_list and not (role.main and role.norm):
            return f"{role.list}[-1]"
        if select == "features[:1]" and not pick.weight and not as_list:
            return f"{role.list}[0]"
        chosen = (_older(select) if role.main else select).replace("features", role.list)
        if pick.weight:
            chosen = weighted(pick.weight, chosen, place)
        if role.main:
            chosen = f"[*{chosen}, features[-1]]"
        elif pick.weight and pick.operator == "cat":
            chosen = f"[*{chosen}]"
        return chosen if as_list else joined(pick.operator, chosen)


def _older(select: str) -> str:
    """A selection without the newest feature."""
    space = " " * select.endswith(" :]")
    return f"{select[:-1]}{space}-1]" if select.endswith(":]") else f"{select}[:-1]"


def _normed(norm: str, x: str) -> str:
    return norm.replace("{}", x) if norm else x
