"""Loops in which a source is matched once per shape: the roles for which their nodes gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nas_agg.compiler.codegen.ir.loops import selection, unit_kind
from nas_agg.compiler.codegen.ir.tree import Part, Pick, Use


@dataclass
class Role:
    """What the positions of an aggregates gather for one purpose.

    Attributes:
        name: ``reads``, ``shortcut`` or ``output``.
        picks: For each part, those of its positions in order.
        select: The text of what is gathered, of a list ``features``.
        list: The list in the forward that has the sources.
        fits: The list in the constructor with their shapes, if sources are matched.
        norm: The text of their norm, of a tensor ``{}``.
        returning: Whether a source that was matched is read in its own shape again.
    """

    name: str
    picks: list[list[Pick]]
    select: str = ""
    list: str = "features"
    fits: str = ""
    norm: str = ""
    returning: bool = False

    @property
    def first(self) -> Pick:
        return next(pick for row in self.picks for pick in row)

    @property
    def kinds(self) -> tuple[str, str, str]:
        return self.first.operator, self.first.norm, self.first.weight

    @property
    def main(self) -> bool:
        return self.first.main


def roles_of(parts: list[Part]) -> dict[str, Role]:
    """The roles of the gathers of an aggregate: without `output`, what leaves is gathered as by a further node."""
    shared = parts[0].run.aggregate.output is None
    reads = [[node.reads for node in part.nodes or ()] for part in parts]
    outputs = [[part.returned] if part.returned else [] for part in parts]
    rows = {
        "reads": [row + out for row, out in zip(reads, outputs, strict=True)] if shared else reads,
        "shortcut": [[node.shortcut for node in part.nodes or () if node.shortcut] for part in parts],
        "output": [] if shared else outputs,
    }
    return {name: Role(name, picks) for name, picks in rows.items() if any(picks)}


def matched_form(part: Part) -> tuple | None:
    """What an aggregate is as such a loop, equal for those that share a class; None if it is not one."""
    nodes = part.nodes or []
    kinds = {(unit_kind(node), node.shortcut is not None) for node in nodes}
    if len(kinds) != 1 or part.joins or part.takes or part.gives or nodes[0].unit.gives:
        return None
    forms = [_role_form(part, name, role) for name, role in roles_of([part]).items()]
    return ("matched", *kinds, tuple(forms)) if None not in forms else None


def _role_form(part: Part, name: str, role: Role) -> tuple | None:
    """The selection, operator, preparation and class of `match` of a role; None if no list can hold its sources."""
    picks = [pick for row in role.picks for pick in row]
    if len({(p.operator, p.norm, p.weight, p.main) for p in picks}) > 1 or any(p.raw or p.each for p in picks):
        return None
    select, matches = selection(picks), {use.code.serial for _, _, _, use in match_uses([part], name)}
    if select is None or len(matches) > 1 or role.first.norm == "bn":
        return None
    if matches and role.first.operator in ("cat", "mixed"):
        return None
    newest_read = all(pick.position - 1 in pick.sources for pick in picks)
    if name != "shortcut" and not newest_read and (matches or role.first.norm or role.first.weight):
        return None
    return (name, select, role.kinds, *matches)


def match_uses(parts: list[Part], role: str) -> Iterator[tuple[int, int, int, Use]]:
    """The `match` units of a role, with the index of the part, the position and the source."""
    shared = parts[0].run.aggregate.output is None
    for k, part in enumerate(parts):
        fields = [(node.number, node.fields) for node in part.nodes or ()]
        for position, items in [*fields, (len(fields) + 1, part.output_fields)]:
            for name, value in items.items():
                place, _, source = name.partition(".match.")
                if source and (place == role or (shared and place == "output" and role == "reads")):
                    assert isinstance(value, Use)
                    yield k, position, int(source), value
