"""A small space with a table of learning curves."""

from __future__ import annotations

import gzip
import hashlib
import itertools

import pytest

from nas_agg.search_space.space import Space

TEXT = {
    "input": [1, 8, 8],
    "classes": 10,
    "open": {"width": [2, 3, 4, 5, 6, 7, 8, 9], "kernel": [1, 3, 5], "end": ["relu", ["bn", "relu"]]},
    "net": [{"conv": "kernel", "out": "width"}, "end", "gap", {"linear": "classes"}],
}


def curve(width: int, kernel: int, end: int) -> list[float]:
    """Wide networks are better in the end, narrow ones learn faster at first."""
    return [
        round((0.5 + width / 20 + kernel / 50 - end / 100) * (1 - 2 ** (-epoch * 4 / width)), 5)
        for epoch in range(1, 10)
    ]


@pytest.fixture
def tabled(tmp_path) -> Space:
    """A space of 48 points with a table of their results."""
    lines = ["# genes: width, kernel, end", "# value: accuracy", "# costs: params, macs", "# curve: curve"]
    lines.append("width,kernel,end,params,macs,accuracy,curve")
    for width, kernel, end in itertools.product(TEXT["open"]["width"], (1, 3, 5), (0, 1)):
        values = curve(width, kernel, end)
        label = ('"""relu"""', '"[""bn"",""relu""]"')[end]
        costs = f"{width * kernel**2},{64 * width * kernel**2}"
        lines.append(f"{width},{kernel},{label},{costs},{values[-1]},{' '.join(map(str, values))}")
    content = gzip.compress("\n".join(lines).encode())
    (tmp_path / "t.csv.gz").write_bytes(content)
    table = {"file": "t.csv.gz", "sha256": hashlib.sha256(content).hexdigest()}
    return Space({**TEXT, "table": table}, "tabled", tmp_path)
