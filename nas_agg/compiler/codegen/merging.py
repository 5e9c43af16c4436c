"""One class for aggregates that are alike but for what leaves them: their nodes with what entered, or without."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.classes import Class, Classes, signature
from nas_agg.language.operators import Concat
from nas_agg.language.resolved import Aggregate


def merge(classes: Classes) -> None:
    """Merges the classes of such aggregates.

    Schedules may bind a name in one that comes from outside in the other.

    Args:
        classes: Of a network; the first of those that are alike takes the uses of the others.
    """
    first: dict[Any, Class] = {}
    for key, made in list(classes.found.items()):
        alike = likeness(made)
        if alike is None:
            continue
        kept = first.setdefault((alike, key[-1]), made)
        if kept is made:
            continue
        del classes.found[key]
        kept.runs += made.runs
        kept.sites += made.sites
        kept.gives = kept.gives or made.gives
        classes.of |= {id(run): kept for run in made.runs}
        for other in classes.found.values():
            other.sites = [(id(kept), *site[1:]) if site and site[0] == id(made) else site for site in other.sites]


def likeness(made: Class) -> Any:
    """What classes that are one have in common, or None."""
    part = made.part
    if not isinstance(part, Aggregate) or part.each or made.takes:
        return None
    output = part.output or part.reads
    plain = output.norm == "none" and not (output.weight or output.raw or output.match or output.each)
    if output.how is not Concat or not plain or output.pattern.word not in ("dense", "nodes"):
        return None
    gathers = [signature(gather) if gather else None for gather in (part.reads, part.shortcut)]
    return tuple(map(signature, part.units)), *gathers, tuple(name for name, _ in part.let)
