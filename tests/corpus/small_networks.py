"""Small networks for tests that train."""

from __future__ import annotations

from typing import Any


def dense_network(nodes: int = 2, bottleneck: int = 16, dropout: float = 0) -> dict[str, Any]:
    """Return the genotype of a stem, one dense block of growth 8 and a classifier, for 8x8 images of 10 classes."""
    block = {
        "nodes": nodes,
        "growth": 8,
        "reads": {"pattern": "dense", "operator": "concat"},
        "unit": ["bn", "relu", {"conv": 1, "out": bottleneck}, "bn", "relu", {"conv": 3}],
    }
    head = ["gap", *([{"dropout": dropout}] if dropout else []), {"linear": "classes"}]
    return {"input": [1, 8, 8], "classes": 10, "net": [{"conv": 3, "out": 8}, block, *head]}
