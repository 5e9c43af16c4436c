"""Points of spaces, with other text for names of their `let`."""

from __future__ import annotations

from typing import Any

import nas_agg
from nas_agg.language.genotype import Genotype


def reading(family: str, point: str, classes: int | None = None, /, **let: Any) -> Genotype:
    """The genotype of ``FAMILY/POINT`` with some names of its ``let``, open ones or others, given anew."""
    written = nas_agg.load(f"{family}/{point}").with_task(classes=classes).text()
    return Genotype.read({**written, "let": written["let"] | let})
