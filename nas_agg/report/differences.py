"""What changed between two networks, as a tree of text: parts that were added, removed or changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any, Literal, TypeVar

from nas_agg.expansion.costs import Cost
from nas_agg.graph.primitives import format_shape
from nas_agg.report.tree import TreeNode

T = TypeVar("T")
State = Literal["same", "changed", "added", "removed"]

#: The sign of each state; drawings have them as well, since colours alone do not tell.
SIGNS: dict[State, str] = {"same": " ", "changed": "~", "added": "+", "removed": "-"}
_COMPARED = ("params", "macs", "activation_bytes", "depth", "connections", "gradient_path")


@dataclass
class Difference:
    """A part of two networks.

    Attributes:
        before: The part of the first network; None if it was added.
        after: The part of the second network; None if it was removed.
        state: Whether it is the same, was changed, added or removed.
        parts: The differences of its parts; those of a part that is the same, added or removed are left out.
    """

    before: TreeNode | None
    after: TreeNode | None
    state: State
    parts: list[Difference] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Its label, that of the second network if it has the part."""
        node = self.after or self.before
        assert node is not None
        return node.label

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "label": self.label,
            "state": self.state,
            "before": None if self.before is None else _figures(self.before),
            "after": None if self.after is None else _figures(self.after),
            "parts": [part.as_dict() for part in self.parts],
        }


def _figures(node: TreeNode) -> dict[str, Any]:
    values = node.as_dict()
    del values["parts"]
    return values


def align(
    before: Sequence[T], after: Sequence[T], key: Callable[[T], Hashable], kind: Callable[[T], Hashable]
) -> Iterator[tuple[T | None, T | None]]:
    """Pairs of what belongs together in two sequences, in order.

    Args:
        before: The first sequence.
        after: The second.
        key: Equal for equal elements; the longest runs of these are paired first.
        kind: Equal for elements of which one may be a change of the other.
    """

    def parts(measure: Callable[[T], Hashable], one: Sequence[T], other: Sequence[T]) -> Iterator[tuple]:
        matcher = SequenceMatcher(None, [*map(measure, one)], [*map(measure, other)], autojunk=False)
        for tag, i, j, k, l in matcher.get_opcodes():
            yield tag == "equal", one[i:j], other[k:l]

    for equal, one, other in parts(key, before, after):
        if equal:
            yield from zip(one, other, strict=True)
            continue
        for related, old, new in parts(kind, one, other):
            if related:
                yield from zip(old, new, strict=True)
            else:
                yield from ((element, None) for element in old)
                yield from ((None, element) for element in new)


class _Comparison:
    """Compares trees; equal parts have equal numbers."""

    def __init__(self) -> None:
        self._numbers: dict[tuple, int] = {}
        self._number_of: dict[int, int] = {}

    def number(self, node: TreeNode) -> int:
        if id(node) not in self._number_of:
            parts = tuple([self.number(part) for part in node.parts.values()])
            key = (node.about, node.shape, node.params, node.macs, parts)  # names do not matter
            self._number_of[id(node)] = self._numbers.setdefault(key, len(self._numbers))
        return self._number_of[id(node)]

    def compare(self, before: TreeNode, after: TreeNode) -> Difference:
        if self.number(before) == self.number(after):
            return Difference(before, after, "same")
        return Difference(before, after, "changed", [*self._parts(before, after)])

    def _parts(self, before: TreeNode, after: TreeNode) -> Iterator[Difference]:
        for one, other in self._pairs(before, after):
            if one is not None and other is not None:
                yield self.compare(one, other)
            else:
                yield Difference(one, other, "removed" if other is None else "added")

    def _pairs(self, before: TreeNode, after: TreeNode) -> Iterator[tuple[TreeNode | None, TreeNode | None]]:
        old, new = before.parts, after.parts
        if all(label.isdecimal() for label in (*old, *new)):  # nodes of an aggregate: node l is compared with node l
            for label in sorted({*old, *new}, key=int):
                yield old.get(label), new.get(label)
        else:
            yield from align([*old.values()], [*new.values()], self.number, _kind)


def _kind(node: TreeNode) -> str:
    """A label without the number that distinguishes it from others of its name."""
    return re.sub(r"_?\d+$", "", node.label)


