"""Aggregates: as a chain, as a loop over equal nodes, or node by node."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.ir.tree import Node, Part, Pick, operation_key

NEWEST = "features[-1:]"


def selection(picks: list[Pick]) -> str | None:
    """The text that selects, from the list of features, what each position gathers."""
    candidates = [picks[0].pattern, "features", "features[-1:]", "features[:1]", "features[1:]"]
    longest = max(len(pick.sources) for pick in picks)
    candidates += [f"features[-{longest}:]", "spaced(features, 2)", "spaced(features, 3)"]
    candidates += [f"features[{pick.sources[0]}:]" for pick in picks[:1] if pick.sources]
    return next((text for text in candidates if text and all(_selects(text, pick) for pick in picks)), None)


def spaced(features: list, base: int) -> list:
    steps = [base**k for k in range(len(features).bit_length()) if base**k <= len(features)]
    return [features[-step] for step in reversed(steps)]


def _selects(text: str, pick: Pick) -> bool:
    features = list(range(pick.position))
    return eval(text, {"features": features, "spaced": spaced, "len": len}) == list(pick.sources)


def weighted(kind: str, sources: str, modules: str) -> str:
    """A list of tensors with their weights or gates."""
    return f"gated({sources}, {modules}.gates)" if kind == "gates" else f"map(torch.mul, {sources}, {modules}.weights)"


def joined(operator: str, sources: str) -> str:
    """The join of a list of tensors."""
    forms = {
        "cat": "torch.cat({}, 1)",
        "add": "reduce(torch.add, {})",
        "mul": "reduce(torch.mul, {})",
        "mean": "mean({})",
    }
    return forms["cat" if operator == "mixed" else operator].format(sources)


def reads_previous(picks: list[Pick]) -> bool:
    return all(pick.sources == (pick.position - 1,) for pick in picks)


def loop_form(part: Part) -> tuple | None:
    """What an aggregate is as a loop, equal for those that share a class; None if it is not one."""
    nodes = part.nodes
    if not nodes or len(kinds := {unit_kind(node) for node in nodes}) > 1:
        return None
    if (
        part.returned is None
        or part.returned.main
        or part.output_fields
        or not _raws_fit(part)
        or not _joins_fit(nodes)
    ):
        return None
    if any(not _matches_newest(pick) for node in nodes for pick in (node.reads, node.shortcut) if pick):
        return None
    forms: list[tuple[Any, str, str]] = []
    roles: list[list[Pick | None]] = [
        [node.reads for node in nodes],
        [node.shortcut for node in nodes],
        [part.returned],
    ]
    for role, picks in enumerate(roles):
        form = _role_form(part, role, [pick for pick in picks if pick is not None], [text for _, text, _ in forms])
        if form is None:
            return None
        forms.append(form)
    return ("loop", *kinds, tuple(forms), part.joins, part.gives, part.takes)


def unit_kind(node: Node) -> tuple:
    """The class of a node's unit and the operations around it, equal for nodes that are written as one."""
    ends = (*node.unit.lead, None, *node.unit.tail)
    return node.unit.code.serial, "unit" in node.fields, *map(operation_key, ends)


def _matches_newest(pick: Pick) -> bool:
    """True if no source but the newest is matched, and by its reader; a matched shortcut stays for later readers."""
    if pick.each or pick.main:
        return False
    kept = pick.place == "shortcut"
    return all(source == position - 1 and (kept or position == pick.position) for source, position, _ in pick.matched)


def _joins_fit(nodes: list[Node]) -> bool:
    """True if a shortcut joins at all nodes or at none, or exactly where the shape allows it in a chain."""
    shortcuts = [node.shortcut for node in nodes if node.shortcut is not None]
    if len(shortcuts) == len(nodes) or (not shortcuts and not any(node.unit.tail for node in nodes)):
        return True
    weighted = "shortcut.weights" in nodes[0].fields
    return (
        (weighted or all(node.alike is (node.shortcut is not None) for node in nodes))
        and reads_previous([*(node.reads for node in nodes), *shortcuts])
        and not nodes[0].unit.lead
        and not any(pick.matched for pick in shortcuts)
    )


def _role_form(part: Part, role: int, picks: list[Pick], before: list[str]) -> tuple[Any, str, str] | None:
    """The preparation, selection and operator of reads (0), shortcut (1) or output (2), after those before it."""
    preparation = _preparation(part, role, picks)
    if not picks:
        return preparation, NEWEST if any(node.unit.tail for node in part.nodes or ()) else "", ""
    text = selection(picks)
    if text is None or len({(pick.operator, pick.norm, pick.weight) for pick in picks}) > 1:
        return None
    if any(pick.matched for pick in picks) and text != NEWEST:
        returned = part.returned.sources if part.returned else ()
        if role != 1 or before != [NEWEST] or returned != (len(part.nodes or ()),):
            return None  # only the shortcuts of a chain have a list of their own
    if role == 2 and picks[0].operator == "cat" and text in ("features", "features[1:]"):
        text = "features[first:]"
    return preparation, text, "" if text in (NEWEST, "features[:1]") else picks[0].operator


def _raws_fit(part: Part) -> bool:
    """True if no pre-activation is read, or each node reads that of the feature before it and gives its own."""
    nodes = part.nodes or []
    raw = [node.shortcut for node in nodes if node.shortcut and node.shortcut.raw]
    if not part.takes and not raw:
        return True
    picks = [*[node.reads for node in nodes], *raw, *([part.returned] if part.returned else [])]
    gives = all(node.unit.gives and node.unit.joins for node in nodes)
    return (
        part.takes
        and gives
        and len(raw) == len(nodes)
        and reads_previous(picks)
        and not any(p.norm or p.weight or p.matched for p in picks)
    )


def _preparation(part: Part, role: int, known: list[Pick]) -> Any:
    """Norm and weights of a gather; of a shortcut also where no node has a source."""
    shortcut = part.run.aggregate.shortcut
    if role == 1 and shortcut is not None and reads_previous(known):
        return shortcut.norm, shortcut.weight, shortcut.operator_type
    return (known[0].norm, known[0].weight) if known else None
