"""Points of the spaces with some names of their ``let`` replaced."""

from __future__ import annotations

from typing import Any

import nas_agg
from nas_agg.language.genotype import Genotype


def variant(family: str, point: str, classes: int | None = None, /, **let: Any) -> Genotype:
    """Return the genotype of ``FAMILY/POINT`` with some names of its ``let`` replaced, search variables or others."""
    written = nas_agg.load(f"{family}/{point}").with_task(classes=classes).to_dict()
    return Genotype.from_dict({**written, "let": written["let"] | let})