def compare_trees(before: TreeNode, after: TreeNode) -> Difference:
    """Compare two networks.

    Args:
        before: The tree of the first network: see `nas_agg.report.tree.network_tree`.
        after: The tree of the second.
    """
    return _Comparison().compare(before, after)


# ---------------------------------------------------------------------- text


def difference_lines(difference: Difference, depth: int) -> Iterator[str]:
    """The lines of a difference: a sign, the part, and what changed of its shape, parameters and description.

    Args:
        difference: The difference.
        depth: Number of levels below the network; deeper changes are counted in their parents.
    """
    rows = [*_rows(difference, depth, "", "")]
    width = max(len(left) for left, _ in rows)
    for left, text in rows:
        yield f"{left:<{width}}  {text}".rstrip()


def cost_changes(before: Cost, after: Cost) -> list[list[str]]:
    """Rows of the metrics that differ: name, first and second value, relative change."""
    rows = []
    for name in _COMPARED:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            relative = f"{100 * (new / old - 1):+.1f} %" if old and new is not None else ""
            rows.append([name, *("-" if value is None else f"{value:,}" for value in (old, new)), relative])
    return rows


def _rows(difference: Difference, depth: int, first: str, rest: str) -> Iterator[tuple[str, str]]:
    yield f"{SIGNS[difference.state]} {first}{difference.label}", _change(difference)
    yield from _rows_of_parts(difference, depth, rest)


def _rows_of_parts(difference: Difference, depth: int, rest: str) -> Iterator[tuple[str, str]]:
    """The parts down to a depth; runs of parts that changed in the same way are one line, followed by the first's."""
    runs = [[*run] for _, run in groupby(difference.parts, key=_way)]
    for place, run in enumerate(runs if depth else []):
        last = place == len(runs) - 1
        first, inner = rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")
        part = run[0]
        name = part.label if len(run) == 1 else f"{part.label} … {run[-1].label} ({len(run)})"
        yield f"{SIGNS[part.state]} {first}{name}", _change(part) if len(run) == 1 else _changes(run)
        yield from _rows_of_parts(part, depth - 1, inner)


def _way(difference: Difference) -> tuple:
    """Equal for differences that differ in their numbers only."""
    before, after = difference.before, difference.after
    if before is None or after is None:
        return difference.state, _kind(before or after)  # type: ignore[arg-type]
    texts = (before.about, after.about) if difference.state == "changed" else ()
    about = [re.sub(r"\d+", "#", text) for text in texts]
    return difference.state, *about, tuple([_way(part) for part in difference.parts])


def _changes(run: Sequence[Difference]) -> str:
    """What changed in several parts: the change of each, or the sum of their parameters."""
    if run[0].state == "same":
        return "the same"
    texts = {_change(part) for part in run}
    if len(texts) == 1:
        return f"each {texts.pop()}"
    before, after = (sum(part.params for part in parts if part) for parts in _sides(run))
    if run[0].state != "changed":
        return f"{before + after:,} params"
    return f"{_arrow(f'{before:,}', f'{after:,}', ' params') or 'changed'}; {run[0].label}: {_change(run[0])}"


def _sides(run: Sequence[Difference]) -> tuple[list[TreeNode | None], list[TreeNode | None]]:
    return [part.before for part in run], [part.after for part in run]


def _change(difference: Difference) -> str:
    """What changed of a part in one line; of a part that was added or removed, what it is."""
    before, after = difference.before, difference.after
    if difference.state == "same":
        return "the same"
    if before is None or after is None:
        node = before or after
        assert node is not None
        texts = [format_shape(node.shape), f"{node.params:,} params", node.about]
    else:
        texts = [
            _arrow(format_shape(before.shape), format_shape(after.shape)),
            _arrow(f"{before.params:,}", f"{after.params:,}", " params"),
            _arrow(before.about, after.about),
        ]
        texts = texts if any(texts) else [_arrow(f"{before.macs:,}", f"{after.macs:,}", " MACs") or "inside"]
    return ", ".join(text for text in texts if text)


def _arrow(before: str, after: str, unit: str = "") -> str:
    return "" if before == after else f"{before or '-'} → {after or '-'}{unit}"
