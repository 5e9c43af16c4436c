"""Which class an aggregate has: that of a chain, of a loop over equal nodes, or of nodes one by one."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.ir.loops import loop_form, unit_kind
from nas_agg.compiler.codegen.ir.roles import matched_form
from nas_agg.compiler.codegen.ir.tree import Expression, Part, skeleton


def loop_key(part: Part, failed: set[tuple[Any, str]], matched: set[Any]) -> Any:
    """The key of an aggregate's class, which begins with its form.

    Args:
        part: The aggregate.
        failed: Forms that aggregates do not have; ``alone``: aggregates that share no class with others.
        matched: Keys of other aggregates that are loops over matched sources, whose class this may have, too.
    """
    if part.chain and len({node.unit.code.serial for node in part.nodes or ()}) == 1:
        return ("chain", part.nodes[0].unit.code.serial)  # type: ignore[index]
    aggregate = part.run.aggregate
    own = (aggregate,) if (aggregate, "alone") in failed else ()
    if not part.chain:
        loop = loop_form(part) if (aggregate, "loop") not in failed else None
        other = matched_form(part) if (loop is None or matched) and (aggregate, "matched") not in failed else None
        if form := other if loop is None or other in matched else loop:
            return (*form, *own)
    fields = [(unit_kind(node), _skeletons(node.fields), node.reads, node.shortcut) for node in part.nodes or ()]
    output = _skeletons(part.output_fields)
    return ("nodes", tuple(fields), part.returned, output, part.joins, part.gives, part.takes)


def _skeletons(fields: dict[str, Expression]) -> tuple:
    return tuple((name, skeleton(field)) for name, field in fields.items())
