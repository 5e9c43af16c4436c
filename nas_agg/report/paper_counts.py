"""Parameters and operations of the papers' networks beside the printed numbers, by each paper's convention."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from math import prod
from typing import Any

from pydantic import BaseModel, ConfigDict

from nas_agg.common.errors import InputError
from nas_agg.common.files import canonical_json
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.primitives import Norm
from nas_agg.language.genotype import Genotype
from nas_agg.report.papers import FlopsConvention, Paper, Reading, Row

_FIGURE = re.compile(r"(\d+(?:\.(\d+))?)([MG]?)")
_UNITS = {"": 1, "M": 10**6, "G": 10**9}

#: Conventions for counting operations.
FLOPS: dict[FlopsConvention, str] = {
    "macs": "multiply-adds",
    "2 macs": "2 * multiply-adds",
    "norms too": "(multiply-adds + 5 operations per output of a batch norm and its ReLU) / 2**30 * 10**9",
}


class CountedRow(BaseModel):
    """A row beside the counts of its network.

    Attributes:
        row: The row.
        reason: The reason for a difference; empty if there is none.
        params: Our number of parameters, by the row's convention; None if the network is not reproduced.
        flops: Our number of operations, by the paper's convention.
        params_agree, flops_agree: Whether they equal the printed ones to the printed digits; None if none is printed.
    """

    model_config = ConfigDict(frozen=True)

    row: Row
    reason: str = ""
    params: int | None = None
    flops: int | None = None
    params_agree: bool | None = None
    flops_agree: bool | None = None

    @property
    def printed(self) -> bool:
        """Whether the paper prints a count."""
        return self.row.params is not None or self.row.flops is not None

    @property
    def agrees(self) -> bool:
        """Whether the network is reproduced and no printed number differs."""
        return self.params is not None and self.params_agree is not False and self.flops_agree is not False

    @property
    def verdict(self) -> str:
        """Agreement or the reason for a difference, and remarks."""
        row = self.row
        if row.point is None:
            agreement = "not reproduced"
        elif not self.printed:
            agreement = "not printed"
        else:
            agreement = "agrees" if self.agrees else "differs for an unknown reason"
        notes = [self.reason or agreement] + [row.note] * bool(row.note)
        notes += [f"{row.classes} classes"] * bool(row.classes)
        notes += ["norms not counted"] * row.without_norms
        notes += [f"{' and '.join(row.cut)} truncated, not rounded"] * bool(row.cut)
        notes += [f"{name}: {v if isinstance(v, str) else canonical_json(v)}" for name, v in row.with_.items()]
        return "; ".join(notes)


class CountedReading(BaseModel):
    """An alternative reading of a row beside its counts.

    Attributes:
        row: The row.
        reading: The reading.
        params, flops: Our counts; for a range those of its two ends.
        agrees: Whether they equal the printed ones; None if none is printed.
    """

    model_config = ConfigDict(frozen=True)

    row: Row
    reading: Reading
    params: tuple[int, ...]
    flops: tuple[int, ...]
    agrees: bool | None

    @property
    def about(self) -> str:
        """The difference of the reading, and the range of a name."""
        reading = self.reading
        ranges = [f"{name} from {first:g} to {last:g}" for name, (first, last) in reading.range.items()]
        return "; ".join([reading.about, *ranges])

    @property
    def verdict(self) -> str:
        """Whether the reading agrees with the printed numbers."""
        if self.agrees is None:
            return "not printed"
        by = f", printed by {self.reading.by}" * bool(self.reading.by)
        return f"{'agrees' if self.agrees else 'differs'}{by}"


def count(row: Row, paper: Paper) -> CountedRow:
    """Count the parameters and operations of a row.

    Args:
        row: The row.
        paper: Its paper.

    Raises:
        InputError: The row's genotype is not valid.
    """
    genotype = row.genotype()
    if genotype is None:
        return CountedRow(row=row)
    params, flops = _counts(genotype, paper.flops, row.without_norms)
    return CountedRow(
        row=row,
        reason=paper.reasons[row.differs] if row.differs else "",
        params=params,
        flops=flops,
        params_agree=_agrees(params, row.params, "params" in row.cut),
        flops_agree=_agrees(flops, row.flops, "flops" in row.cut),
    )


def count_readings(row: Row, paper: Paper) -> list[CountedReading]:
    """Count the alternative readings of a row.

    Raises:
        InputError: The genotype of a reading is not valid.
    """
    counted = []
    for reading in row.readings:
        ends = (0, 1) if reading.range else (0,)
        params, flops = zip(
            *[_counts(row.genotype_of(reading, end), paper.flops, reading.without_norms) for end in ends], strict=True
        )
        agree = [_agrees(ours, reading.params or row.params, "params" in row.cut) for ours in params]
        if not reading.params:
            agree += [_agrees(ours, row.flops, "flops" in row.cut) for ours in flops]
        verdicts = [yes for yes in agree if yes is not None]
        agrees = all(verdicts) if verdicts else None
        counted.append(CountedReading(row=row, reading=reading, params=params, flops=flops, agrees=agrees))
    return counted


def summary(counted: Sequence[CountedRow]) -> str:
    """One line with the number of rows that agree."""
    printed = [row for row in counted if row.printed and row.params is not None]
    missing = sum(row.params is None for row in counted)
    text = f"{sum(row.agrees for row in printed)} of {len(printed)} counts agree"
    if missing:
        text += f"; {missing} {'network is' if missing == 1 else 'networks are'} not reproduced"
    return text


def as_printed(figure: int, like: str, cut: bool = False) -> str:
    """Format a number with the digits and the unit of a printed one.

    Args:
        figure: The number.
        like: A printed number: ``0.76M``, ``2.73G``, ``7,978,856``.
        cut: Whether to truncate instead of rounding.

    Raises:
        InputError: ``like`` is not a number.
    """
    match = _FIGURE.fullmatch(like.replace(",", ""))
    if match is None:
        raise InputError(f"invalid number '{like}'; expected for example 0.76M, 2.73G or 7,978,856")
    rounding = ROUND_DOWN if cut else ROUND_HALF_UP
    digits = Decimal(1).scaleb(-len(match[2] or ""))
    shown = (Decimal(figure) / _UNITS[match[3]]).quantize(digits, rounding)
    return f"{shown:,}{match[3]}" if "," in like else f"{shown}{match[3]}"


def _agrees(figure: int, printed: str | None, cut: bool) -> bool | None:
    return None if printed is None else as_printed(figure, printed, cut) == printed


def _counts(genotype: Genotype, way: FlopsConvention, without_norms: bool) -> tuple[int, int]:
    """Parameters and operations of a network."""
    cost = Cost(expand(genotype))
    norms = sum(op.params for op in cost.graph.ops if isinstance(op, Norm)) if without_norms else 0
    return cost.params - norms, _operations(cost, way)


def _operations(cost: Cost, way: FlopsConvention) -> int:
    if way == "2 macs":
        return cost.flops
    if way == "norms too":
        graph = cost.graph
        outputs = sum(prod(shape) for op, shape in zip(graph.ops, graph.shapes, strict=True) if isinstance(op, Norm))
        return round((cost.macs + 5 * outputs) / 2**30 * 10**9)
    return cost.macs


def as_dict(counted: CountedRow) -> dict[str, Any]:
    """A row and its counts as JSON values."""
    row = counted.row
    return {
        "network": row.network,
        "point": row.point,
        "with": row.with_,
        "classes": row.classes,
        "printed_params": row.params,
        "params": counted.params,
        "printed_flops": row.flops,
        "flops": counted.flops,
        "agrees": counted.agrees if counted.printed and counted.params is not None else None,
        "verdict": counted.verdict,
    }
