"""The conformance check of search spaces: spaces with one fault each are rejected in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_agg import testing
from nas_agg.compiler import codegen
from nas_agg.expansion.costs import Cost
from nas_agg.search_space.space import Space
from nas_agg.testing import EXAMPLE_SPACE, check_space


def rejection(space: Any, **arguments: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        check_space(space, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_space_is_checked_as_an_object_and_as_a_file(tmp_path: Path) -> None:
    check_space(Space(EXAMPLE_SPACE, "testing"), samples=2)
    (tmp_path / "mine.json").write_text(json.dumps(EXAMPLE_SPACE))
    check_space(tmp_path / "mine.json", samples=2, seed=1)


def test_a_space_that_cannot_be_opened_is_rejected(tmp_path: Path) -> None:
    assert rejection("microdens").startswith("unknown search space 'microdens'; did you mean 'microdense'?")
    (tmp_path / "mine.json").write_text("{}")
    assert "search variables" in rejection(tmp_path / "mine.json")
    with pytest.raises(ValueError, match="samples: must be 2 or more, not 1"):
        check_space(Space(EXAMPLE_SPACE, "testing"), samples=1)


def unpadded(kernels: list[int], **fields: Any) -> Space:
    net = [{"conv": "kernel", "out": 4, "padding": 0}, "gap", {"linear": "classes"}]
    return Space({"input": [3, 8, 8], "classes": 4, "open": {"kernel": kernels}, "net": net, **fields}, "unpadded")


def test_invalid_networks_are_rejected() -> None:
    check_space(unpadded([3, 5, 7]))
    where = r'unpadded: sample {"kernel":9}: no valid network on images of 3x8x8: '
    assert rejection(unpadded([9])).startswith(where)
    assert rejection(unpadded([7], min_input=6)).startswith(where.replace("9", "7").replace("8x8", "6x6"))
    points = {"small": {"values": {"kernel": 3}}, "large": {"values": {"kernel": 9}}}
    message = rejection(unpadded([3, 9], points=points))
    assert message.startswith("unpadded: point 'large': no valid network on images of 3x8x8: ")


class Unchanged(Space):
    def mutate(self, values, rng, changes=1):  # type: ignore[no-untyped-def]
        return self.validate(values)


class Stranger(Space):
    def crossover(self, a, b, rng):  # type: ignore[no-untyped-def]
        return next(self.neighbours(a)) | {"kind": "deep" if a["kind"] == b["kind"] == "plain" else "plain"}


class Stuck(Space):
    def labels(self, values):  # type: ignore[no-untyped-def]
        return super().labels(values | {"rate": 4})


class Mislabelled(Space):
    def labels(self, values):  # type: ignore[no-untyped-def]
        return {**super().labels(values), "rate": values["rate"] + 1}

    def values(self, labels):  # type: ignore[no-untyped-def]
        return super().values({**labels, "rate": labels["rate"] - 1})


class Same(Space):
    def encode(self, values):  # type: ignore[no-untyped-def]
        return np.zeros(3)


class Large(Space):
    def encode(self, values):  # type: ignore[no-untyped-def]
        return 2 + super().encode(values)


class Forgetful(Space):
    def values_of(self, genotype):  # type: ignore[no-untyped-def]
        return super().values_of(genotype) | {"rate": 4}


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Unchanged, "a mutant of 2 changes differs in 0 variables"),
        (Stranger, "a child has a value of neither parent"),
        (Stuck, "its labels stand for other values"),
        (Mislabelled, "Optuna rejects its labels: "),
        (Same, "different points have equal vectors"),
        (Large, "its vector has entries outside 0 to 1"),
        (Forgetful, "its genotype has other values"),
    ],
)
def test_operations_that_are_wrong_are_found(kind: type[Space], problem: str) -> None:
    assert problem in rejection(kind(EXAMPLE_SPACE, "testing"), samples=8)


def test_values_of_points_are_compared() -> None:
    point = {"kind": "deep", "rate": 8, "count": 2, "how": "sum", "wires": "dense"}
    space = Forgetful({**EXAMPLE_SPACE, "points": {"one": {"values": point}}}, "testing")
    assert rejection(space) == "testing: point 'one': its genotype has other values"


@pytest.mark.parametrize(("attribute", "name"), [("params", "params"), ("flops", "FLOPs")])
def test_counts_are_compared_with_the_compiled_network(
    attribute: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(Cost):
        pass

    setattr(Wrong, attribute, property(lambda self: 7))
    monkeypatch.setattr(testing, "Cost", Wrong)
    assert f": 7 {name} by arithmetic, " in rejection(unpadded([3]))


def test_emitted_code_is_compared_with_the_compiled_network(monkeypatch: pytest.MonkeyPatch) -> None:
    emit, other = codegen.emit, unpadded([5]).genotype({"kernel": 5})
    monkeypatch.setattr(codegen, "emit", lambda genotype: emit(other))
    message = rejection(unpadded([3]))
    assert message == 'unpadded: sample {"kernel":3}: the emitted code has other parameters than the compiled network'
