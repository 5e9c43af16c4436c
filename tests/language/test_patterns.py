"""Patterns: who reads whom."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_agg.common.errors import GenotypeError
from nas_agg.language.patterns import PATTERNS

ROWS: list[tuple[Any, list[list[int]]]] = [
    ("previous", [[0], [1], [2], [3], [4]]),
    ("dense", [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]),
    ("nodes", [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]),
    ("input", [[0], [0], [0], [0], [0]]),
    ({"window": 2}, [[0], [0, 1], [1, 2], [2, 3], [3, 4]]),
    ({"exponential": 2}, [[0], [0, 1], [1, 2], [0, 2, 3], [1, 3, 4], [2, 4, 5], [3, 5, 6], [0, 4, 6, 7]]),
    ({"exponential": 3}, [[0], [1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7], [0, 6, 8]]),
    ({"micro-dense": 2}, [[0], [0, 1], [2], [2, 3], [4]]),
    ({"micro-dense": 3}, [[0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 4, 5], [6]]),
    ({"edges": [[0], [1, 0], []]}, [[0], [0, 1], []]),
]


def sources(pattern: Any, position: int) -> list[int]:
    word, values = (pattern, {}) if isinstance(pattern, str) else (next(iter(pattern)), pattern)
    return PATTERNS[word].sources(position, **values)


@pytest.mark.parametrize(("pattern", "rows"), ROWS, ids=[str(pattern) for pattern, _ in ROWS])
def test_the_features_that_each_position_reads(pattern: Any, rows: list[list[int]]) -> None:
    assert [sources(pattern, position) for position in range(1, len(rows) + 1)] == rows


@given(st.integers(1, 4096), st.integers(2, 9))
def test_exponential_offsets_are_the_powers_of_its_base(position: int, base: int) -> None:
    found = sources({"exponential": base}, position)
    assert [position - source for source in reversed(found)] == [base**i for i in range(13) if base**i <= position]


@given(st.integers(1, 200), st.integers(1, 200))
def test_patterns_that_are_one(position: int, m: int) -> None:
    dense = sources("dense", position)
    assert sources({"window": m}, position) == dense[-m:]
    assert sources({"window": position}, position) == sources({"micro-dense": position}, position) == dense
    assert sources({"window": 1}, position) == sources({"micro-dense": 1}, position) == sources("previous", position)
    assert sources("nodes", position) == dense[1:]


@given(st.integers(1, 300), st.sampled_from([pattern for pattern, _ in ROWS[:-1]]))
def test_every_position_reads_earlier_features_oldest_first(position: int, pattern: Any) -> None:
    found = sources(pattern, position)
    assert found == sorted(set(found)) and all(0 <= source < position for source in found)


@pytest.mark.parametrize(
    ("edges", "position", "said"),
    [
        ([[0], [2]], 2, "row 2 reads feature 2; allowed are 0 to 1"),
        ([[-1]], 1, "row 1 reads feature -1; allowed are 0 to 0"),
        ([[0], [1, 1]], 2, "row 2 contains a feature twice"),
    ],
)
def test_edges_that_cannot_be(edges: list[list[int]], position: int, said: str) -> None:
    with pytest.raises(GenotypeError, match=said):
        sources({"edges": edges}, position)
