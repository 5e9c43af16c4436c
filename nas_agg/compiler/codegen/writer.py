"""Writes the classes of a network."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.classes.inlining import count_sites, is_short, reachable
from nas_agg.compiler.codegen.classes.loop_text import LoopText
from nas_agg.compiler.codegen.classes.matched_loop import MatchedLoopText
from nas_agg.compiler.codegen.classes.unit_text import UnitText
from nas_agg.compiler.codegen.classes.unrolled import UnrolledText
from nas_agg.compiler.codegen.helpers import helpers
from nas_agg.compiler.codegen.ir.parts import Parts
from nas_agg.compiler.codegen.ir.tree import (
    ClassCode,
    NotExpressible,
)
from nas_agg.expansion.trace import Trace


def write_classes(trace: Trace) -> list[str]:
    """The helpers and classes of a network, in the order in which they need one another.

    Raises:
        NotExpressible: If there is no such text.
    """
    texts = [_attempt(trace, labelled) for labelled in (True, False)]
    return min(texts, key=lambda parts: sum(part.count("\n") + 3 for part in parts))


def _attempt(trace: Trace, labelled: bool) -> list[str]:
    """A text; ``labelled``: units with different labels have classes of their own."""
    failed: set[Any] = set()
    while True:
        try:
            return _written(Parts(trace, failed, labelled))
        except NoLoop as error:
            failed |= error.args[0]


class NoLoop(Exception):
    """There is no text for some aggregates in a form; the argument is what is added to the failed ones."""


def _written(parts: Parts) -> list[str]:
    codes = reachable(parts.root)
    count_sites(codes)
    taken = {"Network"}
    for code in codes:
        code.inline = code is not parts.root.code and is_short(code)
        if not code.inline:
            code.name = "Network" if code is parts.root.code else _unique(code.parts[0].label, taken)
    texts = []
    for code in codes:
        if not code.inline:
            texts.append("\n".join(_class_text(code, code is parts.root.code)))
    return [*helpers("\n".join(texts), parts.facts.squeezes, parts.facts.single_squeeze), *texts]


def _unique(name: str, taken: set[str]) -> str:
    result, k = name, 2
    while result in taken:
        result, k = f"{name}{k}", k + 1
    taken.add(result)
    return result


def _class_text(code: ClassCode, root: bool) -> list[str]:
    """The lines of a class."""
    part = next((each for each in code.parts if each.nodes), code.parts[0])
    if part.nodes is None:
        return UnitText(code, root).lines()
    nodes = [each.nodes or [] for each in code.parts]
    single = all(len(each) == 1 for each in nodes) and len({(*each[0].fields, each[0].shortcut) for each in nodes}) == 1
    if code.form == "nodes":
        return UnrolledText(code, root).lines()
    try:
        if code.form == "loop" and single:
            return UnrolledText(code, root).lines()
        return (MatchedLoopText if code.form == "matched" else LoopText)(code, root).lines()
    except NotExpressible:
        aggregates = {each.run.aggregate for each in code.parts}
        raise NoLoop({(each, code.form if len(aggregates) == 1 else "alone") for each in aggregates}) from None
